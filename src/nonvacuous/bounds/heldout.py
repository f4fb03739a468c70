"""Bounds from a sample that training never read: the honest baseline for every other certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from nonvacuous.core.bound import (
    BOUNDED_LOSS,
    FIXED_NETWORKS,
    FIXED_PREDICTOR,
    IID,
    Bound,
    Down,
    ExactEach,
    LossRange,
    Sample,
    Up,
)
from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.numerics.betting import bets, log_capital
from nonvacuous.numerics.interval import iv, upper
from nonvacuous.numerics.tails import kl_bernoulli, log_binomial_cdf


@dataclass(frozen=True)
class BinomialTailBound(Bound):
    """risk ≤ value whenever P(Bin(n, value) ≤ errors) ≤ δ, for the 0–1 loss of a predictor fixed before the sample.

    No constant is lost: this is the exact one-sided confidence limit for a proportion.

    >>> bound = BinomialTailBound()
    >>> round(bound.solve(bound.Evidence(errors=0, n=100), 0.05), 6)  # closed form 1 − 0.05^(1/100)
    0.029513
    """

    class Evidence(NamedTuple):
        errors: Up
        n: Down

    source = "Clopper and Pearson 1934; Langford 2005 (JMLR 6), Theorem 3.3"
    sample = Sample.HELD_OUT
    loss = LossRange.ZERO_ONE
    predictors = FIXED_NETWORKS
    hypotheses = (IID, FIXED_PREDICTOR)
    worked = (((600, 10_000), 0.05, 0.0640522), ((0, 100), 0.05, 0.0295130))

    def proves(self, e: Any, delta: float, value: float) -> bool:
        return bool(log_binomial_cdf(int(e.errors), int(e.n), value).b <= iv.log(delta).a)


@dataclass(frozen=True)
class ChernoffBound(Bound):
    """risk ≤ value whenever n·kl(r̂, value) ≥ ln(1/δ) and value > r̂, for a loss in [0, 1] of a predictor fixed before the sample.

    >>> bound = ChernoffBound()
    >>> round(bound.solve(bound.Evidence(risk=0.0, n=100), 0.05), 6)  # the closed form of the binomial tail again
    0.029513
    """

    class Evidence(NamedTuple):
        risk: Up
        n: Down

    source = "Hoeffding 1963 (JASA 58), Theorem 1, inequality (2.1)"
    sample = Sample.HELD_OUT
    loss = LossRange.BOUNDED
    predictors = FIXED_NETWORKS
    hypotheses = (IID, FIXED_PREDICTOR, BOUNDED_LOSS)
    worked = (((0.0, 100), 0.05, 0.0295130), ((0.1, 10_000), 0.05, 0.1075027))

    def proves(self, e: Any, delta: float, value: float) -> bool:
        return bool(value > e.risk and (e.n * kl_bernoulli(e.risk, value)).a >= (-iv.log(delta)).b)


@dataclass(frozen=True)
class HoeffdingBound(Bound):
    """risk ≤ r̂ + √(ln(1/δ) / (2n)), for a loss in [0, 1] of a predictor fixed before the sample.

    Never better than the Chernoff bound it follows from; kept because most papers quote it.

    >>> bound = HoeffdingBound()
    >>> round(bound.solve(bound.Evidence(risk=0.1, n=10_000), 0.05), 6)
    0.112239
    """

    class Evidence(NamedTuple):
        risk: Up
        n: Down

    source = "Hoeffding 1963 (JASA 58), Theorem 1, inequality (2.3)"
    sample = Sample.HELD_OUT
    loss = LossRange.BOUNDED
    predictors = FIXED_NETWORKS
    hypotheses = (IID, FIXED_PREDICTOR, BOUNDED_LOSS)
    worked = (((0.1, 10_000), 0.05, 0.1122387),)

    def proves(self, e: Any, delta: float, value: float) -> bool:
        return bool((e.risk + iv.sqrt(-iv.log(delta) / (2 * iv.mpf(e.n)))).b <= value)


@dataclass(frozen=True)
class EmpiricalBernsteinBound(Bound):
    """risk ≤ r̂ + √(2 V̂ ln(2/δ) / n) + 7 ln(2/δ) / (3(n − 1)), for a loss in [0, 1] of a predictor fixed before the sample.

    V̂ is the unbiased sample variance of the losses. Better than Hoeffding where the loss varies little.

    >>> bound = EmpiricalBernsteinBound()
    >>> round(bound.solve(bound.Evidence(risk=0.0, loss_variance=0.0, n=1_001), 0.05), 6)  # 7 ln 40 / 3000
    0.008607
    """

    class Evidence(NamedTuple):
        risk: Up
        loss_variance: Up
        n: Down

    source = "Maurer and Pontil 2009 (COLT), Theorem 4"
    sample = Sample.HELD_OUT
    loss = LossRange.BOUNDED
    predictors = FIXED_NETWORKS
    hypotheses = (IID, FIXED_PREDICTOR, BOUNDED_LOSS)
    least_n = 2
    worked = (((0.0, 0.0, 1_001), 0.05, 0.0086074), ((0.1, 0.09, 10_000), 0.05, 0.1090094))

    def proves(self, e: Any, delta: float, value: float) -> bool:
        confidence = iv.log(2 / iv.mpf(delta))
        spread = iv.sqrt(2 * iv.mpf(e.loss_variance) * confidence / e.n)
        return bool((e.risk + spread + 7 * confidence / (3 * (iv.mpf(e.n) - 1))).b <= value)


@dataclass(frozen=True)
class BettingBound(Bound):
    """risk ≤ value whenever the capital Πᵢ (1 + λᵢ(value − ℓᵢ)) reaches 1/δ, for a loss in [0, 1] of a predictor fixed before the sample.

    The stakes λᵢ ∈ [0, 0.9] look only at ℓ₁ … ℓᵢ₋₁, so under risk ≥ value the capital is a non-negative supermartingale and
    reaches 1/δ with probability at most δ (Ville). The capital grows with ``value``, so all larger risks are excluded too.
    One-sided, for bounded losses of any shape; adapts to their variance. The losses must be those measured, in their order, or a fixed
    function of each (such as rounding up): the stakes look at their variance, so making some losses larger may make the value smaller.

    >>> bound = BettingBound()
    >>> 0.0030 < bound.solve(bound.Evidence(losses=(0.0,) * 1000, n=1000), 0.05) < 0.0036  # the best possible is 0.00299
    True
    """

    class Evidence(NamedTuple):
        losses: ExactEach
        n: Down

    source = "Waudby-Smith and Ramdas 2024 (JRSS B 86), Theorem 3 (one-sided, predictable plug-in); Ville 1939"
    sample = Sample.HELD_OUT
    loss = LossRange.BOUNDED
    predictors = FIXED_NETWORKS
    hypotheses = (IID, FIXED_PREDICTOR, BOUNDED_LOSS)
    worked = ((((0.0, 0.25, 0.0, 0.0) * 5, 20), 0.05, 0.2534700),)

    def domain(self, e: Any, delta: float) -> None:
        if len(e.losses) != e.n:
            raise InvalidEvidence(f"n is the number of losses; got n = {e.n} and {len(e.losses)} losses")

    def proves(self, e: Any, delta: float, value: float) -> bool:
        losses, stakes = _staked(tuple(e.losses), delta)
        return bool(log_capital(losses, stakes, value).a >= (-iv.log(delta)).b)


@lru_cache(maxsize=4)
def _staked(losses: tuple[float, ...], delta: float) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The losses and the stakes on them as arrays: made once, not at every step of a bisection."""
    array = np.asarray(losses, dtype=np.float64)
    return array, bets(array, upper(-iv.log(delta)))


def rounded_up(losses: Sequence[float], digits: int = 4) -> tuple[float, ...]:
    """Losses in [0, 1] rounded up to ``digits`` decimals: short to write down, and larger losses only weaken a bound."""
    scale = 10**digits
    exact = np.asarray(losses, dtype=np.float64)
    steps = np.rint(exact * scale)
    steps = np.where(steps / scale < exact, steps + 1, steps)
    return tuple((np.minimum(steps, scale) / scale).tolist())
