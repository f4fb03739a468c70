"""Factorials, binomial coefficients, sums of them, and long products, as brackets of their logarithms.

Nothing here underflows or overflows, and no logarithm comes from the C library.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.numerics.interval import Interval, Number, enclose, hull, interval, iv, lower
from nonvacuous.numerics.series import UNIT, tail_series

MAX_COUNT = 2**53
"""Largest n: counts must be exact in float64."""

EXACT_FACTORIALS = 128
STIRLING = ((1, 12), (-1, 360), (1, 1260), (-1, 1680), (1, 1188), (-691, 360360), (1, 156), (-3617, 122400), (43867, 244188))
"""B_2m/(2m(2m−1)), m = 1, 2, …: coefficients of n^(1−2m) in ln n! − (n + ½) ln n + n − ½ ln 2π."""

TINY = 2.0**-60


def checked_count(name: str, value: int, most: int = MAX_COUNT) -> int:
    """value as a Python int, or InvalidEvidence if it is not an integer in [0, most]."""
    try:
        count = value.__index__()
    except AttributeError:
        raise InvalidEvidence(f"{name} = {value!r} must be an integer, not {type(value).__name__}") from None
    if not 0 <= count <= most:
        raise InvalidEvidence(f"{name} = {count} must lie between 0 and {most}")
    return count


def log1p(x: Number) -> Interval:
    """ln(1 + x) for x ≥ −1, to about 60 bits *relative* accuracy however small x is.

    For |x| < 2^-60 it is ``2 atanh(u)``, ``u = x/(2 + x)``, which lies between 2u and ``2u(1 + u²)``.

    >>> from nonvacuous.numerics.interval import upper
    >>> lower(log1p(-1e-300)), upper(log1p(-1e-300))
    (-1.0000000000000002e-300, -1e-300)
    """
    x = enclose(x)
    if x > -TINY and x < TINY:
        u = x / (2 + x)
        return 2 * u * interval(1, 1 + u * u)
    return iv.log(1 + x)


def log1m_exp(x: Number) -> Interval:
    """ln(1 − e^x) for x ≤ 0; ``1 − e^x`` is a probability, so what rounding puts above x = 0 is cut off.

    >>> from nonvacuous.numerics.interval import upper
    >>> lower(log1m_exp(iv.log(0.25))) <= math.log(0.75) <= upper(log1m_exp(iv.log(0.25)))
    True
    """
    probability = iv.exp(x)
    return interval(log1p(-probability.b) if probability.b < 1 else iv.ninf, log1p(-probability.a))


def log_sum_exp(xs: Iterable[Number]) -> Interval:
    """ln Σ e^x; −∞ for no terms.

    >>> from nonvacuous.numerics.interval import upper
    >>> upper(log_sum_exp([-1e6 * math.log(2)] * 4) + 1e6 * math.log(2)) - math.log(4) < 1e-15
    True
    """
    terms = [x for x in map(enclose, xs) if x.b > iv.ninf]
    if not terms:
        return iv.ninf
    peak = hull(*terms).b
    if not peak < iv.inf:
        return interval(max((x.a for x in terms), key=lower), iv.inf)
    total = iv.zero
    for x in terms:
        total = total + iv.exp(x - peak)
    return peak + iv.log(total)


@lru_cache(maxsize=4096)
def _log_factorial(n: int) -> Interval:
    if n <= EXACT_FACTORIALS:
        return iv.log(math.factorial(n))
    x = enclose(n)
    inverse_square = 1 / (x * x)
    series = iv.zero
    for numerator, denominator in reversed(STIRLING[:-1]):
        series = series * inverse_square + enclose(numerator) / denominator
    omitted = enclose(STIRLING[-1][0]) / STIRLING[-1][1] * inverse_square ** (len(STIRLING) - 1)
    error = (series + hull(0, omitted)) / x
    return (x + 0.5) * iv.log(x) - x + iv.log(2 * iv.pi) / 2 + error


def log_factorial(n: int) -> Interval:
    """ln n!, 0 ≤ n ≤ 2^53, to within a few 2^-120 of itself.

    Exact integer factorial up to 128; above it Stirling's series, whose error lies between 0 and the first term left out
    (the series is enveloping for n > 0; Robbins 1955 is the first bracket of it).  Here that term is below 1e-36.

    >>> from nonvacuous.numerics.interval import upper
    >>> lower(log_factorial(10)) <= math.log(3628800) <= upper(log_factorial(10))
    True
    """
    return _log_factorial(checked_count("n", n))


@lru_cache(maxsize=4096)
def _log_coefficient(n: int, k: int) -> Interval:
    if min(k, n - k) <= 8:
        return iv.log(math.comb(n, k))
    return _log_factorial(n) - _log_factorial(k) - _log_factorial(n - k)


def log_binomial_coefficient(n: int, k: int) -> Interval:
    """ln C(n, k), 0 ≤ k ≤ n ≤ 2^53.

    >>> from nonvacuous.numerics.interval import upper
    >>> lower(log_binomial_coefficient(5, 2)) <= math.log(10) <= upper(log_binomial_coefficient(5, 2))
    True
    """
    n = checked_count("n", n)
    return _log_coefficient(n, checked_count("k", k, n))


def log_sum_binomials(n: int, d: int) -> Interval:
    """ln Σ_{i≤d} C(n, i): the Sauer–Shelah bound on the growth of a class of VC dimension d; ``n ln 2`` for d ≥ n.

    Constants: none; up to d ≤ n/2 it is ``ln C(n, d)`` plus the log of a series of ratios, above it 2^n less the other side.
    Source: Sauer 1972, Shelah 1972.  Relative error of the sum below 1e-8 while √n ≤ 1e5, one-sided looser above.

    >>> from nonvacuous.numerics.interval import upper
    >>> lower(log_sum_binomials(4, 1)) <= math.log(5) <= upper(log_sum_binomials(4, 1))
    True
    """
    n, d = checked_count("n", n), checked_count("d", d)
    whole = iv.ln2 * n
    if d >= n:
        return whole
    if 2 * d <= n:
        total = _log_coefficient(n, d) + iv.log(tail_series(d, n - d + 1, iv.one))
        return interval(total, total if total < whole else whole)
    rest = _log_coefficient(n, n - d - 1) + iv.log(tail_series(n - d - 1, d + 2, iv.one))
    return whole + log1m_exp(rest - whole)


def positive_product(factors: ArrayLike, relative_error: float = 0.0) -> Interval:
    """Bracket of ln Π f for factors each known as a float64 within ``relative_error`` (of the true factor or of the float).

    Mantissas are multiplied in float64 in any order, each of the N − 1 products off by at most 2^-52 relatively (any rounding
    direction), and exponents are added as integers, so nothing overflows: the log is within
    ``−(N − 1) ln(1 − 2^-52) − N ln(1 − relative_error)``.  Takes N up to 2^40.  ln of an empty product is 0.

    Raises InvalidEvidence for a factor that is not finite and positive, or an error outside [0, 1).

    >>> from nonvacuous.numerics.interval import upper
    >>> x = positive_product([1e-300] * 1000)
    >>> lower(x) <= 1000 * math.log(1e-300) <= upper(x) and upper(x) - lower(x) < 1e-9
    True
    """
    values = np.asarray(factors, dtype=np.float64).ravel()
    if not (values > 0).all() or not np.isfinite(values).all():
        raise InvalidEvidence("every factor must be finite and positive; use the log domain for what underflowed to 0")
    if not 0 <= relative_error < 1:
        raise InvalidEvidence(f"relative_error = {relative_error!r} must lie in [0, 1)")
    count = values.size
    exponent, block = 0, 512
    while values.size:
        mantissas, exponents = np.frexp(values)
        exponent += int(exponents.sum(dtype=np.int64))
        if mantissas.size == 1:
            values = mantissas
            break
        rows = min(block, mantissas.size)
        columns = -(-mantissas.size // rows)
        padded = np.ones(rows * columns)
        padded[: mantissas.size] = mantissas
        values = np.multiply.reduce(padded.reshape(rows, columns), axis=0)  # at least 2^-512: no underflow
    if not count:
        return iv.zero
    error = -log1p(-UNIT) * (count - 1) - log1p(-enclose(relative_error)) * count
    return iv.log(float(values[0])) + iv.ln2 * exponent + interval(-error, error)
