"""K + λI = L Lᵀ in the very memory of K, with answers better than the storage's precision.

The factor takes one triangle of the matrix and leaves the other, so K can still be multiplied by (for true residuals and for
refinement in float64 of a float32 factor) and factored again with another λ, all in n² numbers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.linalg import lapack
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.block_gram import ROWS, StripedGram
from nonvacuous.runtime.tasks import Progress

BLOCK = 512
REFINEMENTS = 8
GOAL = 1e-11
"""Residual at which refinement stops: what float64 gives by itself on a Gram matrix of moderate condition."""


class Refined(NamedTuple):
    """values ``[n, k]``, float64; residual: ‖V − (K + λI)X‖/‖V‖, largest over columns, computed in float64."""

    values: Tensor
    residual: float


class SingularGram(InvalidInput):
    """K + λI is not positive definite in floating point; the message says which rows repeat."""


class _Lower(StripedGram):
    """K, from the strict lower triangle of the factored array and the diagonal that was put aside."""

    def __init__(self, matrix: Tensor, diagonal: Tensor) -> None:
        self.matrix, self.kept, self.n, self.dtype = matrix, diagonal, len(matrix), matrix.dtype

    def stripe(self, start: int) -> Tensor:
        end = min(start + self.rows, self.n)
        values = self.matrix[start:end, :end].clone()
        low = values[:, start:].tril(-1)
        values[:, start:] = low + low.T + torch.diag(self.kept[start:end])
        return values

    def product(self, vectors: Tensor, *, accurate: bool = False) -> Tensor:
        inner = torch.float64 if accurate else self.dtype
        V = vectors.to(inner)
        out = torch.zeros(vectors.shape, dtype=inner, device=vectors.device)
        for start in self.starts:
            end = min(start + self.rows, self.n)
            left = self.matrix[start:end, :start].to(inner)  # nothing is copied where the types agree
            own = self.matrix[start:end, start:end].to(inner).tril(-1)
            out[start:end] += left @ V[:start] + own @ V[start:end] + own.T @ V[start:end]
            out[start:end] += self.kept[start:end, None].to(inner) * V[start:end]
            out[:start] += left.T @ V[start:end]
        return out.to(vectors.dtype)


class Cholesky:
    """The factor of K + λI.

    matrix: K ``[n, n]``, symmetric; **its upper triangle and diagonal are overwritten**. ridge: λ ≥ 0.

    Raises:
        SingularGram: the factorisation met a pivot that is not positive.
    """

    def __init__(self, matrix: Tensor, ridge: float, progress: Progress | None = None) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
            raise InvalidInput(f"a Gram matrix of shape {tuple(matrix.shape)}: it must be [n, n]")
        if matrix.dtype not in (torch.float32, torch.float64):
            raise InvalidInput(f"a Gram matrix in {matrix.dtype}: factor it in float32 or float64")
        self.matrix = matrix if matrix.is_contiguous() else matrix.contiguous()
        self.diagonal = matrix.diagonal().clone()
        self.n, self.dtype = len(matrix), matrix.dtype
        self.gram: StripedGram = _Lower(self.matrix, self.diagonal)
        self.ridge, self._bar = ridge, progress or Progress()
        self._factor()

    def refactored(self, ridge: float) -> Cholesky:
        """The same memory, with another λ; the former factor is gone. Returns itself."""
        for start in range(0, self.n, ROWS):
            end = min(start + ROWS, self.n)
            self.matrix[:start, start:end] = self.matrix[start:end, :start].T
            own = self.matrix[start:end, start:end]
            low = own.tril(-1)
            own.copy_(low + low.T)
        self.matrix.diagonal().copy_(self.diagonal)
        self.ridge = ridge
        self._factor()
        return self

    def _factor(self) -> None:
        if not (math.isfinite(self.ridge) and self.ridge >= 0):
            raise InvalidInput(f"ridge {self.ridge!r}: 0 or more, and finite")
        self.matrix.diagonal().add_(self.ridge)
        failed = _factored_in_place(self.matrix, self._bar)
        if failed:
            raise _explained(
                f"K + {self.ridge:g}·I is not positive definite in {self.dtype}: row {failed - 1} adds nothing to those before it",
                self.gram,
            )

    def half_solved(self, vectors: Tensor) -> Tensor:
        """L⁻¹ V ``[n, k]``: its squared column norms are vᵀ(K + λI)⁻¹v."""
        return self._triangular(vectors.to(self.dtype), transposed=False).to(vectors.dtype)

    def _triangular(self, V: Tensor, *, transposed: bool) -> Tensor:
        if self.matrix.device.type == "cpu":
            trtrs = lapack.strtrs if self.dtype == torch.float32 else lapack.dtrtrs
            out, info = trtrs(self.matrix.numpy().T, V.numpy(), lower=1, trans=int(transposed))
            if info:
                raise SingularGram(f"the factor has a zero at row {info - 1}")
            return torch.from_numpy(out)
        return torch.linalg.solve_triangular(self.matrix if transposed else self.matrix.mT, V, upper=transposed)

    def solved(self, vectors: Tensor) -> Tensor:
        """(K + λI)⁻¹ V ``[n, k]``, refined in float64 until that no longer helps; in V's type."""
        return self.solution(vectors).values.to(vectors.dtype)

    def solution(self, vectors: Tensor) -> Refined:
        """The same in float64, with its true residual."""
        target = vectors.double()
        scale = target.norm(dim=0).clamp(min=1e-300)
        answer, residual, best = torch.zeros_like(target), target, math.inf
        for _ in range(REFINEMENTS):
            step = self._triangular(self._triangular(residual.to(self.dtype), transposed=False), transposed=True).double()
            candidate = answer + step
            left = target - self.product(candidate)
            worst = float((left.norm(dim=0) / scale).max())
            if not worst < best:
                break
            enough = worst <= GOAL or worst > 0.5 * best
            answer, residual, best = candidate, left, worst
            if enough:
                break
        return Refined(answer, best)

    def product(self, vectors: Tensor) -> Tensor:
        """(K + λI) V ``[n, k]``, in float64."""
        V = vectors.double()
        return self.gram.product(V, accurate=True) + self.ridge * V

    def log_determinant(self) -> float:
        """ln det(K + λI)."""
        return 2 * float(self.matrix.diagonal().double().log().sum())


