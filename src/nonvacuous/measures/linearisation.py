"""Products with a network's Jacobian by its trainable parameters, which is never formed: J·θ̇ and Jᵀ·v."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from nonvacuous.measures.parameter_jacobian import Wrapped
from nonvacuous.runtime.models import outputs
from nonvacuous.runtime.values import Inputs


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that training moves, detached."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def pushed(model: nn.Module, inputs: Inputs, tangents: Mapping[str, Tensor]) -> Tensor:
    """J·θ̇ ``[n, k]``: the derivative of the outputs when the parameters move by ``tangents`` (by name; the others rest).

    In forward mode; where an operation has no forward derivative, by differentiating Jᵀv in v.
    """
    wrapped = Wrapped(model)
    here = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    buffers = {f"model.{name}": b.detach() for name, b in model.named_buffers()}
    moving = {f"model.{name}": tangent.to(here[f"model.{name}"]) for name, tangent in tangents.items()}
    at = {name: here.pop(name) for name in moving}

    def values(parameters: dict[str, Tensor]) -> Tensor:
        result: Tensor = functional_call(wrapped, {**parameters, **here, **buffers}, (inputs,))
        return result

    try:
        derivative: Tensor = jvp(values, (at,), (moving,))[1]
        return derivative.detach()
    except (RuntimeError, NotImplementedError, ValueError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
    with torch.enable_grad():
        free = {name: p.clone().requires_grad_() for name, p in at.items()}
        found = values(free)
        probe = torch.zeros_like(found, requires_grad=True)
        slopes = torch.autograd.grad(found, list(free.values()), probe, create_graph=True, allow_unused=True)
        product = sum((g * t).sum() for g, t in zip(slopes, moving.values(), strict=True) if g is not None)
        if not isinstance(product, Tensor):
            return torch.zeros_like(found)
        return torch.autograd.grad(product, probe)[0]


def pulled(model: nn.Module, inputs: Inputs, cotangents: Tensor) -> dict[str, Tensor]:
    """Jᵀ·v by parameter name, for v ``[n, k]``."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.enable_grad():
        values = outputs(model, inputs)
        values = values.reshape(len(values), -1)
    slopes = torch.autograd.grad(values, list(parameters.values()), cotangents.to(values), allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(parameters.items(), slopes, strict=True)}
