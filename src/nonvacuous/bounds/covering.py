"""Uniform bounds by covering numbers: every network has a neighbour in a finite set, whose members are counted.

Proof: ``docs/proofs/covering.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import inf, isinf
from typing import Any, NamedTuple

from nonvacuous.core.bound import FIXED_CLASS, FIXED_NETWORKS, IID, Bound, Down, LossRange, Sample, Up
from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.core.networks import BOUNDED_INPUTS, HOMOGENEOUS_CHAIN
from nonvacuous.core.quantities import MOST_EXAMPLES, Quantity, Reads, quantity
from nonvacuous.numerics.interval import Interval, Number, iv, upper
from nonvacuous.numerics.logdomain import log_sum_exp
from nonvacuous.numerics.tails import kl_bernoulli
from nonvacuous.numerics.uniform import GeometricGrid

quantity(
    Quantity(
        "parameters",
        "P",
        "numbers",
        1,
        MOST_EXAMPLES,
        Reads.NOTHING,
        "Free numbers of the chain: weights and biases (a convolution's kernel once, batch-norm folded in), and 1 more for every layer "
        "but the last if there are biases.",
        whole=True,
    )
)
GRID = GeometricGrid(log2_least=-20, steps=256)


@dataclass(frozen=True)
class CoveringNumberBound(Bound):
    """risk ≤ value whenever n·kl(r̂_γ, value) ≥ P ln(1 + 4√2 L B r) + price + ln(1/δ) and value > r̂_γ, r ≥ Πρᵢ‖Ãᵢ‖₂/γ on the grid.

    P = ``parameters``, B = ``input_bound``; price = 2 ln(j + 1) + ln(π²/6) for the j-th grid point 2^(j/256 − 20). The logarithm is that of
    the covering number: layers of spectral norm 1, each covered to 1/(2√2 L B r) in that norm, so that no margin moves by more than γ/2.
    Few parameters make it good: it is what counting them, with the scale of the weights and any depth, really gives.

    >>> bound = CoveringNumberBound()
    >>> e = bound.Evidence(0.0, 1.0, 0.0, 1.0, 1, 100, 10**6)
    >>> round(bound.solve(e, 0.05), 6)  # (100 ln(1 + √32) + 2 ln 5121 + ln(π²/6) + ln 20)/10⁶
    0.00021
    """

    class Evidence(NamedTuple):
        margin_risk: Up
        margin: Down
        log_spectral_product_nats: Up
        input_bound: Up
        depth: Up
        parameters: Up
        n: Down

    source = "Anthony and Bartlett 1999, chapters 10 and 14; constants derived: docs/proofs/covering.md"
    sample = Sample.TRAINING
    loss = LossRange.ZERO_ONE
    predictors = FIXED_NETWORKS
    hypotheses = (IID, FIXED_CLASS, HOMOGENEOUS_CHAIN, BOUNDED_INPUTS)
    worked = (((0.0, 1.0, 0.0, 1.0, 1, 100, 10**6), 0.05, 0.0002101),)

    def domain(self, e: Any, delta: float) -> None:
        if not 0 < e.margin < inf:
            raise InvalidEvidence(f"margin (γ) is positive and finite; got {e.margin}")

    def proves(self, e: Any, delta: float, value: float) -> bool:
        budget = _budget(e, delta)
        return bool(budget is not None and value > e.margin_risk and (e.n * kl_bernoulli(e.margin_risk, value)).a >= budget.b)


@lru_cache(maxsize=256)
def _budget(e: Any, delta: float) -> Interval | None:
    if e.log_spectral_product_nats == inf or isinf(e.input_bound):
        return None
    point = GRID.above(e.log_spectral_product_nats - iv.log(e.margin))
    log_finesse = iv.log(2 * iv.sqrt(2) * iv.mpf(e.input_bound)) + point.log_value
    budget: Interval = _cover(e.parameters, e.depth, log_finesse) + point.price_nats - iv.log(delta)
    return budget


def _cover(parameters: Number, depth: Number, log_finesse: Number) -> Interval:
    """P ln(1 + 2L exp(log_finesse))."""
    return parameters * log_sum_exp([0, iv.log(2 * iv.mpf(depth)) + log_finesse])


def log_covering_number(
    parameters: int, depth: int, log_spectral_product_nats: float, input_bound: float, scale: float
) -> float:
    """ln N(ε) in the sup-norm over ‖x̃‖ ≤ B of the networks with Πρᵢ‖Ãᵢ‖₂ ≤ S: at most P ln(1 + 2 L B S/ε), rounded up.

    >>> round(log_covering_number(10, 1, 0.0, 1.0, 0.5), 6)  # 10 ln 5
    16.094379
    """
    if not 0 < scale < inf or log_spectral_product_nats == inf or isinf(input_bound):
        raise InvalidEvidence("the scale is positive and finite, product and input_bound are finite")
    return upper(_cover(parameters, depth, log_spectral_product_nats + iv.log(input_bound) - iv.log(scale)))


def log_slide_covering_number(weight: float, depth: int, scale: float) -> float:
    """ln of (AL)^(L(L+1))/ε^(2L) as the lecture slide prints it: an *indicator*.

    The exponent of 1/ε of a class with P free numbers is P; the slide's 2L is that of a network with two numbers a layer. A linear layer on
    three or more coordinates already has a larger covering number (the test shows it). :func:`log_covering_number` is the true form.

    >>> round(log_slide_covering_number(1.0, 1, 0.1), 6)  # 2 ln 10
    4.60517
    """
    if depth < 1 or weight <= 0 or scale <= 0:
        raise InvalidEvidence("depth is at least 1, the weight bound and the scale are positive")
    return upper(depth * (depth + 1) * iv.log(iv.mpf(weight) * depth) - 2 * depth * iv.log(scale))
