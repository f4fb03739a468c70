"""Surrogate and disagreement: exact coverage, and that the memoriser gains nothing."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest
from scipy import stats

from nonvacuous.bounds.disagreement import DisagreementBound
from nonvacuous.testing.bounds import exact_coverage


@pytest.mark.parametrize("delta", [0.5, 0.05])
@pytest.mark.parametrize("apart", [Fraction(1, 50), Fraction(3, 10)])
def test_coverage_is_exact(apart: Fraction, delta: float) -> None:
    """The surrogate's value is its true risk, and the network errs wherever the two differ or the surrogate errs: the worst case."""
    n, surrogate = 40, 0.25
    bound = DisagreementBound()
    evidences = ((comb(n, d) * apart**d * (1 - apart) ** (n - d), bound.Evidence(surrogate, d, n)) for d in range(n + 1))
    covered = exact_coverage(bound, evidences, surrogate + float(apart), delta)
    assert covered >= 1 - Fraction(delta)
    if delta == 0.5:
        assert covered < 1, "the enumeration has teeth"


def test_it_is_the_binomial_limit_on_top_of_the_surrogate() -> None:
    bound = DisagreementBound()
    value = bound.solve(bound.Evidence(0.08, 500, 10_000), 0.025)
    assert value == pytest.approx(0.08 + stats.beta.ppf(0.975, 501, 9_500), abs=1e-9)


def test_the_memoriser_is_not_certified_below_its_risk() -> None:
    """It answers at random outside its training set: any surrogate of risk r differs from it on 9 in 10 fresh inputs."""
    bound = DisagreementBound()
    assert bound.solve(bound.Evidence(0.05, 9_000, 10_000), 0.025) > 0.9
