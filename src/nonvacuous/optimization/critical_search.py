"""Critical points of a deep linear network found by minimising the gradient's norm from many starts at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nonvacuous.optimization.deep_linear import Moments, chain, flat, gradient, hessian, shaped

ITERATIONS = 60
HOPELESS = 1e5


def found(moments: Moments, widths: Sequence[int], starts: int, seed: int) -> tuple[Tensor, ...]:
    """Weights ``[starts, d_l, d_{l−1}]`` near critical points: Levenberg–Marquardt on ‖∇loss‖², with the Hessian as Jacobian.

    Minimising the norm of the gradient, not the loss, lets saddles attract. Starts are Gaussian, of ranks 0 to the smallest width
    in turn, so that saddles of every rank lie near some of them.
    """
    generator = torch.Generator().manual_seed(seed)
    scale = _scale(moments, len(widths) - 1)
    weights = []
    bottleneck = min(widths)
    for rows, columns in zip(widths[1:], widths[:-1], strict=True):
        full = torch.randn(starts, rows, columns, dtype=torch.float64, generator=generator)
        U, S, V = torch.linalg.svd(full, full_matrices=False)
        ranks = torch.arange(starts) % (bottleneck + 1)
        keep = (torch.arange(S.shape[1])[None] < ranks[:, None]) | (torch.arange(starts) % 2 == 0)[:, None]
        S = torch.where(keep, S, 0.05 * S)
        weights.append(scale * (U * S[:, None]) @ V / max(rows, columns) ** 0.5)
    return _polished(tuple(weights), moments)


def _scale(moments: Moments, layers: int) -> float:
    """The size of a layer whose product is as large as the least-squares map."""
    best = torch.linalg.pinv(moments.gram, hermitian=True).mT @ moments.cross.mT
    return max(float(torch.linalg.matrix_norm(best, 2)), 1e-12) ** (1.0 / layers)


def _polished(weights: tuple[Tensor, ...], moments: Moments) -> tuple[Tensor, ...]:
    damping = torch.full((len(weights[0]),), 1e-3, dtype=torch.float64)
    point = flat(weights)
    slope = flat(gradient(weights, moments))
    unit = float(moments.cross.norm()) + 1e-300
    for _ in range(ITERATIONS):
        active = ((slope.norm(dim=1) > 1e-13 * unit) & (damping < HOPELESS)).nonzero().squeeze(1)
        if not len(active):
            break
        here = shaped(point[active], weights)
        H = hessian(here, moments.gram, moments.slope(chain(here)))
        size = (H**2).sum((1, 2)) / H.shape[1]
        normal = H @ H
        normal.diagonal(dim1=1, dim2=2).add_((damping[active] * size)[:, None] + 1e-14 * size[:, None])
        step = torch.linalg.solve(normal, (H @ slope[active, :, None]).squeeze(2))
        trial = point[active] - step
        risen = flat(gradient(shaped(trial, weights), moments))
        better = risen.norm(dim=1) < slope[active].norm(dim=1)
        moved = active[better]
        point[moved], slope[moved] = trial[better], risen[better]
        damping[moved] = damping[moved] / 5
        damping[active[~better]] = damping[active[~better]] * 4
    return shaped(point, weights)
