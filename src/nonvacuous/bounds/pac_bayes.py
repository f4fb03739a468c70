"""PAC-Bayes bounds for the Gibbs classifier: posterior Q chosen after the data, prior P before.

All of them hold for every posterior at once. ``kl_nats`` is KL(Q‖P); ``gibbs_risk`` the mean empirical loss under Q.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isinf
from typing import Any, ClassVar, NamedTuple

from nonvacuous.core.bound import (
    BOUNDED_LOSS,
    DATA_FREE_PRIOR,
    IID,
    Bound,
    Down,
    Exact,
    Free,
    Hypothesis,
    LossRange,
    Predictor,
    Sample,
    Up,
)
from nonvacuous.core.errors import InvalidEvidence, InvalidInput
from nonvacuous.numerics.interval import Interval, iv, lower
from nonvacuous.numerics.tails import kl_bernoulli

FIXED_GRID = Hypothesis(
    "fixed_grid",
    "The ratio of the grid of λ (a parameter of the theorem) was fixed before the training sample was seen.",
)


class _GibbsBound(Bound):
    """What the bounds of this file share: Gibbs predictor, training sample, losses in [0, 1], a prior fixed before the data."""

    sample = Sample.TRAINING
    loss = LossRange.BOUNDED
    predictors = (Predictor.GIBBS,)
    hypotheses: ClassVar[tuple[Hypothesis, ...]] = (IID, DATA_FREE_PRIOR, BOUNDED_LOSS)


class _MaurerBound(_GibbsBound):
    """Bounds that rest on Maurer's constant: E exp(n·kl(r̂, risk)) ≤ 2√n for n ≥ 8."""

    least_n = 8


class KlEvidence(NamedTuple):
    """Evidence of the PAC-Bayes bounds without a parameter."""

    gibbs_risk: Up
    kl_nats: Up
    n: Down


def _complexity(e: Any, delta: float) -> Interval:
    """(KL + ln(2√n/δ)) / n."""
    complexity: Interval = (iv.mpf(e.kl_nats) + iv.log(2 * iv.sqrt(e.n) / iv.mpf(delta))) / e.n
    return complexity


@dataclass(frozen=True)
class SeegerBound(_MaurerBound):
    """risk ≤ value whenever n·kl(r̂, value) ≥ KL + ln(2√n/δ) and value > r̂, for n ≥ 8, simultaneously for all posteriors.

    The tightest of this file's parameter-free bounds: the others weaken it.

    >>> bound = SeegerBound()
    >>> round(bound.solve(bound.Evidence(gibbs_risk=0.02, kl_nats=500.0, n=60_000), 0.025), 7)
    0.0439446
    """

    Evidence = KlEvidence
    source = "Langford and Seeger 2001; Seeger 2002 (JMLR 3), Theorem 1; constant 2√n from Maurer 2004, Theorem 5"
    worked = (((0.02, 500.0, 60_000), 0.025, 0.0439446),)

    def proves(self, e: Any, delta: float, value: float) -> bool:
        if isinf(e.kl_nats):
            return False
        return bool(value > e.gibbs_risk and kl_bernoulli(e.gibbs_risk, value).a >= _complexity(e, delta).b)


@dataclass(frozen=True)
class McAllesterBound(_MaurerBound):
    """risk ≤ r̂ + √((KL + ln(2√n/δ)) / (2n)), for n ≥ 8, simultaneously for all posteriors.

    The lecture slide prints √((KL + ln(m/δ)) / (2m − 1)), without McAllester's "+ 2" in the numerator. As
    (KL + ln(2√m/δ))/(2m) ≤ (KL + ln(m/δ))/(2m − 1) for m ≥ 4, this bound implies it for m ≥ 8; for 2 ≤ m < 8 the same follows with the
    exact ξ(m) = Σ C(m, k)(k/m)^k(1 − k/m)^(m−k) in place of 2√m. At m = 1 it takes KL + ln(1/δ) ≥ ln 2, below which the slide claims
    more than is proved.

    >>> bound = McAllesterBound()
    >>> round(bound.solve(bound.Evidence(gibbs_risk=0.1, kl_nats=0.0, n=10_000), 0.05), 6)  # 0.1 + √(ln 4000 / 20000)
    0.120364
    """

    name = "mcallester"
    title = "McAllester"
    Evidence = KlEvidence
    source = "McAllester 1999 (COLT), Theorem 1; this constant from Maurer 2004, Theorem 5, with Pinsker's inequality"
    worked = (((0.1, 0.0, 10_000), 0.05, 0.1203644),)

    def proves(self, e: Any, delta: float, value: float) -> bool:
        if isinf(e.kl_nats):
            return False
        return bool((e.gibbs_risk + iv.sqrt(_complexity(e, delta) / 2)).b <= value)


