"""Betting against a mean: stakes that look only at the past, and the capital they end with."""

from __future__ import annotations

from typing import Any

import numpy as np

from nonvacuous.numerics.interval import Interval
from nonvacuous.numerics.logdomain import positive_product

LARGEST_BET = 0.9


def bets(losses: np.ndarray[Any, Any], confidence: float) -> np.ndarray[Any, Any]:
    """The stake on each loss, from the losses before it only, in [0, LARGEST_BET].

    With s = √(2 ln(1/δ) / (n v)) and v the variance so far (prior guess: one observation at ½ with variance ¼), the stake is
    s / (1 + 2s/3): to second order the Kelly stake of rare losses. Any predictable rule is sound; this one is near the best.
    """
    n = len(losses)
    count = np.arange(1, n + 1, dtype=np.float64)
    mean = (0.5 + np.cumsum(losses)) / (count + 1)
    variance = (0.25 + np.cumsum((losses - mean) ** 2)) / (count + 1)
    before = np.concatenate(([0.25], variance[:-1]))
    scale = np.sqrt(2.0 * confidence / (n * before))
    return np.minimum(scale / (1.0 + scale * (2.0 / 3.0)), LARGEST_BET)


def log_capital(losses: np.ndarray[Any, Any], stakes: np.ndarray[Any, Any], price: float) -> Interval:
    """Bracket of ln Πᵢ (1 + λᵢ(price − ℓᵢ)) for losses [n] and a price in [0, 1], stakes [n] in [0, LARGEST_BET]."""
    # Three roundings of quantities ≤ 1 against a factor ≥ 0.1: a relative error below 2^-48.
    return positive_product(1.0 + stakes * (price - losses), 2.0**-48)
