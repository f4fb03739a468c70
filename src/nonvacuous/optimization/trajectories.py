"""Predicted envelopes laid over measured curves of the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.hypotheses import Condition, Standing, weakest


@dataclass(frozen=True)
class Envelope:
    """loss(t) − floor ≤ factor^t · (loss(0) − floor), t counting steps; ``theorem`` says whose; ``conditions`` what it assumes.

    A promise only where every condition is met; else a prediction to compare with.
    """

    theorem: str
    factor: float
    start: float
    floor: float
    conditions: tuple[Condition, ...]

    @property
    def promised(self) -> bool:
        """All hypotheses are met."""
        return weakest(self.conditions) is Standing.MET

    def at(self, step: float) -> float:
        """The envelope after ``step`` steps."""
        return self.floor + self.factor**step * (self.start - self.floor)

    def steps_to(self, excess: float) -> float:
        """Steps after which the envelope is within ``excess`` of the floor; ∞ if it does not fall.

        >>> Envelope("halves", 0.5, 8.0, 0.0, ()).steps_to(1.0)
        3.0
        """
        if not excess > 0:
            raise InvalidInput(f"the excess must be positive; got {excess!r}")
        if self.start - self.floor <= excess:
            return 0.0
        return math.log(excess / (self.start - self.floor)) / math.log(self.factor) if 0 < self.factor < 1 else math.inf

    def violations(self, losses: Sequence[float], *, rounding: float = 1e-9) -> list[int]:
        """Steps t at which the curve ``losses`` ``[T]`` (losses[0] at the start) lies above the envelope by more than rounding."""
        room = rounding * abs(self.start)
        return [t for t, loss in enumerate(losses) if not loss <= self.at(t) * (1 + rounding) + room]

    def __str__(self) -> str:
        head = "promised" if self.promised else "predicted, not promised"
        return f"{self.theorem} ({head}): factor {self.factor:.6g} a step; " + "; ".join(map(str, self.conditions))
