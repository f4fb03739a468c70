"""Several kernels, one regression: non-negative weights by alignment with the labels, by marginal likelihood or by validation.

The deck's "multiple kernels, cascaded layer by layer": each layer of a network has a kernel, and K = Σ_l w_l K_l with w ≥ 0 is again one.
The cascade applies a dual function to the combination of one layer and goes on (`cascaded`). Every chooser sees training labels alone, or
the validation sample it is given, and says so.

Source: Cortes, Mohri and Rostamizadeh 2012 (JMLR 13), "Algorithms for learning kernels based on centered alignment" (the quadratic
programme for the weights); Cristianini et al. 2001 (alignment); Rasmussen and Williams 2006, section 5.4 (likelihood and its gradient);
Cho and Saul 2009 (cascades of arc-cosine kernels).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize, nnls
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.activations import dual
from nonvacuous.kernels.cholesky import Cholesky, SingularGram
from nonvacuous.kernels.fully_connected import Activation

FLOOR = 1e-12


@dataclass(frozen=True, eq=False)
class Combination:
    """weights: w ``[L]``, non-negative, of sum 1; ridge: λ, NaN where the chooser leaves it open; score: what was maximised.

    >>> kernels = [torch.eye(2), torch.ones(2, 2)]
    >>> Combination(torch.tensor([0.25, 0.75]), 0.1, 0.0).combined(kernels)
    tensor([[1.0000, 0.7500],
            [0.7500, 1.0000]])
    """

    weights: Tensor
    ridge: float
    score: float

    def combined(self, kernels: Sequence[Tensor]) -> Tensor:
        """Σ w_l K_l, of Gram matrices or of blocks between other inputs."""
        if len(kernels) != len(self.weights) or any(K.shape != kernels[0].shape for K in kernels):
            raise InvalidInput(f"{len(kernels)} kernels for {len(self.weights)} weights: give as many, of one shape")
        out = torch.zeros_like(kernels[0])
        for w, K in zip(self.weights.tolist(), kernels, strict=True):
            if w:
                out += w * K
        return out


def normalized(kernels: Sequence[Tensor]) -> list[float]:
    """The mean of each Gram matrix's diagonal: divide by it, here and between other inputs, so that weights compare."""
    means = [float(K.diagonal().double().mean()) for K in kernels]
    if not all(math.isfinite(m) and m > 0 for m in means):
        raise InvalidInput(f"kernels with mean diagonals {means}: each must be positive and finite")
    return means


def centred(K: Tensor) -> Tensor:
    """HKH with H = I − 11ᵀ/n: inner products of features from which the sample's mean is taken."""
    row = K.mean(0, keepdim=True)
    return K - row - row.T + K.mean()


def alignment(K: Tensor, targets: Tensor) -> float:
    """⟨HKH, YYᵀ⟩/(‖HKH‖‖HYYᵀH‖) in [−1, 1]: how far one kernel is the labels' own. 0 where either vanishes."""
    C, Y = centred(K.double()), _targets(targets, len(K))
    Y = Y - Y.mean(0)
    scale = float(C.norm() * (Y.T @ Y).norm())
    return float((Y * (C @ Y)).sum()) / scale if scale else 0.0


def uniform(count: int) -> Combination:
    """The plain mean of the kernels."""
    return Combination(torch.full((count,), 1 / count, dtype=torch.float64), math.nan, math.nan)


def single(count: int, chosen: int) -> Combination:
    """One kernel alone."""
    weights = torch.zeros(count, dtype=torch.float64)
    weights[chosen] = 1
    return Combination(weights, math.nan, math.nan)


