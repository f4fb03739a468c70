"""The nonzero spectrum of the Gauss–Newton matrix from outputs instead of parameters: a [nk, nk] matrix, whatever the number of weights.

G = Jᵀ H J with J [nk, P] the Jacobian of all outputs and H = S Sᵀ the loss's Hessian by them; Sᵀ J Jᵀ S has the same nonzero eigenvalues.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.operators.mean_loss import Loss, MeanLoss

__all__ = ["gram_spectrum"]

MOST = 4_000
CHUNK = 64


def gram_spectrum(model: nn.Module, loss: Loss, batch: tuple[Any, Tensor], most: int = MOST) -> Tensor:
    """The min(nk, P) largest eigenvalues of ``curvature.ggn(model, loss, [batch])``, ascending, float64; the other P − nk are 0.

    One batch, so that batch normalisation in training mode, which mixes its examples, is treated as the function that it is. Some of
    the returned ones are 0 as well: under cross entropy one an example, since scores plus a constant are the same distribution.

    Raises InvalidInput for more than ``most`` outputs, and as ``curvature.ggn``.
    """
    mean = MeanLoss(model, loss, [batch])
    (only,) = mean
    outputs = mean.outputs(only)
    count = outputs.numel()
    if count > most:
        raise InvalidInput(f"{count} outputs, above {most}: take fewer examples, or raise most")
    root = _root(mean, outputs, only)
    rows = []
    for part in torch.eye(count, dtype=outputs.dtype, device=outputs.device).split(CHUNK):
        cotangents = part.reshape(-1, *outputs.shape)
        slopes = torch.autograd.grad(
            outputs, mean.parameters, cotangents, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
        given = zip(slopes, mean.parameters, strict=True)
        flat = [(p.new_zeros(len(part), p.numel()) if s is None else s.reshape(len(part), -1)) for s, p in given]
        rows.append(torch.cat(flat, 1))
    jacobian = root.mT @ torch.cat(rows).double()
    return torch.linalg.svdvals(jacobian).square().flip(0)  # small ones survive, which forming J Jᵀ would round away


def _root(mean: MeanLoss, outputs: Tensor, batch: Any) -> Tensor:
    """S [nk, nk], float64, with S Sᵀ the Hessian of the mean loss by the outputs."""
    leaf = outputs.detach().double().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(mean.value(leaf, batch), leaf, create_graph=True)
        count = leaf.numel()
        if not slope.requires_grad:
            return torch.zeros(count, count, dtype=torch.float64, device=leaf.device)
        units = torch.eye(count, dtype=leaf.dtype, device=leaf.device).reshape(count, *leaf.shape)
        (rows,) = torch.autograd.grad(slope, leaf, units, is_grads_batched=True)
    hessian = rows.reshape(count, count)
    values, vectors = torch.linalg.eigh((hessian + hessian.mT) / 2)
    if float(values.min()) < -1e-8 * float(values.abs().max()) - 1e-14:  # saturated scores round to that
        raise InvalidInput("the loss is not convex in the outputs: use curvature.ggn, whose matrix is then indefinite")
    return vectors * values.clamp_min(0.0).sqrt()
