"""Measured numbers: intervals that hold the truth under every operation, kinds that only weaken, δ that only adds."""

from __future__ import annotations

from fractions import Fraction
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured

FINITE = st.floats(-1e150, 1e150)
KINDS = st.sampled_from(Kind)


@st.composite
def measured(draw: st.DrawFn) -> tuple[Measured, Fraction]:
    """An interval and a true value inside it."""
    low, high = sorted((draw(FINITE), draw(FINITE)))
    share = draw(st.integers(0, 8))
    truth = Fraction(low) + (Fraction(high) - Fraction(low)) * Fraction(share, 8)
    return Measured(low, high, draw(KINDS), draw(st.floats(0, 1))), truth


def holds(number: Measured, truth: Fraction) -> bool:
    return (number.lower == -inf or Fraction(number.lower) <= truth) and (
        number.upper == inf or truth <= Fraction(number.upper)
    )


@given(measured(), measured())
def test_sums_differences_and_products_hold_the_truth(
    one: tuple[Measured, Fraction], other: tuple[Measured, Fraction]
) -> None:
    (a, x), (b, y) = one, other
    for result, truth in ((a + b, x + y), (a - b, x - y), (a * b, x * y), (-a, -x), (sum([a, b], Measured.exact(0.0)), x + y)):
        assert holds(result, truth)
    for result in (a + b, a - b, a * b):
        assert result.kind == max(a.kind, b.kind)
        assert result.delta == min(1.0, a.delta + b.delta)


@given(measured(), FINITE)
def test_plain_numbers_are_exact(one: tuple[Measured, Fraction], number: float) -> None:
    a, x = one
    for result, truth in (
        (a + number, x + Fraction(number)),
        (number + a, x + Fraction(number)),
        (a - number, x - Fraction(number)),
        (number - a, Fraction(number) - x),
        (number * a, x * Fraction(number)),
    ):
        assert holds(result, truth) and result.kind == a.kind and result.delta == a.delta


@given(measured(), FINITE, FINITE)
def test_clipping_keeps_what_lies_inside(one: tuple[Measured, Fraction], first: float, second: float) -> None:
    a, x = one
    low, high = sorted((first, second))
    clipped = a.clipped(low, high)
    assert low <= clipped.lower <= clipped.upper <= high
    if low <= x <= high:
        assert holds(clipped, x)


def test_infinite_ends_and_what_has_no_value() -> None:
    wide = Measured(-inf, inf, Kind.EXACT)
    assert 0.0 in wide + 1 and wide.width == inf
    assert Measured.exact(1e308) + 1e308 == Measured(1.7976931348623157e308, inf, Kind.EXACT)
    assert (Measured.exact(5e-324) * 0.5).upper > 0
    for make in (
        lambda: Measured(1.0, 0.0, Kind.EXACT),
        lambda: Measured(nan, 1.0, Kind.EXACT),
        lambda: Measured(0.0, nan, Kind.EXACT),
        lambda: Measured(0.0, 1.0, Kind.CONFIDENCE, delta=1.5),
        lambda: Measured(0.0, 1.0, Kind.CONFIDENCE, delta=nan),
        lambda: wide * 0.0,
        lambda: Measured.exact(inf) - inf,
    ):
        with pytest.raises(InvalidInput):
            make()


def test_in_words() -> None:
    assert str(Measured.exact(0.25)) == "0.25" and str(Measured(0.0, 0.5, Kind.INDICATOR)) == "[0, 0.5]"
    assert Measured.indicator(2.0).kind is Kind.INDICATOR and Measured.indicator(1.0, 3.0).midpoint == 2.0
