"""δ is money: every certificate and every choice among several spends it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import fsum

from nonvacuous.core.errors import DeltaOverspent, InvalidInput
from nonvacuous.core.quantities import is_number


def check_delta(delta: float) -> float:
    """``delta`` itself if it lies in (0, 1), else :class:`InvalidInput`."""
    if not is_number(delta) or not 0.0 < delta < 1.0:
        raise InvalidInput(
            f"delta is the probability that a certificate fails: a number in (0, 1), such as 0.05; got {delta!r:.60}"
        )
    return float(delta)


@dataclass
class Ledger:
    """An account of failure probability.

    All certificates whose shares come from one ledger hold *simultaneously* with probability at least 1 − ``delta``
    (union bound), so the best of them may be picked afterwards at no cost.

    >>> ledger = Ledger(0.05)
    >>> ledger.spend(0.025, on="binomial-tail")
    0.025
    >>> ledger.spend(0.026, on="seeger")
    Traceback (most recent call last):
    nonvacuous.core.errors.DeltaOverspent: seeger asks for 0.026, but of δ = 0.05 only 0.025 is left (spent: binomial-tail 0.025)
    """

    delta: float
    spent: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_delta(self.delta)
        if fsum(self.spent.values()) > self.delta:
            raise DeltaOverspent(f"{fsum(self.spent.values()):g} is booked as spent, of δ = {self.delta:g}")

    @property
    def left(self) -> float:
        """What is not yet spent."""
        return max(0.0, self.delta - fsum(self.spent.values()))

    def spend(self, share: float, on: str) -> float:
        """Book ``share`` under the name ``on`` and return it; raise :class:`DeltaOverspent` if it is not there."""
        check_delta(share)
        if on in self.spent:
            raise DeltaOverspent(
                f"{on} was already paid for in this ledger; a second look needs a share and a name of its own"
            )
        if fsum([share, *self.spent.values()]) > self.delta:
            before = ", ".join(f"{name} {amount:g}" for name, amount in self.spent.items()) or "nothing"
            raise DeltaOverspent(
                f"{on} asks for {share:g}, but of δ = {self.delta:g} only {self.left:g} is left (spent: {before})"
            )
        self.spent[on] = share
        return share

    def shares(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Split what is left in proportion to ``weights``, rounded down so that spending all of it never overdraws."""
        if not weights:
            return {}
        if any(not weight > 0 for weight in weights.values()):
            raise InvalidInput("every weight of a plan must be positive")
        total, left = fsum(weights.values()), self.left
        return {name: left * (weight / total) * (1 - 2**-40) for name, weight in weights.items()}
