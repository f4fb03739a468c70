"""How many examples a bound needs to come down to a value, for every registered bound."""

from __future__ import annotations

from math import ceil, log, log1p

import pytest

from nonvacuous.bounds.code_length import OccamBound
from nonvacuous.bounds.heldout import BettingBound, BinomialTailBound, ChernoffBound
from nonvacuous.bounds.rademacher import GolowichBound
from nonvacuous.core.bound import example_counts, registered, resized
from nonvacuous.core.errors import InvalidEvidence


def test_the_closed_form_of_chernoff():
    bound = ChernoffBound()
    for value in (0.5, 0.1, 1e-3, 1e-6):
        assert bound.needed(bound.Evidence(0.0, 100), 0.05, value) == ceil(log(20) / -log1p(-value))


def test_error_counts_keep_their_fraction():
    bound = BinomialTailBound()
    n = bound.needed(bound.Evidence(10, 100), 0.05, 0.11)
    assert n is not None and 2000 < n < 4000
    assert bound.needed(bound.Evidence(10, 100), 0.05, 0.1) is None  # never at the observed rate itself


def test_ten_to_the_twelve_examples():
    bound = OccamBound()
    n = bound.needed(bound.Evidence(0.0, 10**12, 60_000), 0.05, 0.5)
    assert n == pytest.approx(10**12, rel=1e-6)


def test_none_where_no_number_of_examples_would_do():
    bound = GolowichBound()
    assert bound.needed(bound.Evidence(0.0, 1.0, 200 * log(1e47), 1.0, 200, 10, 60_000), 0.05, 0.5) is None
    assert bound.needed(bound.Evidence(0.6, 1.0, 0.0, 1.0, 2, 2, 60_000), 0.05, 0.5) is None
    losses = BettingBound()
    assert losses.needed(losses.Evidence((0.5,) * 10, 10), 0.05, 0.1) is None  # other losses are not known


def test_a_vacuous_target_needs_the_least_sample():
    for name in ("seeger", "chernoff"):
        bound = registered()[name]()
        assert bound.needed(bound.Evidence(*bound.worked[0][0]), 0.05, 1.0) == bound.least_n


def test_values_that_are_none_are_refused():
    bound = ChernoffBound()
    for value in (-0.1, 1.1, float("nan"), "0.5"):
        with pytest.raises(InvalidEvidence, match="value"):
            bound.needed(bound.Evidence(0.0, 100), 0.05, value)
    with pytest.raises(InvalidEvidence):
        bound.needed(bound.Evidence(2.0, 100), 0.05, 0.5)


@pytest.mark.parametrize("name", sorted(registered()))
def test_the_number_is_enough_and_one_less_is_not(name):
    bound = registered()[name]()
    for fields, delta, value in bound.worked:
        e = bound.Evidence(*fields)
        target = min(0.999, value * 1.5 + 0.01)
        n = bound.needed(e, delta, target)
        if n is None:
            assert "losses" in bound.Evidence._fields  # given one by one
            continue
        assert bound.holds(resized(e, n), delta, target)
        if n > bound.least_n and example_counts(e) == ["n"]:
            assert not bound.holds(e._replace(n=n - 1), delta, target)
