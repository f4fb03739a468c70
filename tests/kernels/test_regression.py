"""Kernel regression by every path against dense closed forms; what is refused, and what the refusal says."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.block_gram import MemoryGram, RecomputedGram, gram
from nonvacuous.kernels.cholesky import Cholesky, SingularGram, repeated_rows
from nonvacuous.kernels.conjugate_gradients import solution
from nonvacuous.kernels.preconditioner import Preconditioner, pivoted_cholesky
from nonvacuous.kernels.regression import Direct, Iterative, fitted, one_hot_targets, refitted


def gaussian(a, b):
    return torch.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 2)


def linear(a, b):
    return a @ b.T


def sample(n, d=3, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = torch.stack([x[:, 0].sin(), x[:, 1] * x[:, 2], x.square().sum(1)], 1) + 0.1 * torch.randn(n, 3, generator=g).double()
    return x.to(dtype), y


def dense(x, y, new, ridge):
    """The closed form, by a general solver in float64."""
    K = gaussian(x.double(), x.double())
    return gaussian(new.double(), x.double()) @ torch.linalg.solve(K + ridge * torch.eye(len(x)).double(), y)


@settings(max_examples=15)
@given(st.integers(1, 60), st.integers(1, 40), st.integers(0, 1000))
def test_stripes_are_the_matrix(n, rows, seed):
    x, _ = sample(n, seed=seed)
    K = gaussian(x, x)
    for striped in (RecomputedGram(gaussian, x, rows), MemoryGram(K.tril()), MemoryGram(K, whole=True)):
        striped.rows = rows
        V = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(striped.product(V), K @ V)
        torch.testing.assert_close(striped.diagonal(), K.diagonal())
        torch.testing.assert_close(striped.dense(), K)
        chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[: max(1, n // 2)]
        torch.testing.assert_close(striped.columns(chosen), K[:, chosen])


def test_the_gram_matrix_is_symmetric_to_the_bit_whatever_the_kernel_rounds():
    x, _ = sample(50)
    noisy = lambda a, b: gaussian(a, b) * (1 + 1e-9 * torch.arange(len(a)).double()[:, None])  # noqa: E731
    K = gram(noisy, x, rows=7)
    assert torch.equal(K, K.T)


@pytest.mark.parametrize(("n", "ridge"), [(1, 0.1), (40, 1e-3), (700, 0.05), (1100, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cholesky_is_the_closed_form(n, ridge, dtype):
    x, y = sample(n, dtype=dtype)
    new, _ = sample(20, seed=1, dtype=dtype)
    regression = fitted(gaussian, x, y, ridge=ridge)
    assert "Cholesky" in regression.solved.method and regression.solved.residual < 1e-9
    tolerance = 2e-5 if dtype == torch.float32 else 1e-9
    expected = dense(x, y, new, ridge)
    assert (
        float((regression.predicted(new) - expected).abs().max())
        < tolerance * max(1.0, float(expected.abs().max())) / min(ridge, 1) ** 0.5
    )


def test_a_single_precision_factor_is_refined_to_double_answers():
    x, y = sample(300)
    K = gaussian(x, x).float()
    exact = torch.linalg.solve(K.double() + 1e-2 * torch.eye(300).double(), y)
    factor = Cholesky(K.clone(), 1e-2)
    torch.testing.assert_close(factor.solved(y), exact, rtol=1e-9, atol=1e-9)
    rough = torch.linalg.solve(K + 1e-2 * torch.eye(300), y.float()).double()
    assert float((rough - exact).abs().max()) > 1e-4  # what refinement removes


def test_the_factor_works_in_place_and_can_be_made_again():
    x, y = sample(600)
    K = gaussian(x, x)
    memory = K.clone()
    factor = Cholesky(memory, 0.5)
    assert factor.matrix.data_ptr() == memory.data_ptr()
    for ridge in (0.5, 0.01, 2.0):
        factor.refactored(ridge)
        A = K + ridge * torch.eye(600).double()
        torch.testing.assert_close(factor.solved(y), torch.linalg.solve(A, y))
        torch.testing.assert_close(factor.product(y), A @ y)
        assert factor.log_determinant() == pytest.approx(float(torch.logdet(A)), rel=1e-10)
        inverse = torch.einsum("ij,ij->j", y, torch.linalg.solve(A, y))
        torch.testing.assert_close(factor.half_solved(y).square().sum(0), inverse)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kept", ["memory", "disk", "nowhere"])
def test_conjugate_gradients_are_the_closed_form(dtype, kept, tmp_path):
    x, y = sample(250 if kept == "nowhere" else 600, dtype=dtype)
    new, _ = sample(20, seed=1, dtype=dtype)
    solver = Iterative(rank=100, tolerance=1e-8, directory=tmp_path / "gram" if kept == "disk" else None)
    budget = 10 if kept == "nowhere" else 2**30
    regression = fitted(gaussian, x, y, ridge=0.01, solver=solver, budget=budget)
    words = {"memory": "in memory", "disk": "on disk", "nowhere": "recomputed"}
    assert words[kept] in regression.solved.method and regression.solved.converged
    assert regression.solved.residual <= 1e-8 and 0 < regression.solved.iterations < 200
    expected = dense(x, y, new, 0.01)
    torch.testing.assert_close(
        regression.predicted(new).double(), expected, rtol=2e-4 if dtype == torch.float32 else 1e-6, atol=2e-4
    )
    direct = fitted(gaussian, x, y, ridge=0.01)
    torch.testing.assert_close(regression.reduction(new), direct.reduction(new), rtol=1e-3, atol=1e-3)


def test_the_preconditioner_saves_iterations_and_changes_nothing_else():
    x, y = sample(500)
    striped = MemoryGram(gaussian(x, x), whole=True)
    plain = solution(striped, y, 1e-3, tolerance=1e-8, most=5000)
    low = pivoted_cholesky(striped, 150)
    helped = solution(striped, y, 1e-3, preconditioner=Preconditioner(low, 1e-3), tolerance=1e-8)
    assert helped.iterations * 4 < plain.iterations
    torch.testing.assert_close(helped.values, plain.values, rtol=1e-3, atol=1e-3 * float(plain.values.abs().max()))


def test_low_rank_interpolates_its_pivots_and_leaves_a_positive_rest():
    x, _ = sample(200)
    K = gaussian(x, x)
    low = pivoted_cholesky(MemoryGram(K), 60, block=16)
    rest = K - low.factor @ low.factor.T
    assert float(rest[low.pivots].abs().max()) < 1e-8
    assert float(torch.linalg.eigvalsh(rest)[0]) > -1e-8
    assert low.left == pytest.approx(float(rest.trace() / K.trace()), rel=1e-6)
    exact = pivoted_cholesky(MemoryGram(linear(x, x)), 60)
    assert exact.factor.shape[1] == 3 and exact.left < 1e-12  # stops at the kernel's own rank


def test_the_preconditioner_inverts_what_it_says():
    x, y = sample(100)
    low = pivoted_cholesky(MemoryGram(gaussian(x, x)), 20)
    P = low.factor @ low.factor.T + 0.3 * torch.eye(100).double()
    torch.testing.assert_close(Preconditioner(low, 0.3).applied(y), torch.linalg.solve(P, y))


def test_an_unconverged_solution_says_so():
    x, y = sample(300)
    found = solution(MemoryGram(gaussian(x, x)), y, 1e-8, tolerance=1e-12, most=5)
    assert not found.converged and found.residual > 1e-12 and found.iterations <= 5
    A = gaussian(x, x) + 1e-8 * torch.eye(300).double()
    true = float(((y - A @ found.values).norm(dim=0) / y.norm(dim=0)).max())
    assert found.residual == pytest.approx(true, rel=1e-6)


def test_repeated_rows_are_named():
    x, y = sample(30)
    x[17] = x[4]
    with pytest.raises(SingularGram, match="4 = 17"):
        fitted(gaussian, x, y, ridge=0.0)
    assert repeated_rows(MemoryGram(gaussian(x, x))) == [(4, 17)]
    assert fitted(gaussian, x, y, ridge=1e-3).solved.residual < 1e-9
    with pytest.raises(SingularGram, match="linearly dependent"):
        fitted(linear, sample(30)[0], y, ridge=0.0)


def test_too_large_a_gram_matrix_says_its_size_and_the_alternatives():
    x, y = sample(1000)
    with pytest.raises(InvalidInput, match=r"0\.01 GiB and the budget is 0\.00 GiB.*on disk.*Iterative.*float32"):
        fitted(gaussian, x, y, ridge=0.1, budget=1000)
    with pytest.raises(InvalidInput, match="budget"):
        fitted(gaussian, x, y, ridge=0.1, budget=1000, solver=Direct())


@pytest.mark.parametrize(
    ("inputs", "targets", "ridge"),
    [
        (torch.zeros(3), torch.zeros(3), 1.0),
        (torch.zeros(3, 2, dtype=torch.float16), torch.zeros(3), 1.0),
        (torch.zeros(0, 2), torch.zeros(0), 1.0),
        (torch.zeros(3, 2, dtype=torch.long), torch.zeros(3), 1.0),
        (torch.tensor([[1.0, math.nan]]), torch.zeros(1), 1.0),
        (torch.zeros(3, 2), torch.zeros(4), 1.0),
        (torch.zeros(3, 2), torch.zeros(3, 0), 1.0),
        (torch.zeros(3, 2), torch.tensor([0.0, 1.0, math.inf]), 1.0),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.long), 1.0),
        (torch.zeros(3, 2), torch.zeros(3), -1.0),
        (torch.zeros(3, 2), torch.zeros(3), math.nan),
    ],
)
def test_bad_input_is_refused(inputs, targets, ridge):
    with pytest.raises(InvalidInput):
        fitted(gaussian, inputs, targets, ridge=ridge)


def test_a_broken_kernel_is_named():
    x, y = sample(5)
    with pytest.raises(InvalidInput, match="shape"):
        fitted(lambda a, b: torch.zeros(1, 1).double(), x, y, ridge=1.0)
    with pytest.raises(InvalidInput, match="row 3"):
        fitted(lambda a, b: torch.where(a[:, :1] == x[3, 0], math.nan, gaussian(a, b)), x, y, ridge=1.0)


def test_predictions_of_bad_inputs_are_refused_and_targets_one_dimensional_are_taken():
    x, y = sample(10)
    regression = fitted(gaussian, x, y[:, 0], ridge=0.1)
    assert regression.predicted(x).shape == (10, 1)
    with pytest.raises(InvalidInput, match="row 1"):
        regression.predicted(torch.tensor([[0.0, 0, 0], [math.inf, 0, 0]]).double())
    iterative = fitted(gaussian, x, y, ridge=0.1, solver=Iterative(rank=5))
    with pytest.raises(InvalidInput, match="Direct"):
        refitted(iterative, 1.0)


def test_one_hot_targets():
    assert one_hot_targets(torch.tensor([1, 0]), 2).tolist() == [[-0.5, 0.5], [0.5, -0.5]]
    for bad in (
        torch.tensor([0.0]),
        torch.tensor([2]),
        torch.tensor([-1]),
        torch.tensor([[1]]),
        torch.tensor([], dtype=torch.long),
    ):
        with pytest.raises(InvalidInput):
            one_hot_targets(bad, 2)


def test_classification_of_digits():
    from nonvacuous.runtime.sources import load

    train, test = (next(load("digits", part).batches(5000)) for part in ("train", "test"))
    x, new = train.inputs.flatten(1), test.inputs.flatten(1)
    kernel = lambda a, b: torch.exp(-torch.cdist(a, b).square() / 8)  # noqa: E731
    regression = fitted(kernel, x, one_hot_targets(train.targets, 10), ridge=1e-2)
    assert float((regression.predicted(new).argmax(1) == test.targets).float().mean()) > 0.97
