"""A layer with its bias as one more column: ``[[A, b], [0, 1]]`` for hidden layers, ``[A, b]`` for the last.

The upper end of its ℓ2 norm rests on s, a proved upper end of ``‖A‖₂``.  For ``t > s`` and u = (b, 1) (u = b for the last)
``t²I − ÃÃᵀ ≽ 0`` if and only if ``uᵀ(t²I − D)⁻¹u ≤ 1``, D being ``AAᵀ`` with a row and column of zeros.  With M = t²I − AAᵀ, which is at
least (t² − s²)I, any y with residual r = b − My proves

    bᵀM⁻¹b = bᵀy + yᵀr + rᵀM⁻¹r ≤ bᵀy + yᵀr + ‖r‖²/(t² − s²).

How y was found (conjugate gradients) does not matter.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nonvacuous.operators.certified import gamma
from nonvacuous.operators.linear_map import LinearMap
from nonvacuous.operators.norms import MEMORY, absolute_size, entries_error, rounding_terms, spectral_norm_of

STEPS = 60


class Appended(LinearMap):
    """``[[A, b], [0, 1]]`` on flat vectors (x, 1); without the last row if ``is_last``."""

    def __init__(self, linear: LinearMap, offset: Tensor, is_last: bool) -> None:
        self.linear, self.offset, self.is_last = linear, offset.flatten().double(), is_last
        self.device = self.offset.device
        self.shape_in = (linear.columns + 1,)
        self.shape_out = (linear.rows + (0 if is_last else 1),)
        self._known: tuple[float, float] | None = None  # tolerance and upper end of ‖A‖₂, computed once

    def apply(self, x: Tensor) -> Tensor:
        image = self.linear.apply(x[:, :-1].reshape(-1, *self.linear.shape_in)).flatten(1) + x[:, -1:] * self.offset.to(
            x.dtype
        )
        return image if self.is_last else torch.cat([image, x[:, -1:]], 1)

    def adjoint(self, y: Tensor) -> Tensor:
        image = y[:, : self.linear.rows]
        last = (image @ self.offset.to(y.dtype)).unsqueeze(1)
        if not self.is_last:
            last = last + y[:, -1:]
        return torch.cat([self.linear.adjoint(image.reshape(-1, *self.linear.shape_out)).flatten(1), last], 1)

    def absolute_size(self) -> float:
        """An upper end of the norm of the entries' absolute values."""
        return self._of_blocks(absolute_size(self.linear))

    def entries_error(self) -> float:
        """Norm of the rounding errors in its entries written out."""
        return entries_error(self.linear)

    def linear_upper(self, tolerance: float = 0.01, memory: int = MEMORY) -> float:
        """A proved upper end of ``‖A‖₂``; one found before with at most this tolerance is given again."""
        if self._known is None or self._known[0] > tolerance:
            self._known = tolerance, spectral_norm_of(self.linear, tolerance=tolerance, memory=memory).upper
        return self._known[1]

    def upper(self, hint: float, tolerance: float, memory: int) -> float:
        """A proved upper end, never above the norm of ``[[‖A‖, ‖b‖], [0, 1]]``."""
        inner = self.linear_upper(tolerance / 4, memory)
        most = self._of_blocks(inner)
        trial, step = max(hint, inner) * (1 + tolerance / 2), tolerance / 4
        while trial < most:
            if self._proves(trial, inner):
                return trial
            trial *= 1 + step
            step *= 2
        return most

    def _of_blocks(self, size: float) -> float:
        """``‖[[size, ‖b‖], [0, 1]]‖₂``: the norm of a matrix of norms."""
        bias = self._offset_norm
        if self.is_last:
            return math.hypot(size, bias) * (1 + 1e-14)
        square = size**2 + bias**2 + 1
        return math.sqrt((square + math.sqrt(max(0.0, square**2 - 4 * size**2))) / 2) * (1 + 1e-14)

    @property
    def _offset_norm(self) -> float:
        return float(torch.linalg.vector_norm(self.offset)) * (1 + gamma(self.offset.numel() + 4))

    def _proves(self, limit: float, inner: float) -> bool:
        gap = (limit**2 - inner**2) * (1 - 1e-12) - 1e-14 * limit**2
        if gap <= 0:
            return False
        solution = self._solved(limit)
        rest = self.offset - self._shifted(solution, limit)
        length = float(torch.linalg.vector_norm(solution)) * (1 + 1e-10)
        size = absolute_size(self.linear)
        error = gamma(2 * rounding_terms(self.linear) + 16) * (size**2 + limit**2) * length + 1e-15 * self._offset_norm
        off = float(torch.linalg.vector_norm(rest)) * (1 + 1e-10) + error
        dot = gamma(self.offset.numel() + 8) * length * (self._offset_norm + off)
        value = float(self.offset @ solution + solution @ rest) + dot + length * error + off**2 / gap * (1 + 1e-12)
        return value + (0.0 if self.is_last else limit**-2) <= 1 - 1e-14

    def _shifted(self, y: Tensor, limit: float) -> Tensor:
        back = self.linear.adjoint(y.reshape(1, *self.linear.shape_out))
        return limit**2 * y - self.linear.apply(back).flatten()

    def _solved(self, limit: float) -> Tensor:
        """``(t²I − AAᵀ)⁻¹b`` by conjugate gradients; trusted by nobody."""
        solution, rest = torch.zeros_like(self.offset), self.offset.clone()
        direction, square = rest, float(rest @ rest)
        most = 1e-20 * square
        for _ in range(STEPS):
            if not square > most:
                break
            image = self._shifted(direction, limit)
            curvature = float(direction @ image)
            if not curvature > 0:
                break
            solution = solution + square / curvature * direction
            rest = rest - square / curvature * image
            before, square = square, float(rest @ rest)
            direction = rest + square / before * direction
        return solution
