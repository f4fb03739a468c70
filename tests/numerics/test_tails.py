"""kl and binomial tails: brackets that hold an 80-digit truth over the whole range, corners included."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.oracles import binomial as oracle
from tests.oracles.binomial import contains, mp, width

from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.numerics.interval import enclose, interval, lower, upper
from nonvacuous.numerics.tails import binomial_upper, kl_bernoulli, kl_inverse_upper, log_binomial_cdf, log_binomial_sf

unit = st.floats(0.0, 1.0)
inner = st.floats(0.0, 1.0, exclude_min=True, exclude_max=True)


def counts(most: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.integers(1, most).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(unit, unit)
@settings(max_examples=500, deadline=None)
def test_kl_holds_the_truth(q: float, p: float) -> None:
    got = kl_bernoulli(q, p)
    if p in (0.0, 1.0) and p != q:
        assert lower(got) == math.inf
        return
    truth = oracle.kl(q, p)
    assert contains(got, truth) or abs(truth) < 1e-70 > width(got), "80 digits cannot say more"
    assert lower(got) >= 0
    assert width(got) <= max(1e-15 * abs(truth), 1e-34)


@pytest.mark.parametrize(("q", "p"), [(0.0, 0.0), (1.0, 1.0), (0.3, 0.3), (5e-324, 5e-324)])
def test_kl_of_equals_is_exactly_zero(q: float, p: float) -> None:
    assert lower(kl_bernoulli(q, p)) == upper(kl_bernoulli(q, p)) == 0.0


@given(st.lists(inner, min_size=4, max_size=4), unit, unit)
@settings(max_examples=200, deadline=None)
def test_kl_of_intervals_holds_every_pair(ends: list[float], s: float, t: float) -> None:
    q0, q1 = sorted(ends[:2])
    p0, p1 = sorted(ends[2:])
    got = kl_bernoulli(interval(q0, q1), interval(p0, p1))
    q, p = (
        Fraction(q0) + Fraction(s) * (Fraction(q1) - Fraction(q0)),
        Fraction(p0) + Fraction(t) * (Fraction(p1) - Fraction(p0)),
    )
    assert contains(got, oracle.kl(q, p)) or abs(oracle.kl(q, p)) < 1e-70


@given(counts(40), unit)
@settings(max_examples=400, deadline=None)
def test_tails_against_exact_fractions(pair: tuple[int, int], p: float) -> None:
    k, n = pair
    below = oracle.exact_cdf(k, n, p)
    above = 1 - oracle.exact_cdf(k - 1, n, p)
    for got, truth in ((log_binomial_cdf(k, n, p), below), (log_binomial_sf(k, n, p), above)):
        if truth in (0, 1):
            assert lower(got) == upper(got) == (0.0 if truth else -math.inf)
        else:
            assert contains(got, oracle.log_fraction(truth))
            assert width(got) <= 1e-13


@given(counts(100_000), inner)
@settings(max_examples=150, deadline=None)
def test_tails_at_moderate_size(pair: tuple[int, int], p: float) -> None:
    k, n = pair
    assume(k < n)
    got = log_binomial_cdf(k, n, p)
    assert contains(got, oracle.log_cdf(k, n, p))
    assert width(got) <= 1e-11
    if k:
        assert contains(log_binomial_sf(k, n, p), oracle.log_sf(k, n, p))


@given(st.integers(100, 10**9), inner, st.floats(-8, 8))
@settings(max_examples=25, deadline=None)
def test_tails_near_the_mean(n: int, p: float, sigmas: float) -> None:
    k = int(n * p + sigmas * math.sqrt(n * p * (1 - p)))
    assume(0 <= k < n and n * p * (1 - p) < 1e6)
    got = log_binomial_cdf(k, n, p)
    assert contains(got, oracle.log_cdf(k, n, p))
    assert width(got) <= 1e-11


LARGE = [
    (10**8, 10**9, 0.1),
    (10**8, 10**9, 0.10002),
    (10**8, 10**9, 0.09998),
    (10**8, 10**9, 0.2),
    (10**8, 10**9, 0.9),
    (0, 10**9, 1e-9),
    (5, 10**9, 1e-9),
    (10**9 - 1, 10**9, 0.999999999),
    (10**9 - 5, 10**9, 0.999999999),
    (6000, 60_000, 0.1648),
    (3, 2**53, 1e-15),
    (2**53 - 3, 2**53, 1 - 2.0**-53),
    (2**52, 2**53, 0.75),
]


@pytest.mark.parametrize(("k", "n", "p"), LARGE)
def test_tails_at_size(k: int, n: int, p: float) -> None:
    truth = oracle.log_cdf(k, n, p)
    got = log_binomial_cdf(k, n, p)
    assert contains(got, truth)
    assert width(got) <= 3e-11
    assert contains(log_binomial_sf(k + 1, n, p), oracle.log_sf(k + 1, n, p))


def test_the_oracle_agrees_with_mpmath_and_with_the_definition() -> None:
    for k, n, p in [(3, 10, 0.3), (600, 10_000, 0.064), (9990, 10_000, 0.9985), (50, 10_000, 0.01)]:
        with mp.workdps(50):
            incomplete = mp.log(mp.betainc(n - k, k + 1, 0, 1 - mp.mpf(p), regularized=True))
        assert abs(incomplete - oracle.log_cdf(k, n, p)) < mp.mpf(10) ** -35 * (1 + abs(incomplete))
    assert abs(oracle.log_cdf(7, 30, 0.4) - oracle.log_fraction(oracle.exact_cdf(7, 30, 0.4))) < mp.mpf(10) ** -70


def test_never_minus_infinity_by_underflow() -> None:
    x = log_binomial_cdf(0, 1_000_000, 0.9)
    assert contains(x, 1_000_000 * mp.log(1 - mp.mpf(0.9)))
    assert upper(log_binomial_cdf(1, 2**53, math.nextafter(1.0, 0.0))) > -1e18
    assert lower(log_binomial_cdf(1, 2**53, math.nextafter(1.0, 0.0))) > -1e18


@pytest.mark.parametrize("p", [5e-324, 1e-300, 1e-17, 0.5, 1 - 2.0**-53])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_extreme_rates(n: int, p: float) -> None:
    for k in range(n + 1):
        below = oracle.log_fraction(oracle.exact_cdf(k, n, p))
        above = oracle.log_fraction(1 - oracle.exact_cdf(k - 1, n, p))
        for got, truth in ((log_binomial_cdf(k, n, p), below), (log_binomial_sf(k, n, p), above)):
            assert contains(got, truth)
            assert width(got) <= 1e-13 * abs(truth)


def test_exact_corners() -> None:
    for k, n, p, log in [(5, 5, 0.3, 0.0), (0, 5, 0.0, 0.0), (4, 5, 1.0, -math.inf), (5, 5, 1.0, 0.0)]:
        assert lower(log_binomial_cdf(k, n, p)) == upper(log_binomial_cdf(k, n, p)) == log
        assert lower(log_binomial_sf(n - k, n, 1 - p)) == upper(log_binomial_sf(n - k, n, 1 - p)) == log


def test_beyond_the_cap_the_bracket_is_loose_but_true() -> None:
    """P(Bin(n, ½) ≤ n/2) = ½ + ½ pmf(n/2) in closed form, at n = 2^53."""
    n, k = 2**53, 2**52
    with mp.workdps(60):
        truth = mp.log((1 + mp.exp(oracle.log_pmf(k, n, Fraction(1, 2)))) / 2)
    got = log_binomial_cdf(k, n, 0.5)
    assert contains(got, truth)
    assert width(got) > 1e-3 and lower(got) > -30, "never −∞"
    assert contains(log_binomial_cdf(k - 1, n, 0.5), mp.log(1 - mp.exp(truth))), "the other half"


def test_a_rate_known_as_an_interval() -> None:
    p = interval(0.1, 0.2)
    got = log_binomial_cdf(10, 100, p)
    assert contains(got, oracle.log_cdf(10, 100, 0.1)) and contains(got, oracle.log_cdf(10, 100, 0.2))
    got = log_binomial_sf(10, 100, p)
    assert contains(got, oracle.log_sf(10, 100, 0.1)) and contains(got, oracle.log_sf(10, 100, 0.2))


@given(counts(2000), inner, inner)
@settings(max_examples=150, deadline=None)
def test_cdf_is_monotone_in_p_and_k(pair: tuple[int, int], p: float, r: float) -> None:
    k, n = pair
    p, r = sorted((p, r))
    assert upper(log_binomial_cdf(k, n, p)) >= lower(log_binomial_cdf(k, n, r))
    if k < n:
        assert lower(log_binomial_cdf(k, n, p)) <= upper(log_binomial_cdf(k + 1, n, p))


BAD = [(-1, 5, 0.5), (6, 5, 0.5), (0, 0, 0.5), (1, 5, -0.1), (1, 5, 1.1), (1, 5, math.nan), (1.5, 5, 0.5), (1, 2**53 + 1, 0.5)]


@pytest.mark.parametrize(("k", "n", "p"), BAD)
def test_bad_evidence_is_refused(k: int, n: int, p: float) -> None:
    for tail in (log_binomial_cdf, log_binomial_sf):
        with pytest.raises(InvalidEvidence, match=r"must|n = 0"):
            tail(k, n, p)


@pytest.mark.parametrize(("q", "p"), [(-0.1, 0.5), (0.5, 1.5), (math.nan, 0.5), (0.5, math.nan)])
def test_kl_refuses(q: float, p: float) -> None:
    with pytest.raises(InvalidEvidence, match="must lie in"):
        kl_bernoulli(q, p)


def test_numpy_counts_and_strict_floating_point_are_accepted() -> None:
    with np.errstate(all="raise"):
        x = log_binomial_cdf(np.int64(3), np.int64(10), np.float64(0.3))  # type: ignore[arg-type]
        assert upper(x) == upper(log_binomial_cdf(3, 10, 0.3))
        log_binomial_cdf(500, 10**6, 1e-3)


def test_threads_at_other_precisions_change_nothing() -> None:
    """Several threads compute tails while others work mpmath's global context at changing precision."""
    jobs = [(k, 5000, p, c) for k in (0, 40, 900) for p in (0.01, 0.2) for c in (0.001, 0.3)]

    def job(k: int, n: int, p: float, c: float) -> tuple[object, ...]:
        kl = kl_inverse_upper(enclose(k) / n, c)
        return log_binomial_cdf(k, n, p)._mpi_, kl, binomial_upper(k, n, -700 * c)  # type: ignore[attr-defined]

    def disturb(seed: int) -> None:
        for digits in range(15, 400, 7):
            with mpmath.workdps(digits + seed):
                mpmath.log(mpmath.mpf(3)) + mpmath.exp(1) + mpmath.pi

    alone = [job(*j) for j in jobs]
    before = mpmath.mp.dps
    with ThreadPoolExecutor(6) as pool:
        noise = [pool.submit(disturb, s) for s in range(3)]
        together = [f.result() for f in [pool.submit(job, *j) for j in jobs * 3]]
        for n in noise:
            n.result()
    mpmath.mp.dps = before  # the disturbers share one global context and may leave it anywhere
    assert together == alone * 3