def by_alignment(kernels: Sequence[Tensor], targets: Tensor) -> Combination:
    """The non-negative weights whose combination aligns best with the labels, exactly: min ½vᵀMv − vᵀa over v ≥ 0, w = v/Σv,
    M_kl = ⟨HK_kH, HK_lH⟩, a_k = ⟨HK_kH, YYᵀ⟩; solved as non-negative least squares.

    Raises:
        InvalidInput: no kernel aligns positively with the labels.
    """
    Ks = _matrices(kernels)
    Y = _targets(targets, len(Ks[0]))
    Y = Y - Y.mean(0)
    C = [centred(K) for K in Ks]
    M = torch.tensor([[float((a * b).sum()) for b in C] for a in C], dtype=torch.float64)
    a = torch.tensor([float((Y * (K @ Y)).sum()) for K in C], dtype=torch.float64)
    if not bool((a > 0).any()):
        raise InvalidInput("no kernel aligns with these labels: their alignments are all 0 or below")
    scale = M.diagonal().sqrt().clamp(min=FLOOR)
    values, vectors = torch.linalg.eigh(M / scale[:, None] / scale)
    root = values.clamp(min=FLOOR).sqrt()
    found, _ = nnls((root[:, None] * vectors.T).numpy(), ((vectors.T @ (a / scale)) / root).numpy())
    v = torch.from_numpy(found) / scale
    weights = v / v.sum()
    return Combination(weights, math.nan, alignment(Combination(weights, math.nan, math.nan).combined(Ks), targets))


def by_likelihood(kernels: Sequence[Tensor], targets: Tensor, *, steps: int = 60) -> Combination:
    """Weights and ridge of the largest marginal likelihood of Y under N(0, s(Σ w_l K_l + λI)), s at its best, by quasi-Newton steps on
    their logarithms from the uniform mean, with exact gradients. The likelihood is not concave in them: a local maximum, never worse
    than the start. score: ln p(Y).
    """
    Ks = _matrices(kernels)
    n, Y = len(Ks[0]), _targets(targets, len(Ks[0]))
    count, k = len(Ks), Y.shape[1]
    scale = normalized(Ks)

    def objective(logs: np.ndarray) -> tuple[float, np.ndarray]:
        parts = np.exp(logs)
        total = torch.zeros_like(Ks[0])
        for p, m, K in zip(parts[:-1].tolist(), scale, Ks, strict=True):
            total += p / m * K
        try:
            inverse = torch.linalg.inv(total + float(parts[-1]) * torch.eye(n, dtype=torch.float64))
            determinant = float(Cholesky(total.clone(), float(parts[-1])).log_determinant())
        except (SingularGram, RuntimeError):  # torch's error for a singular matrix is a RuntimeError
            return 1e300, np.zeros_like(logs)
        alpha = inverse @ Y
        fit = max(float((Y * alpha).sum()), 1e-300)
        value = 0.5 * n * k * (math.log(2 * math.pi * fit / (n * k)) + 1) + 0.5 * k * determinant
        slopes = []
        for part, m, K in zip(parts.tolist(), [*scale, 1.0], [*Ks, torch.eye(n, dtype=torch.float64)], strict=True):
            trace = float((inverse * K).sum())
            slopes.append(part / m * (0.5 * k * trace - 0.5 * n * k * float((alpha * (K @ alpha)).sum()) / fit))
        return value, np.array(slopes)

    start = np.concatenate([np.full(count, -math.log(count)), [math.log(0.01)]])
    bounds = [(-14.0, 6.0)] * count + [(-16.0, 3.0)]
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps})
    parts = torch.from_numpy(np.exp(found.x))
    weights = parts[:-1] / torch.tensor(scale, dtype=torch.float64)
    whole = float(weights.sum())
    return Combination(weights / whole, float(parts[-1]) / whole, -float(found.fun))


