"""Plain training inside a method: the one loop, from the task's seed, kept on disk while it is unfinished."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import nn

from nonvacuous.learning.method import Task, TrainingRecord
from nonvacuous.runtime.progress import Silent
from nonvacuous.runtime.samples import Sample
from nonvacuous.runtime.tasks import Advance
from nonvacuous.runtime.training import train

STEPS, LEAST_EPOCHS, MOST_EPOCHS = 2000, 10, 100
"""Default length of a run: about `STEPS` steps, in whole epochs between the other two."""


class Trained(NamedTuple):
    """A trained network and what it cost."""

    model: nn.Module
    record: TrainingRecord


class _Counting(Silent):
    """Counts the steps of the loop in a task of a progress bar."""

    def __init__(self, step: Advance) -> None:
        self._step = step

    def advance(self) -> None:
        self._step(1)


def default_epochs(n: int, batch_size: int) -> int:
    """Passes over ``n`` examples when none are asked for."""
    return min(max(round(STEPS / math.ceil(n / batch_size)), LEAST_EPOCHS), MOST_EPOCHS)


def plainly_trained(
    task: Task,
    sample: Sample,
    *,
    purpose: str,
    epochs: int | None = None,
    learning_rate: float = 1e-3,
    batch_size: int = 128,
    optimizer: str = "adam",
) -> Trained:
    """A fresh network of the task trained on ``sample`` by the plain loop; its seed and checkpoint are called ``purpose``.

    An unfinished run in the task's folder is gone on with and ends with the same bits. Raises ``KeyboardInterrupt`` after Ctrl-C,
    the finished epochs being kept.
    """
    model = task.network()
    epochs = default_epochs(sample.n, batch_size) if epochs is None else epochs
    file = task.checkpoint(purpose)
    with task.progress.task(f"training ({purpose})", epochs * math.ceil(sample.n / batch_size)) as advance:
        record = train(
            model,
            sample,
            epochs=epochs,
            seed=task.stream(purpose),
            learning_rate=learning_rate,
            batch_size=batch_size,
            optimizer=optimizer,
            device=task.device,
            progress=_Counting(advance),
            checkpoint=file,
            resume=file is not None and file.exists(),
        )
    if record.interrupted:
        raise KeyboardInterrupt
    return Trained(model, TrainingRecord(sum(record.seconds), epochs * sample.n, epochs))
