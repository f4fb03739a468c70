"""What it costs to hold uniformly: unions over grids of scales, margins, and chaining over covers.

A norm or a margin read off the trained network names a class only afterwards. The remedy is a union over classes fixed beforehand:
the number is rounded up to a grid point, whose price in nats is added to ln(1/δ). The proofs are in ``docs/proofs/uniform.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.numerics.interval import Interval, Number, enclose, iv, upper

DEEPEST_LEVEL = 200
LOG_VACUOUS = 100


class GridPoint(NamedTuple):
    """Where a number was rounded to: its place, its logarithm, and the price ln(1/weight) of the class in nats."""

    place: int
    log_value: Interval
    price_nats: Interval


@dataclass(frozen=True)
class GeometricGrid:
    """The points 2^(log2_least + j/steps), j = 0, 1, …, with weights (6/π²)/(j + 1)², which sum to 1.

    A number below the least point is rounded up to it, so the price falls with the number and never rises again.
    """

    log2_least: int = -20
    steps: int = 16

    def above(self, log_x: Number) -> GridPoint:
        """The smallest point that is certainly at least exp(log_x); log_x may be −∞, not +∞.

        >>> point = GeometricGrid(0, 1).above(iv.log(3))  # 1, 2, 4: the third point
        >>> point.place, upper(iv.exp(point.log_value)), round(upper(point.price_nats), 4)  # ln(9 π²/6)
        (2, 4.000000000000001, 2.6949)
        """
        places = upper((enclose(log_x) / iv.ln2 - self.log2_least) * self.steps)
        if places == float("inf"):
            raise InvalidEvidence("an infinite number has no grid point above it")
        j = ceil(max(0.0, places))
        price = 2 * iv.log(j + 1) + iv.log(iv.pi**2 / 6)
        return GridPoint(j, iv.ln2 * (self.log2_least * self.steps + j) / self.steps, price)


def two_sided_price(index: int) -> Interval:
    """Price of place ``index`` of a grid that runs to both sides: weights 1/((π²/3 − 1)(|j| + 1)²), which sum to 1.

    >>> round(upper(two_sided_price(0)), 4), round(upper(two_sided_price(-9)), 4)  # ln(π²/3 − 1), and ln 100 more
    (0.8285, 5.4337)
    """
    price: Interval = iv.log((iv.pi**2 / 3 - 1) * (abs(index) + 1) ** 2)
    return price


def rademacher_value(risk: Number, complexity: Interval, price_nats: Number, n: Number, delta: float) -> Interval:
    """r̂ + 2R̂ + 3√((ln(2/δ) + price)/(2n)): risk of a loss in [0, 1] from the empirical Rademacher complexity of the loss class.

    Source: Bartlett and Mendelson 2002; Mohri, Rostamizadeh and Talwalkar 2018, Theorem 3.3.
    """
    confidence = iv.log(2 / iv.mpf(delta)) + price_nats
    value: Interval = enclose(risk) + 2 * complexity + 3 * iv.sqrt(confidence / (2 * iv.mpf(n)))
    return value


def chained_complexity(log_scale: Number, log_choices: Number, n: Number) -> Interval:
    """Empirical Rademacher complexity of functions into [0, 1] with ln N(ε) ≤ ⌊(C/ε)²⌋·ln M in the normalised ℓ₂ metric.

    min over N of ε_N + Σ_{j≤N} (ε_j + ε_{j−1}) √(2(ln N(ε_j) + ln N(ε_{j−1}))/n), ε_j = 4^(−j)/2, N(ε_0) = 1. Arguments: ln C, ln M, n.

    >>> upper(chained_complexity(-1000, 1, 100)) < 1e-50  # a class of (nearly) one function
    True
    """
    log_scale = enclose(log_scale)
    best: Interval = iv.mpf(1) / 2
    if not log_scale < LOG_VACUOUS:
        return best
    squared, total, before = iv.exp(2 * log_scale), iv.zero, iv.zero
    for j in range(1, DEEPEST_LEVEL):
        epsilon = iv.mpf(2) ** (-2 * j - 1)
        count = squared / epsilon**2
        entropy = iv.zero if count < 1 else count * log_choices
        total = total + 5 * epsilon * iv.sqrt(2 * (entropy + before) / iv.mpf(n))
        if not total < best:
            break
        best = _lesser(best, total + epsilon)
        before = entropy
    return best


def _lesser(x: Interval, y: Interval) -> Interval:
    lesser: Interval = y if y.b < x.b else x
    return lesser
