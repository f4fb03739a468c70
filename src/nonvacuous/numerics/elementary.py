"""Logarithm, exponential and square root of an exact dyadic rational, bracketed by integers.

mpmath rounds ``+ - * /`` exactly in the direction asked for, but its ``log`` and ``exp`` round a value that is itself only
approximate (a few units 20 or 14 bits below the last place), so about one call in a million is rounded to the wrong
side (``mpmath.iv.log(2**664153)`` at 53 bits is one);
and they read a memo of ln 2 that two threads working at different precisions can corrupt.  Here both functions are written in
integers, with the error counted, from constants computed once at import.  Every function takes ``m·2^e`` exactly and returns a
:class:`Bracket` ``lower·2^exponent ≤ f(m·2^e) ≤ upper·2^exponent``.

All errors below are counted in *units*: one unit is ``2^-w`` where ``w`` is the working number of fractional bits.
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

CONSTANT_BITS = 256
"""Fractional bits of the stored constants."""

GUARD_BITS = 40
"""Fractional bits carried beyond the precision asked for."""

MAX_PRECISION = CONSTANT_BITS - GUARD_BITS - 16


class Bracket(NamedTuple):
    """``lower·2^exponent ≤ value ≤ upper·2^exponent``, in integers."""

    lower: int
    upper: int
    exponent: int


def _atanh(numerator: int, denominator: int, bits: int) -> tuple[int, int]:
    """``(s, error)`` with ``|atanh(t) − s·2^-bits| ≤ error·2^-bits`` for ``t = numerator/denominator``, ``|t| ≤ 1/3``.

    The truncated ``t`` is off by less than 1 unit, its square by less than ``2/3 + 1 + small < 1.7``.  If a power is off by
    ``ε`` the next one is off by less than ``ε/9 + 1.7·|t^k| + 1``: at most 1.7 for ``t³`` and less afterwards.  Dividing by
    ``k ≥ 3`` and truncating leaves each term after the first off by less than ``1.7/3 + 1 < 1.6``; there are ``(k − 1)/2`` of
    them.  Once a computed power is 0 or −1 the true one is below 2.7 units, and the terms left out sum to less than
    ``(2.7/3)·(9/8) < 1.1``.  Together below ``1 + 0.8·k + 1.1``.
    """
    t = (numerator << bits) // denominator
    square = (t * t) >> bits
    total = power = t
    k = 1
    while True:
        power = (power * square) >> bits
        if power in (0, -1):
            return total, 2 * k + 5
        k += 2
        total += power // k


def _atan_inverse(x: int, bits: int) -> tuple[int, int]:
    """``(s, error)`` with ``|atan(1/x) − s·2^-bits| ≤ error·2^-bits``, ``x ≥ 2`` an integer (alternating series)."""
    power = (1 << bits) // x
    total, k, sign = power, 1, 1
    while power:
        power //= x * x
        k, sign = k + 2, -sign
        total += sign * (power // k)
    return total, 2 * k + 2


def _constants(bits: int) -> tuple[int, int, tuple[int, ...]]:
    """ln 2, π and ln(j/64) for 48 ≤ j ≤ 96: the integer c stored for x satisfies ``−1 < x·2^bits − c < 2``.

    Sources: ln 2 = 2 atanh(1/3); Machin's π = 16 atan(1/5) − 4 atan(1/239); ln(j/64) = 2 atanh((j−64)/(j+64)).
    """
    guard = 32
    work = bits + guard

    def rounded(value: int, error: int) -> int:
        assert error < 1 << (guard - 1)
        return value >> guard

    half, error = _atanh(1, 3, work)
    ln2 = rounded(2 * half, 2 * error)
    a, a_error = _atan_inverse(5, work)
    b, b_error = _atan_inverse(239, work)
    pi = rounded(16 * a - 4 * b, 16 * a_error + 4 * b_error)
    table = []
    for j in range(_TABLE_START, _TABLE_END + 1):
        value, error = _atanh(j - 64, j + 64, work)
        table.append(rounded(2 * value, 2 * error))
    return ln2, pi, tuple(table)


_TABLE_START, _TABLE_END = 48, 96
_LN2, _PI, _LOG_TABLE = _constants(CONSTANT_BITS)


def pi() -> Bracket:
    """π within two units of 2^-256."""
    return Bracket(_PI - 1, _PI + 2, -CONSTANT_BITS)


def ln2() -> Bracket:
    """ln 2 within two units of 2^-256."""
    return Bracket(_LN2 - 1, _LN2 + 2, -CONSTANT_BITS)


def log(mantissa: int, exponent: int, precision: int) -> Bracket:
    """ln(mantissa·2^exponent), mantissa > 0, with relative width below ``2^-precision``.

    Write ``x = 2^e·m`` with ``m ∈ [3/4, 3/2)`` and let ``c = j/64`` be nearest to ``m``; then
    ``ln x = e ln 2 + ln c + 2 atanh((m − c)/(m + c))`` where the last argument is exact and below 1/190.  Error: the stored
    constants, truncated to w bits, are off by less than 2 units, hence ``2|e| + 2``, and twice that of the series.  If
    ``e = 0`` and ``c = 1`` the constants are not used and the working precision grows by the bits that cancel.
    """
    assert mantissa > 0 and precision <= MAX_PRECISION
    scale = mantissa.bit_length()
    if 4 * mantissa < 3 << scale:
        scale -= 1
    e = exponent + scale
    distance = mantissa - (1 << scale)
    if e == 0 and distance == 0:
        return Bracket(0, 0, 0)
    j = ((mantissa << 7) + (1 << scale)) >> (scale + 1)
    bits = precision + GUARD_BITS
    total = error = 0
    if e == 0 and j == 64:
        bits += scale - distance.bit_length()
    else:
        total = e * (_LN2 >> (CONSTANT_BITS - bits)) + (_LOG_TABLE[j - _TABLE_START] >> (CONSTANT_BITS - bits))
        error = 2 * abs(e) + 2
    center = j << scale
    series, series_error = _atanh((mantissa << 6) - center, (mantissa << 6) + center, bits)
    total += 2 * series
    error += 2 * series_error
    return Bracket(total - error, total + error, -bits)


UNBOUNDED = -1
"""The ``upper`` of a bracket whose upper end is infinite."""

_EXP_LIMIT_BITS = 64
_HALVINGS = 8


def exp(mantissa: int, exponent: int, precision: int) -> Bracket:
    """e^x for x = mantissa·2^exponent, with relative width below ``2^-precision`` while |x| < 2^64.

    ``x = n ln 2 + r`` with ``0 ≤ r < ln 2`` (to within a unit), ``e^r = (e^{r/256})^{256}``.  The Taylor sum of
    ``y = e^{r/256}`` (r/256 < 1/300) with K terms is off by at most K + 4 units: each truncated term is off by less than 1.1
    and those left out sum to less than 2.  The reduction moves r/256, and so the relative error of y, by at most 2.  One
    squaring turns a relative error of d units into at most ``2d + 2`` (truncation is below one unit, and y ≥ 1); eight turn
    K + 6 into at most 256·(K + 8), of a value at most 2 (1 + small).  Beyond |x| ≥ 2^64 the bracket is ``[0, 2^-2^64]``, or
    ``[2^2^64, ∞)`` with ``upper`` = :data:`UNBOUNDED`.
    """
    assert precision <= MAX_PRECISION - _EXP_LIMIT_BITS
    if mantissa == 0:
        return Bracket(1, 1, 0)
    magnitude = abs(mantissa).bit_length() + exponent
    if magnitude > _EXP_LIMIT_BITS:
        return Bracket(1, UNBOUNDED, 1 << _EXP_LIMIT_BITS) if mantissa > 0 else Bracket(0, 1, -(1 << _EXP_LIMIT_BITS))
    bits = precision + GUARD_BITS
    work = bits + max(magnitude, 0)
    shift = exponent + work
    x = mantissa << shift if shift >= 0 else mantissa >> -shift
    n, r = divmod(x, _LN2 >> (CONSTANT_BITS - work))
    r >>= work - bits + _HALVINGS
    total = power = 1 << bits
    k = 0
    while power:
        k += 1
        power = (power * r) // (k << bits)
        total += power
    for _ in range(_HALVINGS):
        total = (total * total) >> bits
    error = (k + 9) << (_HALVINGS + 2)
    return Bracket(total - error, total + error, n - bits)


def sqrt(mantissa: int, exponent: int, precision: int) -> Bracket:
    """√(mantissa·2^exponent), mantissa ≥ 0: the integer root, exact when the square root is."""
    assert mantissa >= 0
    shift = max(0, 2 * (precision + 2) - mantissa.bit_length())
    shift += (exponent - shift) & 1
    root = isqrt(mantissa << shift)
    return Bracket(root, root + (root * root != mantissa << shift), (exponent - shift) // 2)
