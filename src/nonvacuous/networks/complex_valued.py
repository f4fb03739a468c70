"""Layers on torch's complex tensors: linear maps, convolutions, the Fourier transform, and the ways in and out.

A layer keeps its weights as pairs of real numbers (last axis: real part, imaginary part) and multiplies complex tensors.  Torch's own
``nn.Linear(dtype=torch.cfloat)`` computes the same, but its parameters are passed over by ``Module.double()`` and by all that asks for
real parameters (posterior noise, tangent kernels); :func:`in_pairs` turns such layers into these.

**Norms.**  ℂⁿ with ‖z‖² = Σ|z_j|² is ℝ²ⁿ with the ℓ2 norm, so Lipschitz constants are those of real networks.  W = A + iB acts as
``[[A, −B], [B, A]]``, each of whose singular values is one of W, twice; a convolution likewise on twice the channels.

**Costs.**  A product of complex numbers is four real ones, and a complex inner product of length N two real ones of length 2N.  Torch
convolves with three real convolutions (Gauss), and three are counted.  A transform of n numbers takes 5·n·log₂n operations (half for
real ones), the usual nominal count.

Activations are in :mod:`.complex_activations`.  Source: Trabelsi et al. 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.measures.lipschitz import register
from nonvacuous.networks.complex_activations import complex_numbers, finite
from nonvacuous.operators.cost_rules import RULES as COSTS
from nonvacuous.operators.cost_rules import Products
from nonvacuous.operators.cost_rules import register as costs
from nonvacuous.operators.maps import Matrix
from nonvacuous.operators.norms import spectral_norm_of
from nonvacuous.operators.rules import convolution, fits

__all__ = [
    "ComplexConv2d",
    "ComplexInput",
    "ComplexLinear",
    "FourierTransform2d",
    "PairedInput",
    "RealParts",
    "circular_normal_",
    "in_pairs",
]


def circular_normal_(pairs: Tensor, variance: float) -> Tensor:
    """Fill pairs ``[…, 2]`` with circular normal numbers, E|w|² = ``variance``: Rayleigh moduli, uniform phases (Trabelsi et al. 2018).

    Raises InvalidInput for another last axis, or a variance that is not positive and finite.
    """
    if pairs.dim() < 1 or pairs.shape[-1] != 2:
        raise InvalidInput(
            f"pairs of shape {tuple(pairs.shape)}: the last axis holds real and imaginary part, so its size is 2"
        )
    if not 0 < variance < math.inf:
        raise InvalidInput(f"variance = {variance!r}: give a positive finite number, 1/fan-in to keep the inputs' mean square")
    return nn.init.normal_(pairs, std=math.sqrt(variance / 2))


class _Weighted(nn.Module):
    """Weights ``pairs`` ``[out, in, …, 2]`` and ``bias`` ``[out, 2]``, real."""

    pairs: nn.Parameter
    bias: nn.Parameter | None

    def _made(self, shape: Sequence[int], bias: bool, gain: float) -> None:
        if min(shape) < 1:
            raise InvalidInput(f"{type(self).__name__} of sizes {tuple(shape)}: all are at least 1")
        self.pairs = nn.Parameter(torch.empty(*shape, 2))
        circular_normal_(self.pairs.detach(), gain / math.prod(shape[1:]))
        self.register_parameter("bias", nn.Parameter(torch.zeros(shape[0], 2)) if bias else None)

    @property
    def complex_weight(self) -> Tensor:
        """W, ``[out, in, …]``, complex: a view."""
        return torch.view_as_complex(self.pairs)

    def _numbers(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        weight = self.complex_weight
        if complex_numbers(x, self).dtype != weight.dtype or x.device != weight.device:
            raise InvalidInput(
                f"{type(self).__name__} has weights of {weight.dtype} on {weight.device}; got an input of {x.dtype} on {x.device}"
            )
        return x, weight, None if self.bias is None else torch.view_as_complex(self.bias)


class ComplexLinear(_Weighted):
    """z ↦ W z + b on the last axis, ``[…, in_features]`` → ``[…, out_features]``, complex.

    Args:
        gain: E|w|² = gain/in_features at first: 1 keeps the mean square, 2 that after a :class:`CReLU` or half-plane.

    Raises InvalidInput for sizes below 1; in the forward pass for real tensors, other sizes, types or devices.

    >>> layer = ComplexLinear(3, 2, bias=False)
    >>> z = torch.randn(5, 3, dtype=torch.cfloat)
    >>> torch.allclose(layer(z), z @ layer.complex_weight.mT)
    True
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, gain: float = 1.0) -> None:
        super().__init__()
        self.in_features, self.out_features = int(in_features), int(out_features)
        self._made((self.out_features, self.in_features), bias, gain)

    def forward(self, z: Tensor) -> Tensor:
        z, weight, bias = self._numbers(z)
        if z.dim() < 1 or z.shape[-1] != self.in_features:
            raise InvalidInput(f"ComplexLinear takes […, {self.in_features}]; got {tuple(z.shape)}")
        return F.linear(z, weight, bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class ComplexConv2d(_Weighted):
    """Convolution of complex images ``[n, in_channels, h, w]``, padded with zeros.  Args and errors as :class:`ComplexLinear`'s.

    >>> ComplexConv2d(1, 4, 3, padding=1)(torch.zeros(2, 1, 8, 8, dtype=torch.cfloat)).shape
    torch.Size([2, 4, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = int(in_channels), int(out_channels), int(kernel_size)
        self.stride, self.padding = int(stride), int(padding)
        if self.stride < 1 or self.padding < 0:
            raise InvalidInput(f"stride {stride}, padding {padding}: the stride is at least 1, the padding at least 0")
        self._made((self.out_channels, self.in_channels, self.kernel_size, self.kernel_size), bias, gain)

    def forward(self, z: Tensor) -> Tensor:
        z, weight, bias = self._numbers(z)
        if z.dim() != 4 or z.shape[1] != self.in_channels or min(z.shape[2:]) + 2 * self.padding < self.kernel_size:
            raise InvalidInput(
                f"ComplexConv2d takes [n, {self.in_channels}, h, w] with sides of {self.kernel_size - 2 * self.padding} or more; "
                f"got {tuple(z.shape)}"
            )
        return F.conv2d(z, weight, bias, self.stride, self.padding)

    def extra_repr(self) -> str:
        sizes = f"{self.in_channels}, {self.out_channels}, {self.kernel_size}"
        return f"{sizes}, stride={self.stride}, padding={self.padding}, bias={self.bias is not None}"


class RealParts(nn.Module):
    """Real parts, then imaginary parts, along axis 1: ``[n, c, …]`` complex → ``[n, 2c, …]`` real.  An isometry."""

    def forward(self, z: Tensor) -> Tensor:
        z = complex_numbers(z, self)
        if z.dim() < 2:
            raise InvalidInput(f"RealParts takes [n, c, …]; got {tuple(z.shape)}")
        return torch.cat((z.real, z.imag), 1)


class ComplexInput(nn.Module):
    """x + 0i of real tensors of any shape.  An isometry.  Raises InvalidInput for what is complex already or not floating, and NaN."""

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            already = " it is complex already: leave ComplexInput out" if x.is_complex() else " convert with x.float()"
            raise InvalidInput(f"ComplexInput takes real floating-point tensors; got {x.dtype}:{already}")
        return torch.complex(finite(x, "the input of ComplexInput"), torch.zeros_like(x))


class PairedInput(nn.Module):
    """Real ``[n, 2c, …]``, real parts before imaginary parts → complex ``[n, c, …]``, undone by :class:`RealParts`.  An isometry.

    Raises InvalidInput for complex or whole numbers, an odd number of features, NaN.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[1] % 2 or not x.shape[1] or not x.is_floating_point():
            raise InvalidInput(f"PairedInput takes real floating-point tensors [n, 2c, …]; got {x.dtype}, {tuple(x.shape)}")
        return torch.complex(*(part.contiguous() for part in finite(x, "the input of PairedInput").chunk(2, 1)))


class FourierTransform2d(nn.Module):
    """Discrete Fourier transform of the last two axes, scaled to be unitary, of real or complex images: an isometry.

    Raises InvalidInput for fewer than three axes, empty images, whole numbers, NaN.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 3 or not all(x.shape[-2:]) or not (x.is_floating_point() or x.is_complex()):
            raise InvalidInput(
                f"FourierTransform2d takes images [n, …, h, w] of floating-point numbers; got {x.dtype}, {tuple(x.shape)}"
            )
        return torch.fft.fft2(finite(x, "the input of FourierTransform2d"), norm="ortho")


def in_pairs(layer: nn.Module) -> ComplexLinear | ComplexConv2d:
    """Torch's own complex ``nn.Linear`` or ``nn.Conv2d`` as a layer of this module, with copies of its weights.

    Raises InvalidInput for real layers, and for convolutions with groups, dilation, unequal sides or padding that is not zeros.

    >>> in_pairs(nn.Linear(3, 2, dtype=torch.cfloat))
    ComplexLinear(in_features=3, out_features=2, bias=True)
    """
    found: ComplexLinear | ComplexConv2d
    if not isinstance(layer, nn.Linear | nn.Conv2d) or not layer.weight.is_complex():
        raise InvalidInput(f"{type(layer).__name__}: give an nn.Linear or nn.Conv2d of a complex dtype")
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        found = ComplexLinear(layer.in_features, layer.out_features, bias=bias)
    else:
        (kernel, other), (stride, stride2), padding = layer.kernel_size, layer.stride, layer.padding
        plain = (
            layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros" and not isinstance(padding, str)
        )
        if not plain or kernel != other or stride != stride2 or padding[0] != padding[1]:
            raise InvalidInput(
                "only convolutions without groups or dilation, of equal sides, padded with zeros, have a pair form"
            )
        found = ComplexConv2d(layer.in_channels, layer.out_channels, kernel, stride=stride, padding=int(padding[0]), bias=bias)
    found.pairs = nn.Parameter(torch.view_as_real(layer.weight.detach()).clone())
    if layer.bias is not None:
        found.bias = nn.Parameter(torch.view_as_real(layer.bias.detach()).clone())
    return found


# -- Lipschitz rules, by the norms above


@register(ComplexInput, FourierTransform2d, PairedInput, RealParts)
def _isometry(module: nn.Module, shape: tuple[int, ...]) -> Measured:
    return Measured.exact(1.0)


def _blocks(pairs: Tensor) -> Tensor:
    """``[[A, −B], [B, A]]`` of A + iB, along the first two axes, float64."""
    real, imaginary = pairs.detach().double().unbind(-1)
    return torch.cat((torch.cat((real, -imaginary), 1), torch.cat((imaginary, real), 1)))


@register(ComplexLinear)
def _linear(module: ComplexLinear, shape: tuple[int, ...]) -> Measured:
    fits(module, bool(shape) and shape[-1] == module.in_features, shape, f"(…, {module.in_features})")
    return spectral_norm_of(Matrix(_blocks(module.pairs)))


@register(ComplexConv2d)
def _convolution(module: ComplexConv2d, shape: tuple[int, ...]) -> Measured:
    fits(module, len(shape) == 3 and shape[0] == module.in_channels, shape, f"({module.in_channels}, h, w)")
    sizes = (2 * module.in_channels, 2 * module.out_channels, module.kernel_size)
    real = nn.utils.skip_init(nn.Conv2d, *sizes, module.stride, module.padding, bias=False, dtype=torch.float64)
    real.weight = nn.Parameter(_blocks(module.pairs))
    found = convolution(real, (2 * shape[0], *shape[1:]))
    return found if isinstance(found, Measured) else spectral_norm_of(found)


# -- cost rules


def _of_complex_numbers(rule: Callable[[Sequence[Any], Any], Products]) -> Callable[[Sequence[Any], Any], Products]:
    """The rule, with complex inner products as the two real ones of twice the length that they are."""

    def count(arguments: Sequence[Any], result: Any) -> Products:
        found = rule(arguments, result)
        return Products(4 * found.macs, 2 * found.outputs) if result.is_complex() else found

    return count


for _kind in ("mm", "bmm", "mv", "dot", "vdot", "addmm", "baddbmm", "addmv", "addbmm"):
    costs(f"aten::{_kind}")(_of_complex_numbers(COSTS[f"aten::{_kind}"]))


@costs("aten::_fft_c2c", "aten::_fft_r2c", "aten::_fft_c2r")
def _transform(arguments: Sequence[Any], result: Any) -> Products:
    """5·n·log₂n operations for the n numbers of one transform; half where one side is real."""
    real = next((x for x in (arguments[0], result) if not x.is_complex()), None)
    x = arguments[0] if real is None else real
    n = math.prod(x.shape[axis] for axis in arguments[1])
    operations = 5 * x.numel() * math.log2(n) / (1 if real is None else 2) if n else 0.0
    return Products(math.ceil(operations / 2), 0)
