"""Grids, their prices, and chaining."""

from __future__ import annotations

from math import inf, log, pi

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.oracles.margins import chained, grid, mp

from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.numerics.interval import iv, lower, upper
from nonvacuous.numerics.uniform import GeometricGrid, chained_complexity, rademacher_value, two_sided_price


@given(st.floats(-300, 300), st.sampled_from((1, 16, 256)))
def test_the_point_is_the_smallest_above(log_x, steps):
    point = GeometricGrid(-20, steps).above(log_x)
    assert lower(point.log_value) >= log_x * (1 - 1e-15) - 1e-300 or point.log_value.a > log_x
    assert point.place == 0 or upper(point.log_value) <= log_x + log(2) / steps + 1e-9
    assert upper(point.price_nats) == pytest.approx(2 * log(point.place + 1) + log(pi**2 / 6), rel=1e-12)


@pytest.mark.parametrize("log_x", [-100.0, -3.3, 0.0, 1.7, 200 * log(1e47)])
def test_the_point_equals_the_oracles(log_x):
    for steps in (1, 16, 256):
        point = GeometricGrid(-20, steps).above(log_x)
        value, price = grid(log_x, steps)
        assert float(mp.log(value)) == pytest.approx(upper(point.log_value), abs=1e-9)
        assert upper(point.price_nats) == pytest.approx(float(price), rel=1e-12)


def test_weights_of_both_grids_sum_to_one():
    most = 10**5
    assert sum(6 / pi**2 / (j + 1) ** 2 for j in range(most)) == pytest.approx(1, abs=1e-5)
    two = sum(2.718281828459045 ** -upper(two_sided_price(j)) for j in range(-1000, 1001))
    assert 0.999 < two + 2 / 1001 / (pi**2 / 3 - 1) < 1.001


def test_the_ends_of_the_line():
    assert GeometricGrid().above(-iv.inf).place == 0
    with pytest.raises(InvalidEvidence):
        GeometricGrid().above(iv.inf)
    assert GeometricGrid().above(1e6).place > 2e7


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 0.1, 1.0, 30.0, 1e40])
@pytest.mark.parametrize("n", [1, 10**3, 10**9])
def test_chaining_equals_the_search_over_all_levels(scale, n):
    found = upper(chained_complexity(iv.log(scale), log(200), n))
    assert found == pytest.approx(float(chained(scale, log(200), n)), rel=1e-9)


def test_chaining_is_monotone_and_never_above_one_half():
    values = [upper(chained_complexity(x / 4, 5, 10**6)) for x in range(-400, 400)]
    assert values == sorted(values) and values[-1] == 0.5


def test_the_rademacher_value_without_complexity():
    value = upper(rademacher_value(0.1, iv.zero, 0, 10**4, 0.05))
    assert value == pytest.approx(0.1 + 3 * (log(40) / 2e4) ** 0.5)
    assert upper(rademacher_value(0.1, iv.zero, inf, 10**4, 0.05)) == inf
