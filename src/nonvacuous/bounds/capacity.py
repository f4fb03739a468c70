"""Uniform bounds from the capacity of a class, and the capacity of networks by activation.

All statements speak of the class of 0–1 losses (x, y) ↦ 1[h(x) ≠ y]. For two classes its growth function is that of h itself;
for K classes it is bounded by counting the signs of all K(K − 1)/2 differences of scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, inf, isinf, log2
from typing import Any, NamedTuple

from nonvacuous.core.bound import FIXED_CLASS, FIXED_NETWORKS, IID, Bound, Down, LossRange, Sample, Up
from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.core.quantities import MOST_EXAMPLES
from nonvacuous.numerics.interval import Interval, iv, upper
from nonvacuous.numerics.logdomain import log_sum_binomials


def _excluded(risk: float, n: float, log_growth: Interval, delta: float, value: float) -> bool:
    """Relative deviation: (value − r̂)² n ≥ 4 value (ln Π(2n) + ln(4/δ)), value > r̂."""
    gap = iv.mpf(value) - risk
    return bool(gap.a > 0 and (gap**2 * n).a >= (4 * iv.mpf(value) * (log_growth + iv.log(4 / iv.mpf(delta)))).b)


@dataclass(frozen=True)
class VCBound(Bound):
    """risk ≤ value whenever (value − r̂)² n ≥ 4 value (ln Σ_{i≤d} C(2n, i) + ln(4/δ)) and value > r̂, for the whole class at once.

    d = ``vc_dimension`` of the class of 0–1 losses; for two labels, of the class of predictors. The relative-deviation form: as
    value ≤ 1 it is never worse than r̂ + 2√((ln Π(2n) + ln(4/δ))/n).

    The lecture slide prints r̂ + √((2/m) d ln(2em/d) + (1/m) ln(2/δ)). It is true, and loose: with a second sample, the binomial
    median, and Serfling's inequality for drawing m of 2m points, P(sup (risk − r̂) > ε) ≤ 2 Π(2m) exp(−(ε − 1/m)² m²/(m + 1)), as in
    Vapnik 1998, Theorem 4.4; solved for ε this lies below the slide's line wherever that line is below 1. The form here is smaller
    than both at small r̂, once it is below about ½.

    >>> bound = VCBound()
    >>> round(bound.solve(bound.Evidence(risk=0.0, vc_dimension=3, n=10_000), 0.05), 4)  # 4(ln Σ C(20000, ≤3) + ln 80)/n
    0.0129
    """

    class Evidence(NamedTuple):
        risk: Up
        vc_dimension: Up
        n: Down

    name = "vc"
    title = "VC"
    source = "Vapnik and Chervonenkis 1974; Anthony and Shawe-Taylor 1993, Theorem 2.1; growth function by Sauer 1972"
    sample = Sample.TRAINING
    loss = LossRange.ZERO_ONE
    predictors = FIXED_NETWORKS
    hypotheses = (IID, FIXED_CLASS)
    worked = (((0.0, 3, 10_000), 0.05, 0.0129203),)

    def domain(self, e: Any, delta: float) -> None:
        if 2 * e.n > MOST_EXAMPLES:
            raise InvalidEvidence(f"2n must be a count that a float holds exactly: n ≤ 2^52; got {e.n}")

    def proves(self, e: Any, delta: float, value: float) -> bool:
        if isinf(e.vc_dimension):
            return False
        return _excluded(e.risk, e.n, _log_sauer(int(e.n), e.vc_dimension), delta, value)


@dataclass(frozen=True)
class GrowthFunctionBound(Bound):
    """risk ≤ value whenever (value − r̂)² n ≥ 4 value (ln Π(2n) + ln(4/δ)) and value > r̂, for the whole class at once.

    Π is the growth function of the class of 0–1 losses: the form for more than two labels, where no VC dimension is needed.

    >>> bound = GrowthFunctionBound()
    >>> round(bound.solve(bound.Evidence(risk=0.0, log_growth_nats=0.0, n=10_000), 0.05), 7)  # 4 ln 80 / n
    0.0017528
    """

    class Evidence(NamedTuple):
        risk: Up
        log_growth_nats: Up
        n: Down

    source = "Vapnik and Chervonenkis 1974; Anthony and Shawe-Taylor 1993, Theorem 2.1"
    sample = Sample.TRAINING
    loss = LossRange.ZERO_ONE
    predictors = FIXED_NETWORKS
    hypotheses = (IID, FIXED_CLASS)
    worked = (((0.0, 0.0, 10_000), 0.05, 0.0017528),)

    def proves(self, e: Any, delta: float, value: float) -> bool:
        return not isinf(e.log_growth_nats) and _excluded(e.risk, e.n, iv.mpf(e.log_growth_nats), delta, value)


@lru_cache(maxsize=64)
def _log_sauer(n: int, vc_dimension: float) -> Interval:
    """ln Σ_{i ≤ d} C(2n, i); 2n ln 2 once d ≥ 2n."""
    return log_sum_binomials(2 * n, min(ceil(vc_dimension), 2 * n))


# -- capacity of networks ------------------------------------------------------------------------------------------------


class Stage(NamedTuple):
    """One layer of decisions inside a network, for one input.

    ``decisions``: polynomials in the parameters whose signs are asked; ``degree``: their largest degree; ``parameters``: numbers
    of the network they depend on (all layers up to this one).
    """

    decisions: int
    degree: int
    parameters: int


def linear_vc_dimension(inputs: int) -> int:
    """VC dimension of half-spaces x ↦ 1[⟨w, x⟩ + b > 0] in R^inputs: exactly inputs + 1 (Radon 1921; Dudley 1978)."""
    return _positive(inputs, "inputs") + 1


def threshold_log_growth(parameters: int, units: int, m: int) -> float:
    """ln Π(m) of networks of linear threshold units, rounded up: W ln(e m k / W) for m ≥ W parameters and k units.

    Source: Anthony and Bartlett 1999, Theorem 6.1 (Baum and Haussler 1989).
    """
    w, k, m = _positive(parameters, "parameters"), _positive(units, "units"), _positive(m, "m")
    trivial = upper(m * iv.log(2))
    return trivial if m < w else min(trivial, upper(w * (1 + iv.log(iv.mpf(m) * k / w))))


def piecewise_polynomial_log_growth(stages: Sequence[Stage], m: int) -> float:
    """ln Π(m) of a network that decides layer by layer, rounded up: Σᵢ ln(2 (2e m qᵢ Dᵢ / Wᵢ)^Wᵢ).

    In each cell of the parameter space on which all earlier decisions agree, the next ones are qᵢ polynomials an input, of degree
    Dᵢ in Wᵢ parameters; they cut it into at most 2 (2e m qᵢ Dᵢ / Wᵢ)^Wᵢ cells when m qᵢ ≥ Wᵢ (Warren 1968), and into at most
    2^(m qᵢ) always. ReLU layer i of a fully connected net: q = its units, D = i, W = all parameters up to it.

    Source: Bartlett, Harvey, Liaw and Mehrabian 2019 (JMLR 20), Theorem 7.
    """
    m = _positive(m, "m")
    total = iv.mpf(0)
    for stage in stages:
        q, w, d = _positive(stage.decisions, "decisions"), stage.parameters, _positive(stage.degree, "degree")
        trivial = m * q * iv.log(2)
        if w <= 0:
            continue  # nothing to choose: one cell
        cells = trivial if m * q < w else iv.log(2) + w * (1 + iv.log(2 * iv.mpf(m) * q * d / w))
        total += cells if cells.b < trivial.b else trivial
    return min(upper(total), upper(m * iv.log(2)))


def algorithm_vc_dimension(parameters: int, operations: int) -> int:
    """VC dimension of any class computed by ``operations`` arithmetic steps and comparisons: at most 4 W (t + 2).

    Source: Goldberg and Jerrum 1995; Anthony and Bartlett 1999, Theorem 8.4. Covers every piecewise rational network.
    """
    return 4 * _positive(parameters, "parameters") * (_positive(operations, "operations") + 2)


def sigmoid_vc_dimension(parameters: int, units: int) -> float:
    """VC dimension of networks of k standard sigmoid units: at most ((W + 2)k)² + 11 (W + 2) k log₂(18 (W + 2) k²).

    Source: Anthony and Bartlett 1999, Theorem 14.11 (the pseudo-dimension, which is at least the VC dimension; their Theorem 8.13 has W
    in place of W + 2); Karpinski and Macintyre 1997.
    """
    w, k = _positive(parameters, "parameters"), _positive(units, "units")
    return float(ceil(((w + 2) * k) ** 2 + 11 * (w + 2) * k * log2(18 * (w + 2) * k * k) * (1 + 1e-12)))


def relu_vc_dimension(stages: Sequence[Stage]) -> float:
    """VC dimension of a two-label piecewise polynomial network: the largest m whose growth bound still reaches 2^m.

    Source: Bartlett, Harvey, Liaw and Mehrabian 2019 (JMLR 20), Theorem 7 with the definition of shattering.
    """

    def may_shatter(m: int) -> bool:
        return piecewise_polynomial_log_growth(stages, m) >= upper(m * iv.log(2))

    high = 1
    while may_shatter(high):
        high *= 2
        if high > 2**80:
            return inf
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if may_shatter(middle) else (low, middle)
    return float(low)


def _positive(number: int, what: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InvalidEvidence(f"{what} is a whole number of at least 1; got {number!r}")
    return number
