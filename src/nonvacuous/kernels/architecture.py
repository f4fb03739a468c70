"""One description of an architecture, and from it the finite network and the kernels of its infinitely wide limit.

>>> net = serial(conv(3, padding=1), relu(), residual(conv(3, padding=1), relu(), conv(3, padding=1)), global_avg_pool(), dense())
>>> images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
>>> net.module((3, 8, 8), width=16, outputs=10)(images).shape, net.kernel(images).ntk.shape
(torch.Size([2, 10]), torch.Size([2, 2]))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.activations import dual
from nonvacuous.kernels.convolution import MEMORY, image_kernel
from nonvacuous.kernels.duals import Dual
from nonvacuous.kernels.finite import Signal, network
from nonvacuous.kernels.kernel import Kernel
from nonvacuous.kernels.layers import AvgPool, Conv, Dense, Flatten, GlobalAvgPool, Layer, LayerNorm, Nonlinearity, Residual
from nonvacuous.kernels.pair_plan import Shape, pair_plan
from nonvacuous.kernels.recursion import nngp_ntk
from nonvacuous.runtime.tasks import Progress

Pair = int | tuple[int, int]
ROOT2 = math.sqrt(2)


@dataclass(frozen=True)
class Architecture:
    """A chain of layers, from :mod:`~nonvacuous.kernels.layers`. Made by :func:`serial`."""

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        if not self.layers or not all(isinstance(layer, Layer) for layer in self.layers):
            raise InvalidInput(f"{self.layers!r}: an architecture is a chain of layers such as dense(), relu(), dense()")

    def module(
        self, input_shape: Sequence[int], *, width: int, outputs: int = 1, generator: torch.Generator | None = None
    ) -> nn.Sequential:
        """The finite network, float32, at a random start: ``[n, *input_shape]`` → ``[n, outputs]``. ``width``: channels of every weight
        layer but the last, which must be dense.

        Parameters are N(0, 1) and are scaled in the forward pass, so that gradient descent at one learning rate moves networks of all
        widths alike (Jacot, Gabriel and Hongler 2018). Raises ``InvalidInput`` for what has no limit either: the two never disagree.
        """
        if len(input_shape) not in (1, 3) or min(width, outputs, *input_shape) < 1:
            raise InvalidInput(
                f"input_shape={tuple(input_shape)}, width={width}, outputs={outputs}: give (features,) or (channels, height, width), "
                "all of them 1 or more"
            )
        channels, *pixels = input_shape
        shape = Shape(pixels[0], pixels[1]) if pixels else Shape(1, 1)
        layers = self._on(len(input_shape) + 1)
        pair_plan(layers, shape)
        if not isinstance(layers[-1], Dense):
            raise InvalidInput(f"the last layer is {layers[-1]!r}: a network with {outputs} outputs ends in dense()")
        chain, _ = network(layers, Signal(channels, shape), width, outputs, generator)
        return chain if pixels else nn.Sequential(*list(chain)[1:])

    def kernel(
        self, x1: Tensor, x2: Tensor | None = None, *, memory: int = MEMORY, progress: Progress | None = None
    ) -> Kernel:
        """Both kernels of one output as every width grows: vectors ``[n, d]`` or images ``[n, c, h, w]`` → ``[n1, n2]``.

        ``memory``: bytes of working space where layers act on pixels. Raises ``InvalidInput`` where the samples do not fit, or where
        the limit is not of this kind, with the step of the theory that breaks.
        """
        for name, x in (("x1", x1), ("x2", x2)):
            if x is not None and (not isinstance(x, Tensor) or x.ndim not in (2, 4)):
                what = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
                raise InvalidInput(f"{name} is {what}: give vectors [n, d] or images [n, channels, height, width]")
        layers = self._on(x1.ndim)
        plain = _plain(layers)
        if plain is not None:
            first, depth, activation, rest = plain
            return nngp_ntk(
                x1,
                x2,
                depth=depth,
                activation=activation,
                weight_std=rest.weight_std,
                bias_std=rest.bias_std,
                input_weight_std=first.weight_std,
                progress=progress,
            )
        pixels = [None if x is None else x if x.ndim == 4 else x[:, :, None, None] for x in (x1, x2)]
        assert pixels[0] is not None
        return image_kernel(layers, pixels[0], pixels[1], memory=memory, progress=progress)

    def _on(self, rank: int) -> tuple[Layer, ...]:
        """The layers on images; a vector is an image of one pixel, flattened first."""
        return self.layers if rank == 4 else (Flatten(), *self.layers)


def _plain(layers: Sequence[Layer]) -> tuple[Dense, int, Dual, Dense] | None:
    """Flatten, dense, then any number of times the same nonlinearity and dense layer: first layer, depth, activation, the others."""
    if len(layers) < 2 or not isinstance(layers[0], Flatten) or not isinstance(layers[1], Dense) or len(layers) % 2:
        return None
    first, between, after = layers[1], layers[2::2], layers[3::2]
    rest = after[0] if after else first
    same = all(layer == between[0] for layer in between) and all(layer == rest for layer in after)
    if not same or not isinstance(rest, Dense) or rest.bias_std != first.bias_std:
        return None
    if not between:
        return first, 0, dual("identity"), first
    return (first, len(between), dual(between[0].name), rest) if isinstance(between[0], Nonlinearity) else None


def serial(*parts: Layer | Architecture) -> Architecture:
    """A chain; architectures among the parts are spliced in."""
    return Architecture(_spliced(parts))


def _spliced(parts: Sequence[Layer | Architecture]) -> tuple[Layer, ...]:
    return tuple(layer for part in parts for layer in (part.layers if isinstance(part, Architecture) else (part,)))


def dense(weight_std: float = ROOT2, bias_std: float = 0.0) -> Dense:
    """A fully connected layer: weights N(0, weight_std²/fan_in), biases N(0, bias_std²)."""
    return Dense(weight_std, bias_std)


def conv(kernel: Pair, *, stride: Pair = 1, padding: Pair = 0, weight_std: float = ROOT2, bias_std: float = 0.0) -> Conv:
    """A convolution with zeros beyond the border; sizes as numbers or (rows, columns)."""
    return Conv(_pair(kernel), _pair(stride), _pair(padding), weight_std, bias_std)


def _pair(size: Pair) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def nonlinearity(activation: str | Dual | nn.Module | Callable[[Tensor], Tensor]) -> Nonlinearity:
    """Any activation that :func:`~nonvacuous.kernels.activations.dual` takes, a function of your own included."""
    return Nonlinearity(dual(activation))


def relu() -> Nonlinearity:
    """max(z, 0)."""
    return Nonlinearity("relu")


def erf() -> Nonlinearity:
    """The error function."""
    return Nonlinearity("erf")


def gelu() -> Nonlinearity:
    """z Φ(z)."""
    return Nonlinearity("gelu")


def residual(*branch: Layer | Architecture, shortcut: Sequence[Layer | Architecture] = ()) -> Residual:
    """branch(x) + shortcut(x); by default the shortcut is the identity."""
    return Residual(_spliced(branch), _spliced(shortcut))


def avg_pool(window: Pair, stride: Pair | None = None) -> AvgPool:
    """Means over windows, side by side unless a stride is given."""
    return AvgPool(_pair(window), _pair(window if stride is None else stride))


def global_avg_pool() -> GlobalAvgPool:
    """The mean over all pixels."""
    return GlobalAvgPool()


def flatten() -> Flatten:
    """Pixels and channels become one vector."""
    return Flatten()


def layer_norm(epsilon: float = 1e-12) -> LayerNorm:
    """(x − mean)/deviation over all numbers of a sample, without parameters."""
    return LayerNorm(epsilon)
