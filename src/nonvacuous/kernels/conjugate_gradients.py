"""Preconditioned conjugate gradients for (K + λI) X = B with many right-hand sides, a pass over K an iteration for all of them.

Vectors are float64; products may be in the Gram matrix's own precision. Then the true residual is computed in float64 and solved for
again (iterative refinement), so the residual that is reported is the true one.

Source: Hestenes and Stiefel 1952; refinement: Higham 2002, "Accuracy and stability of numerical algorithms", chapter 12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.block_gram import StripedGram
from nonvacuous.kernels.preconditioner import NoPreconditioner, Preconditioner
from nonvacuous.runtime.tasks import Advance, Progress


@dataclass(frozen=True, eq=False)
class Solution:
    """values: X ``[n, k]``, float64; residual: largest ‖B − (K + λI)X‖/‖B‖ over the columns, true and in float64; iterations: passes over
    the Gram matrix; converged: the residual is within the tolerance.
    """

    values: Tensor
    residual: float
    iterations: int
    converged: bool


def solution(
    gram: StripedGram,
    right: Tensor,
    ridge: float,
    *,
    preconditioner: Preconditioner | None = None,
    tolerance: float = 1e-6,
    most: int = 1000,
    start: Tensor | None = None,
    progress: Progress | None = None,
) -> Solution:
    """X with (K + λI) X = B to the tolerance, or the best after ``most`` passes (``converged`` says which).

    Args:
        right: B ``[n, k]``. start: a first guess ``[n, k]``.

    Raises:
        InvalidInput: shapes that do not fit, NaN, λ < 0, a tolerance outside (0, 1).
    """
    if right.ndim != 2 or len(right) != gram.n or not bool(torch.isfinite(right).all()):
        raise InvalidInput(f"right-hand sides of shape {tuple(right.shape)} for n = {gram.n}: give finite [n, k]")
    if not (ridge >= 0 and math.isfinite(ridge) and 0 < tolerance < 1 and most >= 1):
        raise InvalidInput(
            f"ridge {ridge!r}, tolerance {tolerance!r}, {most} passes: λ ≥ 0, tolerance in (0, 1), a pass or more"
        )
    inner = preconditioner or NoPreconditioner()
    B = right.double()
    scale = B.norm(dim=0).clamp(min=1e-300)
    X = torch.zeros_like(B) if start is None else start.double().clone()
    single = gram.dtype != torch.float64
    R = B if start is None else B - _applied(gram, X, ridge, accurate=True)
    passes, best = 0, Solution(X, math.inf, 0, False)
    with (progress or Progress()).task("conjugate gradients", None) as advance:
        while True:
            worst = float((R.norm(dim=0) / scale).max())
            stuck = not worst < 0.9 * best.residual
            if worst < best.residual:
                best = Solution(X, worst, passes, worst <= tolerance)
            if best.converged or passes >= most or stuck:
                return replace(best, iterations=passes)
            goal = max(tolerance / worst, 1e-4 if single else 0.0)
            step, used = _run(gram, R, ridge, inner, goal / 2, most - passes, advance)
            passes += used
            X = X + step
            R = B - _applied(gram, X, ridge, accurate=True)


def _applied(gram: StripedGram, V: Tensor, ridge: float, *, accurate: bool = False) -> Tensor:
    return gram.product(V, accurate=accurate) + ridge * V


def _run(
    gram: StripedGram,
    right: Tensor,
    ridge: float,
    inner: Preconditioner | NoPreconditioner,
    goal: float,
    most: int,
    advance: Advance,
) -> tuple[Tensor, int]:
    """Conjugate gradients from 0 until every column's recurred residual has shrunk by ``goal``."""
    X, R = torch.zeros_like(right), right.clone()
    first = R.norm(dim=0)
    Z = inner.applied(R)
    P, rho = Z.clone(), (R * Z).sum(0)
    used = 0
    while used < most:
        live = R.norm(dim=0) > goal * first
        if not bool(live.any()):
            break
        Q = torch.zeros_like(P)
        Q[:, live] = _applied(gram, P[:, live].contiguous(), ridge)
        used += 1
        advance(1)
        curve = (P * Q).sum(0)
        alpha = torch.where(live & (curve > 0), rho / curve, 0.0)
        X += alpha * P
        R -= alpha * Q
        Z = inner.applied(R)
        new = (R * Z).sum(0)
        P = Z + torch.where(live & (rho > 0), new / rho, 0.0) * P
        rho = new
    return X, used
