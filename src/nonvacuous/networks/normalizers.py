"""Weight standardization, plain and scaled, as parametrizations of torch's own layers.

The layers stay torch's, so that the library's rules for their norms and costs hold for them as they are: the weight that a rule
reads is the standardized one.  Batch, layer, instance and group normalization are torch's modules.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized, register_parametrization, type_before_parametrizations

from nonvacuous.core.errors import InvalidInput
from nonvacuous.operators.copies import float64_copy
from nonvacuous.operators.normalizers import standardized

__all__ = [
    "ScaledWeightStandardization",
    "WeightStandardization",
    "folded",
    "scaled_weight_standardized",
    "weight_standardized",
]

LayerT = TypeVar("LayerT", bound=nn.Module)
SMALLEST_NORM = 1e-4
"""The sum of squared deviations of one output's weights counts as at least this, as in Brock et al.'s published nets."""


class WeightStandardization(nn.Module):
    """W ↦ (W − mean)/√(variance + ε), mean and variance over the fan-in of each output (Qiao et al. 2019).

    For weights ``[outputs, …]``; ‖Ŵ‖_F² is at most the number of weights (:func:`operators.normalizers.standardized`).
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = _positive(eps, "eps")

    def forward(self, weight: Tensor) -> Tensor:
        return standardized(weight, self.eps)

    def extra_repr(self) -> str:
        return f"eps={self.eps:g}"


class ScaledWeightStandardization(nn.Module):
    """W ↦ g·(W − mean)/√(fan-in · variance), one learned gain g an output, 1 at first (Brock, De and Smith 2021).

    Every output's weights then have sum 0 and ℓ2 norm g: an input of uncorrelated entries of *any* common mean and variance v gives
    outputs of mean 0 and variance g²v.
    """

    def __init__(self, outputs: int, dimensions: int, eps: float = SMALLEST_NORM) -> None:
        super().__init__()
        self.eps = _positive(eps, "eps")
        self.gain = nn.Parameter(torch.ones(outputs, *[1] * (dimensions - 1)))

    def forward(self, weight: Tensor) -> Tensor:
        flat = weight.flatten(1)
        centred = flat - flat.mean(1, keepdim=True)
        scale = centred.square().sum(1, keepdim=True).clamp_min(self.eps).rsqrt()
        return (centred * scale).reshape(weight.shape) * self.gain

    def extra_repr(self) -> str:
        return f"outputs={len(self.gain)}, eps={self.eps:g}"


def weight_standardized(layer: LayerT, eps: float = 1e-5) -> LayerT:
    """The layer itself, its weight standardized in every forward pass.

    Raises InvalidInput for what is no linear layer or convolution (transposed ones have their outputs in another axis), a fan-in of 1
    (its standardized weight is 0), NaN, or a weight that is parametrized already.

    >>> layer = weight_standardized(nn.Linear(100, 3))
    >>> layer.weight.mean(1).abs().max() < 1e-6
    tensor(True)
    """
    _standardizable(layer)
    register_parametrization(layer, "weight", WeightStandardization(eps))
    return layer


def scaled_weight_standardized(layer: LayerT, eps: float = SMALLEST_NORM) -> LayerT:
    """The layer itself, its weight standardized, divided by √(fan-in) and scaled by a learned gain an output.

    Raises as :func:`weight_standardized`.

    >>> layer = scaled_weight_standardized(nn.Conv2d(3, 2, 3))
    >>> layer.weight.flatten(1).norm(dim=1)
    tensor([1.0000, 1.0000], grad_fn=<...>)
    """
    weight = _standardizable(layer)
    scaled = ScaledWeightStandardization(len(weight), weight.dim(), eps).to(weight.device, weight.dtype)
    register_parametrization(layer, "weight", scaled)
    return layer


def folded(model: nn.Module) -> nn.Module:
    """A copy in eval mode and the model's own precision whose parametrized tensors are plain parameters, computed once.

    What is deployed: it computes the same, at the cost of the plain layers.  The parametrized model computes its weights anew in every
    pass, and :func:`operators.cost.cost` counts the products that takes, in rows of their own.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    plain = float64_copy(model).to(dtype)
    for part in list(plain.modules()):
        if is_parametrized(part):  # torch's remove_parametrizations would take the property from the class, which copies share
            names = list(part.parametrizations)  # type: ignore[arg-type]
            values = {name: getattr(part, name).detach() for name in names}
            part.__class__ = type_before_parametrizations(part)
            del part.parametrizations
            for name, value in values.items():
                part.register_parameter(name, nn.Parameter(value))
    return plain


def _positive(value: float, name: str) -> float:
    if not 0 < value < math.inf:
        raise InvalidInput(f"{name} = {value!r}: give a positive finite number, as it keeps a division from being by zero")
    return float(value)


def _standardizable(layer: nn.Module) -> Tensor:
    weight = plain_weight(layer)
    fan_in = weight[0].numel()
    if fan_in < 2:
        raise InvalidInput(
            f"{type(layer).__name__} has a fan-in of {fan_in}: one weight less its own mean is 0. Standardize layers of fan-in ≥ 2"
        )
    return weight


def plain_weight(layer: nn.Module) -> Tensor:
    """The weight of a linear layer or convolution that is not parametrized yet; raises InvalidInput for anything else."""
    if not isinstance(layer, nn.Linear | _ConvNd) or isinstance(layer, _ConvTransposeNd):
        raise InvalidInput(f"{type(layer).__name__}: only linear layers and convolutions that are not transposed take this")
    if is_parametrized(layer, "weight"):
        raise InvalidInput(f"the weight of this {type(layer).__name__} is parametrized already: give a plain layer")
    if not bool(torch.isfinite(layer.weight).all()):
        raise InvalidInput(f"{type(layer).__name__}.weight holds NaN or infinity: initialise it anew")
    return layer.weight
