"""One pass over a sample: errors, losses, margins, content hashes, all that the bounds and the report need."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf, nextafter

import numpy as np
import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.measures.inputs import InputSummary, Summing
from nonvacuous.measures.losses import Loss, margins, predicted, scores
from nonvacuous.measures.predictor import Predictor, evaluating
from nonvacuous.runtime.data import Fingerprint, Sample
from nonvacuous.runtime.values import Inputs

Floats = np.ndarray
UNIT_ROUNDOFF = 2.0**-53


@dataclass(frozen=True)
class Observation:
    """What one pass saw.

    Attributes: ``losses`` [n] in [0, 1], in order; ``wrong`` [n] whether misclassified (None for regression);
    ``margins`` [n] (None where the model gives labels or numbers); ``fingerprint``; ``forward_seconds`` the model's own time,
    ``seconds`` of the whole pass; ``counted`` [n] examples that are counted as a full loss whatever the model says; ``inputs`` their
    sizes, None where they are no plain array of floats.
    """

    n: int
    losses: Floats
    wrong: Floats | None
    margins: Floats | None
    fingerprint: Fingerprint
    forward_seconds: float
    seconds: float
    counted: Floats = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    inputs: InputSummary | None = None

    def counting_as_errors(self, indices: Floats) -> Observation:
        """The same pass with the examples at ``indices`` counted as full losses (a test example that training has seen)."""
        losses = self.losses.copy()
        losses[indices] = 1.0
        wrong = None if self.wrong is None else self.wrong.copy()
        if wrong is not None:
            wrong[indices] = True
        return replace(self, losses=losses, wrong=wrong, counted=np.asarray(indices))

    @property
    def errors(self) -> int:
        """Misclassified examples."""
        if self.wrong is None:
            raise InvalidInput("a regression model makes no classification errors")
        return int(self.wrong.sum())

    @property
    def risk(self) -> Measured:
        """Mean loss, rounded outward."""
        if self.wrong is not None and np.array_equal(self.losses, self.wrong):
            value, slack = self.errors / self.n, 0.0
            if value in (0.0, 1.0):
                return Measured.exact(value)
        else:
            value = float(np.sum(self.losses)) / self.n
            slack = 2 * self.n * UNIT_ROUNDOFF * value  # at most n additions of positive numbers and one division
        return Measured(nextafter(value - slack, -inf), nextafter(value + slack, inf), Kind.EXACT).clipped(0.0, 1.0)

    @property
    def loss_variance(self) -> Measured:
        """Unbiased variance of the losses, rounded outward."""
        if self.n < 2:
            raise InvalidInput("a variance needs two examples")
        value = float(np.var(self.losses, ddof=1))
        slack = 16 * self.n * UNIT_ROUNDOFF * (value + UNIT_ROUNDOFF)
        return Measured(value - slack, value + slack, Kind.EXACT).clipped(0.0, 0.5)


def observe(
    predictor: Predictor,
    sample: Sample,
    loss: Loss,
    *,
    batch_size: int = 256,
    advance: Callable[[int], None] | None = None,
) -> Observation:
    """Apply the predictor once to every example of the sample, in order.

    Args: ``advance`` is called with the number of examples done after each batch (a progress bar).

    Raises :class:`InvalidInput` for bad data, outputs that are not finite, and labels the model has no score for.
    """
    print_, sizes = Fingerprint(), Summing()
    losses: list[Tensor] = []
    wrong: list[Tensor] = []
    gaps: list[Tensor] = []
    forward, begun = 0.0, time.perf_counter()
    with evaluating(predictor):
        for batch in sample.batches(batch_size):
            start = time.perf_counter()
            outputs = predictor(batch.inputs).cpu()
            forward += time.perf_counter() - start
            if len(outputs) != len(batch.targets):
                raise InvalidInput(
                    f"the model gave {tuple(outputs.shape)} for a batch of {len(batch.targets)} examples: its first dimension must be "
                    "the batch"
                )
            if not loss.regression:
                _check_classes(outputs, batch.targets)
                wrong.append(predicted(outputs) != batch.targets)
                if outputs.is_floating_point():
                    gaps.append(margins(scores(outputs), batch.targets).double())
            values = loss.per_example(outputs, batch.targets).double()
            check_losses(values, len(batch.targets), loss)
            if not losses:
                _check_fixed(predictor, batch.inputs, outputs)
            losses.append(values)
            print_.update(batch.inputs, batch.targets)
            sizes.update(batch.inputs)
            if advance is not None:
                advance(len(batch.targets))
    return Observation(
        n=sum(map(len, losses)),
        losses=torch.cat(losses).numpy(),
        wrong=torch.cat(wrong).numpy() if wrong else None,
        margins=torch.cat(gaps).numpy() if gaps else None,
        fingerprint=print_,
        forward_seconds=forward,
        seconds=time.perf_counter() - begun,
        inputs=sizes.summary,
    )


ROWS = 8
MOST_CHANGE = 0.01


def _check_fixed(predictor: Predictor, inputs: Inputs, outputs: Tensor) -> None:
    """Raise :class:`InvalidInput` if an example's output changes when the batch around it does: then there is no one predictor.

    Applies the model again to the first examples, in reverse. Every bound here is about a fixed function of one example.
    """
    count = min(ROWS, len(outputs))
    few = {k: v[:count].flip(0) for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[:count].flip(0)
    again, before = predictor(few).cpu().flip(0), outputs[:count]
    change = (again.double() - before.double()).abs().max() if again.shape == before.shape else torch.inf
    if change > MOST_CHANGE * max(1e-30, float(outputs.double().abs().max())):
        raise InvalidInput(
            "the model's output for an example depends on the other examples of its batch, or on chance: it is not one fixed predictor. "
            "Keep running statistics in batch-norm (track_running_stats=True), draw no random numbers in evaluation mode"
        )


def _check_classes(outputs: Tensor, targets: Tensor) -> None:
    if outputs.is_floating_point():
        classes = scores(outputs).shape[1]
        top = int(targets.max())
        if top >= classes:
            raise InvalidInput(
                f"labels out of range: the sample has label {top}, the model gives scores for {classes} classes (0 … {classes - 1}). "
                "Use a model with more outputs, or relabel from 0"
            )


def check_losses(values: Tensor, size: int, loss: Loss) -> None:
    """Raise :class:`InvalidInput` unless a loss gave one number in [0, 1] for each of ``size`` examples."""
    if tuple(values.shape) != (size,) or not bool(((values >= 0) & (values <= 1)).all()):
        raise InvalidInput(
            f"loss {loss.name!r} must give one number in [0, 1] for each of the {size} examples of a batch; it gave shape "
            f"{tuple(values.shape)}, range [{float(values.min()):g}, {float(values.max()):g}]"
        )
