"""A progress bar with the time left, on stderr; silent unless asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Advance = Callable[[int], None]


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


@contextmanager
def progress_bar(shown: bool) -> Iterator[Progress]:
    """A bar while the block runs."""
    if not shown:
        yield Progress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Shown(bar)
