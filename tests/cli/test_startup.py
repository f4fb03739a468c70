"""Start-up: fast, and without torch where torch is not needed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

LIMIT = 0.5


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["audit", "--help"], ["bounds"], ["bounds", "seeger", "--json"], ["gallery"]],
    ids=" ".join,
)
def test_no_torch_is_loaded(words: list[str]) -> None:
    code = f"""
import sys
from nonvacuous.cli import main
try:
    main({words!r})
except SystemExit as stop:
    assert not stop.code, stop.code
assert "torch" not in sys.modules and "sklearn" not in sys.modules
"""
    done = fresh(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words", [["-c", "import nonvacuous"], ["-m", "nonvacuous", "--help"], ["-m", "nonvacuous", "--version"]]
)
def test_start_up_is_fast(words: list[str]) -> None:
    assert best_time([sys.executable, *words]) < LIMIT


def test_verifying_is_fast_and_loads_no_torch(certificates: Path) -> None:
    few = sorted((certificates / "certificates").glob("*.json"))[:5]
    words = ["verify", *map(str, few)]
    code = f"""
import sys
from nonvacuous.cli import main
try:
    main({words!r})
except SystemExit as stop:
    assert not stop.code, stop.code
assert "torch" not in sys.modules, "torch was loaded"
"""
    done = fresh(code)
    assert done.returncode == 0, done.stderr
    assert best_time([sys.executable, "-m", "nonvacuous", *words]) < 2 * LIMIT  # 0.5 s on an idle machine


def best_time(command: list[str]) -> float:
    """Best of a few: other tests share the machine."""
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begun)
    return min(times)
