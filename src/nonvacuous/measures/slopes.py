"""Slopes a network attains: gradient norms at given inputs and difference quotients between them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.operators.copies import float64_copy

GAIN = 1e-4
"""Power iteration stops where a step raises no norm by more than this part of it."""
FEW = 32
"""Up to so many outputs the Jacobian is formed row by row; above, its norm is sought by power iteration."""


def sampled_lower(model: nn.Module, inputs: Tensor, *, steps: int = 30, seed: int = 0) -> Measured:
    """``[L, ∞]``: the network's Lipschitz constant is at least the largest slope seen at, and between, the inputs (batch, *shape).

    A copy is run in float64 and eval mode; the norm of a Jacobian comes from its rows (up to 32 outputs) or from ``‖Jv‖/‖v‖`` at
    the v that at most ``steps`` of power iteration with Jv and Jᵀu found, a lower end whether or not it converged.  Holds to
    the accuracy of float64 (1e-9 is taken off).

    Raises InvalidInput for no inputs, inputs the model does not take, and outputs that are no tensor or hold NaN.

    >>> sampled_lower(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.randn(8, 3)).upper
    inf
    """
    norms = jacobian_norms(model, inputs, steps=steps, seed=seed)
    exact = float64_copy(model)
    slope = float(norms.max())
    with torch.no_grad():
        x = inputs.detach().double()
        y, z = exact(x), exact(x.roll(1, 0))
        moved = (x - x.roll(1, 0)).flatten(1).norm(dim=1)
        apart = moved > 1e-6 * (1 + x.flatten(1).norm(dim=1))
        if bool(apart.any()):
            slope = max(slope, float(((y - z).flatten(1).norm(dim=1)[apart] / moved[apart]).max()))
    return Measured(slope * (1 - 1e-9), float("inf"), Kind.EXACT)


@torch.inference_mode(False)
@torch.enable_grad()
def jacobian_norms(model: nn.Module, inputs: Tensor, *, steps: int = 30, seed: int = 0) -> Tensor:
    """Lower ends of ‖J(x)‖₂ at every input (batch, *shape); a tensor [batch], float64. Gradients are taken under no_grad too."""
    if inputs.dim() < 2 or len(inputs) == 0 or not inputs.is_floating_point():
        raise InvalidInput("inputs are a batch (n, *shape) of floating-point numbers, n ≥ 1")
    exact = float64_copy(model).requires_grad_(True)  # torch's fused encoder layers have no forward mode
    x = inputs.detach().double().clone().requires_grad_(True)  # a clone: the caller's may have been made in inference mode
    with sdpa_kernel(SDPBackend.MATH):
        try:
            outputs = exact(x.clone())  # a first layer may work in place
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise InvalidInput(
                f"{type(model).__name__} cannot be run on inputs of shape {tuple(inputs.shape)}: {error}"
            ) from error
    if not isinstance(outputs, Tensor) or outputs.dim() < 1 or len(outputs) != len(x):
        raise InvalidInput(f"{type(model).__name__} returns no tensor of one row an example: no slope can be taken")
    flat = outputs.reshape(len(x), -1)
    if not bool(torch.isfinite(flat).all()):
        raise InvalidInput(
            f"{type(model).__name__} gives NaN or infinity at these inputs, so no slope can be taken: check its weights and inputs"
        )
    if not flat.requires_grad:
        return torch.zeros(len(x), dtype=torch.float64)

    def back(u: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(flat, x, u.reshape(flat.shape), retain_graph=True)
        return gradient.flatten(1)

    if flat.shape[1] <= FEW:
        rows = torch.stack([back(torch.eye(flat.shape[1]).double()[k].expand(len(x), -1)) for k in range(flat.shape[1])], 1)
        return torch.linalg.matrix_norm(rows.detach(), 2)
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(len(x), x[0].numel(), generator=generator).double()
    best = torch.zeros(len(x), dtype=torch.float64)
    push = _push(exact, x.detach())
    for _ in range(steps):
        v = v / v.norm(dim=1, keepdim=True).clamp(min=1e-300)
        image = push(v.reshape(x.shape)).reshape(len(x), -1).detach()
        before, best = best, torch.maximum(best, image.norm(dim=1))
        if bool((best <= before * (1 + GAIN)).all()):
            break
        v = back(image).detach()
    return best


def _push(model: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """v ↦ Jv, in forward mode."""

    def push(v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # the fused ones have no forward mode
            image: Tensor = torch.func.jvp(lambda z: model(z.clone()), (x,), (v,))[1]
        return image

    return push
