"""log, exp and sqrt against mpmath at 80 digits."""

from __future__ import annotations

from typing import Any

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracles.binomial import mp

from nonvacuous.numerics import elementary

PRECISION = 120
mantissas = st.one_of(st.integers(1, 2**130), st.integers(1, 300), st.integers(0, 125).map(lambda b: 2**b + 1))


def ends(bracket: elementary.Bracket) -> tuple[Any, Any]:
    return mp.ldexp(mp.mpf(bracket.lower), bracket.exponent), mp.ldexp(mp.mpf(bracket.upper), bracket.exponent)


def check(bracket: elementary.Bracket, truth: Any) -> None:
    low, high = ends(bracket)
    assert low <= truth <= high
    assert high - low <= abs(truth) * mp.mpf(2) ** -PRECISION


@given(mantissas, st.integers(-2000, 2000))
@settings(max_examples=400, deadline=None)
def test_log_holds_the_truth_and_little_else(mantissa: int, exponent: int) -> None:
    check(elementary.log(mantissa, exponent, PRECISION), mp.log(mp.ldexp(mp.mpf(mantissa), exponent)))


@given(st.integers(1, 2**40), st.integers(30, 118), st.sampled_from([-1, 1]))
@settings(max_examples=300, deadline=None)
def test_log_next_to_one(distance: int, shift: int, sign: int) -> None:
    mantissa = (1 << (shift + 41)) + sign * distance
    with mp.workdps(120):
        check(elementary.log(mantissa, -shift - 41, PRECISION), mp.log(mp.ldexp(mp.mpf(mantissa), -shift - 41)))


@pytest.mark.parametrize("exponent", [10**6, -(10**6), 664153, 2**62, -(2**62), 2**70])
def test_log_of_huge_powers(exponent: int) -> None:
    check(elementary.log(1, exponent, PRECISION), mp.log(2) * exponent)
    check(elementary.log(3, exponent, PRECISION), mp.log(3) + mp.log(2) * exponent)


def test_every_cell_of_the_logarithm_table_and_its_borders() -> None:
    for j in range(48 * 2, 96 * 2 + 1):
        for nudge in (-1, 0, 1):
            mantissa = (j << 60) + nudge
            truth = mp.log(mp.ldexp(mp.mpf(mantissa), -67))
            if truth:
                check(elementary.log(mantissa, -67, PRECISION), truth)


def test_log_of_one_is_exact() -> None:
    assert elementary.log(1 << 50, -50, PRECISION) == (0, 0, 0)


@given(st.integers(-(2**130), 2**130), st.integers(-400, -70))
@settings(max_examples=400, deadline=None)
def test_exp_holds_the_truth_and_little_else(mantissa: int, exponent: int) -> None:
    with mp.workdps(110):
        check(elementary.exp(mantissa, exponent, PRECISION), mp.exp(mp.ldexp(mp.mpf(mantissa), exponent)))


@pytest.mark.parametrize("x", [-(10**6), 10**6, -(10**17), 10**17, 1, -1, 2**63, -(2**63)])
def test_exp_of_large_integers(x: int) -> None:
    with mp.workdps(110):
        check(elementary.exp(x, 0, PRECISION), mp.exp(x))


def test_exp_beyond_2_64_is_bracketed_coarsely() -> None:
    below, above = elementary.exp(-1, 70, PRECISION), elementary.exp(1, 70, PRECISION)
    assert (below.lower, below.upper, below.exponent) == (0, 1, -(2**64))
    assert (above.lower, above.upper, above.exponent) == (1, elementary.UNBOUNDED, 2**64)


@given(st.integers(0, 2**300), st.integers(-300, 300))
@settings(max_examples=300, deadline=None)
def test_sqrt_is_the_integer_root(mantissa: int, exponent: int) -> None:
    low, high, e = elementary.sqrt(mantissa, exponent, PRECISION)
    target = mp.ldexp(mp.mpf(mantissa), exponent)
    with mp.workdps(400):
        assert mp.ldexp(mp.mpf(low), e) ** 2 <= target <= mp.ldexp(mp.mpf(high), e) ** 2
    assert high - low <= 1
    assert low == 0 or low.bit_length() >= PRECISION


def test_constants() -> None:
    with mp.workdps(100):
        for bracket, truth in ((elementary.pi(), mp.pi), (elementary.ln2(), mp.log(2))):
            low, high = ends(bracket)
            assert low < +truth < high
            assert high - low <= mp.mpf(2) ** -254


def test_mpmath_itself_rounds_a_logarithm_to_the_wrong_side() -> None:
    """Why this module exists: mpmath 1.3's interval logarithm is not outward at 53 bits."""
    bits, n = 53, 664153
    theirs = mpmath.libmp.libmpi.mpi_log((mpmath.libmp.from_man_exp(1, n),) * 2, bits)
    if not mp.make_mpf(theirs[1]) < n * mp.log(2):
        pytest.skip("this mpmath rounds ln 2^664153 upward correctly")
    low, high = ends(elementary.log(1, n, bits))
    assert low < n * mp.log(2) < high
