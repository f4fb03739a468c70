"""The pair with and without normalizers, in the log domain."""

from __future__ import annotations

from math import inf, isfinite, log

import pytest

from nonvacuous.bounds.gain import gain
from nonvacuous.bounds.partition import PartitionBound
from nonvacuous.core.errors import InvalidEvidence

ARGUMENTS = {"loss_lipschitz": 1.0, "diameter": 1.0, "coordinates": 2, "excess": 0.5}


def test_the_slides_resnet():
    """Π‖γ/σ‖ ≈ 1.35 · 10⁻⁸: the variation shrinks by that factor, at the same weights."""
    pair = gain([log(2.0)] * 20, [log(1.35e-8) / 20] * 20, **ARGUMENTS)
    assert pair.log_gain_nats == pytest.approx(-log(1.35e-8))
    assert pair.plain.log_variation_nats - pair.normalized.log_variation_nats == pytest.approx(pair.log_gain_nats)


def test_normalizers_that_stretch_make_it_worse_and_it_says_so():
    pair = gain([0.0], [1.0], **ARGUMENTS)
    assert pair.log_gain_nats == -1.0 and pair.normalized.log_examples_nats > pair.plain.log_examples_nats


def test_the_examples_suffice_for_the_partition_bound():
    bound = PartitionBound()
    for weight in (0.3, 1.0, 2.7):
        side = gain([weight], [0.0], **ARGUMENTS).plain
        cells, n = 2.718281828459045**side.log_cells_nats, 2.718281828459045**side.log_examples_nats
        assert bound.holds(bound.Evidence(0.0, 0.25, round(cells), int(n) + 2), 0.05, 0.5)
        assert not bound.holds(bound.Evidence(0.0, 0.25, round(cells), int(n * 0.9)), 0.05, 0.5)


def test_two_hundred_layers_neither_overflow_nor_become_nan():
    for weight in (log(1e47), log(1e-8)):
        for normalizer in (-1e3, 0.0, 1e3):
            pair = gain([weight] * 200, [normalizer] * 200, loss_lipschitz=1e5, diameter=1e3, coordinates=150_528, excess=0.01)
            assert all(isfinite(x) for x in (*pair.plain, *pair.normalized, pair.log_gain_nats))


def test_numbers_outside_the_domain_are_refused():
    for change in ({"excess": 1.0}, {"diameter": 0.0}, {"coordinates": 0}, {"loss_lipschitz": inf}):
        with pytest.raises(InvalidEvidence):
            gain([0.0], [0.0], **(ARGUMENTS | change))
