"""Gradients of every example's outputs by any parameters, the model differentiated as a whole."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from nonvacuous.runtime.models import outputs
from nonvacuous.runtime.values import Inputs


class Wrapped(nn.Module):
    """A model as a function to ``[n, k]``, whose parameters can be replaced."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> Tensor:
        """Outputs, flat."""
        values = outputs(self.model, inputs)
        return values.reshape(len(values), -1)


def parameter_jacobian(model: nn.Module, inputs: Inputs, names: tuple[str, ...], directions: Tensor) -> Tensor:
    """``[n, m, P]``: gradients of directions · f(x_i) by the named parameters side by side.

    All examples at once (torch.func), or, for a model whose operations cannot be vectorised, one example after the other.

    Args:
        directions: ``[m, k]``. The names are those of ``model.named_parameters()``.
    """
    try:
        return _vectorised(model, inputs, names, directions)
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AssertionError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        return _one_by_one(model, inputs, names, directions)


def _vectorised(model: nn.Module, inputs: Inputs, names: tuple[str, ...], directions: Tensor) -> Tensor:
    wrapped = Wrapped(model)
    everything = dict(model.named_parameters())
    moving = {f"model.{name}": everything[name].detach() for name in names}
    fixed = {f"model.{name}": p.detach() for name, p in everything.items() if name not in names}
    buffers = {f"model.{name}": b.detach() for name, b in model.named_buffers()}

    def gradients(example: Inputs) -> Tensor:
        one = {k: v[None] for k, v in example.items()} if isinstance(example, dict) else example[None]

        def values(parameters: dict[str, Tensor]) -> Tensor:
            return functional_call(wrapped, {**parameters, **fixed, **buffers}, (one,))[0]

        back = vjp(values, moving)[1]
        rows = [torch.cat([g.flatten() for g in back(u)[0].values()]) for u in directions]
        return torch.stack(rows)

    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):  # the only attention that vectorises
        warnings.filterwarnings("ignore", "There is a performance drop")
        result: Tensor = vmap(gradients)(inputs)
    return result.detach()


def _one_by_one(model: nn.Module, inputs: Inputs, names: tuple[str, ...], directions: Tensor) -> Tensor:
    everything = dict(model.named_parameters())
    chosen = [everything[name] for name in names]
    n = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
    result = directions.new_zeros(n, len(directions), sum(p.numel() for p in chosen))
    for i in range(n):
        one = {k: v[i : i + 1] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[i : i + 1]
        with torch.enable_grad():
            values = outputs(model, one).reshape(1, -1)
        for a, u in enumerate(directions):
            slopes = torch.autograd.grad(values, chosen, u[None], retain_graph=a + 1 < len(directions), allow_unused=True)
            parts = [torch.zeros_like(p) if g is None else g for p, g in zip(chosen, slopes, strict=True)]
            result[i, a] = torch.cat([part.flatten() for part in parts])
    return result
