"""Logarithms of upper bounds, rounded up: products of hundreds of factors neither overflow nor vanish."""

from __future__ import annotations

import math

CONSTANT = -math.inf
"""Of a result that does not depend on the input."""


def up(x: float) -> float:
    """Above a float and the rounding errors of a few operations that made it."""
    return x + 1e-15 * (1 + abs(x))


def log_of(value: float) -> float:
    """ln, rounded up; −∞ of 0."""
    return up(math.log(value)) if value > 0 else CONSTANT


def log_sum(first: float, second: float) -> float:
    """ln(eᵃ + eᵇ), rounded up."""
    low, high = min(first, second), max(first, second)
    return high if low == CONSTANT or high == math.inf else up(high + math.log1p(math.exp(low - high)))


def log_hypot(first: float, second: float) -> float:
    """ln √(e²ᵃ + e²ᵇ), rounded up."""
    return up(log_sum(2 * first, 2 * second) / 2) if first > CONSTANT or second > CONSTANT else CONSTANT


def total(*logs: float) -> float:
    """Sum of logarithms, rounded up; −∞ wins."""
    return CONSTANT if CONSTANT in logs else up(math.fsum(logs)) if math.inf not in logs else math.inf


def safe_exp(x: float) -> float:
    """eˣ, rounded up; ∞ where it overflows, and never 0 for a finite x."""
    if x > 709.0:
        return math.inf
    return 0.0 if x == CONSTANT else max(5e-324, math.exp(x) * (1 + 1e-12))
