"""Norms that are sums over the entries of a matrix: Frobenius, (2,1), ℓ1 and ℓ∞ operator norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nonvacuous.core.measured import Kind, Measured
from nonvacuous.operators.certified import gamma

Lines = Sequence[tuple[tuple[Tensor, Tensor], int]]


@dataclass(frozen=True)
class EntryNorms:
    """Norms of one matrix, all from its rows' and columns' absolute and squared sums.

    Attributes:
        frobenius: (Σ entries²)^½.
        rows21: Σ over rows of the row's ℓ2 norm, ``‖Aᵀ‖_{2,1}``.
        columns21: Σ over columns of the column's ℓ2 norm, ``‖A‖_{2,1}``.
        linf: largest absolute row sum, the ℓ∞ operator norm.
        l1: largest absolute column sum, the ℓ1 operator norm.
    """

    frobenius: Measured
    rows21: Measured
    columns21: Measured
    linf: Measured
    l1: Measured

    @property
    def transposed(self) -> EntryNorms:
        """Those of the transpose."""
        return EntryNorms(self.frobenius, self.columns21, self.rows21, self.l1, self.linf)

    def scaled(self, factor: float) -> EntryNorms:
        """Those of the matrix times a positive factor."""
        return EntryNorms(*(norm * factor for norm in self._all))

    def repeated(self, times: int) -> EntryNorms:
        """Those of the block-diagonal matrix of so many copies."""
        root = Measured(math.sqrt(times) * (1 - 2**-52), math.sqrt(times) * (1 + 2**-52), Kind.EXACT)
        if times == 1:
            return self
        return EntryNorms(
            self.frobenius * root,
            self.rows21 * times,
            self.columns21 * times,
            self.linf * min(times, 1),
            self.l1 * min(times, 1),
        )

    def kronecker(self, other: EntryNorms) -> EntryNorms:
        """Those of the Kronecker product: all five are multiplicative."""
        return EntryNorms(*(a * b for a, b in zip(self._all, other._all, strict=True)))

    @property
    def _all(self) -> tuple[Measured, ...]:
        return (self.frobenius, self.rows21, self.columns21, self.linf, self.l1)

    @classmethod
    def from_lines(cls, rows: Lines, columns: Lines, terms: int) -> EntryNorms:
        """From ((absolute sums, square sums) of different lines, how often they occur); ``terms`` the most summed at once."""
        squares = math.fsum(float(square.sum()) * count for (_, square), count in rows)
        lines = sum(square.numel() for (_, square), _ in rows)
        error = gamma(terms + lines + 16)
        return cls(
            _around(math.sqrt(squares), error),
            _around(math.fsum(float(square.sqrt().sum()) * count for (_, square), count in rows), error),
            _around(math.fsum(float(square.sqrt().sum()) * count for (_, square), count in columns), error),
            _around(max((float(total.max()) for (total, _), _ in rows if total.numel()), default=0.0), error),
            _around(max((float(total.max()) for (total, _), _ in columns if total.numel()), default=0.0), error),
        )

    @classmethod
    def of_matrix(cls, matrix: Tensor) -> EntryNorms:
        """Of a matrix (rows, columns) given in full, one that came from float64 or narrower weights."""
        rows, columns = matrix.shape
        total_rows, total_columns = torch.zeros(rows, 2), torch.zeros(columns, 2)
        total_rows, total_columns = (t.double().to(matrix.device) for t in (total_rows, total_columns))
        for start in range(0, rows, 4096):
            part = matrix[start : start + 4096].double()
            total_rows[start : start + 4096, 0] = part.abs().sum(1)
            total_columns[:, 0] += part.abs().sum(0)
            part = part.square()
            total_rows[start : start + 4096, 1] = part.sum(1)
            total_columns[:, 1] += part.sum(0)
        return cls.from_lines(
            [((total_rows[:, 0], total_rows[:, 1]), 1)],
            [((total_columns[:, 0], total_columns[:, 1]), 1)],
            max(rows, columns),
        )


def _around(value: float, relative_error: float) -> Measured:
    return Measured(max(0.0, value * (1 - relative_error)), value * (1 + relative_error), Kind.EXACT)
