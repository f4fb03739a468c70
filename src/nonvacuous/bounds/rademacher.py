"""Uniform bounds from closed-form upper bounds on the empirical Rademacher complexity: linear, kernel and norm-bounded networks.

All speak of the 0–1 loss of every network at once: r̂_γ ≥ the mean ramp loss at margin γ, the ramp is 1/γ-Lipschitz in the margin, and
r = norm/γ names the class, rounded up to a geometric grid whose price is paid. Fitting random signs gives only a *lower* estimate of
the supremum, so it is never evidence here. Proofs: ``docs/proofs/rademacher.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import inf, isinf
from typing import Any, NamedTuple

from nonvacuous.core.bound import FIXED_CLASS, FIXED_NETWORKS, IID, Bound, Down, Hypothesis, LossRange, Sample, Up
from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.core.networks import RELU_CHAIN, FrobeniusEvidence, check_margin
from nonvacuous.core.quantities import Quantity, Reads, quantity
from nonvacuous.numerics.interval import Interval, Number, iv, upper
from nonvacuous.numerics.uniform import GeometricGrid, rademacher_value

quantity(
    Quantity(
        "weight_norm",
        "‖w̃‖",
        "score/input",
        0,
        inf,
        Reads.NOTHING,
        "Frobenius norm of a linear model's matrix (Hilbert-space norm of a kernel machine), bias as the weight of an appended 1; for "
        "two classes the Euclidean norm of w̃₁ − w̃₀.",
    )
)

FIXED_FEATURES = Hypothesis(
    "fixed_features",
    "The features (or the kernel) the linear model reads were fixed before the training sample was seen.",
)
GRID = GeometricGrid(log2_least=-20, steps=16)


@dataclass(frozen=True)
class LinearMarginBound(Bound):
    """risk ≤ r̂_γ + 2 c r x / √n + 3√((ln(2/δ) + price)/(2n)) for linear and kernel classifiers, r ≥ ‖w̃‖/γ on the grid, x = ``input_rms``.

    c = 1 for two classes; c = 2√K for K > 2, by Maurer's contraction. price = 2 ln(j + 1) + ln(π²/6) for the j-th grid point
    2^(j/16 − 20). For a kernel x² = tr(K)/n and ‖w̃‖ is the norm in its space; for features a network computes, these must be fixed
    beforehand (``fixed_features``).

    >>> bound = LinearMarginBound()
    >>> e = bound.Evidence(margin_risk=0.0, margin=1.0, weight_norm=1.0, input_rms=1.0, classes=2, n=10**6)
    >>> round(bound.solve(e, 0.05), 6)  # 2/1000 + 3√((ln 40 + 2 ln 321 + ln(π²/6))/(2·10⁶))
    0.010413
    """

    class Evidence(NamedTuple):
        margin_risk: Up
        margin: Down
        weight_norm: Up
        input_rms: Up
        classes: Up
        n: Down

    source = "Bartlett and Mendelson 2002, Lemma 22; Mohri et al. 2018, Theorems 3.3 and 5.10; Maurer 2016; docs/proofs/rademacher.md"
    sample = Sample.TRAINING
    loss = LossRange.ZERO_ONE
    predictors = FIXED_NETWORKS
    hypotheses = (IID, FIXED_FEATURES)
    worked = (((0.0, 1.0, 1.0, 1.0, 2, 10**6), 0.05, 0.0104132),)

    def domain(self, e: Any, delta: float) -> None:
        check_margin(e.margin)

    def proves(self, e: Any, delta: float, value: float) -> bool:
        return upper_end(_linear(e, delta)) <= value


@dataclass(frozen=True)
class GolowichBound(Bound):
    """risk ≤ r̂_γ + 2 c r x / √n + 3√((ln(2/δ) + price)/(2n)) for ReLU networks of depth L, r ≥ Π‖Ãᵢ‖_F/γ on the grid, x = ``input_rms``.

    Two classes: c = min(√(2 ln 2 (L − 1)) + 1, 2^((L−1)/2)). K > 2: c = 2√K · min(√((√(2 ln 2 (L − 1)) + 1)² + 1), 2^((L−1)/2)). price =
    2 ln(j + 1) + ln(π²/6) for the j-th grid point 2^(j/16 − 20). One grid serves all norms and the margin: with homogeneous activations
    the class depends on their quotient only. The paper has L for L − 1 and a first term of order B for every input; its second form,
    (1, ∞) norms, is the bound ``small-weights``.

    >>> bound = GolowichBound()
    >>> e = bound.Evidence(margin_risk=0.0, margin=1.0, log_frobenius_product_nats=0.0, input_rms=1.0, depth=3, classes=2, n=10**6)
    >>> round(bound.solve(e, 0.05), 6)  # twice the first term of a linear one
    0.012413
    """

    Evidence = FrobeniusEvidence
    source = "Golowich, Rakhlin and Shamir 2018 (COLT), Theorem 1; uniform multi-class version: docs/proofs/rademacher.md"
    sample = Sample.TRAINING
    loss = LossRange.ZERO_ONE
    predictors = FIXED_NETWORKS
    hypotheses = (IID, FIXED_CLASS, RELU_CHAIN)
    worked = (((0.0, 1.0, 0.0, 1.0, 3, 2, 10**6), 0.05, 0.0124132),)

    def domain(self, e: Any, delta: float) -> None:
        check_margin(e.margin)

    def proves(self, e: Any, delta: float, value: float) -> bool:
        return upper_end(_golowich(e, delta)) <= value


def upper_end(x: Interval | None) -> float:
    """Upper end of a value, infinite where there is none."""
    return inf if x is None else upper(x)


@lru_cache(maxsize=256)
def _linear(e: Any, delta: float) -> Interval | None:
    if isinf(e.weight_norm) or isinf(e.input_rms):
        return None
    point = GRID.above(iv.log(e.weight_norm) - iv.log(e.margin))
    factor = iv.one if e.classes == 2 else 2 * iv.sqrt(e.classes)
    complexity = factor * iv.exp(point.log_value) * e.input_rms / iv.sqrt(e.n)
    return rademacher_value(e.margin_risk, complexity, point.price_nats, e.n, delta)


@lru_cache(maxsize=256)
def _golowich(e: Any, delta: float) -> Interval | None:
    if e.log_frobenius_product_nats == inf or isinf(e.input_rms):
        return None
    point = GRID.above(e.log_frobenius_product_nats - iv.log(e.margin))
    factor = depth_factor(int(e.depth)) if e.classes == 2 else 2 * iv.sqrt(e.classes) * depth_factor(int(e.depth), moment=2)
    complexity = factor * iv.exp(point.log_value) * e.input_rms / iv.sqrt(e.n)
    return rademacher_value(e.margin_risk, complexity, point.price_nats, e.n, delta)


def depth_factor(depth: int, moment: int = 1) -> Interval:
    """What L − 1 hidden ReLU layers cost: E Z (or √(E Z²)) of Z = sup‖Σ εᵢ φ(xᵢ)‖ in units of Π‖·‖_F √Σ‖xᵢ‖².

    >>> upper(depth_factor(1)), round(upper(depth_factor(2)), 4), round(upper(depth_factor(10)), 4)
    (1.0, 1.4142, 4.5322)
    """
    by_exponential = iv.sqrt(2 * iv.ln2 * (depth - 1)) + 1
    if moment == 2:
        by_exponential = iv.sqrt(by_exponential**2 + 1)
    if depth > 64:
        return by_exponential
    by_square = iv.sqrt(iv.mpf(2) ** (depth - 1))
    return by_square if by_square.b < by_exponential.b else by_exponential


def log_power_of_depth(largest_norm: Number, depth: int, n: int, input_rms: Number = 1) -> float:
    """ln of the Rademacher complexity of real ReLU networks whose L layers have Frobenius norm ≤ μ: ln(μ^L c_L x/√n), rounded up.

    An *indicator*. The lecture slide says R_m(H) ≤ O(μ^L). With μ a bound on each layer's Frobenius norm this is what is true, with the
    factor c_L ≤ √(2 ln 2 (L − 1)) + 1 inside O(·); with μ the *spectral* norm it is not: a hidden layer of spectral norm 1 reproduces any
    signs on n orthonormal inputs at a constant margin (the test shows it).

    >>> round(log_power_of_depth(1.0, 1, 100), 6)  # ln(1/10)
    -2.302585
    """
    if depth < 1 or n < 1:
        raise InvalidEvidence(f"depth and n are at least 1; got {depth} and {n}")
    return upper(depth * iv.log(largest_norm) + iv.log(depth_factor(depth)) + iv.log(input_rms) - iv.log(n) / 2)
