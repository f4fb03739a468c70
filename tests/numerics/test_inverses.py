"""Inverses: never on the wrong side of the truth, and within a few units in the last place of it."""

from __future__ import annotations

import math
from fractions import Fraction
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom
from tests.oracles import binomial as oracle

from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.numerics.interval import enclose, interval, iv
from nonvacuous.numerics.search import boundary, float_at, ordinal
from nonvacuous.numerics.tails import binomial_lower, binomial_upper, kl_inverse_lower, kl_inverse_upper

LN2 = math.log(2)


def assert_upper(k: int, n: int, log_delta: float, relative: float) -> None:
    """The truth lies in [value·(1 − relative), value], by the sign of the oracle's tail at both."""
    value = binomial_upper(k, n, log_delta)
    if value < 1:
        assert oracle.log_cdf(k, n, value) < log_delta, "below the true limit"
    inside = Fraction(value) * (1 - Fraction(relative))
    assert oracle.log_cdf(k, n, inside) >= log_delta, "further from the truth than stated"


def assert_lower(k: int, n: int, log_delta: float, relative: float) -> None:
    value = binomial_lower(k, n, log_delta)
    if value > 0:
        assert oracle.log_sf(k, n, value) < log_delta, "above the true limit"
    inside = max(Fraction(value) * (1 + Fraction(relative)), Fraction(math.nextafter(value, 1)))
    inside = min(inside, Fraction(value) + (1 - Fraction(value)) / 2)
    assert oracle.log_sf(k, n, inside) >= log_delta, "further from the truth than stated"


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(-2000, -1e-3))
@settings(max_examples=120, deadline=None)
def test_clopper_pearson_limits(pair: tuple[int, int], log_delta: float) -> None:
    k, n = pair
    if k < n:
        assert_upper(k, n, log_delta, 1e-13)
    if k > 0:
        assert_lower(k, n, log_delta, 1e-12)


SIZES = [(0, 10**9), (7, 10**9), (10**8, 10**9), (5 * 10**8, 10**9), (10**9 - 7, 10**9), (6000, 60_000), (600, 10_000)]


@pytest.mark.parametrize(("k", "n"), SIZES)
@pytest.mark.parametrize("log_delta", [math.log(0.05), -1e3, -1e6 * LN2])
def test_limits_at_size(k: int, n: int, log_delta: float) -> None:
    assert_upper(k, n, log_delta, 1e-13)
    if k > 0:
        assert_lower(k, n, log_delta, 1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3 * 10**9, 10**10])
