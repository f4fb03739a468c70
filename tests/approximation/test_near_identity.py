"""Products of near-identity matrices, and compositions of near-identity maps."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from nonvacuous.approximation.near_identity import factors, logarithms, size
from nonvacuous.core.errors import InvalidInput


def product(steps: tuple[Tensor, ...]) -> Tensor:
    total = torch.eye(len(steps[0]), dtype=torch.float64)
    for step in steps:
        total = (torch.eye(len(total), dtype=torch.float64) + step) @ total
    return total


def norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


def random_matrix(d: int, seed: int) -> Tensor:
    A = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    if torch.linalg.det(A) < 0:
        A[0] = -A[0]
    return A


HARD = {
    "−I": -torch.eye(2),
    "−I in four dimensions": -torch.eye(4),
    "different negative eigenvalues": torch.diag(torch.tensor([-1.0, -3.0])),
    "one negative Jordan block": torch.tensor([[-1.0, 1.0], [0.0, -1.0]]),
    "negative and positive": torch.diag(torch.tensor([-2.0, 5.0, -0.1, 1.0])),
    "identity": torch.eye(3),
    "shear": torch.tensor([[1.0, 100.0], [0.0, 1.0]]),
    "one dimension": torch.tensor([[1e-9]]),
    "a half turn, nearly": torch.tensor([[math.cos(3.14159), -math.sin(3.14159)], [math.sin(3.14159), math.cos(3.14159)]]),
    "ill-conditioned": torch.diag(torch.tensor([1e6, 1e-6], dtype=torch.float64)),
    "small": 1e-4 * torch.eye(2, dtype=torch.float64),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("m", [1, 2, 3, 64])
def test_the_product_is_the_matrix(name: str, m: int) -> None:
    A = HARD[name].double()
    steps = factors(A, m)
    assert len(steps) == m
    assert norm(product(steps) - A) <= 1e-10 * norm(A)
    assert max(map(norm, steps)) <= math.expm1(2 * size(A) / m) * (1 + 1e-12) + 1e-15


@pytest.mark.parametrize("d", [1, 2, 3, 5, 10, 30])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_m_times_the_largest_factor_stays_bounded(d: int, seed: int) -> None:
    A = random_matrix(d, seed)
    scaled = []
    for m in [2**k for k in range(2, 11)]:
        steps = factors(A, m)
        assert norm(product(steps) - A) <= 1e-10 * norm(A)
        scaled.append(m * max(map(norm, steps)))
    assert scaled[-1] <= 1.05 * size(A)  # the shares are even: no factor 2 is lost in the limit
    assert max(scaled[3:]) <= 2.5 * size(A)
    assert all(later <= 1.3 * earlier for earlier, later in pairwise(scaled[3:]))


@example(rows=[[7.560303354178e-31]], m=1)
@given(
    st.integers(1, 5).flatmap(
        lambda d: st.lists(st.lists(st.floats(-10, 10, width=32), min_size=d, max_size=d), min_size=d, max_size=d)
    ),
    st.integers(1, 40),
)
@settings(max_examples=80, deadline=None)
def test_any_matrix_is_factored_or_refused(rows: list[list[float]], m: int) -> None:
    A = torch.tensor(rows, dtype=torch.float64)
    try:
        steps = factors(A, m)
    except InvalidInput as error:
        singular = torch.linalg.svdvals(A)
        if "so close to −I" in str(error):  # a factor of size 10⁻¹⁰ or so: I + A_i has lost its digits in A_i
            assert float(singular.min()) ** (1 / m) < 1e-3
        elif "negative determinant" in str(error):
            assert float(torch.linalg.det(A)) <= 1e-12 * float(singular.prod())
        else:
            assert "singular in float64" in str(error) and float(singular.min()) <= 1e-14 * float(singular.max())
        return
    assert norm(product(steps) - A) <= 1e-10 * norm(A)
    assert max(map(norm, steps)) <= math.expm1(2 * size(A) / m) * (1 + 1e-9) + 1e-14


def test_the_logarithms_are_skew_and_symmetric() -> None:
    A = random_matrix(6, 3)
    turn, stretch = logarithms(A)
    assert torch.equal(turn, -turn.T) and torch.equal(stretch, stretch.T)
    assert norm(torch.linalg.matrix_exp(turn) @ torch.linalg.matrix_exp(stretch) - A) < 1e-12 * norm(A)
    assert norm(turn) <= math.pi + 1e-12


def test_large_rotations_and_other_types_of_input() -> None:
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(60, 60)))[0]
    rotation[:, 0] *= np.linalg.det(rotation)
    assert norm(product(factors(rotation, 500)) - torch.from_numpy(rotation)) < 1e-10
    single = torch.tensor([[2.0, 0.0], [0.0, 2.0]], dtype=torch.float32, requires_grad=True)
    assert factors(single, 3)[0].dtype == torch.float64
    assert norm(product(factors([[2, 0], [0, 3]], 5)) - torch.diag(torch.tensor([2.0, 3.0]))) < 1e-10


@pytest.mark.parametrize(
    ("A", "says"),
    [
        ([[0.0, 1.0], [1.0, 0.0]], "negative determinant.*Flip the sign of one row"),
        ([[-1.0]], "negative determinant"),
        ([[1.0, 2.0], [2.0, 4.0]], "singular"),
        ([[0.0]], "singular"),
        ([[1.0, 2.0, 3.0], [1.0, 2.0, 4.0]], r"square.*\(2, 3\)"),
        ([1.0, 2.0], "square"),
        (torch.empty(0, 0), "square"),
        ([[float("nan"), 0.0], [0.0, 1.0]], r"finite; entry \[0, 0\] is nan"),
        ([[1.0, 0.0], [float("inf"), 1.0]], r"entry \[1, 0\] is inf"),
        (torch.eye(2, dtype=torch.complex128), "complex"),
        ("hello", "real matrix"),
    ],
)
def test_what_cannot_be_factored_is_refused(A: object, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        factors(A, 4)


def test_a_tiny_matrix_takes_more_factors() -> None:
    tiny = 1e-200 * torch.eye(2, dtype=torch.float64)
    with pytest.raises(InvalidInput, match="Take more factors"):
        factors(tiny, 3)
    assert norm(product(factors(tiny, 1000)) - tiny) <= 1e-10 * 1e-200


@pytest.mark.parametrize("m", [0, -1, 2.0, True])
def test_the_number_of_factors_is_positive(m: int) -> None:
    with pytest.raises(InvalidInput, match="m counts factors"):
        factors(torch.eye(2), m)