@dataclass(frozen=True)
class QuadraticBound(_MaurerBound):
    """risk ≤ (√(r̂ + κ) + √κ)² with κ = (KL + ln(2√n/δ)) / (2n), for n ≥ 8, simultaneously for all posteriors.

    >>> bound = QuadraticBound()
    >>> round(bound.solve(bound.Evidence(gibbs_risk=0.0, kl_nats=0.0, n=10_000), 0.05), 7)  # 4κ = 2 ln 4000 / 10000
    0.0016588
    """

    Evidence = KlEvidence
    source = "Rivasplata et al. 2019; Pérez-Ortiz et al. 2021 (JMLR 22), inequality (4)"
    worked = (((0.0, 0.0, 10_000), 0.05, 0.0016588),)

    def proves(self, e: Any, delta: float, value: float) -> bool:
        if isinf(e.kl_nats):
            return False
        kappa = _complexity(e, delta) / 2
        return bool(((iv.sqrt(e.gibbs_risk + kappa) + iv.sqrt(kappa)) ** 2).b <= value)


class TradeOffEvidence(NamedTuple):
    """Evidence of the λ-bound."""

    gibbs_risk: Up
    kl_nats: Up
    n: Down
    trade_off: Free


@dataclass(frozen=True)
class LambdaBound(_MaurerBound):
    """risk ≤ r̂/(1 − λ/2) + (KL + ln(2√n/δ)) / (n λ (1 − λ/2)), for n ≥ 8, simultaneously for all posteriors and all λ ∈ (0, 2).

    λ is ``trade_off``; choosing it after the data costs nothing.

    >>> bound = LambdaBound()
    >>> round(bound.solve(bound.Evidence(gibbs_risk=0.0, kl_nats=0.0, n=10_000, trade_off=1.0), 0.05), 7)  # 4κ again
    0.0016588
    """

    Evidence = TradeOffEvidence
    source = "Thiemann, Igel, Wintenberger and Seldin 2017 (ALT), Theorem 3"
    worked = (((0.0, 0.0, 10_000, 1.0), 0.05, 0.0016588),)

    def domain(self, e: Any, delta: float) -> None:
        if not 0 < e.trade_off < 2:
            raise InvalidEvidence(f"trade_off (λ) lies strictly between 0 and 2; got {e.trade_off}")

    def proves(self, e: Any, delta: float, value: float) -> bool:
        if isinf(e.kl_nats):
            return False
        rest = 1 - iv.mpf(e.trade_off) / 2
        return bool((e.gibbs_risk / rest + _complexity(e, delta) / (e.trade_off * rest)).b <= value)


class CatoniEvidence(NamedTuple):
    """Evidence of Catoni's bound."""

    gibbs_risk: Up
    kl_nats: Up
    n: Exact  # a larger n moves C = λ/n, perhaps to the next grid point
    inverse_temperature: Free


@dataclass(frozen=True)
class CatoniBound(_GibbsBound):
    """risk ≤ (1 − exp(−C r̂ − (KL + ln(1/(δ wⱼ)))/n)) / (1 − e^(−C)) with C = ρʲ the grid point nearest λ/n, for all posteriors and j.

    λ is ``inverse_temperature``, ρ is ``grid_ratio``. The theorem is for one λ fixed beforehand; the weights
    wⱼ = 1/((π²/3 − 1)(|j| + 1)²) sum to 1 over all integers j, so a λ chosen after the data is paid for.

    >>> bound = CatoniBound()
    >>> round(bound.solve(bound.Evidence(gibbs_risk=0.0, kl_nats=0.0, n=10_000, inverse_temperature=10_000.0), 0.05), 6)
    0.000605
    """

    grid_ratio: float = 1.05

    Evidence = CatoniEvidence
    hypotheses = (*_GibbsBound.hypotheses, FIXED_GRID)
    source = "Catoni 2007 (IMS monograph 56), Theorem 1.2.6; Germain et al. 2009 (ICML), Corollary 2.2"
    worked = (((0.0, 0.0, 10_000, 10_000.0), 0.05, 0.0006049),)

    def __post_init__(self) -> None:
        if not isinstance(self.grid_ratio, float) or not 1.0001 <= self.grid_ratio <= 10.0:
            raise InvalidInput(f"grid_ratio lies in [1.0001, 10]; got {self.grid_ratio!r:.60}")

    def domain(self, e: Any, delta: float) -> None:
        if not 1e-12 <= e.inverse_temperature / e.n <= 1e12:
            raise InvalidEvidence(f"inverse_temperature (λ) lies in n · [1e-12, 1e12]; got {e.inverse_temperature}")

    def proves(self, e: Any, delta: float, value: float) -> bool:
        if isinf(e.kl_nats):
            return False
        j = self.grid_index(e.inverse_temperature, e.n)
        temperature = iv.mpf(self.grid_ratio) ** j
        price = iv.log((iv.pi**2 / 3 - 1) * (abs(j) + 1) ** 2 / iv.mpf(delta))
        exponent = temperature * e.gibbs_risk + (e.kl_nats + price) / e.n
        return bool(((1 - iv.exp(-exponent)) / (1 - iv.exp(-temperature))).b <= value)

    def grid_index(self, inverse_temperature: float, n: float) -> int:
        """The integer j with ρʲ nearest λ/n on the logarithmic scale (the same on every machine)."""
        return round(lower(iv.log(iv.mpf(inverse_temperature) / n) / iv.log(self.grid_ratio)))
