"""What a normalizer gains: the pair of Lipschitz bounds with and without it, and the sample sizes they imply. Indicators.

The lecture slide: |F(P, h) − F(D, h)| ≤ ω + O(m^−½) without, ω Π‖NO_k‖_Lip + O(m^−½) with normalizers. Both are the partition bound
with one global constant: ω is the largest variation of the loss over a cell. "Exponentially smaller in the worst case" compares *upper
bounds* at equal weights; a network trained with normalizers has other weights, and these belong in its own ω. So both lines say by whose
weights they were computed. The slide's ‖γ/σ‖ must be the operator norm max|γ/σ|, see the normalizers' table.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.core.quantities import is_number
from nonvacuous.numerics.interval import Interval, iv, upper
from nonvacuous.numerics.logdomain import log_sum_exp


class Side(NamedTuple):
    """One line of the pair, in natural logarithms, rounded up: Lipschitz constant, variation ω over a cell, examples and cells needed."""

    log_lipschitz_nats: float
    log_variation_nats: float
    log_cells_nats: float
    log_examples_nats: float


class Gain(NamedTuple):
    """Without and with normalizers, at the same weights. ``log_gain_nats`` = −ln Π‖NO_k‖: negative where normalizers make it worse."""

    plain: Side
    normalized: Side
    log_gain_nats: float


def gain(
    log_weight_norms: Sequence[float],
    log_normalizer_norms: Sequence[float],
    *,
    loss_lipschitz: float,
    diameter: float,
    coordinates: int,
    excess: float,
    delta: float = 0.05,
) -> Gain:
    """The pair of bounds and the sample sizes at which each would bring risk − training loss down to ``excess``.

    Half of ``excess`` goes to the variation: the cube of side diameter/√D is cut into K = ⌈2 Lip diameter/excess⌉^D cells of diameter at
    most excess/(2 Lip); half to the frequencies, √((K ln 2 + ln(1/δ))/(2n)). All in the log domain: 10^(10^6) examples are a number here.

    Args: ``log_weight_norms`` ln s_k; ``log_normalizer_norms`` ln‖NO_k‖_Lip; ``diameter`` of the inputs' region; ``coordinates`` D.

    >>> pair = gain([0.0, 0.0], [-1.0, -1.0], loss_lipschitz=1.0, diameter=1.0, coordinates=1, excess=0.6)
    >>> round(pair.log_gain_nats, 6), round(pair.plain.log_cells_nats, 6)  # e², and 4 cells
    (2.0, 1.386294)
    >>> pair.normalized.log_examples_nats < pair.plain.log_examples_nats
    True
    """
    numbers = [*log_weight_norms, *log_normalizer_norms, loss_lipschitz, diameter, excess, delta]
    if not all(is_number(number) and abs(number) < inf for number in numbers):
        raise InvalidEvidence("every number of the pair is finite")
    if min(loss_lipschitz, diameter) <= 0 or not 0 < excess < 1 or not 0 < delta < 1 or coordinates < 1:
        raise InvalidEvidence(
            "Lipschitz constant and diameter are positive, excess and delta in (0, 1), coordinates at least 1"
        )
    weights = _sum(log_weight_norms) + iv.log(loss_lipschitz)
    normalizers = _sum(log_normalizer_norms)
    plain, normalized = (
        _side(log_lipschitz, diameter, coordinates, excess, delta) for log_lipschitz in (weights, weights + normalizers)
    )
    return Gain(plain, normalized, upper(-normalizers))


def _sum(logarithms: Sequence[float]) -> Interval:
    total = iv.zero
    for logarithm in logarithms:
        total = total + logarithm
    return total


def _side(log_lipschitz: Interval, diameter: float, coordinates: int, excess: float, delta: float) -> Side:
    log_variation = log_lipschitz + iv.log(diameter)
    log_parts = log_variation + iv.log(2 / iv.mpf(excess))
    per_side = _log_ceiling(log_parts)
    log_cells = coordinates * per_side
    log_examples = log_sum_exp([log_cells + iv.log(iv.ln2), iv.log(-iv.log(delta))]) + iv.log(2 / iv.mpf(excess) ** 2)
    return Side(upper(log_lipschitz), upper(log_variation), upper(log_cells), upper(log_examples))


def _log_ceiling(log_x: Interval) -> Interval:
    """ln⌈x⌉, at least 0; beyond 2^60 the ceiling changes nothing that is printed, and x + 1 stands for it."""
    if not log_x > 0:
        return iv.zero
    if log_x < 40:
        parts = upper(iv.exp(log_x))
        return iv.log(int(parts) + (parts > int(parts)))
    return log_sum_exp([log_x, 0])
