"""Linear, kernel and Frobenius-norm bounds: values at 50 digits, true complexities below the closed forms, memorisers, depth."""

from __future__ import annotations

from math import exp, inf, isfinite, log, sqrt

import numpy as np
import pytest
from tests.oracles import margins as oracle

from nonvacuous.bounds.rademacher import GolowichBound, LinearMarginBound, depth_factor, log_power_of_depth
from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.numerics.interval import upper

golowich, linear = GolowichBound(), LinearMarginBound()


@pytest.mark.parametrize(
    "evidence",
    [
        (0.0, 1.0, 0.0, 1.0, 3, 2, 10**6),
        (0.05, 2.5, 3.0, 0.7, 5, 10, 10**9),
        (0.1, 1e-3, -8.0, 1.0, 20, 2, 10**7),
        (0.0, 1.0, -50.0, 3.0, 2, 3, 10**5),
    ],
)
def test_golowich_equals_the_formula_at_fifty_digits(evidence):
    assert golowich.solve(golowich.Evidence(*evidence), 0.05) == pytest.approx(
        float(oracle.golowich(*evidence, 0.05)), rel=1e-12
    )


def test_depth_one_is_the_linear_bound():
    e = golowich.Evidence(0.01, 0.5, log(3.0), 2.0, 1, 7, 10**8)
    other = linear.Evidence(0.01, 0.5, 3.0, 2.0, 7, 10**8)
    assert golowich.solve(e, 0.05) == pytest.approx(linear.solve(other, 0.05), rel=1e-12)


def test_the_hidden_layers_cost_less_than_in_the_paper():
    for depth in range(1, 100):
        assert upper(depth_factor(depth)) <= sqrt(2 * log(2) * depth) + 1
        assert upper(depth_factor(depth)) <= 2.0 ** (depth - 1)


def test_two_layers_exact_complexity_lies_below_the_closed_form():
    """sup over unit rows and unit output of Σ εᵢ ReLU(⟨a, xᵢ⟩)·(±1) on a circle, by a fine grid of directions, all 2^n signs."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 2))
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    hidden = np.maximum(np.stack([np.cos(angles), np.sin(angles)], 1) @ x.T, 0)  # one active unit attains the supremum
    signs = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1)
    supremum = np.abs(hidden @ signs).max(0).mean()
    assert supremum <= upper(depth_factor(2)) * sqrt((x**2).sum())
    assert supremum >= 0.4 * upper(depth_factor(2)) * sqrt((x**2).sum())  # and not by much


def test_linear_complexity_equals_its_bound_for_orthogonal_inputs():
    n = 10
    signs = np.array(np.meshgrid(*[[-1, 1]] * n)).reshape(n, -1)
    assert np.linalg.norm(signs, axis=0).mean() / n == pytest.approx(1 / sqrt(n))


@pytest.mark.parametrize("n", [10, 10**4, 10**8, 10**12])
def test_the_memoriser_gets_nothing(n):
    """n orthonormal inputs, w = Σ yᵢ xᵢ stores all labels with margin 1: ‖w‖ = √n."""
    assert linear.solve(linear.Evidence(0.0, 1.0, sqrt(n), 1.0, 2, n), 0.05) == 1.0
    assert golowich.solve(golowich.Evidence(0.0, 1.0, log(n) / 2, 1.0, 2, 2, n), 0.05) == 1.0


def test_random_labels_are_never_certified_below_their_risk():
    """Best of many planes and margins, chosen after the labels, which are coin flips: the risk is ½."""
    rng = np.random.default_rng(1)
    n, directions = 4000, np.linspace(0, 2 * np.pi, 90, endpoint=False)
    for _ in range(20):
        x, y = rng.normal(size=(n, 2)), rng.choice([-1, 1], n)
        scores = y * (np.stack([np.cos(directions), np.sin(directions)], 1) @ x.T)
        rms = sqrt((x**2).sum() / n)
        for margin in (1e-6, 0.1, 1.0):
            risk = (scores <= margin).mean(1).min()
            assert linear.solve(linear.Evidence(float(risk), margin, 1.0, rms, 2, n), 0.05) >= 0.5


def test_an_honest_wide_margin_is_certified():
    assert linear.solve(linear.Evidence(0.0, 1.0, 2.0, 1.0, 2, 60_000), 0.05) < 0.08


def test_two_hundred_layers_neither_overflow_nor_become_nan():
    for product in (200 * log(1e47), 200 * log(1e-8), 1e6, -1e6, -inf):
        value = golowich.solve(golowich.Evidence(0.0, 1.0, product, 1.0, 200, 10, 60_000), 0.05)
        assert 0 < value <= 1 and (product < 0) == (value < 1)
    assert isfinite(log_power_of_depth(1e47, 200, 60_000))


def test_more_margin_helps_even_where_the_risk_is_zero():
    values = [golowich.solve(golowich.Evidence(0.0, g, 0.0, 1.0, 3, 2, 10**6), 0.05) for g in (0.1, 0.3, 1.0, 10.0, 1e9)]
    assert values == sorted(values, reverse=True) and values[0] > values[-1]


def test_margins_of_zero_or_infinity_are_refused():
    for margin in (0.0, inf):
        with pytest.raises(InvalidEvidence, match="margin"):
            golowich.solve(golowich.Evidence(0.0, margin, 0.0, 1.0, 2, 2, 100), 0.05)


def hadamard(n: int) -> np.ndarray:
    matrix = np.ones((1, 1))
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / sqrt(n)


def test_the_slide_with_spectral_norms_is_refuted():
    """Spectral norms 1, yet all labels of n orthonormal inputs are met with a constant margin: R = O(μ^L) without √n is no bound."""
    n = 256
    columns, rng = hadamard(n), np.random.default_rng(2)
    half = (columns[:, 1:] > 0).mean(0)
    assert (half == 0.5).all()
    c = rng.integers(0, 2, n - 1)
    first = columns[:, 1:] * c
    outputs = np.full(n, 1 / sqrt(n)) @ np.maximum(first, 0)  # at e_1 … e_(n−1)
    assert np.linalg.norm(first, 2) <= 1 + 1e-9
    assert np.allclose(outputs, c / 2)
    assert exp(log_power_of_depth(1.0, 2, n)) < 0.25  # what μ = 1 promised about following signs with margin ¼
