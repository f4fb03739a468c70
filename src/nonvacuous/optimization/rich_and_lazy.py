"""Small against large initial weights: the same model, the same data, and two different interpolants."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import linprog
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.deep_linear import matrix


def diagonal_limit(X: Any, y: Any, alpha: float, *, iterations: int = 500) -> Tensor:
    """The interpolant β = u² − v² ``[d]`` that gradient flow on ‖Xβ − y‖² reaches from u = v = α·1.

    Theorem. It minimises Q(β) = α² Σ q(β_j/α²), q(z) = 2 − √(4 + z²) + z·arcsinh(z/2), over Xβ = y: for α → ∞ the least ℓ₂ norm
    (the kernel regime), for α → 0 the least ℓ₁ norm (the rich one). Its dual: β = 2α² sinh(Xᵀν), and Newton's method on
    ν ↦ Σ 2α² cosh((Xᵀν)_j) − ⟨y, ν⟩, which is convex.

    Args:
        X: ``[n, d]`` of full row rank. y: ``[n]``. alpha: α > 0.

    Raises:
        InvalidInput: rank-deficient rows, α not positive, or Newton's method out of ``iterations``.

    Source: Woodworth, Gunasekar, Lee, Moroshko, Savarese, Golan, Soudry and Srebro 2020, "Kernel and rich regimes in
    overparametrized models", Theorem 1.
    """
    A, target = matrix(X, "X").numpy(), np.asarray(y, dtype=float)
    if not alpha > 0 or np.linalg.matrix_rank(A) < len(A):
        raise InvalidInput(
            f"α = {alpha!r} must be positive, and the rows of X independent. Drop examples that depend on others"
        )
    nu = np.zeros(len(A))

    def value(at: np.ndarray) -> float:
        return float(2 * alpha**2 * np.cosh(np.clip(A.T @ at, -600, 600)).sum() - target @ at)

    for _ in range(iterations):
        inner = np.clip(A.T @ nu, -600, 600)
        slope = A @ (2 * alpha**2 * np.sinh(inner)) - target
        if np.linalg.norm(slope) <= 1e-11 * (1 + np.linalg.norm(target)):
            return torch.from_numpy(2 * alpha**2 * np.sinh(inner))
        step = np.linalg.solve((A * (2 * alpha**2 * np.cosh(inner))) @ A.T, slope)
        size, here = 1.0, value(nu)
        while value(nu - size * step) > here - 1e-4 * size * (slope @ step) + 1e-12 * abs(here) and size > 1e-12:
            size /= 2
        nu = nu - size * step
    raise InvalidInput(
        f"Newton's method did not converge in {iterations} steps at α = {alpha:g}. Take a larger α or scale the data"
    )


def diagonal_flow(X: Any, y: Any, alpha: float, *, until: float = 1e4) -> Tensor:
    """β ``[d]`` at time ``until`` of gradient flow on ½‖X(u² − v²) − y‖² from u = v = α·1."""
    A, target = matrix(X, "X").numpy(), np.asarray(y, dtype=float)
    d = A.shape[1]

    def slope(_: float, state: np.ndarray) -> np.ndarray:
        u, v = state[:d], state[d:]
        pull = A.T @ (A @ (u**2 - v**2) - target)
        return np.concatenate([-2 * u * pull, 2 * v * pull])

    end = solve_ivp(slope, (0.0, until), np.full(2 * d, float(alpha)), method="LSODA", rtol=1e-10, atol=1e-14).y[:, -1]
    return torch.from_numpy(end[:d] ** 2 - end[d:] ** 2)


def least_l1(X: Any, y: Any) -> Tensor:
    """An interpolant Xβ = y of least ℓ₁ norm ``[d]``, by linear programming.

    :raises InvalidInput: no interpolant exists.
    """
    A, target = matrix(X, "X").numpy(), np.asarray(y, dtype=float)
    solved = linprog(np.ones(2 * A.shape[1]), A_eq=np.hstack([A, -A]), b_eq=target, bounds=(0, None), method="highs")
    if solved.x is None:
        raise InvalidInput("no β interpolates the data: X has fewer columns than independent rows, or targets that contradict")
    return torch.from_numpy(solved.x[: A.shape[1]] - solved.x[A.shape[1] :])
