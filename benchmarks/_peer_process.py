"""Both sides of a comparison with neural-tangents, which imports only with an old jax: two processes on one core that answer cases.

A benchmark is started again with ``--serve ours`` by this interpreter and ``--serve peer`` by the peer's. Each answers a line, a case, with
a call's wall and processor seconds. A first call is not timed, its peak memory is noted: how far the resident set rose above what it was.
Compiling is neither timed nor counted.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

WANTED = ("jax==0.4.30", "jaxlib==0.4.30", "neural-tangents==0.6.5")
COLUMNS = (
    "case",
    "ours_seconds",
    "ours_processor_seconds",
    "ours_mib",
    "ours_error",
    "peer_seconds",
    "peer_processor_seconds",
    "peer_mib",
    "peer_error",
    "floor_seconds",
    "machine",
    "command",
)
Case = tuple[Any, ...]
Call = Callable[[], list[np.ndarray]]


class Prepared(NamedTuple):
    """call: what is timed; exact: the same kernels in float64, or None where a side has none to offer."""

    call: Call
    exact: Call | None = None


def _resident(word: str) -> float:
    """MiB: VmRSS now, VmHWM at most since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(word)) / 1024


def _peak(call: Call) -> float:
    """MiB that a first call takes; memory that others left would hide it, and is given back before."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def serve(sides: dict[str, Callable[[Case], Prepared]], side: str) -> None:
    """Answer the cases on stdin."""
    prepared: dict[str, Prepared] = {}
    for line in sys.stdin:
        peak, name = 0.0, ""
        if fresh := line not in prepared:
            prepared[line] = sides[side](tuple(json.loads(line)))
            peak = _peak(prepared[line].call)
        wall, processor = time.perf_counter(), time.process_time()
        kernels = prepared[line].call()
        spent = [time.perf_counter() - wall, time.process_time() - processor]
        if fresh:
            exact = prepared[line].exact
            with tempfile.NamedTemporaryFile(suffix=".npz", delete=False) as file:
                np.savez(file, *kernels, *(exact() if exact else []))
            name = file.name
        print("ANSWER", json.dumps([*spent, peak, name]), flush=True)


class Process:
    """One side. wall, processor: least seconds a case; peak: MiB; kernels: the first call's, then the exact ones if any."""

    def __init__(self, python: str, side: str, threads: int = 1) -> None:
        count = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        one = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" if threads == 1 else ""
        self.wall, self.processor, self.peak = {}, {}, {}  # type: dict[Case, float], dict[Case, float], dict[Case, float]
        self.kernels: dict[Case, list[np.ndarray]] = {}
        self._process = subprocess.Popen(
            [python, sys.argv[0], "--serve", side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **count, "XLA_FLAGS": one, "JAX_PLATFORMS": "cpu", "THREADS": str(threads)},
        )
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self._process.pid, set(sorted(os.sched_getaffinity(0))[:threads]))

    def __call__(self, case: Case) -> None:
        """One call."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("ANSWER"):
                wall, processor, peak, name = json.loads(line.removeprefix("ANSWER"))
                for best, new in ((self.wall, wall), (self.processor, processor)):
                    best[case] = min(new, best.get(case, new))
                if name:
                    with np.load(name) as stored:
                        self.peak[case], self.kernels[case] = peak, [stored[key] for key in stored.files]
                    Path(name).unlink()
                return
        raise SystemExit("a side of the benchmark ended early: run it with --serve by hand to see why")

    def close(self) -> None:
        """End it, and give its memory back."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def peer_python(given: str | None) -> Iterator[str | None]:
    """The interpreter that was given, or one made for this run in a temporary folder; None where the peer does not install."""
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        python: str | None = str(Path(folder) / "bin" / "python")
        try:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
            subprocess.run([str(python), "-m", "pip", "install", "-q", *WANTED], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"the peer does not install here ({error}): ours alone is timed")
            python = None
        yield python


def alternated(sides: Sequence[Process], case: Case, rounds: int) -> None:
    """The sides in turn."""
    for _ in range(rounds):
        for side in sides:
            side(case)


def errors(side: Process, case: Case, exact: list[np.ndarray]) -> list[float]:
    """Largest difference of nngp and of ntk from the exact ones, over their largest entry."""
    return [float(np.abs(k - e).max() / np.abs(e).max()) for k, e in zip(side.kernels[case][:2], exact, strict=True)]


def asked(about: str | None, parts: Sequence[str]) -> argparse.Namespace:
    """The command line: the peer's interpreter, the side to serve, a part, the table to keep the numbers in."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("python", nargs="?")
    parser.add_argument("--serve")
    parser.add_argument("--part", choices=list(parts))
    parser.add_argument("--out")
    return parser.parse_args()


def machine() -> str:
    """Processor and cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def report(case: Case, us: Process, peer: Process | None, floor: float | None = None) -> dict[str, Any]:
    """Print a line about a case; what it says, by column."""
    command = " ".join(
        ["python", f"benchmarks/{Path(sys.argv[0]).name}", *(part for part in sys.argv[1:] if "/bin/python" not in part)]
    )
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {
        "case": " ".join(map(str, case)),
        "machine": machine(),
        "command": command,
    }
    exact, told = us.kernels[case][2:], []
    for name, side in (("ours", us), ("peer", peer)):
        if side is None:
            continue
        row |= {
            f"{name}_seconds": f"{side.wall[case]:.4f}",
            f"{name}_processor_seconds": f"{side.processor[case]:.4f}",
            f"{name}_mib": f"{side.peak[case]:.0f}",
        }
        told.append(f"{name} {side.wall[case]:.3f} s ({side.processor[case]:.3f}), +{side.peak[case]:.0f} MiB")
        if exact:
            row[f"{name}_error"] = f"{max(errors(side, case, exact)):.1e}"
            told[-1] += f", error {row[f'{name}_error']}"
    if peer is not None:
        told.append(
            f"ratio {peer.wall[case] / us.wall[case]:.1f} ({peer.processor[case] / us.processor[case]:.1f}), "
            f"memory {peer.peak[case] / max(us.peak[case], 1):.1f}"
        )
    if floor is not None:
        row["floor_seconds"] = f"{floor:.4f}"
        told.append(f"floor {floor:.3f} s, ours is {us.processor[case] / floor:.2f} of it")
    print(f"{row['case']:<18} {'; '.join(told)}", flush=True)
    return row


def kept(path: str | None, rows: list[dict[str, Any]]) -> None:
    """Into a table, where rows of the same cases are replaced."""
    if not path:
        return
    file, new = Path(path), {row["case"] for row in rows}
    old: list[dict[str, Any]] = []
    if file.is_file():
        with file.open(encoding="utf-8", newline="") as stream:
            old = [row for row in csv.DictReader(stream) if row["case"] not in new]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted([*old, *rows], key=lambda row: row["case"]))


def least_seconds(call: Callable[[], object], repeats: int = 15) -> float:
    """Least processor seconds of a call."""
    times = []
    for _ in range(repeats):
        begun = time.process_time()
        call()
        times.append(time.process_time() - begun)
    return min(times)
