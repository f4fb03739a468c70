"""The context: exact conversions, outward operations, certain comparisons, no state."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracles.binomial import contains, endpoints, mp

from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.numerics.interval import PRECISION, clip, enclose, hull, interval, is_interval, iv, lower, upper

finite = st.floats(allow_nan=False, allow_infinity=False)


def exact_ends(x: Any) -> tuple[Fraction, Fraction]:
    """Both ends as fractions, read off mpmath's raw tuples."""

    def fraction(raw: tuple[int, int, int, int]) -> Fraction:
        sign, mantissa, exponent, _ = raw
        assert mantissa or not exponent, "not finite"
        return Fraction((-1) ** sign * int(mantissa)) * Fraction(2) ** exponent

    return fraction(x._mpi_[0]), fraction(x._mpi_[1])


@given(finite, finite, st.sampled_from("+-*/"))
@settings(max_examples=600, deadline=None)
def test_arithmetic_is_outward_and_tight_in_exact_fractions(x: float, y: float, operator: str) -> None:
    fx, fy = Fraction(x), Fraction(y)
    if operator == "/" and not fy:
        return
    truth = {"+": lambda: fx + fy, "-": lambda: fx - fy, "*": lambda: fx * fy, "/": lambda: fx / fy}[operator]()
    a, b = enclose(x), enclose(y)
    got = {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[operator]()
    low, high = exact_ends(got)
    assert low <= truth <= high
    assert high - low <= abs(truth) * Fraction(2) ** (1 - PRECISION)


@given(st.lists(finite, min_size=4, max_size=4), st.sampled_from("+-*"))
@settings(max_examples=300, deadline=None)
def test_arithmetic_of_wide_intervals_holds_every_corner(ends: list[float], operator: str) -> None:
    x = interval(*sorted(ends[:2]))
    y = interval(*sorted(ends[2:]))
    got = {"+": x + y, "-": x - y, "*": x * y}[operator]
    low, high = exact_ends(got)
    for a in map(Fraction, ends[:2]):
        for b in map(Fraction, ends[2:]):
            assert low <= {"+": a + b, "-": a - b, "*": a * b}[operator] <= high


def test_division_by_an_interval_that_holds_zero_says_nothing() -> None:
    x = 1 / interval(-1, 1)
    assert lower(x) == -math.inf and upper(x) == math.inf


@given(st.integers(-(2**400), 2**400))
def test_integers_are_held(n: int) -> None:
    low, high = exact_ends(enclose(n))
    assert low <= n <= high
    if abs(n) < 2**PRECISION:
        assert low == high == n


@given(st.floats(allow_nan=False))
def test_floats_are_exact(x: float) -> None:
    assert lower(x) == upper(x) == x


@given(st.fractions())
def test_fractions_are_held(x: Fraction) -> None:
    low, high = exact_ends(enclose(x))  # type: ignore[arg-type]
    assert low <= x <= high


@given(finite, finite)
@settings(max_examples=400, deadline=None)
def test_lower_and_upper_are_the_nearest_floats_outside(x: float, y: float) -> None:
    value = enclose(x) / y if y else enclose(x) / 3
    a, b = endpoints(value)
    low, high = lower(value), upper(value)
    assert mp.mpf(low) <= a < mp.mpf(math.nextafter(low, math.inf)) or low == math.inf
    assert mp.mpf(high) >= b > mp.mpf(math.nextafter(high, -math.inf)) or high == -math.inf


@pytest.mark.parametrize("log", [-800, -745.2, -744, -710, 709, 710, 1e6, -1e6])
def test_lower_and_upper_outside_the_floats(log: float) -> None:
    x = iv.exp(log)
    a, b = endpoints(x)
    assert 0 <= lower(x) < math.inf and mp.mpf(lower(x)) <= a
    assert upper(x) > 0 and mp.mpf(upper(x)) >= b


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False))
@settings(max_examples=300, deadline=None)
def test_functions_hold_the_truth(x: float) -> None:
    assert contains(iv.log(x), mp.log(mp.mpf(x)))
    assert contains(iv.sqrt(x), mp.sqrt(mp.mpf(x)))
    assert contains(iv.exp(-x), mp.exp(-mp.mpf(x))) or x > 1e15


@given(st.integers(1, 10**40))
def test_log_of_integers(n: int) -> None:
    with mp.workdps(100):
        assert contains(iv.log(n), mp.log(n))


