"""The finite network of a description: standard normal parameters, multiplied by their deviations in the forward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.activations import dual
from nonvacuous.kernels.layers import AvgPool, Conv, Dense, Flatten, GlobalAvgPool, Layer, LayerNorm, Nonlinearity, Residual
from nonvacuous.kernels.pair_plan import Shape, shape_after


class Signal(NamedTuple):
    """What flows between two layers: channels, and pixels."""

    channels: int
    shape: Shape


class _Scaled(nn.Module):
    """weight, bias ~ N(0, 1); what the network applies is ``weight_scale``·weight and ``bias_std``·bias."""

    def __init__(self, size: Sequence[int], weight_std: float, bias_std: float, generator: torch.Generator | None) -> None:
        super().__init__()
        self.weight_scale, self.bias_std = weight_std / math.sqrt(math.prod(size[1:])), bias_std
        self.weight = nn.Parameter(torch.randn(*size, generator=generator))
        self.bias = nn.Parameter(torch.randn(size[0], generator=generator)) if bias_std else None

    def _bias(self) -> Tensor | None:
        return None if self.bias is None else self.bias_std * self.bias

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, weight_scale={self.weight_scale:.4g}, bias_std={self.bias_std:g}"


class ScaledLinear(_Scaled):
    """y = σ_w/√fan_in · Wx + σ_b · b."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_scale * self.weight, self._bias())


class ScaledConv2d(_Scaled):
    """A convolution of the same kind, fan_in = channels · kernel height · kernel width."""

    def __init__(self, channels: int, out: int, layer: Conv, generator: torch.Generator | None) -> None:
        super().__init__((out, channels, *layer.kernel), layer.weight_std, layer.bias_std, generator)
        self.stride, self.padding = layer.stride, layer.padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight_scale * self.weight, self._bias(), self.stride, self.padding)


class Normalize(nn.Module):
    """(x − mean)/√(variance + epsilon) over all that belongs to one sample."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[1:], eps=self.epsilon)


class GlobalMean(nn.Module):
    """The mean over all pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Sum(nn.Module):
    """branch(x) + shortcut(x)."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.shortcut(x)


def network(
    layers: Sequence[Layer], into: Signal, width: int, outputs: int, generator: torch.Generator | None
) -> tuple[nn.Sequential, Signal]:
    """The modules of a chain whose last weights have ``outputs`` channels, all others ``width``; and what leaves it."""
    modules: list[nn.Module] = []
    for place, layer in enumerate(layers):
        channels, shape = into
        after = shape_after(layer, shape)
        out = outputs if place == len(layers) - 1 else width
        match layer:
            case Dense(weight_std, bias_std):
                modules.append(ScaledLinear((out, channels), weight_std, bias_std, generator))
                into = Signal(out, after)
            case Conv():
                modules.append(ScaledConv2d(channels, out, layer, generator))
                into = Signal(out, after)
            case Nonlinearity(name):
                modules.append(dual(name).module())
            case AvgPool(kernel, stride):
                modules.append(nn.AvgPool2d(kernel, stride))
                into = Signal(channels, after)
            case GlobalAvgPool():
                modules.append(GlobalMean())
                into = Signal(channels, after)
            case Flatten():
                modules.append(nn.Flatten())
                into = Signal(channels * shape.height * shape.width, after)
            case LayerNorm(epsilon):
                modules.append(Normalize(epsilon))
            case Residual(branch, shortcut):
                (one, end), (two, other) = (network(path, into, width, width, generator) for path in (branch, shortcut))
                if end != other:
                    raise InvalidInput(
                        f"a residual block adds {end.channels} channels to {other.channels}: put a weight layer before it"
                    )
                modules.append(Sum(one, two))
                into = end
    return nn.Sequential(*modules), into
