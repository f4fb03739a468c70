"""Every gallery page runs, alone, in an empty folder, and its assertion holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GALLERY = Path(__file__).resolve().parent.parent / "gallery"


def is_slow(page: Path) -> bool:
    """A page says so itself, with a comment ``# slow`` in its first lines."""
    return "# slow" in page.read_text(encoding="utf-8").splitlines()[:5]


def marks(page: Path) -> list[pytest.MarkDecorator]:
    """Slow pages are slow tests, and those that load Fashion-MNIST need it."""
    data = [pytest.mark.data("fashion-mnist")] if '"fashion-mnist"' in page.read_text(encoding="utf-8") else []
    return data + ([pytest.mark.slow] if is_slow(page) else [])


PAGES = [pytest.param(page, id=page.stem, marks=marks(page)) for page in sorted(GALLERY.glob("plot_*.py"))]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs(page: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    page_run = subprocess.run(
        [sys.executable, str(page)], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert page_run.returncode == 0, page_run.stderr[-4000:]
