"""Frobenius and spectral products: values at 50 digits, the perturbation argument on real matrices, memorisers, depth."""

from __future__ import annotations

from math import inf, log, sqrt

import numpy as np
import pytest
from tests.oracles import margins as oracle

from nonvacuous.bounds.norm_products import NeyshaburTomiokaSrebroBound, SpectralPacBayesBound, _root_minus_one, _spectral
from nonvacuous.bounds.rademacher import GolowichBound
from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.numerics.interval import iv, lower, upper

frobenius, spectral, golowich = NeyshaburTomiokaSrebroBound(), SpectralPacBayesBound(), GolowichBound()


@pytest.mark.parametrize(
    ("product", "margin", "ranks", "bound", "depth", "widest", "n"),
    [
        (0.0, 1.0, 2.0, 1.0, 1, 2, 10**6),
        (3.0, 2.0, 20.0, 28.0, 5, 785, 60_000),
        (200 * log(1e40), 1.0, 500.0, 1.0, 200, 10**5, 10**6),
    ],
)
def test_the_budget_equals_the_formula_at_fifty_digits(product, margin, ranks, bound, depth, widest, n):
    budget = _spectral(spectral.Evidence(0.0, margin, product, ranks, bound, depth, widest, n), 0.05)
    expected = oracle.spectral_budget(product, margin, ranks, bound, depth, widest, n, 0.05)
    assert lower(iv.log(budget)) == pytest.approx(float(oracle.mp.log(expected)), rel=1e-12)


def test_the_product_with_powers_of_two_is_never_better_than_golowich():
    for depth in (1, 2, 3, 5, 9, 50):
        for classes in (2, 10):
            e = (0.01, 1.0, -2.0, 1.0, depth, classes, 10**7)
            assert frobenius.solve(frobenius.Evidence(*e), 0.05) >= golowich.solve(golowich.Evidence(*e), 0.05)


def test_noise_of_the_stated_size_moves_no_margin_by_more_than_half():
    """The lemma of the proof, on drawn ReLU networks with normalised layers."""
    rng = np.random.default_rng(0)
    depth, width, classes, radius = 3, 12, 4, 1.0
    scale = 5.0  # r: margins are counted at 1/r for normalised layers
    tau = lower(_root_minus_one(1 / (2 * iv.sqrt(2) * radius * iv.mpf(scale)), depth))
    gauss = 2 * sqrt(width) + sqrt(2 * log(depth * 20))
    shapes = [(width, 8), (width, width), (classes, width)]
    exceeded = 0
    for _ in range(200):
        weights = [w / np.linalg.norm(w, 2) for w in (rng.normal(size=s) for s in shapes)]
        noise = [rng.normal(size=s) * tau / gauss for s in shapes]
        exceeded += any(np.linalg.norm(u, 2) > tau for u in noise)
        x = rng.normal(size=(8, 50))
        x *= radius / np.linalg.norm(x, axis=0)

        def margin(layers, x=x):
            for w in layers[:-1]:
                x = np.maximum(w @ x, 0)
            scores = layers[-1] @ x
            return scores[0] - scores[1:].max(0)

        if not any(np.linalg.norm(u, 2) > tau for u in noise):
            moved = np.abs(margin([w + u for w, u in zip(weights, noise, strict=True)]) - margin(weights))
            assert moved.max() <= 1 / (2 * scale)
    assert exceeded <= 0.05 * 200


def test_the_root_keeps_its_relative_accuracy():
    for x in (1e-300, 1e-20, 1e-9, 1e-3, 1.0, 1e6):
        for degree in (1, 7, 200):
            exact = oracle.mp.expm1(oracle.mp.log1p(x) / degree)
            found = lower(_root_minus_one(iv.mpf(x), degree))
            assert found <= exact and found == pytest.approx(float(exact), rel=1e-8)


@pytest.mark.parametrize("n", [10, 10**4, 10**8, 10**12])
def test_the_memoriser_gets_nothing(n):
    """n orthonormal inputs and w = Σ yᵢ xᵢ: margin 1, norm √n, one row."""
    assert spectral.solve(spectral.Evidence(0.0, 1.0, log(n) / 2, 1.0, 1.0, 1, n, n), 0.05) > 0.95
    assert frobenius.solve(frobenius.Evidence(0.0, 1.0, log(n) / 2, 1.0, 1, 2, n), 0.05) == 1.0


def test_two_hundred_layers_neither_overflow_nor_become_nan():
    for product in (200 * log(1e47), 200 * log(1e-8), 1e5, -1e5, -inf):
        value = spectral.solve(spectral.Evidence(0.0, 1.0, product, 1e3, 1.0, 200, 10**5, 60_000), 0.05)
        assert 0 < value <= 1
        value = frobenius.solve(frobenius.Evidence(0.0, 1.0, product, 1.0, 200, 10, 60_000), 0.05)
        assert 0 < value <= 1


def test_it_needs_many_examples_and_says_how_many():
    e = spectral.Evidence(0.0, 1.0, log(10.0), 20.0, 1.0, 3, 100, 60_000)
    assert spectral.solve(e, 0.05) == pytest.approx(1.0, abs=1e-3)
    n = spectral.needed(e, 0.05, 0.5)
    assert n is not None and n > 10**6
    assert spectral.holds(e._replace(n=n), 0.05, 0.5) and not spectral.holds(e._replace(n=n - 1), 0.05, 0.5)
    assert upper(_spectral(e._replace(n=n), 0.05)) <= n


def test_inputs_that_are_all_zero_are_refused():
    with pytest.raises(InvalidEvidence, match="input_bound"):
        spectral.solve(spectral.Evidence(0.0, 1.0, 0.0, 1.0, 0.0, 1, 2, 100), 0.05)
