"""A fixed network with one hidden layer, through the random networks whose mean it is."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isinf
from typing import Any, NamedTuple

from nonvacuous.core.bound import DATA_FREE_PRIOR, FIXED_NETWORKS, IID, Bound, Down, Hypothesis, LossRange, Sample, Up
from nonvacuous.core.quantities import Quantity, Reads, quantity
from nonvacuous.numerics.interval import iv
from nonvacuous.numerics.tails import kl_bernoulli

SKEW = (81, 1000)
"""κ as a fraction: Φ(t) ≥ ½ + t/√(2π) − κt² for all t (the least such κ is 0.08098…)."""

quantity(
    Quantity(
        "noise_ratio",
        "ρ",
        "1",
        0,
        inf,
        Reads.NOTHING,
        "Variance of the hidden signs' part of a difference of two outputs by that of the Gaussian part, the largest over classes: "
        "max ‖V_k − V_j‖²/(2 w σ²).",
    )
)

ERF_NETWORK = Hypothesis(
    "erf_network",
    "The network is V erf(W x) with inputs on the unit sphere; risk and divergence are those of V′ sign(W′ x), Gaussian around it.",
    checkable=True,
)


@dataclass(frozen=True)
class ShallowBound(Bound):
    """risk ≤ value whenever n·kl(r̂, c·value) ≥ KL + ln(2√n/δ) and c·value > r̂, with c = ½ − 0.081 ρ, for n ≥ 8.

    The risk is that of the fixed network V erf(W x), ‖x‖ = 1; r̂ is the mean empirical loss of random networks V′ sign(W′ x) around it
    (standard deviations 1/√2 and σ), and ρ their ``noise_ratio``. Where the fixed network errs, the random one errs with probability at
    least c. The published factor 2 in place of 1/c is its value at ρ = 0: signs are skewed, and with it the statement is false.

    >>> bound = ShallowBound()
    >>> round(bound.solve(bound.Evidence(gibbs_risk=0.02, kl_nats=500.0, noise_ratio=0.0, n=60_000), 0.025), 7)  # twice Seeger's
    0.0878893
    """

    class Evidence(NamedTuple):
        gibbs_risk: Up
        kl_nats: Up
        noise_ratio: Up
        n: Down

    source = "Biggs and Guedj 2022 (ICML), with a corrected derandomisation, proved in docs/proofs/shallow.md; Maurer 2004, Theorem 5"
    sample = Sample.TRAINING
    loss = LossRange.ZERO_ONE
    predictors = FIXED_NETWORKS
    hypotheses = (IID, DATA_FREE_PRIOR, ERF_NETWORK)
    least_n = 8
    worked = (((0.02, 500.0, 0.0, 60_000), 0.025, 0.0878893),)

    def proves(self, e: Any, delta: float, value: float) -> bool:
        if isinf(e.kl_nats) or isinf(e.noise_ratio):
            return False
        kappa = iv.mpf(SKEW[0]) / SKEW[1]
        gibbs = (iv.mpf(value) * (iv.mpf(1) / 2 - kappa * e.noise_ratio)).a
        if not gibbs > e.gibbs_risk:
            return False
        budget = (iv.mpf(e.kl_nats) + iv.log(2 * iv.sqrt(e.n) / iv.mpf(delta))) / e.n
        return bool(kl_bernoulli(e.gibbs_risk, gibbs).a >= budget.b)
