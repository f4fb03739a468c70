"""Bounds for predictors that a part of the sample determines (sample compression).

A learner that would hand back the same predictor if it were given only some of its examples has compressed the sample to these. Two
theorems use it: the classical union bound over subsets, which takes any learner, and the far sharper bound on the probability of a
change of compression, which takes learners with a preference. Their proofs are in ``docs/proofs/sample_compression.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from nonvacuous.core.bound import FIXED_NETWORKS, IID, Bound, Down, Exact, Hypothesis, LossRange, Sample, Up
from nonvacuous.core.quantities import MOST_EXAMPLES, Quantity, Reads, quantity
from nonvacuous.numerics.interval import iv
from nonvacuous.numerics.logdomain import log_binomial_coefficient
from nonvacuous.numerics.tails import log_binomial_cdf, log_binomial_sf

quantity(
    Quantity(
        "compression_size",
        "k",
        "examples",
        0,
        MOST_EXAMPLES,
        Reads.TRAINING,
        "Examples that determine the predictor, together with those it gets wrong where the theorem counts them too.",
        whole=True,
    )
)
quantity(
    Quantity(
        "complement_errors",
        "e",
        "examples",
        0,
        MOST_EXAMPLES,
        Reads.TRAINING,
        "Examples outside the compression set that the predictor gets wrong.",
        whole=True,
    )
)
quantity(
    Quantity(
        "stops",
        "s",
        "stopping times",
        1,
        MOST_EXAMPLES,
        Reads.NOTHING,
        "Stopping times, of all settings together, fixed beforehand, among which the best certificate was chosen.",
        whole=True,
    )
)

PREFERENCE = Hypothesis(
    "preference",
    "The learner has a preference: given any part of the sample that contains the compression set, it arrives at that same set; it "
    "does not depend on the order of the examples, and an example the predictor gets wrong would have joined the set.",
)
RECONSTRUCTION = Hypothesis(
    "reconstruction",
    "The predictor is a function, fixed before the sample was seen, of the examples in the compression set alone.",
)


@dataclass(frozen=True)
class PickToLearnBound(Bound):
    r"""risk ≤ value whenever (δ/s) P(Bin(n, value) > k) ≥ n · value · P(Bin(n, value) = k), for a learner with a preference.

    k is ``compression_size``: the examples picked, and those outside that are still wrong where the learner stops before all are right.
    s is ``stops``. Equivalently :math:`\frac1n \sum_{m=k}^{n-1} \binom mk \binom nk^{-1} (1-v)^{-(n-m)} \ge s/\delta`. Only the upper side
    is asked for here, so the whole of δ pays for it; the published formula of Pick-to-Learn bounds both sides and is a little larger
    (1.67 % for k = 326, n = 24,000, δ = 0.01, where this gives 1.65 %).

    >>> bound = PickToLearnBound()
    >>> round(bound.solve(bound.Evidence(compression_size=326, stops=1, n=24_000), 0.01), 5)
    0.01652
    """

    class Evidence(NamedTuple):
        compression_size: Up
        stops: Up
        n: Down

    source = (
        "Campi and Garatti 2023 (JMLR 24), the bound under preference; the learner is Pick-to-Learn, Paccagnan, Campi and Garatti 2023 "
        "(NeurIPS); proof in docs/proofs/sample_compression.md"
    )
    sample = Sample.TRAINING
    loss = LossRange.ZERO_ONE
    predictors = FIXED_NETWORKS
    hypotheses = (IID, PREFERENCE)
    worked = (((0, 1, 100), 0.05, 0.0438648), ((326, 1, 24_000), 0.01, 0.0165210))

    def proves(self, e: Any, delta: float, value: float) -> bool:
        k, n = int(e.compression_size), int(e.n)
        if k >= n or value <= 0:
            return False
        v = iv.mpf(value)
        point = log_binomial_coefficient(n, k) + k * iv.log(v) + (n - k) * iv.log(1 - v)
        left = iv.log(delta) - iv.log(e.stops) + log_binomial_sf(k + 1, n, value)
        return bool(left.a >= (iv.log(n) + iv.log(v) + point).b)


@dataclass(frozen=True)
class SampleCompressionBound(Bound):
    """risk ≤ value whenever P(Bin(n − k, value) ≤ e) ≤ δ / (n C(n, k)), for any function of any k of the n examples, all k < n at once.

    k is ``compression_size``, e ``complement_errors``: a union bound over all subsets that could have been the compression set, each
    with its complement as a fresh sample. Needs no preference; with k = 0 only the 1/n for the size is owed.

    >>> bound = SampleCompressionBound()
    >>> round(bound.solve(bound.Evidence(compression_size=1, complement_errors=0, n=101), 0.05), 6)  # 1 − (0.05/101²)^(1/100)
    0.115082
    """

    class Evidence(NamedTuple):
        compression_size: Exact  # beyond n/2 a larger set has fewer rivals
        complement_errors: Up
        n: Exact

    source = "Littlestone and Warmuth 1986; Langford 2005 (JMLR 6), the sample compression bound; sizes weighted 1/n"
    sample = Sample.TRAINING
    loss = LossRange.ZERO_ONE
    predictors = FIXED_NETWORKS
    hypotheses = (IID, RECONSTRUCTION)
    worked = (((1, 0, 101), 0.05, 0.1150815),)

    def proves(self, e: Any, delta: float, value: float) -> bool:
        k, n = int(e.compression_size), int(e.n)
        if k + e.complement_errors >= n:
            return False
        share = iv.log(delta) - iv.log(n) - log_binomial_coefficient(n, k)
        return bool(log_binomial_cdf(int(e.complement_errors), n - k, value).b <= share.a)
