"""A measured number: an interval, how far it can be trusted, and the failure probability it cost."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import inf, isnan, nextafter

from nonvacuous.core.errors import InvalidInput


class Kind(IntEnum):
    """How a number may be used; larger is weaker, and combining keeps the weakest."""

    EXACT = 0
    CONFIDENCE = 1
    INDICATOR = 2


@dataclass(frozen=True, slots=True)
class Measured:
    """The true value lies in ``[lower, upper]``: surely (EXACT), with probability 1 − ``delta`` (CONFIDENCE), or perhaps (INDICATOR).

    Sums round outward and add the failure probabilities (a union bound, whether or not the two events are the same).

    >>> Measured.exact(0.25) + Measured(0.0, 0.5, Kind.CONFIDENCE, delta=0.05)
    Measured(lower=0.24999999999999997, upper=0.7500000000000001, kind=<Kind.CONFIDENCE: 1>, delta=0.05)
    """

    lower: float
    upper: float
    kind: Kind
    delta: float = 0.0

    def __post_init__(self) -> None:
        if isnan(self.lower) or isnan(self.upper) or self.lower > self.upper:
            raise InvalidInput(f"a measured number needs lower ≤ upper, both numbers; got [{self.lower}, {self.upper}]")
        if not 0.0 <= self.delta <= 1.0:
            raise InvalidInput(f"delta of a measured number lies in [0, 1]; got {self.delta}")

    @classmethod
    def exact(cls, value: float) -> Measured:
        """The number itself, without error."""
        return cls(value, value, Kind.EXACT)

    @classmethod
    def indicator(cls, value: float, upper: float | None = None) -> Measured:
        """A number nothing may be proved from."""
        return cls(value, value if upper is None else upper, Kind.INDICATOR)

    @property
    def width(self) -> float:
        """upper − lower."""
        return self.upper - self.lower

    @property
    def midpoint(self) -> float:
        """Centre of the interval."""
        return self.lower + (self.upper - self.lower) / 2

    def __contains__(self, value: float) -> bool:
        return self.lower <= value <= self.upper

    def __neg__(self) -> Measured:
        return Measured(-self.upper, -self.lower, self.kind, self.delta)

    def __add__(self, other: Measured | float) -> Measured:
        other = other if isinstance(other, Measured) else Measured.exact(other)
        return Measured(
            nextafter(self.lower + other.lower, -inf),
            nextafter(self.upper + other.upper, inf),
            max(self.kind, other.kind),
            min(1.0, self.delta + other.delta),
        )

    __radd__ = __add__

    def __sub__(self, other: Measured | float) -> Measured:
        return self + (-other)

    def __rsub__(self, other: float) -> Measured:
        return -self + other

    def __mul__(self, other: Measured | float) -> Measured:
        other = other if isinstance(other, Measured) else Measured.exact(other)
        ends = [a * b for a in (self.lower, self.upper) for b in (other.lower, other.upper)]
        if any(isnan(end) for end in ends):
            raise InvalidInput(f"{self} times {other} is 0 · ∞, which has no value")
        return Measured(
            nextafter(min(ends), -inf),
            nextafter(max(ends), inf),
            max(self.kind, other.kind),
            min(1.0, self.delta + other.delta),
        )

    __rmul__ = __mul__

    def clipped(self, low: float, high: float) -> Measured:
        """The same number, known in addition to lie in ``[low, high]``."""
        return Measured(min(max(self.lower, low), high), max(min(self.upper, high), low), self.kind, self.delta)

    def __str__(self) -> str:
        if self.lower == self.upper:
            return f"{self.lower:.6g}"
        return f"[{self.lower:.6g}, {self.upper:.6g}]"
