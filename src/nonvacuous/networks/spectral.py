"""Spectral normalization by the operator norm of the layer: for a convolution, of the convolution, not of its reshaped kernel.

``torch.nn.utils.parametrizations.spectral_norm`` divides by an estimate, from below, of σ of the reshaped kernel, which the norm of the
convolution exceeds by up to √taps.  Here the divisor is an upper end of the operator norm that gradients pass through: Gram iteration
``‖A‖₂ ≤ ‖(AᴴA)^(2ᵗ⁻¹)‖_F^(2⁻ᵗ)`` (Delattre, Barthélemy, Araujo and Allauzen 2023) of the matrices at the frequencies of a circle that
the image and the kernel's overhang fit on, of which the zero-padded convolution is a part (Sedghi, Gupta and Long 2019 for circular
padding).  It is computed in float64; rounding is left to the headroom.  A proved bracket is :func:`operators.norms.spectral_norm`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import register_parametrization

from nonvacuous.core.errors import InvalidInput
from nonvacuous.networks.normalizers import plain_weight
from nonvacuous.operators.cost_rules import NONE, Products
from nonvacuous.operators.cost_rules import register as costs
from nonvacuous.operators.rules import find

__all__ = ["NormLimit", "gram_upper", "norm_limited", "spectrally_normalized"]

LayerT = TypeVar("LayerT", bound=nn.Module)
ITERATIONS = 8
"""After t squarings the bound of a matrix of rank r is at most r^(2⁻ᵗ⁻¹) too large: 0.8 % for r = 64 and t = 8."""
HEADROOM = 1e-4
"""Kept below a limit, for the rounding of float32 weights."""
TINY = 1e-150


@costs("aten::linalg_vector_norm")
def _vector_norm(arguments: Sequence[Any], result: Any) -> Products:
    """Norms are no products of matrices: by the convention of :func:`operators.cost.cost` they do not count."""
    return NONE


class _Circle(NamedTuple):
    """One axis: positions of the circle, kernel size and dilation."""

    positions: int
    kernel: int
    dilation: int


def gram_upper(blocks: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """An upper end of the largest spectral norm of matrices ``[…, m, n]``, real or complex, as a scalar with a gradient.

    Raises InvalidInput for fewer than two axes or negative iterations.

    >>> gram_upper(torch.diag(torch.tensor([3.0, 2.0, 1.0]).double()))
    tensor(3.0000, dtype=torch.float64)
    """
    if blocks.dim() < 2 or not blocks.numel():
        raise InvalidInput(f"blocks of shape {tuple(blocks.shape)}: give matrices […, m, n] with at least one entry")
    if iterations < 0:
        raise InvalidInput(f"iterations = {iterations}: the matrix can be squared 0 times or more")
    matrix = blocks if blocks.shape[-2] >= blocks.shape[-1] else blocks.mH
    logarithm: Tensor | float = 0.0
    for step in range(iterations + 1):
        size = torch.linalg.vector_norm(matrix, dim=(-2, -1)).clamp_min(TINY)
        logarithm = logarithm + size.log() / 2**step
        if step < iterations:
            unit = matrix / size[..., None, None]
            matrix = unit.mH @ unit
    return torch.as_tensor(logarithm).max().exp()


class NormLimit(nn.Module):
    """W ↦ W · limit/bound(W), or the same only where bound(W) > limit: then the layer's operator norm is at most the limit.

    Strides are bounded as if the stride were 1, which may be too much by their product at most (then the norm stays below its limit).
    """

    def __init__(self, layer: nn.Module, input_shape: Sequence[int], limit: float, *, only_down: bool) -> None:
        super().__init__()
        if not 0 < limit < math.inf:
            raise InvalidInput(f"limit = {limit!r}: an operator norm is limited by a positive finite number")
        plain_weight(layer)
        shape = tuple(int(n) for n in input_shape)
        find(layer, shape)  # refuses shapes that do not fit
        self.limit, self.only_down = float(limit), only_down
        self.groups = layer.groups if isinstance(layer, _ConvNd) else 1
        self.axes = _circles(layer, shape[1:]) if isinstance(layer, _ConvNd) else ()

    def bound(self, weight: Tensor) -> Tensor:
        """The upper end of the operator norm, a float64 scalar with a gradient."""
        blocks = weight.double()
        if self.axes:
            blocks = blocks.reshape(self.groups, -1, *blocks.shape[1:]).to(torch.complex128)
            for number, axis in enumerate(self.axes):
                half = number == len(self.axes) - 1  # real kernels: the other half is conjugate, of the same singular values
                blocks = torch.tensordot(blocks, _phases(axis, half, weight.device), dims=([3], [1]))  # frequencies move last
            blocks = blocks.flatten(3).movedim(-1, 0)
        return gram_upper(blocks) * (1 + HEADROOM)

    def forward(self, weight: Tensor) -> Tensor:
        bound = self.bound(weight)
        divisor = bound.clamp_min(self.limit) if self.only_down else bound
        return weight * (self.limit / divisor).to(weight.dtype)

    def extra_repr(self) -> str:
        return f"limit={self.limit:g}, only_down={self.only_down}"


def spectrally_normalized(layer: LayerT, input_shape: Sequence[int], limit: float = 1.0) -> LayerT:
    """The layer itself, its operator norm on inputs of ``input_shape`` (without the batch) set to just below ``limit``.

    Raises:
        InvalidInput: a limit that is not positive, a shape that does not fit, NaN, a weight parametrized already, a padding that is
            reflected or replicated, circular padding beyond one turn, or a layer that is no linear layer or convolution.

    >>> layer = spectrally_normalized(nn.Conv2d(3, 8, 3, padding=1), (3, 16, 16))
    >>> from nonvacuous.operators.norms import spectral_norm
    >>> 0.9 < spectral_norm(layer, (3, 16, 16)).lower < 1
    True
    """
    register_parametrization(layer, "weight", NormLimit(layer, input_shape, limit, only_down=False))
    return layer


def norm_limited(layer: LayerT, input_shape: Sequence[int], limit: float) -> LayerT:
    """The layer itself, its operator norm kept at or below ``limit``; a smaller one is not touched.  Raises as above."""
    register_parametrization(layer, "weight", NormLimit(layer, input_shape, limit, only_down=True))
    return layer


def _circles(layer: Any, sizes: tuple[int, ...]) -> tuple[_Circle, ...]:
    if layer.padding_mode not in ("zeros", "circular"):
        raise InvalidInput(f"padding_mode={layer.padding_mode!r} is not bounded here: use zeros or circular padding")
    circles = []
    for n, size in enumerate(sizes):
        span = layer.dilation[n] * (layer.kernel_size[n] - 1)
        if layer.padding_mode == "zeros":
            circles.append(_Circle(size + span, layer.kernel_size[n], layer.dilation[n]))
            continue
        padding = {"same": span, "valid": 0}.get(layer.padding) if isinstance(layer.padding, str) else 2 * layer.padding[n]
        if padding is None or padding > span:
            raise InvalidInput(f"circular padding of {layer.padding} is more than the kernel needs: outputs would repeat")
        circles.append(_Circle(size, layer.kernel_size[n], layer.dilation[n]))
    return tuple(circles)


def _phases(axis: _Circle, half: bool, device: torch.device) -> Tensor:
    """exp(−2πi·frequency·tap/N), ``[frequencies, taps]``, complex128."""
    count = axis.positions // 2 + 1 if half else axis.positions
    frequencies = torch.arange(count, dtype=torch.float64, device=device)
    taps = axis.dilation * torch.arange(axis.kernel, dtype=torch.float64, device=device)
    turns = torch.outer(frequencies, taps) * (-2 * math.pi / axis.positions)
    return torch.polar(torch.ones_like(turns), turns)
