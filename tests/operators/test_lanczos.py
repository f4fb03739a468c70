"""Extreme eigenpairs against dense eigenvalues; residuals as measured again with products in float64."""

from __future__ import annotations

import pytest
import torch

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind
from nonvacuous.operators.lanczos import bottom_eigenpairs, top_eigenpairs


def matrix(eigenvalues, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    Q = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[0]
    return (Q * values) @ Q.mT


def outliers(seed, top=(9.0, 7.0, 6.0, 4.0, 3.0), size=200):
    bulk = 0.3 * torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return matrix([*top, -5.0, *bulk.tolist()], seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("memory", [2**31, 25 * 206 * 4])
def test_brackets_hold_the_dense_eigenvalues_and_residuals_are_true(dtype, memory):
    A = outliers(1)
    true = torch.linalg.eigvalsh(A)
    for found, expected in (
        (top_eigenpairs(A.to(dtype), 4, memory=memory), true.flip(0)),
        (bottom_eigenpairs(A.to(dtype), 1, memory=memory), true),
    ):
        assert bool(found.converged.all())
        for bracket, value in zip(found.measured(), expected.tolist(), strict=False):
            assert bracket.kind is Kind.INDICATOR
            assert value in bracket and bracket.width < 3e-3 * abs(value)
        V = found.vectors.double()
        again = (A @ V - V * found.values).norm(dim=0)
        assert bool((again <= found.residuals + 3 * found.rounding).all())
        assert torch.allclose(V.mT @ V, torch.eye(len(found.values), dtype=torch.float64), atol=1e-5)


def test_unconverged_values_are_flagged_and_their_brackets_wide():
    A = outliers(2)
    found = top_eigenpairs(A, 5, most=6)
    assert not bool(found.converged.all())
    true = torch.linalg.eigvalsh(A).flip(0)
    for bracket, flag, value in zip(found.measured(), found.converged.tolist(), true.tolist(), strict=False):
        assert flag or bracket.width > 1e-3 * abs(value)
        assert bracket.lower <= value  # Cauchy's interlacing needs no convergence


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_copies_of_an_eigenvalue_are_found(dtype):
    top, misses = (6.0, 6.0, 5.0, 3.0, 3.0, 2.0), 0
    for seed in range(12):
        found = top_eigenpairs(outliers(seed, top).to(dtype), 5, seed=seed)
        misses += not torch.allclose(found.values, torch.tensor(top[:5], dtype=torch.float64), atol=2e-2)
        blind = top_eigenpairs(outliers(seed, top).to(dtype), 2, seed=seed, checks=0)
        assert blind.values[1] < 5.1 or dtype == torch.float32  # one Krylov space holds one copy
    assert misses <= 1


def test_a_multiple_of_the_identity_and_small_matrices():
    found = top_eigenpairs(2.5 * torch.eye(7, dtype=torch.float64), 7)
    assert torch.allclose(found.values, torch.full((7,), 2.5, dtype=torch.float64))
    assert top_eigenpairs(torch.zeros(4, 4, dtype=torch.float64), 2).values.tolist() == [0.0, 0.0]
    assert bottom_eigenpairs(torch.tensor([[-3.0]]), 1).values.tolist() == [-3.0]
    A = matrix([3.0, 1.0, -2.0, 0.5])
    assert torch.allclose(top_eigenpairs(A, 4).values, torch.linalg.eigvalsh(A).flip(0))
    assert torch.allclose(bottom_eigenpairs(A, 4).values, torch.linalg.eigvalsh(A))


def test_same_seed_same_answer_and_products_are_counted():
    A, count = outliers(3), []
    first, second = (top_eigenpairs(A, 3, seed=5, advance=count.append) for _ in range(2))
    assert torch.equal(first.vectors, second.vectors)
    assert first.products - 1 <= sum(count) / 2 <= first.products


def test_refusals():
    A = outliers(4)
    for k, options, match in ((0, {}, "k = 0"), (1000, {}, "k = 1000"), (1, {"tolerance": 0.0}, "strictly between")):
        with pytest.raises(InvalidInput, match=match):
            top_eigenpairs(A, k, **options)
    with pytest.raises(InvalidInput, match="square"):
        top_eigenpairs(A[:5], 1)
    with pytest.raises(InvalidInput, match="float32 or float64"):
        top_eigenpairs(A.half(), 1)
    with pytest.raises(InvalidInput, match="NaN"):
        top_eigenpairs(A * float("nan"), 1)
    with pytest.raises(InvalidInput, match="not symmetric"):
        top_eigenpairs(A + torch.randn(A.shape, generator=torch.Generator().manual_seed(0)).triu(1), 3)


class Proposing:
    """A diagonal matrix that proposes to start along one of its eigenvectors."""

    def __init__(self, diagonal, along):
        self.diagonal, self.along = diagonal, along
        self.shape, self.dtype, self.device = (len(diagonal), len(diagonal)), diagonal.dtype, diagonal.device

    def __matmul__(self, v):
        return self.diagonal * v

    def start(self, generator):
        return self.along


def test_a_proposed_start_hides_nothing():
    """Even one that is an eigenvector, is zero or is no number at all."""
    values = torch.cat([torch.tensor([9.0, 7.0, 7.0]), torch.rand(300, generator=torch.Generator().manual_seed(0))])
    for along in (torch.eye(303)[2], torch.eye(303)[100], torch.zeros(303), torch.full((303,), float("nan"))):
        found = top_eigenpairs(Proposing(values, along), 3)
        assert bool(found.converged.all())
        torch.testing.assert_close(found.values, torch.tensor([9.0, 7.0, 7.0]).double(), rtol=1e-3, atol=0)
        assert bottom_eigenpairs(Proposing(values, along), 1).values[0] == pytest.approx(float(values.min()), abs=1e-2)
