"""Sample compression: the published formula, exact and simulated coverage, and what would be false."""

from __future__ import annotations

from math import comb, log

import numpy as np
import pytest
from scipy import stats
from scipy.special import betainc

from nonvacuous.bounds.sample_compression import PickToLearnBound, SampleCompressionBound
from nonvacuous.numerics.interval import iv, upper
from nonvacuous.numerics.tails import log_binomial_cdf


def published(k: int, n: int, delta: float) -> float:
    """The corrected formula of Pick-to-Learn, by bisection in floating point."""
    low, high = k / n, 1.0
    while high - low > 1e-12:
        t = (low + high) / 2
        left = delta / 3 * betainc(k + 1, n - k, t) + delta / 6 * betainc(k + 1, 4 * n + 1 - k, t)
        right = (1 + delta / 6 / n) * t * n * (betainc(k, n - k + 1, t) - betainc(k + 1, n - k, t))
        low, high = (low, t) if left > right else (t, high)
    return high


def test_the_published_number_of_mnist_and_that_one_side_costs_less() -> None:
    assert published(326, 24_000, 0.01) == pytest.approx(0.0167, abs=5e-5)
    for k, n, delta in [(326, 24_000, 0.01), (1, 50, 0.05), (30, 100, 0.2), (6_000, 60_000, 0.05)]:
        ours = PickToLearnBound().solve(PickToLearnBound.Evidence(k, 1, n), delta)
        assert 0.85 * published(k, n, delta) < ours <= published(k, n, delta)


@pytest.mark.parametrize(("k", "n", "delta"), [(0, 5, 0.3), (3, 20, 0.05), (12, 30, 0.5), (29, 30, 0.05)])
def test_the_tails_are_the_sum_of_the_theorem(k: int, n: int, delta: float) -> None:
    v = PickToLearnBound().solve(PickToLearnBound.Evidence(k, 1, n), delta)
    average = sum(comb(m, k) / comb(n, k) * (1 - v) ** (m - n) for m in range(k, n)) / n
    assert average == pytest.approx(1 / delta, rel=1e-9)


@pytest.mark.parametrize("n", [5, 20, 45])
@pytest.mark.parametrize("delta", [0.5, 0.05])
def test_the_k_largest_numbers_are_a_compression_and_are_covered_exactly(n: int, delta: float) -> None:
    """c(U) = the k largest of uniform numbers; a new one changes it with probability 1 − the k-th largest, whose law is known."""
    for k in range(1, n, 1 + n // 12):
        v = PickToLearnBound().solve(PickToLearnBound.Evidence(k, 1, n), delta)
        assert upper(log_binomial_cdf(k - 1, n, v)) <= log(delta)


def picked(x: np.ndarray, wrong_below: np.ndarray, rounds: int, start: int) -> tuple[int, float]:
    """Pick-to-Learn on a line with labels that are noise below 0.3 and the side of 0.6 above; (compression size, true risk).

    The classifier is a threshold halfway between the largest picked 0 and the smallest picked 1 above 0.3, ignoring the noise.
    """
    y = np.where(x < 0.3, wrong_below, x > 0.6)
    picks = np.zeros(len(x), bool)
    picks[:start] = True
    for turn in range(rounds + 1):
        zeros, ones = x[picks & ~y & (x >= 0.3)], x[picks & y & (x >= 0.3)]
        threshold = (max(zeros, default=0.3) + min(ones, default=1.0)) / 2
        wrong = ((x > threshold) != y) & ~picks
        if turn == rounds or not wrong.any():
            return int(picks.sum() + wrong.sum()), 0.15 + abs(threshold - 0.6)
        picks[np.flatnonzero(wrong)[:2]] = True
    raise AssertionError


@pytest.mark.parametrize(("delta", "stops"), [(0.2, 1), (0.9, 1), (0.9, 3)])
def test_pick_to_learn_is_covered_and_the_simulation_has_teeth(delta: float, stops: int) -> None:
    """n = 25; the best of ``stops`` stopping times, each paid for."""
    n, repeats = 25, 3_000
    generator = np.random.default_rng(0)
    bound = PickToLearnBound()
    value = [bound.solve(bound.Evidence(k, stops, n), delta) for k in range(n + 1)]
    missed = 0
    for _ in range(repeats):
        x, noise = generator.random(n), generator.random(n) < 0.5
        outcomes = [picked(x, noise, rounds, start=3) for rounds in range(3, 3 + stops)]
        size, risk = max(outcomes, key=lambda outcome: outcome[1] - value[outcome[0]])  # the adversary chooses
        missed += value[size] < risk
    assert stats.binomtest(missed, repeats, delta, alternative="greater").pvalue > 1e-6
    if delta == 0.9 and stops == 1:
        assert missed, "the simulation has teeth"


def test_a_memoriser_that_compresses_nothing_gets_nothing() -> None:
    bound = PickToLearnBound()
    assert bound.solve(bound.Evidence(50, 1, 50), 0.05) == 1.0
    classical = SampleCompressionBound()
    assert classical.solve(classical.Evidence(50, 0, 50), 0.05) == 1.0


def test_a_learner_without_preference_breaks_the_bound() -> None:
    """Compress to nothing whatever is seen, and be wrong on what is not: size 0, true risk 1, and the bound says 4 %."""
    bound = PickToLearnBound()
    assert bound.solve(bound.Evidence(0, 1, 100), 0.05) < 0.05
    assert [h.name for h in bound.hypotheses] == ["iid", "preference"]


def test_the_classical_union_is_exact_for_one_example() -> None:
    """The worst of all C(n, 1) subsets at k = 1: the union bound over them, by hand."""
    n, e, delta = 40, 2, 0.1
    value = SampleCompressionBound().solve(SampleCompressionBound.Evidence(1, e, n), delta)
    assert stats.binom.cdf(e, n - 1, value) == pytest.approx(delta / n / n, rel=1e-6)
    assert iv.mpf(value) > 0
