"""Bounds whose capacity is a product of layer norms: Frobenius with 2^(L−1), spectral by PAC-Bayes.

Both name the class by one number, product/γ, rounded up to a geometric grid. Proofs: ``docs/proofs/norm_products.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import inf, isinf
from typing import Any, NamedTuple

from nonvacuous.core.bound import FIXED_CLASS, FIXED_NETWORKS, IID, Bound, Down, LossRange, Sample, Up
from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.core.networks import BOUNDED_INPUTS, HOMOGENEOUS_CHAIN, RELU_CHAIN, FrobeniusEvidence, check_margin
from nonvacuous.core.quantities import Quantity, Reads, quantity
from nonvacuous.numerics.interval import Interval, iv, upper
from nonvacuous.numerics.logdomain import log1p
from nonvacuous.numerics.tails import kl_bernoulli
from nonvacuous.numerics.uniform import GeometricGrid, rademacher_value

quantity(
    Quantity(
        "stable_rank_sum",
        "Σ‖Ãᵢ‖²_F/‖Ãᵢ‖₂²",
        "ranks",
        0,
        inf,
        Reads.NOTHING,
        "Sum over the layers of (Frobenius norm / spectral norm)², of the dense matrices of convolutions too, biases included; any "
        "upper bounds sᵢ ≥ ‖Ãᵢ‖₂ may stand for the spectral norms if the product uses them too.",
    )
)
COARSE = GeometricGrid(log2_least=-20, steps=16)
FINE = GeometricGrid(log2_least=-20, steps=256)
RESTRICTED = iv.mpf(1) / 20
"""Posterior mass η given away to perturbations that move the margin too far."""


@dataclass(frozen=True)
class NeyshaburTomiokaSrebroBound(Bound):
    """risk ≤ r̂_γ + 2 c 2^(L−1) r x / √n + 3√((ln(2/δ) + price)/(2n)) for ReLU networks, r ≥ Π‖Ãᵢ‖_F/γ on the grid, x = ``input_rms``.

    c = 1 for two classes, 2√K for K > 2; price = 2 ln(j + 1) + ln(π²/6) for the j-th grid point 2^(j/16 − 20). The exponential factor is
    the first one found; ``golowich`` is never worse and is kept apart because the lecture slide quotes both.

    >>> bound = NeyshaburTomiokaSrebroBound()
    >>> e = bound.Evidence(margin_risk=0.0, margin=1.0, log_frobenius_product_nats=0.0, input_rms=1.0, depth=3, classes=2, n=10**6)
    >>> round(bound.solve(e, 0.05), 6)  # 2·4/1000 and the same confidence
    0.016413
    """

    Evidence = FrobeniusEvidence
    source = "Neyshabur, Tomioka and Srebro 2015 (COLT), Theorem 1, p = q = 2; uniform version: docs/proofs/norm_products.md"
    sample = Sample.TRAINING
    loss = LossRange.ZERO_ONE
    predictors = FIXED_NETWORKS
    hypotheses = (IID, FIXED_CLASS, RELU_CHAIN)
    worked = (((0.0, 1.0, 0.0, 1.0, 3, 2, 10**6), 0.05, 0.0164132),)

    def domain(self, e: Any, delta: float) -> None:
        check_margin(e.margin)

    def proves(self, e: Any, delta: float, value: float) -> bool:
        found = _frobenius(e, delta)
        return found is not None and upper(found) <= value


@dataclass(frozen=True)
class SpectralPacBayesBound(Bound):
    """risk ≤ value whenever n·kl(r̂_γ, value) ≥ (KL + h(η))/(1 − η) + ln(2√n/δ) + price and value > r̂_γ, for homogeneous networks, n ≥ 8.

    KL = S G²/(2τ²), S = ``stable_rank_sum``, G = 2√W + √(2 ln(L/η)), τ = (1 + 1/(2√2 B r))^(1/L) − 1, r ≥ Πρᵢ‖Ãᵢ‖₂/γ on the grid
    2^(j/256 − 20), price = 2 ln(j + 1) + ln(π²/6), η = 1/20, h the binary entropy in nats, W = ``widest``, B = ``input_bound``.
    The unperturbed network is certified: Gaussian noise of deviation τ/G on normalised layers keeps every margin within γ/2 with
    probability 1 − η.

    The paper's form is r̂_γ + 4√((KL + ln(6n/δ))/(n − 1)) with a grid of d·n^(1/(2d)) noise scales; here rescaling the layers to norm 1
    leaves one scale to choose, Davidson and Szarek's inequality replaces the matrix Chernoff bound, and Maurer's kl form the square root.

    >>> bound = SpectralPacBayesBound()
    >>> e = bound.Evidence(0.0, 1.0, 0.0, 2.0, 1.0, 1, 2, 10**6)
    >>> round(bound.solve(e, 0.05), 5)  # τ = 1/√8, G = √8 + √(2 ln 20): KL = 8·G²
    0.00026
    """

    class Evidence(NamedTuple):
        margin_risk: Up
        margin: Down
        log_spectral_product_nats: Up
        stable_rank_sum: Up
        input_bound: Up
        depth: Up
        widest: Up
        n: Down

    name = "spectral-pac-bayes"
    title = "Spectral PAC-Bayes"
    source = "Neyshabur, Bhojanapalli and Srebro 2018 (ICLR), Theorem 1; constants re-derived: docs/proofs/norm_products.md"
    sample = Sample.TRAINING
    loss = LossRange.ZERO_ONE
    predictors = FIXED_NETWORKS
    hypotheses = (IID, FIXED_CLASS, HOMOGENEOUS_CHAIN, BOUNDED_INPUTS)
    least_n = 8
    worked = (((0.0, 1.0, 0.0, 2.0, 1.0, 1, 2, 10**6), 0.05, 0.0002628),)

    def domain(self, e: Any, delta: float) -> None:
        check_margin(e.margin)
        if e.input_bound == 0:
            raise InvalidEvidence("input_bound (B) is positive: inputs that are all zero carry nothing")

    def proves(self, e: Any, delta: float, value: float) -> bool:
        budget = _spectral(e, delta)
        return bool(budget is not None and value > e.margin_risk and (e.n * kl_bernoulli(e.margin_risk, value)).a >= budget.b)


@lru_cache(maxsize=256)
def _frobenius(e: Any, delta: float) -> Interval | None:
    if e.log_frobenius_product_nats == inf or isinf(e.input_rms):
        return None
    point = COARSE.above(e.log_frobenius_product_nats - iv.log(e.margin))
    factor = iv.exp(iv.ln2 * (e.depth - 1)) * (1 if e.classes == 2 else 2 * iv.sqrt(e.classes))
    complexity = factor * iv.exp(point.log_value) * e.input_rms / iv.sqrt(e.n)
    return rademacher_value(e.margin_risk, complexity, point.price_nats, e.n, delta)


@lru_cache(maxsize=256)
def _spectral(e: Any, delta: float) -> Interval | None:
    if e.log_spectral_product_nats == inf or isinf(e.stable_rank_sum) or isinf(e.input_bound):
        return None
    point = FINE.above(e.log_spectral_product_nats - iv.log(e.margin))
    tolerance = 1 / (2 * iv.sqrt(2) * iv.mpf(e.input_bound) * iv.exp(point.log_value))
    tau = _root_minus_one(tolerance, int(e.depth))
    gauss = 2 * iv.sqrt(e.widest) + iv.sqrt(2 * iv.log(iv.mpf(e.depth) / RESTRICTED))
    divergence = e.stable_rank_sum * gauss**2 / (2 * tau**2)
    entropy = -RESTRICTED * iv.log(RESTRICTED) - (1 - RESTRICTED) * iv.log(1 - RESTRICTED)
    confidence = iv.log(2 * iv.sqrt(e.n) / iv.mpf(delta)) + point.price_nats
    budget: Interval = (divergence + entropy) / (1 - RESTRICTED) + confidence
    return budget


def _root_minus_one(x: Interval, degree: int) -> Interval:
    """(1 + x)^(1/degree) − 1 for x > 0, at least x₀/degree for x₀ = ln(1 + x): e^t − 1 ≥ t keeps its relative accuracy."""
    t = log1p(x) / degree
    return t if t.b < 1e-9 else iv.exp(t) - 1
