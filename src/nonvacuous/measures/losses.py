"""Losses with values in [0, 1], which the certificates speak of.

A loss maps the model's outputs and the targets of a batch to one number an example. Outputs of a classifier are scores
``[b, k]``, one score ``[b]`` or ``[b, 1]`` for two classes (positive means class 1), or predicted labels (integers, ``[b]``);
those of a regressor are ``[b]`` or ``[b, 1]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, log

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput


@dataclass(frozen=True)
class Loss:
    """``per_example(outputs, targets) → [b]`` in [0, 1]; ``name`` stands in certificates and contains every constant.

    ``binary``: it is 1 exactly where the predicted label is wrong. ``regression``: targets are numbers.
    """

    name: str
    per_example: Callable[[Tensor, Tensor], Tensor]
    binary: bool = False
    regression: bool = False

    def __post_init__(self) -> None:
        if (self.name == "zero_one") != (self.per_example is _zero_one) or self.binary != (self.name == "zero_one"):
            raise InvalidInput(
                f"loss {self.name!r:.60}: the name zero_one, and binary=True, belong to the share of wrong labels alone. Give your loss "
                "another name and leave binary out; all bounds for losses in [0, 1] cover it"
            )


def scores(outputs: Tensor) -> Tensor:
    """Outputs of a classifier as scores ``[b, k]``, k ≥ 2."""
    if outputs.ndim == 2 and outputs.shape[1] == 1:
        outputs = outputs[:, 0]
    if outputs.ndim == 1:
        if not outputs.is_floating_point():
            return torch.nn.functional.one_hot(outputs.long()).float()
        return torch.stack([torch.zeros_like(outputs), outputs], 1)
    if outputs.ndim != 2:
        raise InvalidInput(
            f"the model's outputs have shape {tuple(outputs.shape)}; a classifier gives scores [batch, classes] (or labels [batch]). "
            "Wrap the model so that it does"
        )
    return outputs


def predicted(outputs: Tensor) -> Tensor:
    """Predicted labels ``[b]``: the first of the largest scores."""
    if outputs.ndim == 1 and not outputs.is_floating_point():
        return outputs.long()
    return scores(outputs).argmax(1)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Margins :math:`f(x)_y - \max_{j≠y} f(x)_j` of scores ``[b, k]``, ``[b]``; negative where misclassified."""
    own = logits.gather(1, labels[:, None])
    rival = logits.scatter(1, labels[:, None], -torch.inf)
    return own.squeeze(1) - rival.amax(1)


def _graded(outputs: Tensor) -> Tensor:
    """Scores, where a loss needs more than labels."""
    if not outputs.is_floating_point():
        raise InvalidInput(
            "the model gives labels, not scores: only the loss zero_one can be measured. Wrap it so that it gives scores"
        )
    return scores(outputs)


def _number(constant: float) -> str:
    """A constant so that it reads back exactly, in few digits where few do."""
    return f"{constant:g}" if float(f"{constant:g}") == constant else repr(float(constant))


def _zero_one(outputs: Tensor, targets: Tensor) -> Tensor:
    return (predicted(outputs) != targets).double()


def _brier(outputs: Tensor, targets: Tensor) -> Tensor:
    probabilities = _graded(outputs).double().softmax(1)
    truth = torch.nn.functional.one_hot(targets, probabilities.shape[1])
    return ((probabilities - truth) ** 2).sum(1).div(2).clamp(0, 1)


ZERO_ONE = Loss("zero_one", _zero_one, binary=True)
BRIER = Loss("brier", _brier)


def bounded_cross_entropy(least_probability: float = 1e-5) -> Loss:
    """Cross-entropy with probabilities raised to ``least_probability``, divided by its largest value ln(1/least_probability).

    Source: Pérez-Ortiz et al. 2021 (JMLR 22), Section 6.
    """
    if not 0 < least_probability < 0.5:
        raise InvalidInput(f"least_probability lies in (0, 0.5); got {least_probability}")
    top = -log(least_probability)

    def per_example(outputs: Tensor, targets: Tensor) -> Tensor:
        logs = _graded(outputs).double().log_softmax(1).gather(1, targets[:, None])[:, 0]
        return (-logs / top).clamp(0, 1)

    return Loss(f"bounded_cross_entropy:{_number(least_probability)}", per_example)


def clipped_squared(scale: float) -> Loss:
    """min(1, ((ŷ − y)/scale)²): the squared error in units of ``scale``, which must be fixed before the data."""
    return _clipped("clipped_squared", scale, lambda difference: difference**2)


def clipped_absolute(scale: float) -> Loss:
    """min(1, |ŷ − y|/scale): the absolute error in units of ``scale``, which must be fixed before the data."""
    return _clipped("clipped_absolute", scale, torch.abs)


def missed(tolerance: float) -> Loss:
    """1 where |ŷ − y| > ``tolerance``, else 0: the share of values outside ŷ ± ``tolerance``, which must be fixed before the data."""
    return _clipped("missed", tolerance, lambda difference: (difference.abs() > 1).to(difference.dtype))


def _clipped(name: str, scale: float, shape: Callable[[Tensor], Tensor]) -> Loss:
    if not (isfinite(scale) and scale > 0):
        raise InvalidInput(f"the scale of {name} is a positive number in the units of y; got {scale}")

    def per_example(outputs: Tensor, targets: Tensor) -> Tensor:
        prediction = outputs[:, 0] if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs
        if prediction.shape != targets.shape:
            raise InvalidInput(
                f"the model's outputs have shape {tuple(outputs.shape)} and the targets {tuple(targets.shape)}; "
                "a regressor gives one number an example"
            )
        return shape((prediction.double() - targets.double()) / scale).clamp(0, 1)

    return Loss(f"{name}:{_number(scale)}", per_example, regression=True)


_WORDS: dict[str, Callable[..., Loss]] = {
    "zero_one": lambda: ZERO_ONE,
    "brier": lambda: BRIER,
    "bounded_cross_entropy": bounded_cross_entropy,
    "clipped_squared": clipped_squared,
    "clipped_absolute": clipped_absolute,
    "missed": missed,
}


def named(word: str | Loss) -> Loss:
    """The loss a word means: ``zero_one``, ``brier``, ``bounded_cross_entropy[:P]``, ``clipped_squared:SCALE``,
    ``clipped_absolute:SCALE`` or ``missed:TOLERANCE``.
    """
    if isinstance(word, Loss):
        return word
    name, _, constant = str(word).partition(":")
    if name not in _WORDS or (name.startswith(("clipped", "missed")) and not constant):
        raise InvalidInput(
            f"unknown loss {word!r:.60}; a loss is zero_one, brier, bounded_cross_entropy[:LEAST_PROBABILITY], clipped_squared:SCALE, "
            "clipped_absolute:SCALE or missed:TOLERANCE (in the units of y, fixed before the data), or a nonvacuous.measures.losses.Loss"
        )
    try:
        return _WORDS[name](*([float(constant)] if constant else []))
    except (ValueError, TypeError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(
            f"loss {word!r:.60}: what follows the colon must be a number, for the losses that take one"
        ) from None
