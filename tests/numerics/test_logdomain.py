"""Factorials, coefficients, sums and products against exact integers and 80 digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracles.binomial import contains, mp, width

from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.numerics.interval import enclose, interval, iv, lower, upper
from nonvacuous.numerics.logdomain import (
    EXACT_FACTORIALS,
    log1m_exp,
    log1p,
    log_binomial_coefficient,
    log_factorial,
    log_sum_binomials,
    log_sum_exp,
    positive_product,
)
from nonvacuous.numerics.series import MAX_TERMS, tail_series


@pytest.mark.parametrize("n", [*range(20), EXACT_FACTORIALS - 1, EXACT_FACTORIALS, EXACT_FACTORIALS + 1, 200, 1000])
def test_log_factorial_against_the_integer(n: int) -> None:
    x = log_factorial(n)
    assert contains(x, mp.log(math.factorial(n)))
    assert width(x) <= 1e-30


@given(st.integers(1, 2**53))
@settings(max_examples=100, deadline=None)
def test_log_factorial_against_loggamma(n: int) -> None:
    x = log_factorial(n)
    assert contains(x, mp.loggamma(n + 1))
    assert width(x) <= 1e-34 * (1 + n * math.log(n + 1))


@given(st.integers(0, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_coefficient_against_the_integer(pair: tuple[int, int]) -> None:
    assert contains(log_binomial_coefficient(*pair), mp.log(math.comb(*pair)))


@given(st.integers(0, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n + 5))))
@settings(max_examples=200, deadline=None)
def test_sauer_sum_against_the_integer(pair: tuple[int, int]) -> None:
    n, d = pair
    x = log_sum_binomials(n, d)
    assert contains(x, mp.log(sum(math.comb(n, i) for i in range(d + 1))))
    assert width(x) <= 1e-12


@pytest.mark.parametrize(("n", "d"), [(10**9, 10**8), (10**9, 5 * 10**8), (10**6, 499_000), (10**6, 501_000), (10**9, 3)])
def test_sauer_sum_at_size(n: int, d: int) -> None:
    with mp.workdps(60):
        small = min(d, n - d - 1)
        term = total = mp.mpf(1)
        for i in range(small):
            term *= mp.mpf(small - i) / (n - small + 1 + i)
            total += term
            if term < total * mp.mpf(10) ** -40:
                break
        one_side = mp.loggamma(n + 1) - mp.loggamma(small + 1) - mp.loggamma(n - small + 1) + mp.log(total)
        truth = one_side if small == d else n * mp.log(2) + mp.log1p(-mp.exp(one_side - n * mp.log(2)))
    x = log_sum_binomials(n, d)
    assert contains(x, truth)
    assert width(x) < 1e-10


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(1e-6, 1.0))
@settings(max_examples=60, deadline=None)
def test_series_against_exact_recurrence(a: int, b: int, share: float) -> None:
    theta = enclose(share) * b / a
    s = tail_series(a, b, theta)
    with mp.workdps(60):
        low, high = mp.mpf(0), mp.mpf(0)
        for end in (theta.a, theta.b):
            odds = mp.make_mpf(end._mpi_[0])  # type: ignore[attr-defined]
            term = total = mp.mpf(1)
            for i in range(min(a, 200_000)):
                term *= odds * (a - i) / (b + i)
                total += term
                if term * a < total * mp.mpf(10) ** -40:
                    break
            low, high = (low or total), total
        assert contains(s, low) and contains(s, high)
        assert width(s) <= 1e-10 * high


def test_series_survives_underflow_and_a_strict_numpy() -> None:
    with np.errstate(all="raise"):
        s = tail_series(10**6, 1, enclose(1e-200))
        tiny = tail_series(5, 7, enclose(1e-300))
        one = tail_series(0, 1, iv.one)
    assert lower(s) <= 1 + 1e-194 and upper(s) <= 1 + 1e-15
    assert upper(tiny) == math.nextafter(1.0, 2.0) and lower(tiny) == 1.0
    assert lower(one) == upper(one) == 1.0


def test_series_past_the_cap_is_still_a_bracket() -> None:
    """With a/b = 1 and n = 2^50 the sum is about √(π n/4)/… terms: the integral comparison gives it within a part in 1e6."""
    half = 2**49
    s = tail_series(half, half + 1, iv.one)
    truth = (mp.mpf(2) ** (2 * half) / mp.binomial(2 * half, half) + 1) / 2  # Σ_{i≤n/2} C(n, i)/C(n, n/2), n = 2·half
    assert 4 * math.isqrt(half) > MAX_TERMS
    assert contains(s, truth)


@given(st.floats(-1, 1e3))
@settings(max_examples=400, deadline=None)
def test_log1p_is_relatively_accurate(x: float) -> None:
    got = log1p(x)
    if x == -1:
        assert upper(got) == -math.inf
        return
    with mp.workdps(400):
        truth = mp.log1p(mp.mpf(x))
    assert contains(got, truth)
    assert width(got) <= abs(truth) * 2.0**-57


@given(st.floats(-1e4, -1e-300))
@settings(max_examples=400, deadline=None)
def test_log1m_exp(x: float) -> None:
    got = log1m_exp(x)
    truth = mp.log1p(-mp.exp(mp.mpf(x))) if x < -1 else mp.log(-mp.expm1(mp.mpf(x)))
    assert contains(got, truth)


def test_log_sum_exp() -> None:
    xs = [-1e6, -1e6 + 1, -3e6]
    with mp.workdps(60):
        truth = mp.log(sum(mp.exp(mp.mpf(x)) for x in xs))
    assert contains(log_sum_exp(xs), truth)
    assert upper(log_sum_exp([])) == -math.inf and upper(log_sum_exp([-math.inf])) == -math.inf
    assert lower(log_sum_exp([0.0, math.inf])) == math.inf
    assert contains(log_sum_exp([interval(-math.inf, 0), 0]), mp.log(2)) and contains(log_sum_exp([-math.inf, 0]), mp.mpf(0))


@given(st.lists(st.floats(5e-324, 1e308), max_size=60))
@settings(max_examples=200, deadline=None)
def test_product_against_exact_integers(factors: list[float]) -> None:
    with mp.workdps(60):
        truth = mp.fsum(mp.log(mp.mpf(f)) for f in factors)
    x = positive_product(factors)
    assert contains(x, truth)
    assert width(x) <= 1e-13 + 1e-15 * len(factors)


@pytest.mark.parametrize("size", [1, 511, 512, 513, 60_000, 512 * 512 + 1])
def test_product_of_many(size: int) -> None:
    factors = np.random.default_rng(size).uniform(1e-3, 3.0, size)
    with mp.workdps(40):
        product, truth = mp.mpf(1), mp.mpf(0)
        for f in factors.tolist():
            product *= f
        truth = mp.log(product)
    x = positive_product(factors)
    assert contains(x, truth)
    assert width(x) <= 2.1 * size * 2.0**-52


def test_product_widens_by_the_declared_error() -> None:
    factors, error = np.full(1000, 0.75), 1e-6
    x = positive_product(factors, relative_error=error)
    with mp.workdps(40):
        for truth in (0.75 * (1 + mp.mpf(error)), 0.75 * (1 - mp.mpf(error)), 0.75 / (1 - mp.mpf(error))):
            assert contains(x, 1000 * mp.log(truth))
    assert width(x) < 2.01e-3
    assert not contains(x, 1000 * mp.log(0.75 * (1 + 2 * mp.mpf(error))))


@pytest.mark.parametrize("bad", [[0.0], [-1.0], [math.nan], [math.inf], [1.0, -0.0]])
def test_product_refuses(bad: list[float]) -> None:
    with pytest.raises(InvalidEvidence, match="positive"):
        positive_product(bad)


@pytest.mark.parametrize("error", [-1e-9, 1.0, math.nan])
def test_product_refuses_an_impossible_error(error: float) -> None:
    with pytest.raises(InvalidEvidence, match="relative_error"):
        positive_product([1.0], error)


@pytest.mark.parametrize(("n", "k"), [(5, 6), (-1, 0), (2**53 + 1, 0), (5, 2.0), (5.0, 2)])
def test_coefficients_refuse(n: int, k: int) -> None:
    with pytest.raises(InvalidEvidence, match="must"):
        log_binomial_coefficient(n, k)
