"""Start-up: fast, and without torch where torch is not needed."""

from __future__ import annotations

import os
import subprocess
import sys
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


def test_verifying_is_fast_and_loads_no_torch(audited: Path) -> None:
    few = sorted((audited / "certificates").glob("*.json"))[:5]
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
    assert best_time([sys.executable, "-m", "nonvacuous", *words]) < LIMIT


def best_time(command: list[str]) -> float:
    """Processor seconds, best of a few: unlike the time on the wall, they do not count what other tests do meanwhile."""
    times = []
    for _ in range(3):
        before = os.times()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return min(times)
