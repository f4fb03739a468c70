"""Small weights and spectrally normalised margins: values, Maurey's lemma, and the network that refutes the slide's form."""

from __future__ import annotations

from math import exp, inf, isfinite, log, sqrt

import numpy as np
import pytest
from tests.oracles import margins as oracle

from nonvacuous.bounds.margin import SmallWeightsBound, SpectralMarginBound, fat_shattering_dimension, row_product
from nonvacuous.bounds.spectral_complexity import LayerNorms, log_frobenius_complexity, spectral_complexity
from nonvacuous.core.errors import InvalidEvidence

small, spectral = SmallWeightsBound(), SpectralMarginBound()


@pytest.mark.parametrize(
    ("risk", "margin", "product", "price", "rms", "inputs", "depth", "classes", "n"),
    [
        (0.0, 1.0, 0.0, 0.0, 1.0, 2, 2, 2, 10**8),
        (0.1, 0.5, 2.0, 7.0, 3.0, 784, 2, 2, 10**7),
        (0.0, 1.0, 1.0, 9.0, 1.0, 9, 5, 10, 10**9),
    ],
)
def test_small_weights_equals_the_formula(risk, margin, product, price, rms, inputs, depth, classes, n):
    mp = oracle.mp
    r, grid_price = oracle.grid(mp.mpf(product) - mp.log(margin), 16)
    complexity = r * rms * mp.sqrt(2 * (depth * mp.log(2) + mp.log(inputs + 2)) / n) * (1 if classes == 2 else 2 * classes)
    expected = oracle.rademacher(risk, complexity, grid_price + price, n, 0.05)
    e = small.Evidence(risk, margin, product, price, rms, inputs, depth, classes, n)
    assert small.solve(e, 0.05) == pytest.approx(min(1.0, float(expected)), rel=1e-12)


@pytest.mark.parametrize(
    ("margin", "complexity", "price", "rms", "widest", "n"),
    [
        (1.0, 0.0, 0.0, 1.0, 2, 10**8),
        (0.3, 2.0, 30.0, 2.0, 785, 10**10),
        (5.0, -3.0, 5.0, 0.1, 10, 10**5),
        (1e3, 4.0, 9.0, 1.0, 50, 10**7),
    ],
)
def test_spectral_margin_equals_the_formula(margin, complexity, price, rms, widest, n):
    mp = oracle.mp
    inverse, grid_price = oracle.grid(-mp.log(margin), 16)
    scale = mp.sqrt(2) * rms * mp.exp(complexity) * inverse
    chained = oracle.chained(scale, mp.log(2 * widest**2), n)
    expected = oracle.rademacher(0.0, chained, grid_price + price, n, 0.05)
    e = spectral.Evidence(0.0, margin, complexity, price, rms, widest, n)
    assert spectral.solve(e, 0.05) == pytest.approx(min(1.0, float(expected)), rel=1e-12)


def test_rounding_at_most_doubles_the_spectral_complexity():
    rng = np.random.default_rng(0)
    for count in (1, 3, 20, 200):
        layers = [LayerNorms(float(s), float(b), 1.0) for s, b in np.exp(rng.normal(size=(count, 2)) * 3)]
        exact = float(oracle.log_spectral_complexity([tuple(layer[:3]) for layer in layers]))
        found = spectral_complexity(layers)
        assert exact <= found.log_spectral_complexity_nats <= exact + log(2) + 1e-9
        assert found.norm_grid_nats >= 2 * count * log(np.pi**2 / 3 - 1) - 1e-9


def test_maureys_lemma_without_a_ceiling():
    """(1 − s)²u + s²(1 − u)/k ≤ 1/(k + 1) for all u in [0, 1] at s² = k/(k + 1): what the proof's cover rests on."""
    u = np.linspace(0, 1, 101)
    for k in range(1, 200):
        s = sqrt(k / (k + 1))
        assert ((1 - s) ** 2 * u + s**2 * (1 - u) / k).max() <= 1 / (k + 1) + 1e-12


def test_better_than_the_papers_constant():
    """Lemma A.8's middle term, 72·x·R_A·ln(2W)·ln(n)/(γ√n), against twice the chained complexity here."""
    for n in (10**4, 10**6, 10**8):
        for scale in (0.01, 0.1):
            ours = 2 * float(oracle.chained(sqrt(2) * scale, oracle.mp.log(2 * 100**2), n))
            assert ours < 72 * scale * log(200) * log(n) / sqrt(n) + 8 / n**1.5


