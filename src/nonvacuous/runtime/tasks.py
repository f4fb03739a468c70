"""Progress of named tasks on stderr: a bar with the time left on a terminal, lines elsewhere; silent unless asked for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Advance = Callable[[int], None]
PATIENCE = 10.0
"""Seconds between two lines about one task, and how long a task takes that is worth a line at its end."""


class Progress:
    """Names tasks and counts their steps; this one shows nothing."""

    @contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Advance]:
        """A task of ``total`` steps (None: unknown); yields the function that counts steps done."""
        yield lambda steps: None


class _Shown(Progress):
    def __init__(self, bar: Any) -> None:
        self._bar = bar

    @contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Advance]:
        identifier = self._bar.add_task(description, total=total)
        yield lambda steps: self._bar.advance(identifier, steps)
        self._bar.update(identifier, total=total or 1, completed=total or 1)


class Lines(Progress):
    """For logs: a line when a task begins, one every ten seconds, and one at the end of a task that took so long."""

    @contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Advance]:
        """A task of ``total`` steps (None: unknown); yields the function that counts steps done."""
        started = told = time.perf_counter()
        done = 0
        print(description, file=sys.stderr, flush=True)

        def advance(steps: int) -> None:
            nonlocal told, done
            done, now = done + steps, time.perf_counter()
            if total and now - told >= PATIENCE:
                told = now
                left = (now - started) * max(0, total - done) / max(1, done)
                print(f"{description}: {min(1.0, done / total):.0%}, {left:.0f} s left", file=sys.stderr, flush=True)

        yield advance
        spent = time.perf_counter() - started
        if spent >= PATIENCE:
            print(f"{description}: done ({spent:.0f} s)", file=sys.stderr, flush=True)


@contextmanager
def progress_bar(shown: bool) -> Iterator[Progress]:
    """A bar while the block runs, lines where stderr is no terminal."""
    if not shown:
        yield Progress()
        return
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Shown(bar)
