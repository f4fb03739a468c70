"""Every linear map that keeps orientation is a product of maps close to the identity."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.linalg import schur
from torch import Tensor

from nonvacuous.core.errors import InvalidInput


def factors(A: Any, m: int) -> tuple[Tensor, ...]:
    """A_1, …, A_m with A = (I + A_m)…(I + A_1) and ‖A_i‖₂ ≤ exp(2c/m) − 1 = O(1/m), for det A > 0.

    A = QP with a rotation Q and P positive definite.  Both have real logarithms: P's is symmetric; Q's is skew, of norm at most
    π, where the eigenvalues −1 (an even number, since det Q = 1) are taken in pairs, each a half turn.  Some of the m factors
    are exp(log P / m_P), the others exp(log Q / m_Q), m_P + m_Q = m, shared out so that the largest is smallest; and
    ‖exp(L/k) − I‖ ≤ exp(‖L‖/k) − 1.  The constant c = ‖log Q‖ + ‖log P‖ is :func:`size`, at most π + |log| of A's most
    extreme singular value.  One factor is A − I itself.

    Args:
        A: ``[d, d]``, real; computed in float64.
        m: number of factors, at least 1.

    Returns:
        ``m`` float64 tensors ``[d, d]``, A_1 (applied first) in front; equal ones share their memory.  The product equals A to
        1e-10·‖A‖ (checked).

    Raises:
        InvalidInput: A not square, not finite, singular in float64, or of negative determinant; m not a positive integer; or so
            few factors for so small a matrix that float64 cannot hold them.

    Source: Hardt and Ma, "Identity matters in deep learning", ICLR 2017, Theorem 2.1; for det A > 0 as in Bartlett's deck and
    Bartlett, Evans and Long 2018.

    >>> first, second = factors([[0.0, -1.0], [1.0, 0.0]], 2)  # a quarter turn: two eighth turns
    >>> torch.eye(2) + first
    tensor([[ 0.7071, -0.7071],
            [ 0.7071,  0.7071]], dtype=torch.float64)
    """
    matrix = _matrix(A)
    if isinstance(m, bool) or not isinstance(m, int) or m < 1:
        raise InvalidInput(f"m counts factors: an integer of at least 1; got {m!r}")
    turn, stretch = logarithms(matrix)
    if m == 1:
        steps = [matrix - torch.eye(len(matrix), dtype=torch.float64)]
    else:
        steps = []
        turns = _share(_norm(turn), _norm(stretch), m)
        for log, count in ((stretch, m - turns), (turn, turns)):
            steps += [_expm1(log / count)] * count if count else []
    _check_product(matrix, steps)
    return tuple(steps)


def size(A: Any) -> float:
    """c = ‖log Q‖₂ + ‖log P‖₂ of the polar decomposition A = QP; each of m factors has ‖A_i‖₂ ≤ exp(2c/m) − 1."""
    turn, stretch = logarithms(A)
    return _norm(turn) + _norm(stretch)


def logarithms(A: Any) -> tuple[Tensor, Tensor]:
    """Skew K and symmetric S, both ``[d, d]``, with A = exp(K)·exp(S); needs det A > 0, raises as :func:`factors`."""
    matrix = _matrix(A)
    left, singular, right = torch.linalg.svd(matrix)
    largest, smallest = (float(singular.max()), float(singular.min())) if len(singular) else (1.0, 1.0)
    if not smallest > len(matrix) * 2.0**-52 * largest:
        raise InvalidInput(
            f"the matrix is singular in float64: its singular values lie between {smallest:.3g} and {largest:.3g}. A product of "
            "invertible factors is invertible; add a multiple of the identity, or factor the map on the matrix's range"
        )
    rotation = left @ right
    if float(torch.linalg.det(rotation)) < 0:
        raise InvalidInput(
            "the matrix has a negative determinant: it reverses orientation, and a product of I + A_i with ‖A_i‖ < 1 never does. "
            "Flip the sign of one row (a reflection, kept as a layer of its own), and factor what is left"
        )
    stretch = right.T @ (singular.log()[:, None] * right)
    return _rotation_logarithm(rotation), (stretch + stretch.T) / 2


def _matrix(A: Any) -> Tensor:
    try:
        matrix = torch.as_tensor(A)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"a real matrix [d, d] is needed; got a {type(A).__name__}: {error}") from error
    if matrix.is_complex():
        raise InvalidInput("a real matrix is needed; got a complex one. Write it as a real one of twice the size")
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise InvalidInput(f"a square matrix [d, d] is needed; got shape {tuple(matrix.shape)}")
    matrix = matrix.detach().to("cpu", torch.float64)
    if not matrix.isfinite().all():
        row, column = (~matrix.isfinite()).nonzero()[0].tolist()
        raise InvalidInput(f"the matrix must be finite; entry [{row}, {column}] is {matrix[row, column].item()}")
    return matrix


def _rotation_logarithm(rotation: Tensor) -> Tensor:
    """A skew matrix whose exponential is ``rotation`` (orthogonal, determinant 1)."""
    blocks, basis = schur(rotation.numpy(), output="real")
    log, halves, at = np.zeros_like(blocks), [], 0
    while at < len(blocks):
        if at + 1 < len(blocks) and abs(blocks[at + 1, at]) > 2.0**-50:
            sine = (blocks[at + 1, at] - blocks[at, at + 1]) / 2
            angle = math.atan2(sine, (blocks[at, at] + blocks[at + 1, at + 1]) / 2)
            log[at + 1, at], log[at, at + 1] = angle, -angle
            at += 2
            continue
        if blocks[at, at] < 0:
            halves.append(at)
        at += 1
    for one, other in zip(halves[::2], halves[1::2], strict=True):
        log[other, one], log[one, other] = math.pi, -math.pi
    skew = torch.from_numpy(basis @ log @ basis.T)
    return (skew - skew.T) / 2


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


def _share(turn: float, stretch: float, m: int) -> int:
    """How many of m ≥ 2 factors turn, so that the larger of turn/k and stretch/(m − k) is smallest (half-and-half at worst)."""
    if not turn or not stretch:
        return m if turn else 0
    ideal = m * turn / (turn + stretch)
    near = {min(max(k, 1), m - 1) for k in (math.floor(ideal), math.ceil(ideal))}
    return min(sorted(near), key=lambda k: max(turn / k, stretch / (m - k)))


def _expm1(log: Tensor) -> Tensor:
    """exp(L) − I for a normal L, without cancellation where L is small: L·φ(L), φ(L) = Σ L^k/(k+1)!, after halving L."""
    halvings = max(0, math.ceil(math.log2(max(_norm(log), 2.0**-60) * 4)))
    small = log / 2.0**halvings
    term = total = small
    for k in range(2, 20):
        term = term @ small / k
        total = total + term
    for _ in range(halvings):  # e^{2L} − 1 = (e^L − 1)² + 2(e^L − 1)
        total = total @ total + 2 * total
    return total


def _check_product(matrix: Tensor, steps: list[Tensor]) -> None:
    product = torch.eye(len(matrix), dtype=torch.float64)
    for step in steps:
        product = product + step @ product
    miss = _norm(product - matrix) / _norm(matrix)
    if not miss <= 1e-10:
        raise InvalidInput(
            f"the product of {len(steps)} factors I + A_i misses the matrix by {miss:.2g} of its norm: float64 cannot hold A_i so "
            "close to −I. Take more factors, each closer to the identity, or scale the matrix"
        )