def by_validation(
    kernels: Sequence[Tensor],
    targets: Tensor,
    crosses: Sequence[Tensor],
    held: Tensor,
    ridges: Sequence[float],
    candidates: Sequence[Combination],
) -> Combination:
    """The candidate and ridge of least squared error on a validation sample. score: minus that error.

    Args:
        crosses: kernels between validation and training inputs, ``[m, n]`` each; held: their targets ``[m]`` or ``[m, k]``.
        ridges: as fractions of the combination's mean diagonal.
    """
    if not candidates or not ridges:
        raise InvalidInput("nothing to choose from: give candidates and ridges")
    Y = _targets(targets, len(kernels[0]))
    goal = _targets(held, len(crosses[0]))
    best: Combination | None = None
    for candidate in candidates:
        K = candidate.combined(_matrices(kernels))
        cross, scale = candidate.combined([c.double() for c in crosses]), float(K.diagonal().mean())
        factor: Cholesky | None = None
        for share in ridges:
            ridge = share * scale
            factor = Cholesky(K, ridge) if factor is None else factor.refactored(ridge)
            error = float((cross @ factor.solved(Y) - goal).square().mean())
            if best is None or -error > best.score:
                best = Combination(candidate.weights, ridge, -error)
    assert best is not None
    return best


class Block(NamedTuple):
    """Covariances between two samples ``[n1, n2]``, and the variances of its rows ``[n1]`` and columns ``[n2]``."""

    covariance: Tensor
    rows: Tensor
    columns: Tensor


def linear_block(x1: Tensor, x2: Tensor) -> Block:
    """x·x'/d, where cascades start."""
    if x1.ndim != 2 or x2.ndim != 2 or x1.shape[1] != x2.shape[1]:
        raise InvalidInput(f"inputs {tuple(x1.shape)} and {tuple(x2.shape)}: give [n1, d] and [n2, d]")
    a, b, d = x1.double(), x2.double(), x1.shape[1]
    return Block(a @ b.T / d, a.square().sum(1) / d, b.square().sum(1) / d)


def cascaded(block: Block, activations: Sequence[Activation], weights: Tensor) -> Block:
    """One level of a cascade: Σ_j w_j E[σ_j(u)σ_j(v)] for (u, v) of the block's covariance. Levels follow each other by applying it again.

    weights: w ``[len(activations)]``, non-negative, not all 0.
    """
    if len(weights) != len(activations) or not bool((weights >= 0).all()) or not float(weights.sum()) > 0:
        raise InvalidInput(f"weights {weights.tolist()} for {len(activations)} activations: as many, none negative, not all 0")
    C, left, right = block
    if C.shape != (len(left), len(right)):
        raise InvalidInput(f"a block of shape {tuple(C.shape)} with {len(left)} and {len(right)} variances: they must agree")
    total = Block(torch.zeros_like(C), torch.zeros_like(left), torch.zeros_like(right))
    for weight, activation in zip(weights.tolist(), activations, strict=True):
        f = dual(activation)
        total.covariance.add_(f.moments(left[:, None].expand_as(C), C, right[None].expand_as(C)).value, alpha=weight)
        total.rows.add_(f.diagonal(left).value, alpha=weight)
        total.columns.add_(f.diagonal(right).value, alpha=weight)
    return total


def _matrices(kernels: Sequence[Tensor]) -> list[Tensor]:
    if not kernels:
        raise InvalidInput("no kernel to combine")
    for i, K in enumerate(kernels):
        if K.ndim != 2 or K.shape != kernels[0].shape or K.shape[0] != K.shape[1] or not bool(torch.isfinite(K).all()):
            raise InvalidInput(f"kernel {i} of shape {tuple(K.shape)}: give finite square matrices of one shape")
    return [K.double() for K in kernels]


def _targets(targets: Tensor, n: int) -> Tensor:
    Y = targets[:, None] if targets.ndim == 1 else targets
    if Y.ndim != 2 or len(Y) != n or not Y.is_floating_point() or not bool(torch.isfinite(Y).all()):
        raise InvalidInput(f"targets {tuple(targets.shape)} for {n} inputs: give finite floating [n] or [n, k]")
    return Y.double()
