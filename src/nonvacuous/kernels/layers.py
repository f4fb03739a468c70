"""The layers that a description of an architecture is composed of: records, read by the finite network and by its infinite limit.

All weights are in the tangent-kernel parametrisation: stored as N(0, 1), multiplied by σ_w/√fan_in in the forward pass; biases are
stored as N(0, 1) and multiplied by σ_b.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.duals import Dual


def check_deviations(weight_std: float, bias_std: float) -> None:
    """Raises ``InvalidInput`` unless weight_std > 0 and bias_std ≥ 0, both finite."""
    if not (math.isfinite(weight_std) and weight_std > 0 and math.isfinite(bias_std) and bias_std >= 0):
        raise InvalidInput(
            f"weight_std={weight_std!r}, bias_std={bias_std!r}: the weights' deviation is positive and finite, the biases' is 0 or more"
        )


def _check_sizes(name: str, *sizes: int) -> None:
    if not all(isinstance(s, int) and s > 0 for s in sizes):
        raise InvalidInput(f"{name} {sizes}: give positive whole numbers")


class Layer:
    """One step of a :class:`~nonvacuous.kernels.architecture.Architecture`."""


@dataclass(frozen=True)
class Dense(Layer):
    """y = σ_w/√fan_in · Wx + σ_b · b."""

    weight_std: float = math.sqrt(2)
    bias_std: float = 0.0

    def __post_init__(self) -> None:
        check_deviations(self.weight_std, self.bias_std)


@dataclass(frozen=True)
class Conv(Layer):
    """A 2-D convolution; fan_in = channels · kernel height · kernel width. padding: zeros on each side, (rows, columns)."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    weight_std: float = math.sqrt(2)
    bias_std: float = 0.0

    def __post_init__(self) -> None:
        check_deviations(self.weight_std, self.bias_std)
        _check_sizes("kernel and stride", *self.kernel, *self.stride)
        if not all(isinstance(p, int) and p >= 0 for p in self.padding):
            raise InvalidInput(f"padding {self.padding}: whole numbers, 0 or more")


@dataclass(frozen=True)
class Nonlinearity(Layer):
    """An elementwise function: by its name in :mod:`~nonvacuous.kernels.activations` (``relu``, ``erf``, …), or its dual functions."""

    name: str | Dual


@dataclass(frozen=True)
class AvgPool(Layer):
    """Means over windows, without padding."""

    kernel: tuple[int, int]
    stride: tuple[int, int]

    def __post_init__(self) -> None:
        _check_sizes("window and stride", *self.kernel, *self.stride)


@dataclass(frozen=True)
class GlobalAvgPool(Layer):
    """The mean over all pixels, channel by channel."""


@dataclass(frozen=True)
class Flatten(Layer):
    """Pixels and channels become one vector; what comes after is dense."""


@dataclass(frozen=True)
class LayerNorm(Layer):
    """(x − mean)/deviation over the channels (dense) or over channels and pixels (images); no affine part. In the limit of infinite width
    the mean is 0 and the variance that of the limiting process, both exactly. epsilon: added to the variance.
    """

    epsilon: float = 1e-12


@dataclass(frozen=True)
class Residual(Layer):
    """x ↦ branch(x) + shortcut(x); an empty shortcut is the identity."""

    branch: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()
