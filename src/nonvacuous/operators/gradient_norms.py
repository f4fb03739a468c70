"""Gradient norms layer by layer, and how fast they decay with depth (vanishing and exploding gradients).

The backward pass multiplies the transposed Jacobians of the layers, so that the norm of the loss's gradient by a layer's output
changes by a factor a layer; where the factor stays below 1, deep networks learn nothing in their first layers.

Source: Hochreiter 1991; Bengio, Simard and Frasconi 1994; Glorot and Bengio 2010.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.operators.mean_loss import Loss, MeanLoss


@dataclass(frozen=True)
class LayerGradient:
    """One layer with a weight of its own, in the order of the forward pass.

    Attributes: ``name``; ``depth`` its place, 0 first; ``weight`` ‖∂L/∂W‖_F of the mean loss; ``relative`` that over ‖W‖_F;
    ``signal`` the mean over examples of ‖∂ℓ/∂output‖₂, the gradient that arrives at the layer.
    """

    name: str
    depth: int
    weight: float
    relative: float
    signal: float


@dataclass(frozen=True)
class GradientNorms:
    """Layers in the order of the forward pass."""

    layers: tuple[LayerGradient, ...]

    def decay(self) -> Measured:
        """The factor by which ``signal`` changes per layer on the way back: exp of the slope of ln signal, ± 2 standard errors.

        Below 1 gradients vanish towards the input, above 1 they explode. An indicator: a straight line need not fit. Raises
        InvalidInput with fewer than 3 layers, or where a signal is 0 (no gradient arrives at all).
        """
        if len(self.layers) < 3:
            raise InvalidInput(f"{len(self.layers)} layers: a decay with depth needs at least 3")
        signals = np.array([layer.signal for layer in self.layers])
        if not np.all(signals > 0):
            dead = next(layer.name for layer in self.layers if not layer.signal > 0)
            raise InvalidInput(f"no gradient arrives at {dead}: the decay is total")
        back = -np.arange(len(signals), dtype=float)
        back -= back.mean()
        logs = np.log(signals) - np.log(signals).mean()
        slope = float(back @ logs / (back @ back))
        error = math.sqrt(float(np.sum((logs - slope * back) ** 2)) / max(1, len(logs) - 2) / float(back @ back))
        return Measured(math.exp(slope - 2 * error), math.exp(slope + 2 * error), Kind.INDICATOR)


def gradient_norms(model: nn.Module, loss: Loss, batches: Iterable[Any]) -> GradientNorms:
    """Norms for every layer that has a weight matrix or kernel of its own; arguments as in ``curvature.hessian``.

    A parametrised weight (``weight_norm``, ``spectral_norm`` of ``torch.nn.utils.parametrizations``) is the matrix that it makes: the
    one that multiplies, not the tensors that it is made of.

    Raises InvalidInput as ``curvature.gradient`` does, and where no layer has a trainable weight.
    """
    mean = MeanLoss(model, loss, batches)
    layers = {name: part for name, part in model.named_modules() if _has_own_matrix(part)}
    order: list[str] = []
    signals: dict[str, float] = {}
    totals: dict[str, Tensor] = {}
    sizes: dict[str, float] = {}
    for batch in mean:
        outputs: dict[str, Tensor] = {}

        hooks = [part.register_forward_hook(_keeping(name, outputs)) for name, part in layers.items()]
        try:
            with parametrize.cached():  # so that the weight asked for is the very tensor that was used
                value = mean.value(mean.outputs(batch), batch)
                names = list(outputs)
                weights = [layers[name].weight for name in names]
        finally:
            for hook in hooks:
                hook.remove()
        if not names:
            break
        order.extend(name for name in names if name not in totals)
        sizes |= {name: _norm(w) for name, w in zip(names, weights, strict=True)}
        found = torch.autograd.grad(value, [*weights, *outputs.values()], allow_unused=True)
        for name, by_weight, by_output in zip(names, found[: len(names)], found[len(names) :], strict=True):
            step = torch.zeros(()) if by_weight is None else by_weight * batch.share
            totals[name] = totals[name] + step if name in totals else step
            if by_output is not None:
                each = torch.linalg.vector_norm(_real(by_output).reshape(len(by_output), -1).double(), dim=1)
                count = batch.share * mean.examples
                signals[name] = signals.get(name, 0.0) + float(each.sum()) * count / mean.examples
    if not order:
        raise InvalidInput("no layer with a trainable weight matrix or kernel ran: there are no gradients by depth")
    rows = []
    for depth, name in enumerate(order):
        norm, size = _norm(totals[name]), sizes[name]
        rows.append(LayerGradient(name, depth, norm, norm / size if size else math.inf, signals.get(name, 0.0)))
    return GradientNorms(tuple(rows))


def _real(tensor: Tensor) -> Tensor:
    """The numbers themselves, those of a complex tensor as pairs."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(_real(tensor.detach()).double()))


def _has_own_matrix(part: nn.Module) -> bool:
    """Whether there is a trainable weight of two dimensions or more; a parametrised one is not computed for that."""
    if parametrize.is_parametrized(part, "weight"):
        made_of = [p for name, p in part.named_parameters() if name.startswith("parametrizations.weight.original")]
        return any(p.ndim >= 2 for p in made_of) and any(p.requires_grad for p in made_of)
    weight = getattr(part, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim >= 2 and weight.requires_grad


def _keeping(name: str, outputs: dict[str, Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    """A forward hook that keeps a layer's first output."""

    def hook(_: nn.Module, __: Any, result: Any) -> None:
        if name not in outputs and isinstance(result, Tensor) and result.requires_grad:
            outputs[name] = result

    return hook
