"""Bias and variance by capacity: the split against models whose parts are known, and the three families."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nonvacuous.core.errors import InvalidInput
from nonvacuous.studies.capacity import (
    Networks,
    Polynomials,
    Problem,
    Trees,
    capacity_curve,
    heteroscedastic,
    rise,
    split,
)


class Constant:
    """The mean of the targets."""

    name = "constant"

    def answers(self, x, y, at, capacity, seed):
        return np.repeat(y.mean(1, keepdims=True), len(at), axis=1)


def test_the_parts_of_a_constant_are_known() -> None:
    """y = x + σε: the mean of n targets has bias² E x² = 1/3 and variance (1/3 + σ²)/n, unbiased over many runs."""
    problem, n = Problem(lambda x: x, lambda x: np.full_like(x, 0.5)), 10
    found = [capacity_curve(Constant(), [1], problem=problem, n=n, refits=5, seed=seed)[0] for seed in range(300)]
    for values, truth in (
        ([f.bias for f in found], 1 / 3),
        ([f.variance for f in found], (1 / 3 + 0.25) / n),
        ([f.risk for f in found], 0.25 + 1 / 3 + (1 / 3 + 0.25) / n),
    ):
        assert abs(np.mean(values) - truth) <= 4 * np.std(values) / math.sqrt(len(found)) + 1e-5  # the grid's error
    assert all(f.noise == pytest.approx(0.25) for f in found)


@pytest.mark.parametrize("family", [Trees(), Polynomials()])
def test_the_parts_add_up(family) -> None:
    for s in capacity_curve(family, [1, 3, 7], refits=4, n=20):
        assert s.noise + s.bias + s.variance == pytest.approx(s.risk, rel=1e-9)
        assert s.answers.shape == (4, len(s.at)) and s.risks.shape == (4,)


def test_the_noise_is_heteroscedastic() -> None:
    problem = heteroscedastic()
    x, y = problem.draw(1, 200_000, 0)
    residual = (y - problem.mean(x.ravel()).reshape(x.shape)).ravel()
    for low in (-1.0, -0.2, 0.6):
        inside = residual[(x.ravel() >= low) & (x.ravel() < low + 0.4)]
        assert inside.std() == pytest.approx(math.hypot(0.35 + 0.3 * (low + 0.2), 0.3 * 0.4 / math.sqrt(12)), rel=0.02)
    assert capacity_curve(Trees(), [2], refits=2)[0].noise == pytest.approx(0.35**2 + 0.09 / 3, rel=1e-3)


def test_families_grow() -> None:
    x, y = heteroscedastic().draw(2, 30, 0)
    at = np.linspace(-1, 1, 200)
    for leaves in (1, 2, 5):
        assert all(len(np.unique(row)) == leaves for row in Trees().answers(x, y, at, leaves, 0))
    for i in range(2):
        by_hand = np.polyval(np.polyfit(x[i], y[i], 3), at)
        assert np.allclose(Polynomials().answers(x, y, at, 3, 0)[i], by_hand, atol=1e-8)
    assert Networks().rate(8) == Networks().rate(16) == 2 * Networks().rate(32) == Networks(reference=None).rate(32)


def test_polynomials_and_trees_overfit() -> None:
    curve = capacity_curve(Polynomials(), [1, 5, 15])
    assert curve[0].bias > 10 * abs(curve[1].bias) and curve[2].variance > 10 * curve[1].variance
    assert rise(curve).lower > 1
    assert rise(capacity_curve(Trees(), [1, 2, 4, 8, 40])).lower > 0


def test_a_network_learns_alone_what_it_learns_in_the_stack() -> None:
    x, y = heteroscedastic().draw(3, 20, 0)
    at = np.linspace(-1, 1, 7)
    few = Networks(steps=60)
    together, first = few.answers(x, y, at, 4, 0), few.answers(x[:1], y[:1], at, 4, 0)
    assert np.allclose(together[:1], first, atol=1e-3)


@pytest.mark.slow
def test_networks_do_not_overfit_with_width() -> None:
    curve = capacity_curve(Networks(), [1, 4, 16, 64, 256], refits=12)
    assert rise(curve).upper < 0.15 and curve[0].risk > 2 * curve[-1].risk
    assert curve[-1].variance < 2 * min(s.variance for s in curve[2:])


def test_what_cannot_be_split() -> None:
    for words in ({"capacities": []}, {"capacities": [0]}, {"capacities": [1], "refits": 1}, {"capacities": [1], "n": 0}):
        with pytest.raises(InvalidInput, match="at least"):
            capacity_curve(Trees(), **words)
    with pytest.raises(InvalidInput, match="not finite"):
        capacity_curve(Trees(), [2], problem=Problem(lambda x: x * math.nan, lambda x: x))
    with pytest.raises(InvalidInput, match="two refits"):
        split(heteroscedastic(), np.zeros((1, 3)), np.zeros(3), 1)
    with pytest.raises(InvalidInput, match="two capacities"):
        rise(capacity_curve(Trees(), [2], refits=2))
    with pytest.raises(InvalidInput, match="diverged"):
        Networks(steps=30, learning_rate=1e30).answers(np.zeros((1, 4)), np.ones((1, 4)), np.zeros(2), 2, 0)