@given(st.floats(0.01, 100), st.integers(-20, 20))
def test_integer_powers_are_outward(x: float, n: int) -> None:
    low, high = exact_ends(enclose(x) ** n)
    assert low <= Fraction(x) ** n <= high


@given(st.floats(0.01, 100), st.floats(-20, 20))
def test_other_powers_are_outward(x: float, y: float) -> None:
    assert contains(enclose(x) ** y, mp.mpf(x) ** mp.mpf(y))
    assert contains(x ** enclose(y), mp.mpf(x) ** mp.mpf(y))  # type: ignore[operator]


def test_corners_of_the_functions() -> None:
    assert upper(iv.log(0)) == -math.inf and lower(iv.log(iv.inf)) == math.inf
    assert upper(iv.exp(iv.ninf)) == 0.0 and lower(iv.exp(iv.inf)) == math.inf
    assert lower(iv.log(interval(0, 1))) == -math.inf and upper(iv.log(interval(0, 1))) == 0.0
    assert lower(iv.sqrt(0)) == upper(iv.sqrt(0)) == 0.0
    assert lower(iv.sqrt(9)) == upper(iv.sqrt(9)) == 3.0
    assert upper(iv.exp(-1e300)) == 5e-324 and lower(iv.exp(-1e300)) == 0.0
    assert lower(iv.exp(1e300)) == 1.7976931348623157e308 and upper(iv.exp(1e300)) == math.inf


def test_comparisons_are_certain_or_false() -> None:
    x = interval(1, 2)
    assert (x < 3) is True and (x <= 2) is True and (x > 0.5) is True and (x >= 1) is True
    assert (x < 1.5) is False and (x >= 1.5) is False and (x > 2) is False
    assert (0.5 < x) is True and (1.5 < x) is False  # noqa: SIM300 (the reflected operators are meant)


@pytest.mark.parametrize("bad", [math.nan, np.float64("nan"), np.float32("nan")])
def test_nan_is_refused(bad: float) -> None:
    with pytest.raises(InvalidEvidence, match=r"NaN|exactly"):
        enclose(bad)
    with pytest.raises(InvalidEvidence):
        enclose(1) + bad


def test_numpy_scalars_are_exact() -> None:
    for x in (np.float64(0.1), np.float32(0.1), np.int64(2**60 + 1), np.uint8(7), True):
        low, high = exact_ends(enclose(x))  # type: ignore[arg-type]
        assert low == high == Fraction(x.item() if hasattr(x, "item") else x)


@pytest.mark.parametrize("function", [iv.log, iv.sqrt])
def test_negative_arguments_are_refused(function: Any) -> None:
    with pytest.raises(InvalidEvidence, match="≥ 0"):
        function(interval(-1e-30, 1))


def test_clip_hull_interval() -> None:
    assert lower(clip(interval(-1, 2), 0, 1)) == 0 and upper(clip(interval(-1, 2), 0, 1)) == 1
    assert lower(hull(3, interval(1, 2))) == 1 and upper(hull(3, interval(1, 2))) == 3
    with pytest.raises(InvalidEvidence):
        clip(2, 0, 1)
    with pytest.raises(InvalidEvidence):
        interval(2, 1)


def test_the_precision_is_frozen_and_nothing_leaks() -> None:
    before = mpmath.mp.prec, mpmath.iv.prec
    with pytest.raises(AttributeError):
        iv.prec = 30  # type: ignore[misc]
    with pytest.raises(AttributeError):
        iv.dps = 5  # type: ignore[misc]
    iv.exp(iv.log(3) / iv.sqrt(2)) ** 0.3
    assert iv.prec == PRECISION and (mpmath.mp.prec, mpmath.iv.prec) == before
    mpmath.iv.prec, mpmath.mp.prec = 10, 10
    try:
        assert contains(iv.log(3), mp.log(3)) and upper(iv.log(3)) - lower(iv.log(3)) < 1e-15
    finally:
        mpmath.mp.prec, mpmath.iv.prec = before
    assert not is_interval(mpmath.iv.mpf(1)) and is_interval(iv.one)
    assert mpmath.iv.mpf.__lt__(mpmath.iv.mpf([1, 2]), 1.5) is None, "the global context keeps its own comparison"
