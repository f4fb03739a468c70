"""Combined kernels: weights against exhaustive search, gradients against differences, cascades against the recursion."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import multivariate_normal

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.combination import (
    Combination,
    alignment,
    by_alignment,
    by_likelihood,
    by_validation,
    cascaded,
    centred,
    linear_block,
    normalized,
    single,
    uniform,
)
from nonvacuous.kernels.recursion import nngp_ntk


def sample(n=40, seed=0, outputs=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=g, dtype=torch.float64)
    kernels = [torch.exp(-torch.cdist(x, x).square() / s) for s in (0.3, 4.0, 60.0)]
    y = torch.linalg.cholesky(kernels[1] + 0.05 * torch.eye(n).double()) @ torch.randn(
        n, outputs, generator=g, dtype=torch.float64
    )
    return x, kernels, y


def simplex(count, steps):
    if count == 1:
        yield [steps]
        return
    for i in range(steps + 1):
        for rest in simplex(count - 1, steps - i):
            yield [i, *rest]


def test_alignment_against_its_definition():
    _, kernels, y = sample()
    H = torch.eye(40).double() - 1 / 40
    for K in kernels:
        torch.testing.assert_close(centred(K), H @ K @ H)
        C, T = H @ K @ H, H @ y @ y.T @ H
        assert alignment(K, y) == pytest.approx(float((C * T).sum() / C.norm() / T.norm()), rel=1e-12)
    assert alignment(y @ y.T, y) == pytest.approx(1.0) and alignment(torch.ones(40, 40), y) == 0.0


def test_no_weights_on_a_fine_grid_align_better():
    for seed in range(4):
        _, kernels, y = sample(seed=seed, outputs=2)
        best = by_alignment(kernels, y)
        assert float(best.weights.sum()) == pytest.approx(1) and bool((best.weights >= 0).all())
        grid = max(
            alignment(Combination(torch.tensor(w).double() / 20, 0.0, 0.0).combined(kernels), y) for w in simplex(3, 20)
        )
        assert best.score >= grid - 1e-12
        assert best.score >= max(alignment(K, y) for K in kernels) - 1e-12


def test_a_kernel_without_labels_gets_no_weight():
    _, _, y = sample()
    noise = torch.randn(40, 40, generator=torch.Generator().manual_seed(1)).double()
    found = by_alignment([y @ y.T + 0.01 * torch.eye(40).double(), noise @ noise.T], y)
    assert float(found.weights[0]) > 0.99
    with pytest.raises(InvalidInput, match="aligns"):
        by_alignment([-(y @ y.T)], y)


def test_the_likelihood_is_the_density_and_a_maximum():
    _, kernels, y = sample(seed=3, outputs=2)
    found = by_likelihood(kernels, y)

    def density(weights, ridge):
        A = Combination(weights, 0.0, 0.0).combined(kernels) + ridge * torch.eye(40).double()
        s = float((y * torch.linalg.solve(A, y)).sum()) / y.numel()
        return sum(multivariate_normal.logpdf(c.numpy(), cov=(s * A).numpy()) for c in y.T)

    assert found.score == pytest.approx(density(found.weights, found.ridge), rel=1e-8)
    start = density(uniform(3).weights, 0.01)
    assert found.score > start
    for i in range(3):
        for factor in (0.7, 1.4):
            moved = found.weights.clone()
            moved[i] = max(float(moved[i]), 1e-3) * factor
            assert density(moved / moved.sum(), found.ridge / float(moved.sum())) <= found.score + 1e-3
    assert all(density(found.weights, found.ridge * f) <= found.score + 1e-3 for f in (0.7, 1.4))


def test_likelihood_finds_the_kernel_that_made_the_data():
    g = torch.Generator().manual_seed(5)
    x = torch.randn(120, 3, generator=g, dtype=torch.float64)
    kernels = [torch.exp(-torch.cdist(x, x).square() / s) for s in (0.3, 4.0, 60.0)]
    y = torch.linalg.cholesky(kernels[1] + 0.05 * torch.eye(120).double()) @ torch.randn(
        120, 3, generator=g, dtype=torch.float64
    )
    assert float(by_likelihood(kernels, y).weights[1]) > 0.6


def test_validation_takes_the_best_of_what_it_is_given():
    _, kernels, y = sample(n=60, seed=6)
    train, held = slice(0, 40), slice(40, 60)
    grams, crosses = [K[train, train] for K in kernels], [K[held, train] for K in kernels]
    candidates = [uniform(3), *(single(3, i) for i in range(3))]
    chosen = by_validation(grams, y[train], crosses, y[held], [1e-3, 1e-1], candidates)
    errors = {}
    for c in candidates:
        for share in (1e-3, 1e-1):
            K = c.combined(grams)
            alpha = torch.linalg.solve(K + share * float(K.diagonal().mean()) * torch.eye(40).double(), y[train])
            errors[float((c.combined(crosses) @ alpha - y[held]).square().mean())] = c
    assert -chosen.score == pytest.approx(min(errors), rel=1e-8)
    torch.testing.assert_close(chosen.weights, errors[min(errors)].weights)
    assert all(torch.equal(K, other[train, train]) for K, other in zip(grams, kernels, strict=True))  # nothing was overwritten


def test_a_cascade_of_one_activation_is_the_recursion():
    g = torch.Generator().manual_seed(7)
    x1, x2 = (torch.randn(n, 5, generator=g, dtype=torch.float64) for n in (4, 6))
    block = linear_block(x1, x2)
    block = block._replace(covariance=2 * block.covariance, rows=2 * block.rows, columns=2 * block.columns)
    for _ in range(3):
        block = cascaded(block, ["relu"], torch.tensor([2.0]))
    torch.testing.assert_close(block.covariance, nngp_ntk(x1, x2, depth=3, weight_std=math.sqrt(2)).nngp)


def test_a_cascade_of_several_is_a_kernel():
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    block = linear_block(x, x)
    for weights in ([0.5, 0.5], [0.2, 1.0]):
        block = cascaded(block, ["relu", "erf"], torch.tensor(weights))
        assert float(torch.linalg.eigvalsh(block.covariance)[0]) > -1e-8
        torch.testing.assert_close(block.covariance.diagonal(), block.rows, rtol=1e-6, atol=1e-6)


def test_normalization():
    assert normalized([2 * torch.eye(3), torch.ones(2, 2)]) == [2.0, 1.0]
    for bad in (torch.zeros(2, 2), torch.full((2, 2), math.nan), -torch.eye(2)):
        with pytest.raises(InvalidInput):
            normalized([bad])


def test_bad_input_is_refused():
    x, kernels, y = sample()
    for call in (
        lambda: by_alignment([], y),
        lambda: by_alignment([kernels[0][:3]], y),
        lambda: by_alignment([kernels[0] * math.nan], y),
        lambda: by_alignment(kernels, y[:3]),
        lambda: by_likelihood(kernels, y * math.inf),
        lambda: by_validation(kernels, y, kernels, y, [], [uniform(3)]),
        lambda: by_validation(kernels, y, kernels, y, [0.1], []),
        lambda: uniform(2).combined(kernels),
        lambda: linear_block(x, x[:, :2]),
        lambda: cascaded(linear_block(x, x), ["relu"], torch.tensor([-1.0])),
        lambda: cascaded(linear_block(x, x), ["relu"], torch.tensor([0.0])),
        lambda: cascaded(linear_block(x, x), ["relu", "erf"], torch.tensor([1.0])),
        lambda: cascaded(linear_block(x, x)._replace(rows=x[:3, 0]), ["relu"], torch.tensor([1.0])),
    ):
        with pytest.raises(InvalidInput):
            call()
