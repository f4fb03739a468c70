"""Bounds from a partition of X × Y into cells, over which the loss varies little.

The risk differs from the sample mean in two ways: cells are hit more or less often than they should, and within a cell the loss varies.
The second way, ``cell_variation``, must be in the bound: without it a classifier that stores its training set (loss 0 on the sample,
1 elsewhere in every cell) refutes any inequality F(P, h) ≤ F(D, h) + term(cell counts). Proofs: ``docs/proofs/partition.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isinf
from typing import Any, NamedTuple

from nonvacuous.core.bound import BOUNDED_LOSS, FIXED_NETWORKS, IID, Bound, Down, Hypothesis, LossRange, Sample, Up
from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.core.quantities import MOST_EXAMPLES, Quantity, Reads, quantity
from nonvacuous.numerics.interval import Interval, enclose, iv, upper

for _entry in (
    Quantity(
        "cells",
        "K",
        "cells",
        1,
        MOST_EXAMPLES,
        Reads.NOTHING,
        "Cells of the partition of X × Y: input cells times labels, those without examples included.",
        whole=True,
    ),
    Quantity(
        "occupied_cells",
        "|T_D|",
        "cells",
        1,
        MOST_EXAMPLES,
        Reads.TRAINING,
        "Cells of X × Y that hold at least one training example.",
        whole=True,
    ),
    Quantity(
        "cell_variation",
        "Σ(mᵢ/m)λᵢLᵢ",
        "loss",
        0,
        1,
        Reads.TRAINING,
        "Mean over the training examples s of an upper bound on ℓ(z) − ℓ(s) for *every* possible z in the cell of s, cut at 1: diameter of "
        "the cell times a true upper bound on the loss's Lipschitz constant over the whole cell, at the cell's label.",
    ),
):
    quantity(_entry)

CELLS_FIXED = Hypothesis(
    "cells_fixed",
    "The partition of inputs and labels was fixed before the training sample was seen (no cluster centres, quantiles or features of it).",
)
CELLS_COVER = Hypothesis(
    "cells_cover",
    "Every input that can occur lies in the region that the cells partition, and a cell has a single label.",
)
TRUE_SUPREMUM = Hypothesis(
    "true_supremum",
    "The variation in each cell is a proved upper bound over the whole cell, not the largest value seen at sampled points.",
    checkable=True,
)


@dataclass(frozen=True)
class PartitionBound(Bound):
    """risk ≤ r̂ + v + √((ln(2^K − 2) + ln(1/δ)) / (2n)), for any loss in [0, 1] of any predictor, v = ``cell_variation``, K = ``cells`` ≥ 2.

    The sample's cell frequencies differ from the true ones by a multinomial deviation in total variation: a union over the sets of
    cells, Hoeffding for each. Xu and Mannor's √((2K ln 2 + 2 ln(1/δ))/n) is twice this: they bound both signs of the difference. The loss
    must vary little in a cell, so it should be Lipschitz (ramp, clipped cross-entropy); with the 0–1 loss a cell that a decision boundary
    crosses has variation 1.

    >>> bound = PartitionBound()
    >>> round(bound.solve(bound.Evidence(risk=0.1, cell_variation=0.05, cells=100, n=60_000), 0.05), 6)  # √((100 ln 2 + ln 20)/120000)
    0.174548
    """

    class Evidence(NamedTuple):
        risk: Up
        cell_variation: Up
        cells: Up
        n: Down

    source = "Xu and Mannor 2012 (Machine Learning 86), Theorem 1; Bretagnolle and Huber 1979; docs/proofs/partition.md"
    sample = Sample.TRAINING
    loss = LossRange.BOUNDED
    predictors = FIXED_NETWORKS
    hypotheses = (IID, BOUNDED_LOSS, CELLS_FIXED, CELLS_COVER, TRUE_SUPREMUM)
    worked = (((0.1, 0.05, 100, 60_000), 0.05, 0.1745475),)

    def proves(self, e: Any, delta: float, value: float) -> bool:
        sets = e.cells * iv.ln2 if e.cells > 60 else iv.log(max(1, 2 ** int(e.cells) - 2))
        spread = iv.sqrt((sets - iv.log(delta)) / (2 * iv.mpf(e.n)))
        return upper(_total(e, spread)) <= value


@dataclass(frozen=True)
class OccupiedCellsBound(Bound):
    """risk ≤ r̂ + v + √(2 |T| ln(K/δ) / n), for any loss in [0, 1] of any predictor, v = ``cell_variation``, |T| = ``occupied_cells``.

    Good where few of very many cells are met: K enters through its logarithm only. Frequencies p̂ and probabilities p of the cells differ
    by Σ_T (p̂ − p)₊ in total variation, each term at most √(2 p̂ ln(K/δ)/n) by Chernoff's bound. This is smaller than
    (√2 + 1)√(|T| ln(2K/δ)/n) + 2|T| ln(2K/δ)/n, which Kawaguchi et al. and the lecture slide have. The slide's theorem holds for λᵢLᵢ true
    suprema and cells of X × Y fixed beforehand; for a loss in [0, C] divide by C.

    >>> bound = OccupiedCellsBound()
    >>> e = bound.Evidence(risk=0.1, cell_variation=0.05, occupied_cells=20, cells=10**9, n=60_000)
    >>> round(bound.solve(e, 0.05), 6)  # 0.15 + √(40 ln(2·10¹⁰)/60000)
    0.275748
    """

    class Evidence(NamedTuple):
        risk: Up
        cell_variation: Up
        occupied_cells: Up
        cells: Up
        n: Down

    source = "Kawaguchi, Deng, Luh and Huang 2022 (ICML), Theorem 1; smaller constant derived: docs/proofs/partition.md"
    sample = Sample.TRAINING
    loss = LossRange.BOUNDED
    predictors = FIXED_NETWORKS
    hypotheses = (IID, BOUNDED_LOSS, CELLS_FIXED, CELLS_COVER, TRUE_SUPREMUM)
    worked = (((0.1, 0.05, 20, 10**9, 60_000), 0.05, 0.2757484),)

    def domain(self, e: Any, delta: float) -> None:
        if e.occupied_cells > e.cells:
            raise InvalidEvidence(f"occupied_cells cannot exceed cells; got {e.occupied_cells} of {e.cells}")

    def proves(self, e: Any, delta: float, value: float) -> bool:
        spread = iv.sqrt(2 * iv.mpf(e.occupied_cells) * iv.log(e.cells / iv.mpf(delta)) / e.n)
        return upper(_total(e, spread)) <= value


def _total(e: Any, spread: Interval) -> Interval:
    total: Interval = enclose(e.risk) + e.cell_variation + spread
    return total


def kawaguchi_spread(occupied_cells: int, cells: int, n: int, delta: float) -> float:
    """The lecture slide's g for a loss in [0, 1]: (√2 + 1)√(|T| ln(2K/δ)/n) + 2|T| ln(2K/δ)/n, rounded up.

    >>> round(kawaguchi_spread(100, 100, 60_000, 0.05), 3)
    0.311
    """
    share = occupied_cells * iv.log(2 * cells / iv.mpf(delta)) / n
    return upper((iv.sqrt(2) + 1) * iv.sqrt(share) + 2 * share)


def xu_mannor_spread(cells: int, n: int, delta: float) -> float:
    """Xu and Mannor's term for a loss in [0, 1]: √((2K ln 2 + 2 ln(1/δ))/n), rounded up.

    >>> round(xu_mannor_spread(100, 60_000, 0.05), 3)
    0.049
    """
    return upper(iv.sqrt((2 * cells * iv.ln2 - 2 * iv.log(delta)) / n))


def grid_cells(lower_ends: int, per_side: int, labels: int) -> float:
    """Cells of a cube of ``lower_ends`` coordinates cut into ``per_side`` intervals each, times the labels; ∞ beyond the largest count.

    >>> grid_cells(2, 10, 3), grid_cells(784, 2, 10)
    (300.0, inf)
    """
    if min(lower_ends, per_side, labels) < 1:
        raise InvalidEvidence("coordinates, intervals and labels are at least 1")
    count = float(labels) if per_side == 1 else labels * per_side ** min(lower_ends, 60)
    return float("inf") if isinf(count) or count > MOST_EXAMPLES else float(count)
