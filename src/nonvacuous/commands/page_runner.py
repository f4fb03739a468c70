"""Runs one gallery page in a process of its own and saves the figures it leaves open."""

from __future__ import annotations

import runpy
import sys
import traceback
from pathlib import Path
from typing import Any


def run(page: Path, figures: Path) -> None:
    """Run ``page`` as a script; write its figures to ``figures`` as ``<stem>.png``, ``<stem>_2.png`` and so on."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    def show(*_: Any, **__: Any) -> None:
        """Nobody is looking: figures stay open until the page ends."""

    pyplot.show = show
    sys.argv = [str(page)]
    try:
        runpy.run_path(str(page), run_name="__main__")
    except Exception as error:
        sys.exit(_in_one_line(error, page))
    for i, number in enumerate(pyplot.get_fignums(), start=1):
        name = page.stem if i == 1 else f"{page.stem}_{i}"
        pyplot.figure(number).savefig(figures / f"{name}.png", dpi=150, bbox_inches="tight")


def _in_one_line(error: Exception, page: Path) -> str:
    """What went wrong, with the line of the page where it did."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == page]
    where = f" (line {own[-1].lineno}: {own[-1].line})" if own else ""
    return " ".join(f"{type(error).__name__}: {error}".strip(": ").split()) + where


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