def _factored_in_place(A: Tensor, bar: Progress) -> int:
    """A = UᵀU in A's upper triangle, block by block, its strict lower triangle untouched; 0, or the number of the pivot that failed.

    Right-looking: after each block of rows the rest is updated by matrix products, where all but O(n²) of the time goes.
    """
    n = len(A)
    with bar.task("Cholesky factor", n**3 // 3) as advance:
        for j in range(0, n, BLOCK):
            end = min(j + BLOCK, n)
            own = A[j:end, j:end]
            upper, info = torch.linalg.cholesky_ex(own, upper=True)
            if int(info):
                return j + int(info)
            own.copy_(upper.triu() + own.tril(-1))
            if end < n:
                row = torch.linalg.solve_triangular(upper.mT, A[j:end, end:], upper=False)
                A[j:end, end:] = row
                for i in range(end, n, BLOCK):
                    stop = min(i + BLOCK, n)
                    left = row[:, i - end : stop - end].mT
                    A[i:stop, stop:].addmm_(left, row[:, stop - end :], alpha=-1)
                    block = A[i:stop, i:stop]
                    block.sub_((left @ left.mT).triu())
            advance(((n - j) ** 3 - (n - end) ** 3) // 3)
    return 0


def repeated_rows(gram: StripedGram, most: int = 5) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of inputs that the kernel cannot tell apart: K_ii + K_jj − 2K_ij within rounding of 0.

    The distance in the kernel's own feature space: equal inputs, and inputs that the kernel maps to one point. Makes one pass.
    """
    diagonal = gram.diagonal()
    tolerance = 64 * torch.finfo(gram.dtype).eps
    found: list[tuple[int, int]] = []
    for start, values in gram.stripes():
        end = start + len(values)
        scale = diagonal[start:end, None] + diagonal[None, :end]
        near = (scale - 2 * values <= tolerance * scale).tril(start - 1)
        for row, column in near.nonzero().tolist():
            found.append((column, start + row))
            if len(found) == most:
                return found
    return found


def _explained(what: str, gram: StripedGram) -> SingularGram:
    """The error with the rows that repeat, or with what else may be the matter."""
    pairs = repeated_rows(gram)
    if pairs:
        listed = ", ".join(f"{i} = {j}" for i, j in pairs) + (", …" if len(pairs) == 5 else "")
        return SingularGram(f"{what}. Rows that the kernel cannot tell apart: {listed}. Remove them, or take a ridge above 0")
    return SingularGram(
        f"{what}. No two rows repeat, but their features are linearly dependent to rounding: take a larger ridge, or float64"
    )
