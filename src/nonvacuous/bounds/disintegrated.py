"""A single network drawn from a PAC-Bayes posterior: the divergence gives way to the density ratio at the network drawn."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isinf
from typing import Any, NamedTuple

from nonvacuous.core.bound import BOUNDED_LOSS, DATA_FREE_PRIOR, IID, Bound, Down, Hypothesis, LossRange, Predictor, Sample, Up
from nonvacuous.core.quantities import Quantity, Reads, quantity
from nonvacuous.numerics.interval import iv
from nonvacuous.numerics.tails import kl_bernoulli

quantity(
    Quantity(
        "log_ratio_nats",
        "ln dQ/dP(h)",
        "nats",
        0,
        inf,
        Reads.NOTHING,
        "Logarithm of the posterior's density over the prior's, at the network drawn; 0 where that is negative.",
    )
)
quantity(
    Quantity(
        "looks",
        "k",
        "draws",
        1,
        10**9,
        Reads.NOTHING,
        "How many networks have been drawn and looked at, this one included.",
        whole=True,
    )
)

FRESH_DRAW = Hypothesis(
    "fresh_draw",
    "The network was drawn from the posterior by random numbers that neither the sample nor the choice of the posterior depends on.",
)


@dataclass(frozen=True)
class DisintegratedBound(Bound):
    """risk ≤ value whenever n·kl(r̂, value) ≥ ln dQ/dP(h) + ln(2√n/δₖ) and value > r̂, for h the k-th network drawn from Q, n ≥ 8.

    The probability is over the sample and the draw, and δₖ = 6δ/(π²k²) adds up to δ over all draws, so that further networks may be drawn
    until one pleases. r̂ and the risk are those of the network drawn, which keeps its weights: no Gibbs classifier. Proof: for a fixed prior
    E_S E_{h∼P} exp(n·kl(r̂, risk)) ≤ 2√n (Maurer), so E_S E_{h∼Q} exp(n·kl(r̂, risk))·dP/dQ(h) ≤ 2√n, and Markov's inequality. Unlike
    Seeger's bound it holds for the posterior that is drawn from, not for all at once: choosing Q by looking at drawn networks is what
    the k-th share pays for. A negative log-ratio (a network likelier under the prior) counts as 0: a right-hand side below 0 would claim
    a risk even below r̂, and such draws lie inside the event that δ pays for.

    >>> bound = DisintegratedBound()
    >>> e = bound.Evidence(risk=0.02, log_ratio_nats=500.0, looks=1, n=60_000)
    >>> round(bound.solve(e, 0.025 * 3.141592653589793**2 / 6), 7)  # with the share undone it is Seeger's number
    0.0439446
    """

    class Evidence(NamedTuple):
        risk: Up
        log_ratio_nats: Up
        looks: Up
        n: Down

    source = "Rivasplata et al. 2020 (NeurIPS), Theorem 1(i), with the constant 2√n of Maurer 2004, Theorem 5"
    sample = Sample.TRAINING
    loss = LossRange.BOUNDED
    predictors = (Predictor.DRAWN,)
    hypotheses = (IID, DATA_FREE_PRIOR, BOUNDED_LOSS, FRESH_DRAW)
    least_n = 8
    worked = (((0.0, 0.0, 1, 10_000), 0.05, 0.0008788),)

    def proves(self, e: Any, delta: float, value: float) -> bool:
        if isinf(e.log_ratio_nats) or not value > e.risk:
            return False
        price = iv.log(2 * iv.sqrt(e.n) * iv.pi**2 * iv.mpf(e.looks) ** 2 / (6 * iv.mpf(delta)))
        budget = iv.mpf(e.log_ratio_nats) + price
        return bool(kl_bernoulli(e.risk, value).a >= (budget / e.n).b)
