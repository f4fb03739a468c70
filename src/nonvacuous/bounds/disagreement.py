"""A network that carries no certificate of its own, bounded through one that does: both are compared on unlabelled data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from nonvacuous.core.bound import FIXED_NETWORKS, Bound, Down, Hypothesis, LossRange, Sample, Up
from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.core.quantities import MOST_EXAMPLES, Quantity, Reads, quantity
from nonvacuous.numerics.interval import Interval, clip, iv, lower, upper
from nonvacuous.numerics.tails import log_binomial_cdf

quantity(
    Quantity(
        "surrogate_value",
        "v",
        "loss",
        0,
        1,
        Reads.TRAINING,
        "Value of the surrogate's certificate: its 0–1 risk is at most this, but with the probability that certificate states.",
    )
)
quantity(
    Quantity(
        "disagreements",
        "d",
        "examples",
        0,
        MOST_EXAMPLES,
        Reads.HELD_OUT,
        "Unlabelled inputs of the unlabelled sample on which network and surrogate answer differently.",
        whole=True,
    )
)

UNLABELLED_IID = Hypothesis(
    "unlabelled_iid",
    "The unlabelled inputs are independent draws from the distribution of inputs the network will meet in use.",
)
UNLABELLED_UNSEEN = Hypothesis(
    "unlabelled_unseen",
    "Network and surrogate were both fixed before anybody looked at the unlabelled inputs.",
)
SURROGATE_CERTIFIED = Hypothesis(
    "surrogate_certified",
    "The surrogate's certificate holds: its own hypotheses, listed in it, are met, for the same distribution.",
)

quantity(
    Quantity(
        "surrogate_errors",
        "k",
        "labelled examples",
        0,
        MOST_EXAMPLES,
        Reads.HELD_OUT,
        "Errors of the surrogate on labelled examples that it never read.",
        whole=True,
    )
)
quantity(
    Quantity(
        "labelled",
        "m",
        "labelled examples",
        1,
        MOST_EXAMPLES,
        Reads.NOTHING,
        "Labelled examples that the surrogate never read.",
        whole=True,
    )
)
quantity(
    Quantity(
        "alternatives",
        "K",
        "surrogates",
        1,
        2.0**53,
        Reads.NOTHING,
        "Surrogates, this one among them, of which the one with the smallest value may have been kept.",
        whole=True,
    )
)

SURROGATE_FIXED = Hypothesis(
    "surrogate_fixed",
    "The surrogates compared, all counted, were fixed without the labelled examples their errors are counted on; these are independent "
    "draws from the distribution of use, and independent of the unlabelled inputs.",
)

MOST_TERMS = 8_000
LARGEST = 10**6
STEP = 1e-4
RESOLUTION = 1e-10


@dataclass(frozen=True)
class DisagreementBound(Bound):
    """risk ≤ value whenever P(Bin(n, value − v) ≤ d) ≤ δ, where v bounds the 0–1 risk of a surrogate (its confidence is paid for apart).

    A network h is wrong only where the surrogate s is wrong or the two differ: 1[h ≠ y] ≤ 1[s ≠ y] + 1[h ≠ s]. The second needs no
    labels: d disagreements on n fresh inputs give the exact binomial limit. The network may have been trained on anything but these
    inputs. v holds with a probability of its own, 1 − δ₁: a certificate books δ₁ as paid for measuring, and δ here is what is left. For a
    surrogate that draws its weights anew for every prediction, d counts one draw an input, and v is its Gibbs risk.

    >>> bound = DisagreementBound()
    >>> e = bound.Evidence(surrogate_value=0.1, disagreements=0, n=100)
    >>> round(bound.solve(e, 0.025), 6)  # 0.1 + 1 − 0.025^(1/100)
    0.136217
    """

    class Evidence(NamedTuple):
        surrogate_value: Up
        disagreements: Up
        n: Down

    source = "Bazinet, Zantedeschi and Germain 2026 (arXiv 2602.23128), with the exact binomial tail for the disagreement"
    sample = Sample.HELD_OUT
    loss = LossRange.ZERO_ONE
    predictors = FIXED_NETWORKS
    hypotheses = (UNLABELLED_IID, UNLABELLED_UNSEEN, SURROGATE_CERTIFIED)
    worked = (((0.1, 0, 100), 0.025, 0.1362167), ((0.08, 500, 10_000), 0.025, 0.1344545))

    def proves(self, e: Any, delta: float, value: float) -> bool:
        left = lower(iv.mpf(value) - iv.mpf(e.surrogate_value))
        if left <= 0:
            return False
        return bool(log_binomial_cdf(int(e.disagreements), int(e.n), left).b <= iv.log(delta).a)


@dataclass(frozen=True)
class JointDisagreementBound(Bound):
    """risk ≤ value whenever F(k, m, p) · F(d, n, value − p) ≤ c for all p, where F is the binomial tail P(Bin ≤ ·) and c (1 − ln c) = δ/K.

    A network h is wrong only where the surrogate s is wrong or the two differ. s makes k errors on m labelled examples it never read, h
    and s differ on d of n unlabelled inputs. h may depend on all labels, those m included: given them all, d is still binomial, so that
    the second tail at the true probability is at least uniform *whatever the first one came to*, and the product of the two falls below
    c with probability at most c (1 − ln c) (Fisher's combination). Where both counts are about as uncertain this takes a third off
    the slack of two limits at δ/2 each; where one is far more so, those can be a little smaller.

    >>> bound = JointDisagreementBound()
    >>> e = bound.Evidence(surrogate_errors=780, labelled=12_000, disagreements=450, n=10_000, alternatives=1)
    >>> round(bound.solve(e, 0.05), 4)  # two limits at 0.025 each: 0.1192
    0.1159
    """

    class Evidence(NamedTuple):
        surrogate_errors: Up
        labelled: Down
        disagreements: Up
        n: Down
        alternatives: Up

    source = (
        "Bazinet, Zantedeschi and Germain 2026 (arXiv 2602.23128) for the inequality; Fisher 1932 for combining two tails; proved in "
        "docs/proofs/disagreement.md"
    )
    sample = Sample.HELD_OUT
    loss = LossRange.ZERO_ONE
    predictors = FIXED_NETWORKS
    hypotheses = (UNLABELLED_IID, UNLABELLED_UNSEEN, SURROGATE_FIXED)
    worked = (((780, 12_000, 450, 10_000, 8), 0.05, 0.118616833), ((0, 100, 5, 1000, 1), 0.05, 0.0484993692))

    def domain(self, e: Any, delta: float) -> None:
        if max(e.labelled, e.n) > LARGEST:
            raise InvalidEvidence(
                f"samples above {LARGEST:,} examples are beyond the search for the worst p: use DisagreementBound"
            )

    def solve(self, e: Any, delta: float) -> float:
        """A float that :meth:`holds` accepts, within a part in 10¹⁰ of the smallest one; 1.0 is vacuous but true."""
        self.check(e, delta)
        low, high = 0.0, 1.0
        while high - low > RESOLUTION * high:
            middle = (low + high) / 2
            low, high = (low, middle) if self.proves(e, delta, middle) else (middle, high)
        return high

    def proves(self, e: Any, delta: float, value: float) -> bool:
        k, m, d, n = int(e.surrogate_errors), int(e.labelled), int(e.disagreements), int(e.n)
        if k >= m or d >= n:
            return False
        step = STEP * min((k + 1) ** 0.5 / m, (d + 1) ** 0.5 / n)
        value = min(value, 1 - 4 * step)
        goal = _log_product(delta, e.alternatives).a

        def height(p: float) -> Interval:
            return log_binomial_cdf(k, m, max(p, 0.0)) + log_binomial_cdf(d, n, _probability(iv.mpf(value) - iv.mpf(p)))

        top = _top(lambda p: _hazard(k, m, p) - _hazard(d, n, value - p), value, step / 4)
        if height(top).b > goal:
            return False
        summit = _summit(height, top, step)
        return summit is not None and bool(summit.b <= goal)


def _probability(p: Interval) -> Interval:
    """p, or 0 if it is negative: a tail at 0 is 1, and so is the concave function's continuation."""
    return clip(p, 0, 1) if p.b > 0 else iv.zero


def _at_least_zero(p: Interval) -> Interval:
    return p.b if p.b >= 0 else iv.zero


def _hazard(k: int, n: int, p: float) -> float:
    """−d ln P(Bin(n, p) ≤ k)/dp, about; only ever says where to look."""
    if p <= 0:
        return 0.0
    if p >= 1:
        return math.inf
    if k - n * p > 8 * math.sqrt(n * p * (1 - p)) + 8:
        return 0.0
    ratio, total, term = (1 - p) / p, 1.0, 1.0
    for i in range(min(k, MOST_TERMS)):
        term *= (k - i) * ratio / (n - k + 1 + i)
        total += term
        if term < 1e-6 * total or total > 1e250:
            break
    return (n - k) / ((1 - p) * total)


def _top(slope: Callable[[float], float], value: float, width: float) -> float:
    """Where an increasing function of p in [0, value] changes its sign; an end if nowhere."""
    low, high = 0.0, value
    while high - low > width and low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return (low + high) / 2 if low > 0 and high < value else (0.0 if low == 0 else value)


def _summit(height: Callable[[float], Interval], top: float, step: float) -> Interval | None:
    """More than a concave function reaches anywhere, from six points around its top; None if they do not straddle it.

    A chord, extended, lies above a concave function outside its two ends. Between the inner two points the function is below the chords
    of both sides, so below where they meet; next to them, below the lower one of its neighbours' chords; further out below its values at
    the second and fifth point, since it rises before the former and falls after the latter.
    """
    places = [top + j * step for j in (-3, -2, -1, 1, 2, 3)]
    x, y = [iv.mpf(p) for p in places], [height(p) for p in places]
    slopes = [(y[i + 1] - y[i]) / (x[i + 1] - x[i]) for i in range(5)]
    if not (slopes[1].a >= 0 >= slopes[3].b):
        return None
    up, down, width = slopes[1].b, -slopes[3].a, (x[3] - x[2]).b
    meeting = (up * y[3].b + down * y[2].b + up * down * width) / (up + down) if up + down > 0 else y[2].b
    beside = (
        _lower_of(y[1] + slopes[0] * (x[2] - x[1]), y[2] + _at_least_zero(-slopes[2]) * (x[2] - x[1])),
        _lower_of(y[4] - slopes[4] * (x[4] - x[3]), y[3] + _at_least_zero(slopes[2]) * (x[4] - x[3])),
    )
    highest: Interval = iv.mpf(max(upper(one) for one in (y[1], y[2], y[3], y[4], meeting, *beside)))
    return highest


def _lower_of(first: Interval, second: Interval) -> Interval:
    return first.b if first.b <= second.b else second.b


def _log_product(delta: float, alternatives: float) -> Interval:
    """ln c, rounded down, for c (1 − ln c) = δ/K."""
    budget = (iv.log(delta) - iv.log(alternatives)).a
    t = goal = -lower(budget)
    for _ in range(60):
        t = goal + math.log1p(t)
    while not (iv.log(iv.mpf(t) + 1) - iv.mpf(t)).b <= budget:
        t *= 1 + 1e-15
    log_c: Interval = -iv.mpf(t)
    return log_c
