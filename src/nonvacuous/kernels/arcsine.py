"""The arcsine near 0 as a short polynomial, for float32: multiplications are cheaper than a transcendental function."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

REACHES = tuple(0.05 * k for k in range(1, 11))
"""Largest arguments there are polynomials for; beyond the last they are no shorter than the function itself."""
_ERROR = 2.0**-26


@cache
def _coefficients(reach: float) -> tuple[float, ...]:
    grid = np.linspace(0, reach**2, 2001)[1:]
    exact = np.arcsin(np.sqrt(grid)) / np.sqrt(grid)
    for degree in range(1, 12):
        fitted = np.polynomial.Chebyshev.interpolate(_quotient, degree, domain=[0, reach**2])
        values = tuple(float(a) for a in fitted.convert(kind=np.polynomial.Polynomial).coef)
        if np.abs(np.polynomial.polynomial.polyval(grid, values) / exact - 1).max() < _ERROR:
            break
    return values


def _quotient(z: np.ndarray) -> np.ndarray:
    root = np.sqrt(np.maximum(z, 1e-12))
    return np.asarray(np.arcsin(root) / root)


def arcsine_coefficients(most: float) -> tuple[float, ...] | None:
    """a_0, a_1, … with arcsin c = c·Σ_j a_j c^(2j) for |c| ≤ ``most`` but for a relative 2⁻²⁶; None beyond 1/2.

    >>> a = arcsine_coefficients(0.3)
    >>> abs(0.25 * sum(a_j * 0.25 ** (2 * j) for j, a_j in enumerate(a)) / math.asin(0.25) - 1) < 2**-26
    True
    """
    reach = next((reach for reach in REACHES if most <= reach), None)
    return None if reach is None else _coefficients(reach)


def largest_arcsine(most: float) -> float:
    """Of a number up to ``most`` ≤ 1/2 in absolute value, with room for rounding."""
    return math.asin(most) * (1 + 1e-6)
