"""The one infinite-looking sum behind every binomial tail, in float64 with its rounding counted.

``S = Σ_{j≥0} Π_{i<j} θ·(a − i)/(b + i)`` for integers ``0 ≤ a``, ``b ≥ 1`` and ``θ > 0`` with first ratio ``θ·a/b ≤ 1``.
Ratios decrease, and the sum ends at ``j = a``.  With ``a = k``, ``b = n − k + 1`` it is ``P(Bin ≤ k)/P(Bin = k)`` for
``θ = (1 − p)/p``, and ``Σ_{i≤k} C(n, i)/C(n, k)`` for θ = 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nonvacuous.numerics.interval import Interval, enclose, interval, iv, upper

UNIT = 2.0**-52
"""Relative error of one float64 operation, in any IEEE rounding direction (to nearest it is half of this)."""

MAX_TERMS = 2**20
"""Terms summed one by one; beyond, the geometric series with the next ratio bounds the rest."""

FIRST_BLOCK = 64
ROUNDINGS_PER_RATIO = 6  # θ to float (2: one unit either way, doubled), quotient, product with θ, cumulative product, carry
UNDERFLOW = 2.0**-900  # a product below 2^-1022 loses at most 2^-1022 (even flushed to zero); at most 2^20·2^20 such losses
SLACK = 1.001  # (1 + u)^m ≤ 1 + 1.001·m·u and 1/(1 − u)^m likewise while m·u < 1e-4; here m ≤ 7·2^20


def _pairwise_sum(x: NDArray[np.float64]) -> float:
    """Sum of nonnegative numbers by halving: each passes through at most ⌈log2 len⌉ additions."""
    while x.size > 1:
        half = x.size // 2
        folded = x[:half] + x[half : 2 * half]
        if x.size % 2:
            folded[0] += x[-1]
        x = folded
    return float(x[0])


def tail_series(a: int, b: int, theta: Interval) -> Interval:
    """Rigorous bracket of S above.

    Constants: with terms t_j (j ≥ 1) computed as cumulative products, the true t_j is within ``6·j·2^-52`` of them
    relatively, so the error of S is at most that times ``Σ j t_j``, itself computed alongside; the sums add
    ``2·(log2(J) + blocks)·2^-52``; what is left out is at most ``t_J·r/(1 − r)`` with r the next ratio, since ratios
    decrease.

    Source: the ratio bound is the classical one (e.g. Feller 1968, VI.3); the error count is standard (Higham 2002, ch. 3–4).

    >>> from nonvacuous.numerics.interval import lower
    >>> s = tail_series(2, 1, enclose(1) / 2)     # 1 + 2/2·1 + (2/2·1)(1/2·1/2) = 2.25
    >>> lower(s) <= 2.25 <= upper(s) and upper(s) - lower(s) < 1e-13
    True
    """
    if a == 0:
        return iv.one
    first = theta * a / b
    if first < UNDERFLOW:
        return interval(1, 1 / (1 - first))
    float_theta = upper(theta)
    total = moment = 0.0
    carry, start, size, roundings = 1.0, 0, FIRST_BLOCK, 0
    limit = min(a, MAX_TERMS)
    while True:
        size = min(size, limit - start)
        i = np.arange(start, start + size, dtype=np.float64)
        with np.errstate(all="ignore"):  # a caller's seterr must not turn a counted underflow into an exception
            terms = (a - i) / (b + i)
            terms *= float_theta
            terms[0] *= carry
            np.cumprod(terms, out=terms)
            total += _pairwise_sum(terms)
            moment += _pairwise_sum(terms * (i + 1.0))
        carry = float(terms[-1])
        start += size
        roundings += 2
        if start == limit or carry * start < 1e-18 * total or carry == 0.0:
            break
        ratio = (a - start) / (b + start) * float_theta
        if carry * ratio < 1e-17 * total * (1.0 - ratio):
            break
        size = start
    roundings += 2 * start.bit_length()
    drift = enclose(moment) * (ROUNDINGS_PER_RATIO * SLACK * (1.0 + 1e-9) * UNIT)
    sums = enclose(total) * (roundings * SLACK * UNIT)
    error = drift + sums + UNDERFLOW
    low, high = 1 + (total - error), 1 + (total + error)
    if start < a:
        ratio_bound = theta * (a - start) / (b + start)
        last = carry * (1 + enclose(start) * (ROUNDINGS_PER_RATIO * SLACK * UNIT)) + UNDERFLOW
        high = high + last * ratio_bound / (1 - ratio_bound) if ratio_bound < 1 else iv.inf
    return interval(low if low > 1 else 1, high)
