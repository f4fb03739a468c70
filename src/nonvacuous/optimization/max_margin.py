"""Separable data: the direction of gradient descent converges to the largest margin, at the rate 1/log t."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import nnls
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.deep_linear import matrix
from nonvacuous.optimization.escape import binary


@dataclass(frozen=True)
class Separator:
    """The hard-margin separator through the origin.

    direction: ŵ ``[d]``, of norm 1. margin: min y_i⟨ŵ, x_i⟩ = γ. upper: a proven upper bound of every unit vector's margin, from
    the dual (‖Σ p_i y_i x_i‖ for the probability vector p found). support: the examples that attain the margin.
    """

    direction: Tensor
    margin: float
    upper: float
    support: tuple[int, ...]


def largest_margin(X: Any, y: Any) -> Separator:
    """max over unit w of min y_i⟨w, x_i⟩, solved exactly by an active-set method (least-distance programming).

    Duality: the largest margin is the least norm in the convex hull of the y_i x_i; any member of the hull bounds it from above.

    Args:
        X: ``[n, d]``, examples in rows. y: ``[n]`` of ±1.

    Raises:
        InvalidInput: labels not ±1, or data that no hyperplane through the origin separates.

    Source: Lawson and Hanson 1974, "Solving least squares problems", chapter 23 (problem LDP).

    >>> found = largest_margin([[2.0, 0.0], [0.0, -2.0]], [1, -1])
    >>> round(found.margin, 12), found.support
    (1.414213562373, (0, 1))
    """
    inputs = matrix(X, "X")
    signed = (inputs * binary(y, len(inputs))[:, None]).numpy()
    size = float(np.abs(signed).max()) or 1.0
    stacked = np.vstack([signed.T / size, np.ones(len(signed))])
    target = np.zeros(len(stacked))
    target[-1] = 1.0
    weights, _ = nnls(stacked, target, maxiter=30 * len(signed))
    residual = target - stacked @ weights
    if residual[-1] <= 1e-12 or not weights.sum() > 0:
        raise InvalidInput(
            "no hyperplane through the origin separates the data. Append a constant 1 to the inputs, or use fewer examples"
        )
    hull = weights / weights.sum() @ signed
    upper = float(np.linalg.norm(hull))
    direction = hull / upper
    margins = signed @ direction
    margin = float(margins.min())
    if not margin > 0:
        raise InvalidInput(
            "no hyperplane through the origin separates the data. Append a constant 1 to the inputs, or use fewer examples"
        )
    support = tuple(int(i) for i in np.flatnonzero(weights > 1e-9 * weights.sum()))
    return Separator(torch.from_numpy(direction), margin, upper, support)


@dataclass(frozen=True)
class Direction:
    """Gradient flow on Σ exp(−y_i⟨w, x_i⟩): times ``[T]``, directions w/‖w‖ ``[T, d]``, margins of those, norms ‖w‖."""

    times: np.ndarray
    directions: np.ndarray
    margins: np.ndarray
    norms: np.ndarray

    def gaps(self, separator: Separator) -> np.ndarray:
        """‖w/‖w‖ − ŵ‖ at each time; the theorem says O(1/log t)."""
        return np.linalg.norm(self.directions - separator.direction.numpy(), axis=1)


def direction_of_descent(X: Any, y: Any, *, start: Tensor | None = None, until: float = 1e12, points: int = 60) -> Direction:
    """Where gradient flow on the exponential loss points, at times up to ``until`` (log time makes 10¹² as cheap as 10⁴).

    Theorem. On linearly separable data w(t) = ŵ log t / γ + ρ(t) with ρ bounded (for almost all data), ŵ the direction of the
    largest margin γ: the loss falls as 1/t, but ‖w/‖w‖ − ŵ‖ only as 1/log t, from any start. Without separability the norm stays
    bounded and there is no such limit.

    Args:
        X: ``[n, d]``; y: ``[n]`` of ±1. start: w(0) ``[d]``, zero by default.

    Raises:
        InvalidInput: labels not ±1.

    Source: Soudry, Hoffer, Nacson, Gunasekar and Srebro 2018, "The implicit bias of gradient descent on separable data",
    Theorems 3 and 5.
    """
    inputs = matrix(X, "X")
    signed = (inputs * binary(y, len(inputs))[:, None]).numpy()
    first = np.zeros(signed.shape[1]) if start is None else np.asarray(start, dtype=float)

    def slope(s: float, w: np.ndarray) -> np.ndarray:  # dw/ds with t = e^s − 1
        return signed.T @ np.exp(np.clip(s - signed @ w, -745, 700))

    ends = np.linspace(0.0, math.log1p(until), points + 1)[1:]
    solved = solve_ivp(slope, (0.0, ends[-1]), first, method="LSODA", t_eval=ends, rtol=1e-9, atol=1e-10)
    w = solved.y.T
    norms = np.linalg.norm(w, axis=1)
    directions = w / norms[:, None]
    return Direction(np.expm1(solved.t), directions, (directions @ signed.T).min(1), norms)
