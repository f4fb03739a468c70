"""The walk-through of CONTRIBUTING.md works as printed: the bound meets its contract, its doctest and the linters."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def walk_through(tmp_path: Path) -> Path:
    """A folder with the two files of the guide, as a third party would keep them."""
    bound, test = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "chosen_best.py").write_text(bound, encoding="utf-8")
    (tmp_path / "test_chosen_best.py").write_text(
        test.replace("nonvacuous.bounds.chosen_best", "chosen_best"), encoding="utf-8"
    )
    return tmp_path


def run(*command: str, cwd: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(cwd), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_bound_meets_its_contract_and_its_doctest(walk_through: Path) -> None:
    run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--doctest-modules", ".", cwd=walk_through)


def test_the_code_passes_the_linters(walk_through: Path) -> None:
    settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    run(sys.executable, "-m", "ruff", "check", *settings, ".", cwd=walk_through)
    run(sys.executable, "-m", "ruff", "format", "--check", "--diff", *settings, ".", cwd=walk_through)
