"""Binomial tails and the binary relative entropy: rigorous brackets, and inverses that err on the safe side only.

Every function works in the log domain, so a tail of e^-1000000 is as exact as one of e^-1.  (``scipy.stats.binom.logcdf``
returns −∞ below about −745, and an inversion that trusts it promises too little risk.)  An inverse searches floats but
returns only one at which a comparison of brackets is certain: a wrong search can make it loose, never false.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.numerics.interval import Interval, Number, clip, enclose, interval, is_interval, iv, lower, upper
from nonvacuous.numerics.logdomain import MAX_COUNT, checked_count, log1m_exp, log1p, log_binomial_coefficient
from nonvacuous.numerics.search import boundary
from nonvacuous.numerics.series import tail_series


def _probability(name: str, x: Number) -> Interval:
    """x cut to [0, 1]; an interval may stick out by rounding, a float may not."""
    if not is_interval(x) and not 0 <= x <= 1:
        raise InvalidEvidence(f"{name} = {x!r} must lie in [0, 1]")
    return clip(x, 0, 1)


def _kl_at(q: Interval, p: Interval) -> Interval:
    """kl(q‖p) at two points."""
    if q == p:
        return iv.zero
    if p <= 0 or p >= 1:
        return iv.inf
    value = q * iv.log(q / p) if q > 0 else iv.zero
    if q < 1:
        value = value + (1 - q) * log1p((p - q) / (1 - p))
    return interval(value if value.a > 0 else iv.zero, value)


def kl_bernoulli(q: Number, p: Number) -> Interval:
    """``kl(q‖p) = q ln(q/p) + (1−q) ln((1−q)/(1−p))`` in nats, with 0 ln 0 = 0 and kl(q‖p) = ∞ for p ∈ {0, 1}, q ≠ p.

    For intervals the bracket covers all pairs of points: kl is jointly convex, so it is largest at a pair of opposite ends
    and smallest at the nearest pair.  Relative accuracy about 2^-60 or an absolute one of 2^-119, whichever is less exact.

    Raises InvalidEvidence outside [0, 1] and on NaN.

    >>> lower(kl_bernoulli(0.0, 0.5)) <= math.log(2) <= upper(kl_bernoulli(0.0, 0.5))
    True
    >>> lower(kl_bernoulli(0.5, 1.0))
    inf
    """
    q, p = _probability("q", q), _probability("p", p)
    if q.b == q.a and p.a == p.b:
        return _kl_at(q, p)
    if q.b < p.a:
        least = _kl_at(q.b, p.a)
    elif p.b < q.a:
        least = _kl_at(q.a, p.b)
    else:
        least = iv.zero
    one, other = _kl_at(q.a, p.b), _kl_at(q.b, p.a)
    return interval(least, one if one.b >= other.b else other)


class _Rates(NamedTuple):
    """A success rate p at one point, its complement q = 1 − p, and their logarithms."""

    p: Interval
    q: Interval
    log_p: Interval
    log_q: Interval

    def swapped(self) -> _Rates:
        return _Rates(self.q, self.p, self.log_q, self.log_p)


def _rates(p: Interval) -> _Rates:
    q = 1 - p
    return _Rates(p, q, iv.log(p), log1p(-p))


def _log_below(k: int, n: int, rates: _Rates) -> Interval:
    """ln P(Bin(n, p) ≤ k), 0 < p < 1, 0 ≤ k < n."""
    if k == 0:
        return rates.log_q * n
    mass = log_binomial_coefficient(n, k) + rates.log_p * k + rates.log_q * (n - k)
    if rates.p * (n + 1) >= k:
        value = mass + iv.log(tail_series(k, n - k + 1, rates.q / rates.p))
        return interval(value, value if value < 0 else iv.zero)
    m = k + 1
    mass_above = log_binomial_coefficient(n, m) + rates.log_p * m + rates.log_q * (n - m)
    value = log1m_exp(mass_above + iv.log(tail_series(n - m, m + 1, rates.p / rates.q)))
    return interval(value if value.a > mass.a else mass, value)


def _counts(k: int, n: int) -> tuple[int, int]:
    n = checked_count("n", n, MAX_COUNT)
    if n == 0:
        raise InvalidEvidence("n = 0: a tail needs at least one trial")
    return checked_count("k", k, n), n


def log_binomial_cdf(k: int, n: int, p: Number) -> Interval:
    """Bracket of ``ln P(Bin(n, p) ≤ k)``, 0 ≤ k ≤ n ≤ 2^53, n ≥ 1; exactly −∞ only where the probability is 0.

    Below the mean it is ``ln pmf(k)`` (Stirling's enveloping series at 120 bits) plus the log of the series of ratios
    (:func:`nonvacuous.numerics.series.tail_series`); above it, ln of one less the other tail (the split Loader 2000 uses).
    Width about 1e-13 at n = 1e4 and 3e-11 at n = 1e9; past about n = 1e10 the series is cut after 2^20 terms and bounded
    geometrically, which is true but looser (ln 13 at worst, in the middle, for n = 1e15).  For an interval p the bracket
    covers all its points.

    Raises InvalidEvidence for k or n outside their range, p outside [0, 1], or NaN.

    >>> x = log_binomial_cdf(0, 1_000_000, 0.5)
    >>> lower(x) <= -1_000_000 * math.log(2) <= upper(x)
    True
    """
    k, n = _counts(k, n)
    p = _probability("p", p)
    if k == n:
        return iv.zero
    low = _log_cdf_at(k, n, p.b)
    return low if p.a == p.b else interval(low, _log_cdf_at(k, n, p.a))


def _log_cdf_at(k: int, n: int, p: Interval) -> Interval:
    if p <= 0:
        return iv.zero
    if p >= 1:
        return iv.ninf
    return _log_below(k, n, _rates(p))


def log_binomial_sf(k: int, n: int, p: Number) -> Interval:
    """Bracket of ``ln P(Bin(n, p) ≥ k)`` — *at least* k; see :func:`log_binomial_cdf`.

    >>> x = log_binomial_sf(1_000_000, 1_000_000, 0.5)
    >>> lower(x) <= -1_000_000 * math.log(2) <= upper(x)
    True
    """
    k, n = _counts(k, n)
    p = _probability("p", p)
    if k == 0:
        return iv.zero
    low = _log_sf_at(k, n, p.a)
    return low if p.a == p.b else interval(low, _log_sf_at(k, n, p.b))


def _log_sf_at(k: int, n: int, p: Interval) -> Interval:
    if p <= 0:
        return iv.ninf
    if p >= 1:
        return iv.zero
    return _log_below(n - k, n, _rates(p).swapped())


def _kl_guess(q: float, c: float, side: float) -> float:
    """Float Newton for kl(q‖p) = c on one side of q (side = ±1); only ever a starting point."""
    spread = math.sqrt(2 * c * q * (1 - q)) + c
    p = min(max(q + side * min(spread, 0.5), q * 1e-300 if side < 0 else q), 1 - 1e-16)
    for _ in range(60):
        if not 0 < p < 1:
            return q
        value = q * math.log(q / p) if q > 0 else 0.0
        if q < 1:
            z = (p - q) / (1 - p)
            value += (1 - q) * (math.log1p(z) if z > -0.5 else math.log((1 - q) / (1 - p)))
        slope = (p - q) / (p * (1 - p))
        if slope == 0:
            return p
        step = (value - c) / slope
        following = p - step
        following = (p + q) / 2 if (following - q) * side <= 0 else following
        following = (p + 1) / 2 if following >= 1 else p / 2 if following <= 0 else following
        if abs(following - p) <= 2e-16 * p:
            return following
        p = following
    return p


def _radius(c: Number) -> Interval:
    if is_interval(c):
        if c < 0:
            raise InvalidEvidence(f"c = {c} is negative: no p has a negative kl")
    elif not c >= 0:
        raise InvalidEvidence(f"c = {c!r} must be ≥ 0")
    return enclose(c)


def kl_inverse_upper(q: Number, c: Number) -> float:
    """A float certainly ≥ ``sup{p ≥ q : kl(q‖p) ≤ c}``; 1.0 if no smaller one is certain.  Takes the worse ends of q and c.

    >>> kl_inverse_upper(0.0, iv.log(2))         # 1 − e^−c
    0.5000000000000001
    >>> kl_inverse_upper(0.1, 0.0), kl_inverse_upper(0.1, math.inf)
    (0.1, 1.0)
    """
    q, c = _probability("q", q).b, _radius(c).b
    start = upper(q)
    if _kl_at(q, enclose(start)) >= c:
        return start
    guess = _kl_guess(min(float(start), 1 - 1e-16), min(upper(c), 1e300), 1.0)
    return boundary(lambda p: bool(_kl_at(q, enclose(p)) >= c), 1.0, start, guess)


def kl_inverse_lower(q: Number, c: Number) -> float:
    """A float certainly ≤ ``inf{p ≤ q : kl(q‖p) ≤ c}``; 0.0 if no larger one is certain.

    >>> kl_inverse_lower(1.0, iv.log(2))         # e^−c
    0.49999999999999994
    """
    q, c = _probability("q", q).a, _radius(c).b
    start = lower(q)
    if _kl_at(q, enclose(start)) >= c:
        return start
    guess = _kl_guess(start, min(upper(c), 1e300), -1.0) if start > 0 else 0.0
    return boundary(lambda p: bool(_kl_at(q, enclose(p)) >= c), 0.0, start, guess)


def _log_confidence(log_delta: Number) -> Interval:
    value = enclose(log_delta)
    if value.a > 0:
        raise InvalidEvidence(f"log_delta = {log_delta} must be ≤ 0 (δ ≤ 1)")
    return value.a


def _secant(log_tail: Callable[[float], Interval], target: float, first: float, second: float) -> float:
    """Where ``log_tail`` meets target, by secants of √−log_tail, which is nearly linear; only ever a starting point."""

    def height(p: float) -> float:
        return math.sqrt(max(0.0, -lower(log_tail(p))))

    goal = math.sqrt(-target)
    x, y = first, second
    fx, fy = height(x) - goal, height(y) - goal
    for _ in range(12):
        if fy == fx or not math.isfinite(fy) or not math.isfinite(fx):
            return y
        z = y - fy * (y - x) / (fy - fx)
        if not 0 < z < 1 or abs(z - y) <= 4e-16 * y:
            return z
        x, fx, y = y, fy, z
        fy = height(y) - goal
    return y


def binomial_upper(k: int, n: int, log_delta: Number) -> float:
    """A float certainly ≥ the Clopper–Pearson upper limit ``sup{p : P(Bin(n, p) ≤ k) ≥ e^log_delta}``; 1.0 at k = n.

    Constants: exceeds the limit by a few units in the last place for n ≤ 1e9.  Source: Clopper and Pearson 1934.

    Raises InvalidEvidence for k outside [0, n], δ above 1, or NaN.

    >>> binomial_upper(0, 1, iv.log(0.25))       # 1 − δ^(1/n)
    0.7500000000000001
    """
    k, n = _counts(k, n)
    target = _log_confidence(log_delta)
    if k == n or not target > iv.ninf:
        return 1.0
    rate = enclose(k) / n
    guess = kl_inverse_upper(rate, -target / n)
    if k > 0 and guess < 1 and target < 0:
        gap = guess - k / n
        guess = _secant(lambda p: log_binomial_cdf(k, n, p), lower(target), guess, guess - 0.03 * gap)
    return boundary(lambda p: bool(_log_cdf_at(k, n, enclose(p)) < target), 1.0, 0.0, guess)


def binomial_lower(k: int, n: int, log_delta: Number) -> float:
    """A float certainly ≤ the Clopper–Pearson lower limit ``inf{p : P(Bin(n, p) ≥ k) ≥ e^log_delta}``; 0.0 at k = 0.

    >>> binomial_lower(1, 1, iv.log(0.25))       # δ^(1/n)
    0.24999999999999997
    """
    k, n = _counts(k, n)
    target = _log_confidence(log_delta)
    if k == 0 or not target > iv.ninf:
        return 0.0
    rate = enclose(k) / n
    guess = kl_inverse_lower(rate, -target / n)
    if k < n and guess > 0 and target < 0:
        gap = k / n - guess
        guess = _secant(lambda p: log_binomial_sf(k, n, p), lower(target), guess, guess + 0.03 * gap)
    return boundary(lambda p: bool(_log_sf_at(k, n, enclose(p)) < target), 0.0, 1.0, guess)