def test_limits_at_the_edge_of_the_cap(n: int) -> None:
    assert_upper(n // 2, n, math.log(0.05), 1e-13)
    assert_lower(n // 3, n, math.log(0.05), 1e-13)


def test_past_the_cap_the_limit_is_true_and_within_a_few_parts_in_1e8() -> None:
    """n = 1e15: the normal limit is exact to about 1/n here."""
    n, k = 10**15, 10**14
    value = binomial_upper(k, n, math.log(0.05))
    normal = 0.1 + 1.6448536269514722 * math.sqrt(0.09 / n)
    assert normal < value < normal + 3e-9


@pytest.mark.parametrize(("k", "n", "reported"), [(600, 10_000, 0.0641), (700, 10_000, 0.0743)])
def test_published_test_set_bounds(k: int, n: int, reported: float) -> None:
    value, scipy = binomial_upper(k, n, iv.log(0.05)), beta.ppf(0.95, k + 1, n - k)
    assert round(value, 4) == reported
    assert scipy * (1 - 1e-14) < value < scipy * (1 + 1e-12)
    assert binomial_lower(k, n, iv.log(0.05)) == pytest.approx(beta.ppf(0.05, k, n - k + 1), rel=1e-12)


def test_the_underflow_trap() -> None:
    """n = 60 000, 6 000 errors, δ = .05, 1500 prefix-free bits: SciPy's logcdf is −∞, and a bisection on it promises .1536."""
    k, n, log_delta = 6000, 60_000, iv.log(0.05) - 1500 * iv.ln2
    target = math.log(0.05) - 1500 * LN2

    low, high = k / n, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if binom.logcdf(k, n, middle) < target else (middle, high)
    assert round(high, 4) == 0.1536, "the naive bisection"
    assert binom.logcdf(k, n, 0.16) == -math.inf

    exact, chernoff = binomial_upper(k, n, log_delta), kl_inverse_upper(enclose(k) / n, -log_delta / n)
    assert (round(exact, 4), round(chernoff, 4)) == (0.1648, 0.1650)
    assert high < exact < chernoff
    assert oracle.log_cdf(k, n, high) > target + 250, "what the naive answer claims is off by e^250"
    assert binomial_upper(k, n, iv.log(0.05) - 2500 * iv.ln2) > exact + 0.01, "a longer code costs more"


@given(st.integers(1, 10**9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(-1e6, -0.1))
@settings(max_examples=40, deadline=None)
def test_binomial_limit_is_below_chernoff(pair: tuple[int, int], log_delta: float) -> None:
    k, n = pair
    assume(k < n)
    assert binomial_upper(k, n, log_delta) <= kl_inverse_upper(enclose(k) / n, -enclose(log_delta) / n) * (1 + 1e-14)


@given(
    st.integers(2, 500).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))),
    st.floats(-50, -0.01),
    st.floats(0.01, 5),
)
@settings(max_examples=60, deadline=None)
def test_limits_are_monotone(pair: tuple[int, int], log_delta: float, step: float) -> None:
    k, n = pair
    here = binomial_upper(k, n, log_delta)
    assert here <= binomial_upper(k, n, log_delta - step)
    assert here <= binomial_upper(k + 1, n, log_delta)
    assert binomial_upper(k, n + 5, log_delta) <= here
    assert binomial_lower(k, n, log_delta) >= binomial_lower(k, n, log_delta - step)
    assert binomial_lower(k, n, log_delta) <= here or log_delta > -LN2


@given(st.floats(0, 1), st.floats(1e-12, 50))
@settings(max_examples=250, deadline=None)
def test_kl_inverses(q: float, c: float) -> None:
    high, low = kl_inverse_upper(q, c), kl_inverse_lower(q, c)
    assert 0 <= low <= q <= high <= 1
    if high < 1:
        assert oracle.kl(q, high) >= c, "below the true inverse"
    if low > 0:
        assert oracle.kl(q, low) >= c, "above the true inverse"
    inside = math.nextafter(math.nextafter(high, 0), 0)
    assert inside <= q or oracle.kl(q, inside) <= c, "more than two floats from the truth"
    inside = math.nextafter(math.nextafter(low, 1), 1)
    assert inside >= q or oracle.kl(q, inside) <= c, "more than two floats from the truth"


@given(st.floats(1e-10, 1), st.floats(1e-300, 1e-3))
def test_kl_inverse_is_monotone(c: float, q: float) -> None:
    assert kl_inverse_upper(q, c) <= kl_inverse_upper(q, c * 1.01)
    assert kl_inverse_upper(q, c) <= kl_inverse_upper(q * 1.01, c)
    assert kl_inverse_lower(q, c) >= kl_inverse_lower(q, c * 1.01)


def test_kl_inverse_takes_the_worse_ends() -> None:
    q, c = interval(0.1, 0.2), interval(0.01, 0.05)
    assert kl_inverse_upper(q, c) == kl_inverse_upper(0.2, 0.05)
    assert kl_inverse_lower(q, c) == kl_inverse_lower(0.1, 0.05)
    third = enclose(1) / 3
    assert kl_inverse_upper(third, 0.0) == math.nextafter(1 / 3, 1) > Fraction(1, 3)
    assert kl_inverse_lower(third, 0.0) == 1 / 3 < Fraction(1, 3)


