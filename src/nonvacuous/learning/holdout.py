"""The floor: train on one part of the sample, count errors on the other."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from nonvacuous.bounds.heldout import BinomialTailBound
from nonvacuous.core.bound import FIXED_PREDICTOR, Predictor
from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import InvalidInput
from nonvacuous.learning.method import Certified, Method, Number, Task
from nonvacuous.learning.plain import plainly_trained
from nonvacuous.measures.losses import named
from nonvacuous.measures.predictor import as_predictor
from nonvacuous.measures.risks import observe
from nonvacuous.runtime.data import Sample, Split, hashed_split

CHANCE = 0.5
"""A certificate that could not come below this even without a single error is not worth the training."""


def check_fraction(fraction: float) -> None:
    """Raise :class:`InvalidInput` unless a part of the sample and its rest are both something."""
    if not 0 < fraction < 1:
        raise InvalidInput(
            f"a held-out fraction of {fraction!r} leaves {'nothing to certify with' if fraction <= 0 else 'nothing to train on'}: "
            "it lies strictly between 0 and 1; 0.2 is usual"
        )


def declared_split(task: Task, fraction: float, purpose: str = "split") -> Split:
    """The task's sample in two parts, by content hash under the stream of ``purpose``; about ``fraction`` is held out.

    Equal inputs lie on one side. Which side an example takes depends on its input and the seed, not on the labels.

    :raises InvalidInput: a fraction outside (0, 1), a side left empty, or a class that only the held-out part has.
    """
    check_fraction(fraction)
    split = hashed_split(task.train, fraction, task.stream(purpose))
    require_classes(task.train, split.kept)
    return split


def require_classes(whole: Sample, part: Sample) -> None:
    """Raise :class:`InvalidInput` if ``part``, which will be trained on, lacks a class that ``whole`` has."""
    if whole.classes is None:
        return
    missing = sorted(_labels(whole) - _labels(part))
    if missing:
        raise InvalidInput(
            f"class {', '.join(map(str, missing))} of {whole.name} has no example in the {part.n} that are trained on. Give more "
            "examples of it, leave the class out, or hold out a smaller fraction"
        )


def _labels(sample: Sample) -> set[int]:
    return set(torch.cat([batch.targets for batch in sample.batches(4096)]).unique().tolist())


@dataclass(frozen=True)
class HoldOut(Method):
    """Plain training on the part that is kept, and the exact binomial limit on the part that is held out.

    fraction: the part held out, chosen by a hash of the content before anything is trained. epochs: passes of training (None: about
    2,000 steps). The rest as in :func:`nonvacuous.runtime.training.train`. Takes any network.
    """

    fraction: float = 0.2
    epochs: int | None = None
    learning_rate: float = 1e-3
    batch_size: int = 128
    optimizer: str = "adam"

    word: ClassVar[str] = "holdout"

    def __post_init__(self) -> None:
        check_fraction(self.fraction)

    def certified(self, task: Task) -> Certified:
        """The trained network, with a certificate from the examples that training never read."""
        begun = time.perf_counter()
        split = self._split(task)
        model, record = plainly_trained(
            task,
            split.kept,
            purpose="holdout",
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
        )
        certificate = self.promised(task, model, split)
        plain = record.seconds * task.train.n / split.kept.n
        record = replace(record, seconds=time.perf_counter() - begun, plain_seconds=plain)
        return Certified(model, certificate, record)

    def promised(self, task: Task, model: nn.Module, split: Split, **measurement: Any) -> Certificate:
        """The certificate of a network that was trained on the part of ``split`` that is kept."""
        note = f"Training read the other {split.kept.n:,} examples only. Network, settings and seed are for a person to argue."
        return self.issued(
            task,
            BinomialTailBound(),
            BinomialTailBound.Evidence(**self._counted(model, split.held_out, task)),
            model=model,
            sample=split.held_out,
            predictor=Predictor.DETERMINISTIC,
            notes={FIXED_PREDICTOR.name: note},
            measurement=measurement,
        )

    def evidence(self, certificate: Certificate, model: nn.Module, task: Task) -> Mapping[str, Number]:
        """Errors of the saved network on the held-out part, which is split off again."""
        return self._counted(model, declared_split(task, self.fraction).held_out, task)

    def _split(self, task: Task) -> Split:
        """The split, if it leaves enough to certify with."""
        bound, n = BinomialTailBound(), task.train.n
        needed = bound.needed(bound.Evidence(errors=0, n=1), task.delta, CHANCE) or 1
        split = declared_split(task, self.fraction) if n * self.fraction >= needed else None
        if split is None or split.held_out.n < needed:
            held = int(n * self.fraction) if split is None else split.held_out.n
            raise InvalidInput(
                f"{n} examples are too few for a hold-out certificate: about {held} would be held out, and even without a single error "
                f"they would not prove a risk below {CHANCE:g} at δ = {task.delta:g}. That takes {needed} of them: "
                f"{int(needed / self.fraction * 1.5) + 1} examples will do"
            )
        return split

    @staticmethod
    def _counted(model: nn.Module, held_out: Sample, task: Task) -> dict[str, int]:
        with task.progress.task("counting errors on the held-out part", held_out.n) as advance:
            seen = observe(as_predictor(model, task.device), held_out, named("zero_one"), advance=advance)
        return {"errors": seen.errors, "n": seen.n}
