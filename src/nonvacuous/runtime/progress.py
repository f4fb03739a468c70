"""Progress on stderr: a bar with the time left on a terminal, one line an epoch elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Silent:
    """Says nothing; what the others refine."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def advance(self) -> None:
        """One step is done."""

    def finished(self, loss: float, accuracy: float | None) -> None:
        """An epoch is done, with this mean loss and fraction right."""


def _summary(loss: float, accuracy: float | None) -> str:
    return f"loss {loss:.4f}" + ("" if accuracy is None else f", {accuracy:.1%} right")


class Lines(Silent):
    """One line an epoch, for logs."""

    def __init__(self, epochs: int, done: int) -> None:
        self.epochs, self.done, self.started = epochs, done, time.perf_counter()

    def finished(self, loss: float, accuracy: float | None) -> None:
        """Print the line."""
        self.done += 1
        spent = time.perf_counter() - self.started
        print(f"epoch {self.done}/{self.epochs}: {_summary(loss, accuracy)} ({spent:.0f} s)", file=sys.stderr, flush=True)


class Bar(Silent):
    """A bar over all epochs, with the time left."""

    def __init__(self, console: Console, epochs: int, steps: int, done: int) -> None:
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
        )
        self.task = self.bar.add_task("", total=epochs * steps, completed=done * steps)

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def advance(self) -> None:
        """Move the bar by one step."""
        self.bar.advance(self.task)

    def finished(self, loss: float, accuracy: float | None) -> None:
        """Show the epoch's numbers beside the bar."""
        self.bar.update(self.task, description=_summary(loss, accuracy))


def epoch_display(epochs: int, steps: int, done: int) -> Silent:
    """The display that fits where stderr goes: ``epochs`` of ``steps`` each, of which ``done`` lie behind."""
    console = Console(stderr=True)
    return Bar(console, epochs, steps, done) if console.is_terminal else Lines(epochs, done)
