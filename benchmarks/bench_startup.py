"""Start-up times, each the best of several fresh processes, beside the time of ``import torch``. Limit: 0.5 s each."""

from __future__ import annotations

import subprocess
import sys
import time

LIMIT = 0.5
RUNS = 5
CASES = {
    "python -c pass": (["-c", "pass"], None),
    "import nonvacuous": (["-c", "import nonvacuous"], LIMIT),
    "nonvacuous --version": (["-m", "nonvacuous", "--version"], LIMIT),
    "nonvacuous --help": (["-m", "nonvacuous", "--help"], LIMIT),
    "nonvacuous audit --help": (["-m", "nonvacuous", "audit", "--help"], LIMIT),
    "nonvacuous bounds": (["-m", "nonvacuous", "bounds"], None),
    "import torch": (["-c", "import torch"], None),
}


def seconds(arguments: list[str]) -> float:
    """Wall time of one fresh interpreter."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main() -> int:
    """Print a line a case; 1 if a limit is exceeded."""
    exceeded = False
    for name, (arguments, limit) in CASES.items():
        times = sorted(seconds(arguments) for _ in range(RUNS))
        over = limit is not None and times[0] > limit
        exceeded |= over
        verdict = "" if limit is None else f"  limit {limit} s{': EXCEEDED' if over else ''}"
        print(f"{name:<26}best {times[0]:6.3f} s   median {times[RUNS // 2]:6.3f} s{verdict}", flush=True)
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
