"""The shallow bound: its lemma in interval arithmetic, the factor 2 refuted, and the inequality behind it by simulation."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
import pytest
from scipy.stats import norm

from nonvacuous.bounds.pac_bayes import SeegerBound
from nonvacuous.bounds.shallow import SKEW, ShallowBound
from nonvacuous.numerics.interval import interval, iv

KAPPA = SKEW[0] / SKEW[1]


def deficit(low: float, high: float) -> float:
    """Upper end of (φ(0)t − (Φ(t) − ½))/t² over [low, high]: Φ by its alternating series in intervals."""
    t = interval(low, high)
    x = t / iv.sqrt(2)
    term, total = x, x
    for k in range(1, 120):
        term = -term * x * x / k
        total = total + term / (2 * k + 1)
    half = total / iv.sqrt(iv.pi)  # Φ(t) − ½
    return float(((t / iv.sqrt(2 * iv.pi) - half) / (t * t)).b)


def test_the_lemma_holds_on_its_middle_part() -> None:
    """Point values by intervals, and a slope bound of 1 between them: |d/dt| ≤ 2φ(0)/t + φ(0)/t² · … < 1 for t ≥ 1.2."""
    step = 1e-4
    grid = 1.2 + step * np.arange(int(3.8 / step) + 1)
    values = (norm.pdf(0) * grid - (norm.cdf(grid) - 0.5)) / grid**2
    slopes = (norm.pdf(0) - norm.pdf(grid)) / grid**2 - 2 * values / grid
    assert np.abs(slopes).max() < 0.1  # so that between grid points nothing exceeds the values by more than 1e-5
    assert 0.0809 < values.max() < KAPPA - 1e-5
    peak = grid[values.argmax()]
    assert deficit(peak, peak) < KAPPA
    assert norm.pdf(0) * 1.2 / 6 < KAPPA and norm.pdf(0) / 5 < KAPPA  # the two ends, as in the proof


def test_with_little_noise_ratio_it_is_twice_seegers_bound() -> None:
    e = ShallowBound.Evidence(0.1, 200.0, 0.0, 60_000)
    assert ShallowBound().solve(e, 0.05) == pytest.approx(
        2 * SeegerBound().solve(SeegerBound.Evidence(0.1, 200.0, 60_000), 0.05), rel=1e-9
    )


def chance_of_error(means: np.ndarray, weights: np.ndarray) -> float:
    """P(⟨a, s⟩ + √2 g ≥ 0) for independent signs s of these means: the sum over all patterns."""
    total = 0.0
    for bits in np.ndindex(*[2] * len(means)):
        signs = 2 * np.array(bits) - 1
        total += float(np.prod((1 + signs * means) / 2)) * float(norm.cdf(weights @ signs / sqrt(2)))
    return total


def test_the_published_factor_two_is_refuted() -> None:
    """The fixed network errs, and the random one does less often than every other time."""
    means, weights = np.array([1.0, -0.8]), np.array([0.8, 1.0])
    assert weights @ means >= 0
    wrong = chance_of_error(means, weights)
    assert wrong < 0.5 - 1e-3
    assert wrong >= 0.5 - KAPPA * float(weights @ weights) / 2
    assert abs(erf(3.8) - 1.0) < 1e-7  # such means are reached: erf saturates


def test_the_corrected_inequality_holds_for_random_weights() -> None:
    generator = np.random.default_rng(0)
    worst = 1.0
    for _ in range(300):
        means = generator.uniform(-1, 1, 5)
        weights = generator.normal(size=5) * generator.choice([0.3, 1.0, 3.0])
        if weights @ means < 0:
            weights = -weights
        weights[0] -= (weights @ means) / means[0]  # a tie: the least favourable
        floor = 0.5 - KAPPA * float(weights @ weights) / 2
        slack = chance_of_error(means, weights) - floor
        assert slack >= 0
        worst = min(worst, slack)
    assert worst < 0.05, "the inequality is used near its limit"


def test_a_large_noise_ratio_promises_nothing() -> None:
    assert ShallowBound().solve(ShallowBound.Evidence(0.0, 0.0, 6.2, 60_000), 0.05) == 1.0
