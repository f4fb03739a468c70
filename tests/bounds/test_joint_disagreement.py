"""Both tails of a surrogate at once: against a grid, by exact coverage with a network that knows the labels, and against two limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binom

from nonvacuous.bounds.disagreement import DisagreementBound, JointDisagreementBound
from nonvacuous.bounds.heldout import BinomialTailBound

BOUND = JointDisagreementBound()


def by_grid(k: int, m: int, d: int, n: int, alternatives: int, delta: float) -> float:
    """The defining supremum on a fine grid, in SciPy's floats."""
    c = brentq(lambda c: c * (1 - math.log(c)) - delta / alternatives, 1e-12, 0.9)

    def excess(value: float) -> float:
        p = np.linspace(0, value, 20_001)
        return float(np.max(binom.logcdf(k, m, p) + binom.logcdf(d, n, np.clip(value - p, 0, 1))) - math.log(c))

    return float(brentq(excess, 1e-9, 1 - 1e-9))


@pytest.mark.parametrize(
    "counts",
    [(780, 12_000, 450, 10_000, 8), (0, 100, 0, 100, 1), (0, 100, 5, 1000, 1), (30, 100, 0, 20, 2), (60, 80, 9, 90, 1)],
)
def test_it_is_the_supremum(counts) -> None:
    value, expected = BOUND.solve(BOUND.Evidence(*counts), 0.05), by_grid(*counts, 0.05)
    assert expected - 1e-9 <= value <= expected * (1 + 1e-5)


def slack_against_two_limits(k: int, m: int, d: int, n: int) -> float:
    """How far the value lies above the two frequencies, as a part of what two limits at δ/2 each give."""
    held_out, apart = BinomialTailBound(), DisagreementBound()
    first = held_out.solve(held_out.Evidence(errors=k, n=m), 0.025)
    two = apart.solve(apart.Evidence(surrogate_value=first, disagreements=d, n=n), 0.025)
    return (BOUND.solve(BOUND.Evidence(k, m, d, n, 1), 0.05) - k / m - d / n) / (two - k / m - d / n)


@pytest.mark.parametrize("counts", [(780, 12_000, 450, 10_000), (5, 200, 12, 150), (0, 300, 0, 300)])
def test_it_is_smaller_than_two_limits_where_both_counts_are_about_as_uncertain(counts) -> None:
    assert 0.6 < slack_against_two_limits(*counts) < 0.75


def test_it_need_not_be_where_one_count_is_far_more_uncertain() -> None:
    assert 1 < slack_against_two_limits(90, 400, 3, 1000) < 1.05


def test_coverage_whatever_the_network_makes_of_the_labels() -> None:
    """P(failure) ≤ δ by enumeration, for a network that disagrees as often as suits it best once it knows the surrogate's errors."""
    delta, m, n, p = 0.2, 7, 5, 0.3
    apart = np.linspace(0, 1 - p, 36)
    failed, blind = 0.0, np.zeros(len(apart))
    for k in range(m + 1):
        values = [BOUND.solve(BOUND.Evidence(k, m, d, n, 1), delta) for d in range(n + 1)]
        chances = np.array([sum(binom.pmf(d, n, q) for d in range(n + 1) if values[d] < p + q - 1e-9) for q in apart])
        failed += binom.pmf(k, m, p) * chances.max()
        blind += binom.pmf(k, m, p) * chances
    assert 0.03 < blind.max() <= failed <= delta


def test_all_alternatives_are_paid_for() -> None:
    one, many = (BOUND.solve(BOUND.Evidence(7, 200, 11, 300, count), 0.1) for count in (1, 10))
    assert one < many
    assert many == pytest.approx(BOUND.solve(BOUND.Evidence(7, 200, 11, 300, 1), 0.01), abs=1e-12)


def test_more_errors_than_labels_prove_nothing() -> None:
    assert not BOUND.holds(BOUND.Evidence(8, 7, 1, 10, 1), 0.05, 0.99)
