"""Hessian, Gauss–Newton, Fisher and empirical Fisher of a mean loss as dense matrices, from torch.func and the definitions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def flat(model: nn.Module) -> Tensor:
    """The trainable parameters as one vector [P]."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad])


def called(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """w ↦ model(x) with the trainable parameters replaced by the flat w; buffers stay as they are."""

    def function(w: Tensor) -> Tensor:
        state = {name: buffer.clone() for name, buffer in model.named_buffers()}
        offset = 0
        for name, p in model.named_parameters():
            if p.requires_grad:
                state[name] = w[offset : offset + p.numel()].reshape(p.shape)
                offset += p.numel()
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return torch.func.functional_call(model, state, (x,), tie_weights=True)

    return function


def hessian(model: nn.Module, loss: Callable, batches: list) -> Tensor:
    """Σ share · ∇²(loss of the batch)."""
    n = sum(len(y) for _, y in batches)
    total = torch.zeros((), dtype=torch.float64)
    for x, y in batches:
        of_weights = called(model, x)
        total = total + len(y) / n * torch.autograd.functional.hessian(lambda w, f=of_weights, y=y: loss(f(w), y), flat(model))
    return total


def jacobian(model: nn.Module, x: Tensor) -> Tensor:
    """[b, outputs, P]."""
    J = torch.autograd.functional.jacobian(called(model, x), flat(model))
    return J.reshape(len(x), -1, J.shape[-1])


def ggn(model: nn.Module, loss: Callable, batches: list) -> Tensor:
    """(1/N) Σ Jᵢᵀ (∇² of example i's own loss by its outputs) Jᵢ."""
    n = sum(len(y) for _, y in batches)
    total = torch.zeros((), dtype=torch.float64)
    for x, y in batches:
        for J, f, own in zip(jacobian(model, x), model(x).detach(), y, strict=True):
            H = torch.autograd.functional.hessian(lambda o, own=own: loss(o[None], own[None]), f).reshape(f.numel(), f.numel())
            total = total + J.T @ H @ J / n
    return total


def fisher(model: nn.Module, batches: list) -> Tensor:
    """(1/N) Σ_i Σ_c p_c gᵢc gᵢcᵀ with gᵢc the gradient of −log p_c of a softmax classifier."""
    n = sum(len(y) for _, y in batches)
    total = torch.zeros((), dtype=torch.float64)
    for x, _ in batches:
        for J, f in zip(jacobian(model, x), model(x).detach(), strict=True):
            p = f.softmax(0)
            for c in range(len(p)):
                g = J.T @ (p - torch.eye(len(p), dtype=p.dtype)[c])
                total = total + p[c] * torch.outer(g, g) / n
    return total


def empirical_fisher(model: nn.Module, loss: Callable, batches: list) -> Tensor:
    """(1/N) Σ gᵢ gᵢᵀ."""
    n = sum(len(y) for _, y in batches)
    total = torch.zeros((), dtype=torch.float64)
    for x, y in batches:
        for i in range(len(y)):
            of_weights = called(model, x[i : i + 1])
            w = flat(model).requires_grad_()
            (g,) = torch.autograd.grad(loss(of_weights(w), y[i : i + 1]), w)
            total = total + torch.outer(g, g) / n
    return total