@pytest.mark.parametrize("n", [10, 10**4, 10**8, 10**12])
def test_the_memoriser_gets_nothing(n):
    """One row Σ yᵢ xᵢ over n orthonormal inputs: spectral and (2,1) norm √n, ℓ₁ norm n, margin 1."""
    found = spectral_complexity([LayerNorms(sqrt(n), sqrt(n))])
    e = spectral.Evidence(0.0, 1.0, found.log_spectral_complexity_nats, found.norm_grid_nats, 1.0, n, n)
    assert spectral.solve(e, 0.05) == 1.0
    rows = row_product([float(n)])
    assert small.solve(small.Evidence(0.0, 1.0, rows.log_row_product_nats, rows.row_grid_nats, 1.0, n, 1, 2, n), 0.05) == 1.0


def signs(n: int) -> np.ndarray:
    matrix = np.ones((1, 1))
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / sqrt(n)


def test_the_slides_form_is_refuted_by_a_layer_of_signs():
    """n orthonormal inputs with coin-flip labels, stored with constant margin; unseen inputs get class 0, so the risk is near ½.

    The slide's scale stays near n^¼, its term r L/(γ√n) goes to 0; the (2,1) form stays vacuous.
    """
    terms = []
    for n in (64, 256, 1024):
        labels = np.random.default_rng(n).integers(0, 2, n - 1)
        first, last = signs(n)[:, 1:] * labels, np.full(n, 1 / sqrt(n))
        scores = last @ np.maximum(first, 0) - 0.25  # at e_1 …; the −¼ is a bias
        margin = np.abs(scores).min()
        assert ((scores > 0) == labels).all() and margin > 0.2
        norms = [(np.linalg.norm(first, 2), np.linalg.norm(first)), (1.0, 1.0)]
        terms.append(exp(log_frobenius_complexity(norms)) * 2 / (margin * sqrt(n)))
        true = spectral_complexity(
            [LayerNorms(float(norms[0][0]), float(np.linalg.norm(first, axis=1).sum())), LayerNorms(1.0, 1.0)]
        )
        e = spectral.Evidence(0.0, float(margin), true.log_spectral_complexity_nats, true.norm_grid_nats, 1.0, n, n)
        assert spectral.solve(e, 0.05) == 1.0
    assert terms[0] > 1.3 * terms[1] > 1.69 * terms[2]  # falls like n^(−¼): the slide would promise risk → 0 for a risk of ½


def test_the_fat_shattering_dimension_bounds_what_can_be_shattered():
    """{w ∈ ℝ^D : ‖w‖₁ ≤ P} γ-shatters the D unit vectors only if Σ|wᵢ| = Dγ ≤ P, and the bound allows at least that many."""
    for points in (1, 4, 16):
        assert fat_shattering_dimension(log(points * 0.5), 0.5, 1.0, points, depth=1) >= points
    assert fat_shattering_dimension(log(10.0), 0.1, 1.0, 784) == pytest.approx(
        (10 / 0.1) ** 2 * 2 * (2 * log(2) + log(786)), abs=1
    )
    assert fat_shattering_dimension(1e6, 1.0, 1.0, 10) == inf


def test_two_hundred_layers_neither_overflow_nor_become_nan():
    for spectral_norm in (1e47, 1e-8, 1.0, 0.0):
        found = spectral_complexity([LayerNorms(spectral_norm, spectral_norm * 10)] * 200)
        assert all(map(isfinite, found))
        e = spectral.Evidence(0.0, 1.0, found.log_spectral_complexity_nats, found.norm_grid_nats, 1.0, 10**6, 10**9)
        assert 0 < spectral.solve(e, 0.05) <= 1
        rows = row_product([spectral_norm] * 199 + [1.0])
        assert 0 < small.solve(small.Evidence(0.0, 1.0, *rows, 1.0, 784, 200, 10, 10**9), 0.05) <= 1


def test_norms_that_are_none_are_refused():
    for bad in (-1.0, inf, float("nan")):
        with pytest.raises(InvalidEvidence):
            spectral_complexity([LayerNorms(bad, 1.0)])
        with pytest.raises(InvalidEvidence):
            row_product([bad])