def test_limits_take_the_worse_end_of_delta() -> None:
    log_delta = interval(-5, -3)
    assert binomial_upper(7, 100, log_delta) == binomial_upper(7, 100, -5.0)
    assert binomial_lower(7, 100, log_delta) == binomial_lower(7, 100, -5.0)


def test_corners() -> None:
    assert kl_inverse_upper(1.0, 0.3) == 1.0 and kl_inverse_lower(0.0, 0.3) == 0.0
    assert kl_inverse_upper(0.3, 0.0) == 0.3 == kl_inverse_lower(0.3, 0.0)
    assert kl_inverse_upper(0.3, math.inf) == 1.0 and kl_inverse_lower(0.3, math.inf) == 0.0
    assert kl_inverse_upper(0.0, 1e4) == 1.0 and 0 < kl_inverse_lower(1.0, 700.0) < 1e-300
    assert binomial_upper(5, 5, -1.0) == 1.0 and binomial_lower(0, 5, -1.0) == 0.0
    assert binomial_upper(2, 5, -math.inf) == 1.0 and binomial_lower(2, 5, -math.inf) == 0.0
    assert 0 <= binomial_upper(2, 5, 0.0) < 1e-6 and 1 - 1e-6 < binomial_lower(2, 5, 0.0) <= 1
    assert binomial_upper(0, 1, -1e-300) < 1.1e-300


@pytest.mark.parametrize("call", [(-1, 5, -1.0), (6, 5, -1.0), (1, 0, -1.0), (1, 5, 0.1), (1, 5, math.nan), (1, 5, math.inf)])
def test_bad_evidence_is_refused(call: tuple[int, int, float]) -> None:
    for limit in (binomial_upper, binomial_lower):
        with pytest.raises(InvalidEvidence):
            limit(*call)


@pytest.mark.parametrize(("q", "c"), [(1.1, 0.1), (-0.1, 0.1), (math.nan, 0.1), (0.1, -1e-9), (0.1, math.nan)])
def test_bad_kl_evidence_is_refused(q: float, c: float) -> None:
    for inverse in (kl_inverse_upper, kl_inverse_lower):
        with pytest.raises(InvalidEvidence):
            inverse(q, c)


@pytest.mark.parametrize("log_delta", [math.log(0.2), math.log(0.05)])
def test_coverage_is_exact(log_delta: float, n: int = 60) -> None:
    """P(limit < p) ≤ δ for every p on a grid and just below every limit, in exact fractions."""
    limits = [binomial_upper(k, n, log_delta) for k in range(n + 1)]
    for p in [
        *(i / 50 for i in range(1, 50)),
        *(math.nextafter(x, 0) for x in limits),
        *(math.nextafter(x, 1) for x in limits[:-1]),
    ]:
        missed = max((k for k in range(n + 1) if limits[k] < p), default=-1)
        assert float(oracle.exact_cdf(missed, n, p)) <= math.exp(log_delta)


@given(st.floats(0, allow_nan=False))
def test_ordinal_is_a_bijection_that_keeps_order(x: float) -> None:
    assert float_at(ordinal(x)) == x
    if x < math.inf:
        assert ordinal(math.nextafter(x, math.inf)) == ordinal(x) + 1


@given(st.floats(0, 1), st.one_of(st.floats(-1, 2), st.just(math.nan)))
def test_boundary_finds_the_first_accepted_float(threshold: float, guess: float) -> None:
    assume(threshold > 0)
    assert boundary(lambda x: x >= threshold, 1.0, 0.0, guess) == threshold
    below = boundary(lambda x: x < threshold, 0.0, 1.0, guess)
    assert below == math.nextafter(threshold, 0)


@given(st.randoms(use_true_random=False), st.floats(0, 1))
def test_boundary_returns_only_what_was_accepted(random: Random, guess: float) -> None:
    """A predicate that is not monotone may lose tightness, never soundness."""
    seen = {1.0}

    def accepts(x: float) -> bool:
        answer: bool = random.random() < 0.5
        if answer:
            seen.add(x)
        return answer

    assert boundary(accepts, 1.0, 0.0, guess) in seen
