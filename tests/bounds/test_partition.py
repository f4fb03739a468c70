"""Partition bounds: exact coverage against the worst predictor, the memoriser, and the slide's two terms."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import factorial, log, prod, sqrt

import numpy as np
import pytest

from nonvacuous.bounds.partition import (
    OccupiedCellsBound,
    PartitionBound,
    grid_cells,
    kawaguchi_spread,
    xu_mannor_spread,
)
from nonvacuous.core.errors import InvalidEvidence

partition, occupied = PartitionBound(), OccupiedCellsBound()


@pytest.mark.parametrize("p", [(1, 1, 1, 1), (7, 1, 1, 1), (97, 1, 1, 1)])
@pytest.mark.parametrize("delta", [0.5, 0.05])
def test_coverage_is_exact_against_the_worst_predictor(p, delta):
    """After seeing the counts, the adversary sets loss 1 in exactly the cells that were met too rarely; no variation within cells."""
    n, cells = 24, len(p)
    chance = [Fraction(weight, sum(p)) for weight in p]
    failed = {partition: Fraction(0), occupied: Fraction(0)}
    for counts in product(range(n + 1), repeat=cells - 1):
        if sum(counts) > n:
            continue
        m = (*counts, n - sum(counts))
        probability = Fraction(factorial(n), prod(map(factorial, m))) * prod(c**k for c, k in zip(chance, m, strict=True))
        rare = [i for i in range(cells) if chance[i] > Fraction(m[i], n)]
        risk, seen = sum(float(chance[i]) for i in rare), sum(m[i] for i in rare) / n
        if partition.holds(partition.Evidence(seen, 0.0, cells, n), delta, risk - 1e-9):
            failed[partition] += probability
        if occupied.holds(occupied.Evidence(seen, 0.0, sum(k > 0 for k in m), cells, n), delta, risk - 1e-9):
            failed[occupied] += probability
    assert all(rate <= delta for rate in failed.values())


def test_both_are_below_the_published_terms():
    for cells, met, n in ((100, 100, 60_000), (10**9, 20, 60_000), (10**6, 1000, 10**6), (2, 2, 100)):
        assert sqrt(2 * met * log(cells / 0.05) / n) < kawaguchi_spread(met, cells, n, 0.05)
        e = partition.Evidence(0.0, 0.0, cells, n)
        assert partition.solve(e, 0.05) <= min(1.0, xu_mannor_spread(cells, n, 0.05) / 2 + 1e-12)


def test_the_slides_two_choices_at_the_known_numbers():
    assert kawaguchi_spread(100, 100, 60_000, 0.05) == pytest.approx(0.3115, abs=5e-4)
    assert xu_mannor_spread(100, 60_000, 0.05) == pytest.approx(0.0491, abs=1e-4)


def test_the_memoriser_refutes_cell_counts_alone_and_not_these_bounds():
    """Loss 0 on the sample and 1 elsewhere: risk 1. F(D, h) + g(cell counts) goes below 1; the variation in the cells brings it back."""
    for n in (10**4, 10**6, 10**8):
        claimed = 0.0 + min(kawaguchi_spread(10, 10, n, 0.05), xu_mannor_spread(10, n, 0.05))
        assert claimed < 1  # the false form F(S, h) + term(cell counts), whose left side is 1
        assert partition.solve(partition.Evidence(0.0, 1.0, 10, n), 0.05) == 1.0
        assert occupied.solve(occupied.Evidence(0.0, 1.0, 10, 10, n), 0.05) == 1.0


def test_a_lipschitz_loss_on_a_line_is_covered():
    """ℓ(x) = |x − t|, t chosen after the sample to look best: 1-Lipschitz on [0, 1], x uniform, single label; variation 1/cells."""
    rng = np.random.default_rng(0)
    n, cells = 2000, 20
    for _ in range(50):
        x = rng.uniform(size=n)
        for t in (0.0, float(np.median(x)), 1.0):
            risk = ((1 - t) ** 2 + t**2) / 2
            value = partition.solve(partition.Evidence(float(np.abs(x - t).mean()), 1 / cells, cells, n), 0.05)
            assert risk <= value < risk + 0.2
            met = len(np.unique((x * cells).astype(int)))
            assert risk <= occupied.solve(occupied.Evidence(float(np.abs(x - t).mean()), 1 / cells, met, cells, n), 0.05)


def test_one_cell_is_no_partition_at_all():
    assert partition.solve(partition.Evidence(0.0, 0.0, 1, 100), 0.05) == pytest.approx(sqrt(log(20) / 200))


def test_more_occupied_cells_than_cells_are_refused():
    with pytest.raises(InvalidEvidence, match="exceed"):
        occupied.solve(occupied.Evidence(0.0, 0.0, 3, 2, 100), 0.05)


def test_grids_grow_with_the_coordinates():
    assert grid_cells(3, 4, 10) == 640
    assert grid_cells(10**6, 1, 10) == 10
    assert grid_cells(10**6, 2, 10) == float("inf")
    with pytest.raises(InvalidEvidence):
        grid_cells(0, 2, 10)
