"""Least squares from zero: gradient descent picks the interpolant of least norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.deep_linear import matrix


@dataclass(frozen=True)
class LeastSquares:
    """½‖Xw − y‖² with X = U diag(s) Vᵀ of rank r: left ``[n, r]``, singular ``[r]``, right ``[d, r]``, target ``[n]``."""

    left: Tensor
    singular: Tensor
    right: Tensor
    target: Tensor

    @classmethod
    def of(cls, X: Any, y: Any) -> LeastSquares:
        """Examples in rows: X ``[n, d]``, y ``[n]``."""
        inputs, target = matrix(X, "X"), torch.as_tensor(y, dtype=torch.float64).detach()
        if target.shape != (len(inputs),):
            raise InvalidInput(f"targets must be [{len(inputs)}], one a row of X; got {tuple(target.shape)}")
        U, S, V = torch.linalg.svd(inputs, full_matrices=False)
        kept = 1e-12 * S.max() < S
        return cls(U[:, kept], S[kept], V[kept].T, target)

    def minimum_norm(self) -> Tensor:
        """X⁺y ``[d]``: of all minimisers of ‖Xw − y‖ the one of least norm."""
        return self.right @ ((self.left.T @ self.target) / self.singular)

    def step_limit(self) -> float:
        """2/s_max²: gradient descent converges below it."""
        return 2 / float(self.singular[0]) ** 2

    def limit(self, start: Tensor) -> Tensor:
        """Where descent from ``start`` ``[d]`` ends: X⁺y plus the part of the start that no example sees."""
        return self.minimum_norm() + start - self.right @ (self.right.T @ start)

    def after(self, start: Tensor, step: float, steps: int) -> Tensor:
        """w ``[d]`` after ``steps`` steps of gradient descent on ½‖Xw − y‖², in closed form.

        From zero it stays in the span of the examples, so that its limit is the interpolant of least norm; the distance to
        :meth:`limit` shrinks by max|1 − ηs²| a step. From elsewhere the unseen part stays for ever.

        :raises InvalidInput: a step size of 2/s_max² or more.

        Source: Zhang, Bengio, Hardt, Recht and Vinyals 2017, "Understanding deep learning requires rethinking generalization",
        Section 5 (linear models).

        >>> problem = LeastSquares.of([[1.0, 1.0]], [2.0])
        >>> problem.after(torch.zeros(2, dtype=torch.float64), 0.5, 1).round(decimals=12).tolist()
        [1.0, 1.0]
        """
        if not 0 < step < self.step_limit():
            raise InvalidInput(
                f"step size {step:g}: descent on this problem diverges from 2/s_max² = {self.step_limit():.6g} on"
            )
        end = self.limit(start)
        away = self.right.T @ (start - end)
        return end + self.right @ ((1 - step * self.singular**2) ** steps * away)
