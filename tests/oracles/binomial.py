"""Binomial tails and kl the slow way, at as many digits as asked for; shares no code with the package.

A private mpmath context is used, so nothing here depends on or changes ``mpmath.mp``.
"""

from __future__ import annotations

from fractions import Fraction
from math import comb
from typing import Any

from mpmath.ctx_mp import MPContext

DIGITS = 80

mp = MPContext()
mp.dps = DIGITS


def endpoints(x: Any) -> tuple[Any, Any]:
    """The two ends of an interval of the package, exactly."""
    a, b = x._mpi_
    return mp.make_mpf(a), mp.make_mpf(b)


def contains(x: Any, truth: Any) -> bool:
    a, b = endpoints(x)
    return bool(a <= truth <= b)


def width(x: Any) -> float:
    a, b = endpoints(x)
    return 0.0 if a == b else float(b - a)


def exact_cdf(k: int, n: int, p: float) -> Fraction:
    """P(Bin(n, p) ≤ k) as a fraction, by summing the definition."""
    p_exact = Fraction(p)
    return sum((comb(n, i) * p_exact**i * (1 - p_exact) ** (n - i) for i in range(k + 1)), Fraction(0))


def _real(x: Fraction) -> Any:
    return mp.mpf(x.numerator) / x.denominator


def log_fraction(x: Fraction) -> Any:
    if not x:
        return mp.ninf
    return mp.log1p(_real(x - 1)) if abs(x - 1) < 0.5 else mp.log(_real(x))


def log_pmf(k: int, n: int, p: Fraction) -> Any:
    choose = mp.loggamma(n + 1) - mp.loggamma(k + 1) - mp.loggamma(n - k + 1)
    return choose + k * log_fraction(p) + (n - k) * log_fraction(1 - p)


def _below(k: int, n: int, p: Fraction) -> Any:
    """P(≤ k)/P(= k), adding P(k − 1), P(k − 2), … until they no longer count; for k up to about the mean."""
    bits = 250  # of fixed point; 10^6 truncations leave far more than 60 digits
    ratio = (1 - p) / p / (n - k + 1)
    scaled = (ratio.numerator << bits) // ratio.denominator if ratio * k > Fraction(1, 2**100) else 0
    term = total = 1 << bits
    for i in range(k):
        term = (term * scaled * ((k - i) * (n - k + 1)) // (n - k + 1 + i)) >> bits
        total += term
        if not term:
            break
    return mp.ldexp(mp.mpf(total), -bits)


def log_cdf(k: int, n: int, p: float | Fraction) -> Any:
    """ln P(Bin(n, p) ≤ k), 0 < p < 1, 0 ≤ k < n."""
    p = Fraction(p)
    if k <= n * p:
        return log_pmf(k, n, p) + mp.log(_below(k, n, p))
    above = log_pmf(k + 1, n, p) + mp.log(_below(n - k - 1, n, 1 - p))
    return mp.log1p(-mp.exp(above))


def log_sf(k: int, n: int, p: float | Fraction) -> Any:
    """ln P(Bin(n, p) ≥ k), 0 < p < 1, 0 < k ≤ n."""
    return log_cdf(n - k, n, 1 - Fraction(p))


def kl(q: float | Fraction, p: float | Fraction) -> Any:
    q, p = Fraction(q), Fraction(p)
    if q == p:
        return mp.mpf(0)
    if p in (0, 1):
        return mp.inf
    first = _real(q) * log_fraction(q / p) if q else mp.mpf(0)
    return first + (_real(1 - q) * log_fraction((1 - q) / (1 - p)) if q < 1 else mp.mpf(0))
