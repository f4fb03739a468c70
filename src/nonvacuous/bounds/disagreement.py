"""A network that carries no certificate of its own, bounded through one that does: both are compared on unlabelled data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from nonvacuous.core.bound import FIXED_NETWORKS, Bound, Down, Hypothesis, LossRange, Sample, Up
from nonvacuous.core.quantities import MOST_EXAMPLES, Quantity, Reads, quantity
from nonvacuous.numerics.interval import iv, lower
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
