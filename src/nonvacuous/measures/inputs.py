"""What the norm-based bounds take from the inputs of a sample: root mean squares, rounded up, and the range they were seen in."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from math import inf, nextafter, sqrt

import torch
from torch import Tensor

from nonvacuous.runtime.values import Inputs

DIGITS = 9
"""Significant digits a root mean square is rounded up to: more than rounding leaves, few enough that the size of batches does not show."""


@dataclass(frozen=True)
class InputSummary:
    """Of n inputs of D numbers each: Σxᵢₖ² a coordinate, summed in float64, and the least and largest number.

    ``squares`` [D] float64.
    """

    n: int
    squares: Tensor
    low: float
    high: float

    @property
    def coordinates(self) -> int:
        """D."""
        return len(self.squares)

    def rms(self, appended: bool) -> float:
        """√(1/n Σ‖x̃ᵢ‖²), rounded up; with the appended 1 if ``appended``."""
        return _up(sqrt(float(self.squares.sum()) / self.n + appended))

    @property
    def largest_coordinate_rms(self) -> float:
        """max_k √(1/n Σᵢ xᵢₖ²), rounded up and at least 1."""
        return max(1.0, _up(sqrt(float(self.squares.max()) / self.n)))

    def within(self, low: float, high: float) -> bool:
        """Whether every number seen lies in [low, high]."""
        return low <= self.low and self.high <= high


def _up(number: float) -> float:
    """Above a number and what rounding took from it, in few digits."""
    if not 0 < number < inf:
        return number
    step = Decimal(1).scaleb(Decimal(number).adjusted() - DIGITS + 1)
    return nextafter(float(Decimal(number * (1 + 1e-11)).quantize(step, rounding=ROUND_CEILING)), inf)


class Summing:
    """Takes a sample's batches one by one."""

    def __init__(self) -> None:
        self.n, self.low, self.high = 0, inf, -inf
        self.squares: Tensor | None = None
        self.known = True

    def update(self, inputs: Inputs) -> None:
        """Add a batch; named, integer and differently shaped inputs make the summary unknown."""
        if not self.known:
            return
        if isinstance(inputs, dict) or not inputs.is_floating_point() or not inputs[0].numel():
            self.known = False
            return
        rows = inputs.reshape(len(inputs), -1)
        if self.squares is not None and len(self.squares) != rows.shape[1]:
            self.known = False
            return
        batch = rows.double().square_().sum(0)
        self.squares = batch if self.squares is None else self.squares + batch
        ends = torch.aminmax(rows)
        self.low, self.high = min(self.low, float(ends.min)), max(self.high, float(ends.max))
        self.n += len(rows)

    @property
    def summary(self) -> InputSummary | None:
        """What was seen, None where it was no plain array of floats of one shape."""
        if not self.known or self.squares is None:
            return None
        return InputSummary(self.n, self.squares, self.low, self.high)
