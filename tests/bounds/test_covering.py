"""Covering numbers: values at 50 digits, the perturbation lemma, coverage on a small class, the memoriser, the slide."""

from __future__ import annotations

from math import inf, isfinite, log, sqrt

import numpy as np
import pytest
from tests.oracles import margins as oracle

from nonvacuous.bounds.covering import CoveringNumberBound, _budget, log_covering_number, log_slide_covering_number
from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.numerics.interval import iv, lower

bound = CoveringNumberBound()


@pytest.mark.parametrize(
    ("product", "margin", "radius", "depth", "parameters"),
    [(0.0, 1.0, 1.0, 1, 100), (5.0, 0.1, 28.0, 6, 10**6), (200 * log(1e47), 1.0, 1.0, 200, 10**8), (-200.0, 1.0, 1.0, 3, 10)],
)
def test_the_budget_equals_the_formula_at_fifty_digits(product, margin, radius, depth, parameters):
    budget = _budget(bound.Evidence(0.0, margin, product, radius, depth, parameters, 1000), 0.05)
    expected = oracle.covering_budget(product, margin, radius, depth, parameters, 0.05)
    assert lower(iv.log(budget)) == pytest.approx(float(oracle.mp.log(expected)), rel=1e-12)


def test_neighbours_differ_by_at_most_depth_times_scale():
    rng = np.random.default_rng(0)
    shapes, tau = [(6, 5), (6, 6), (3, 6)], 0.2
    for _ in range(100):
        weights = [w / np.linalg.norm(w, 2) for w in (rng.normal(size=s) for s in shapes)]
        noise = [tau * u / np.linalg.norm(u, 2) for u in (rng.normal(size=s) for s in shapes)]
        near = [w + u for w, u in zip(weights, noise, strict=True)]
        near = [w / max(1.0, np.linalg.norm(w, 2)) for w in near]  # members of the ball
        step = max(np.linalg.norm(a - b, 2) for a, b in zip(weights, near, strict=True))
        x = rng.normal(size=(5, 40))
        x /= np.linalg.norm(x, axis=0)

        def output(layers, x=x):
            for w in layers[:-1]:
                x = np.maximum(w @ x, 0)
            return layers[-1] @ x

        assert np.linalg.norm(output(weights) - output(near), axis=0).max() <= len(shapes) * step + 1e-12


def test_random_labels_are_never_certified_below_their_risk():
    """The best of many lines through the origin and of many margins, chosen after coin-flip labels: the risk is ½."""
    rng = np.random.default_rng(3)
    n, directions = 2000, np.linspace(0, 2 * np.pi, 90, endpoint=False)
    for _ in range(20):
        x, y = rng.uniform(-1, 1, size=(n, 2)), rng.choice([-1, 1], n)
        scores = y * (np.stack([np.cos(directions), np.sin(directions)], 1) @ x.T)
        for margin in (1e-9, 0.01, 0.1):
            risk = float((scores <= margin).mean(1).min())
            assert bound.solve(bound.Evidence(risk, margin, 0.0, sqrt(2), 1, 2, n), 0.05) >= 0.5


@pytest.mark.parametrize("n", [10, 10**4, 10**8, 10**12])
def test_the_memoriser_gets_nothing(n):
    assert bound.solve(bound.Evidence(0.0, 1.0, log(n) / 2, 1.0, 1, n, n), 0.05) > 0.8


def test_few_parameters_are_certified():
    assert bound.solve(bound.Evidence(0.02, 1.0, 3.0, 3.0, 3, 500, 60_000), 0.05) < 0.15


def test_two_hundred_layers_neither_overflow_nor_become_nan():
    for product in (200 * log(1e47), 200 * log(1e-8), 1e6, -1e6, -inf):
        assert 0 < bound.solve(bound.Evidence(0.0, 1.0, product, 1.0, 200, 10**7, 60_000), 0.05) <= 1
    assert isfinite(log_slide_covering_number(1e47, 200, 1e-300))
    assert isfinite(log_covering_number(10**9, 200, 200 * log(1e47), 1.0, 1e-300))


def test_the_slide_is_below_the_covering_number_of_a_linear_layer():
    """The unit ball of R^D needs at least ε^(−D) balls of radius ε (volumes): the sup-norm of ⟨w, ·⟩ on the unit ball is ‖w‖₂."""
    for coordinates in (3, 10):
        truth = coordinates * log(1 / 0.01)
        assert log_slide_covering_number(1.0, 1, 0.01) < truth <= log_covering_number(coordinates, 1, 0.0, 1.0, 0.01)


def test_scales_that_are_none_are_refused():
    with pytest.raises(InvalidEvidence):
        log_covering_number(1, 1, 0.0, 1.0, 0.0)
    with pytest.raises(InvalidEvidence):
        log_slide_covering_number(1.0, 0, 0.1)
