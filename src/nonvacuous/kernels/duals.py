r"""What an activation is to a pair of Gaussian pre-activations: its dual functions in closed form, and the module of a finite network.

For (u, v) ~ N(0, [[k11, k12], [k12, k22]]) an infinitely wide layer needs :math:`E[φ(u)φ(v)]` and :math:`E[φ'(u)φ'(v)]`. Closed
forms: Cho and Saul 2009 (rectifiers), Williams 1997 (erf); the rest follow from them by Price's theorem,
:math:`∂E[φ(u)φ(v)]/∂k_{12} = E[φ'(u)φ'(v)]`. Activations without a closed form go to :mod:`~nonvacuous.kernels.hermite`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput


class Moments(NamedTuple):
    """value: E[φ(u)φ(v)]; slope: E[φ'(u)φ'(v)]."""

    value: Tensor
    slope: Tensor


class Dual(ABC):
    """An elementwise activation with its dual functions. φ' is the derivative that automatic differentiation takes: 0 at a jump."""

    closed_form: ClassVar[bool] = True

    @abstractmethod
    def moments(self, k11: Tensor, k12: Tensor, k22: Tensor) -> Moments:
        """Elementwise on covariances that broadcast to the shape of ``k12``; float32 or float64."""

    @abstractmethod
    def diagonal(self, k: Tensor) -> Moments:
        """The case u = v of variance ``k``: no digit is lost to k12 being close to √(k11 k22)."""

    @abstractmethod
    def module(self) -> nn.Module:
        """φ as a module."""

    def moments_(self, k11: Tensor, k12: Tensor, k22: Tensor, slope: Tensor, spare: Tensor) -> None:
        """:meth:`moments` into what is there, for tiles that stay in cache: ``k12`` becomes the value, ``slope`` the slope."""
        value, derivative = self.moments(k11, k12, k22)
        slope.copy_(derivative)
        k12.copy_(value)


class InPlace(Dual):
    """A dual that is written as ``moments_``; ``k11`` and ``k22`` together must broadcast to the shape of ``k12`` there."""

    def moments(self, k11: Tensor, k12: Tensor, k22: Tensor) -> Moments:
        shape = torch.broadcast_shapes(k11.shape, k12.shape, k22.shape)
        value = k12.expand(shape).clone()
        slope, spare = torch.empty_like(value), torch.empty_like(value)
        first = k11 if torch.broadcast_shapes(k11.shape, k22.shape) == shape else k11.expand(shape)
        self.moments_(first, value, k22, slope, spare)
        return Moments(value, slope)

    @abstractmethod
    def moments_(self, k11: Tensor, k12: Tensor, k22: Tensor, slope: Tensor, spare: Tensor) -> None:
        """``k12`` becomes the value, ``slope`` the slope, ``spare`` anything."""


class Elementwise(nn.Module):
    """A function of a tensor as a module that prints its name."""

    def __init__(self, name: str, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.name, self.function = name, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return self.name


@dataclass(frozen=True)
class Rectifier(InPlace):
    r"""φ(z) = ``negative``·min(z, 0) + ``positive``·max(z, 0): relu (0, 1), leaky relu (a, 1), absolute value (−1, 1).

    With c the correlation and B = π − arccos c, value :math:`\sqrt{k_{11}k_{22}}\,[ab\,c + (b-a)^2(\sqrt{1-c^2} + cB)/2π]` and slope
    :math:`ab + (b-a)^2B/2π` (Cho and Saul 2009, the arc-cosine kernels of order 1 and 0). Where a variance is 0, c is taken as 0.

    >>> one, half = torch.ones(1, dtype=torch.float64), torch.full((1,), 0.5, dtype=torch.float64)
    >>> value, slope = Rectifier(0.0, 1.0).moments(one, half, one)  # 60°: B = 2π/3
    >>> round(float(slope) * 6, 12), round(float(value) - (math.sqrt(3) / 2 + math.pi / 3) / (2 * math.pi), 12)
    (2.0, 0.0)
    """

    negative: float
    positive: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.negative) and math.isfinite(self.positive)):
            raise InvalidInput(f"slopes {self.negative} and {self.positive}: both must be finite")

    @property
    def mean_square_slope(self) -> float:
        """E[φ'(u)²], which is also E[φ(u)²] at variance 1."""
        return (self.negative**2 + self.positive**2) / 2

    def moments_(self, k11: Tensor, k12: Tensor, k22: Tensor, slope: Tensor, spare: Tensor) -> None:
        first, second = k11.sqrt(), k22.sqrt()
        k12.mul_(-_reciprocal(first)).mul_(_reciprocal(second)).clamp_(-1, 1)  # −c from here on, so that arccos gives B
        self.normalized_(k12, slope, spare)
        k12.mul_(-first).mul_(second)

    def normalized_(self, opposite: Tensor, slope: Tensor, spare: Tensor) -> None:
        """The same for variances 1: ``opposite`` holds −c in [−1, 1] and becomes −E[φ(u)φ(v)]; ``slope``: E[φ'(u)φ'(v)]."""
        product, weight = self.negative * self.positive, (self.positive - self.negative) ** 2 / (2 * math.pi)
        torch.mul(opposite, opposite, out=spare)
        spare.neg_().add_(1).sqrt_()  # c is a rounded number in [−1, 1]: 1 − c² has no digit to gain from (1 − c)(1 + c)
        torch.acos(opposite, out=slope)
        spare.addcmul_(opposite, slope, value=-1)
        opposite.mul_(product).add_(spare, alpha=-weight)
        slope.mul_(weight).add_(product)

    def diagonal(self, k: Tensor) -> Moments:
        return Moments(k * self.mean_square_slope, torch.full_like(k, self.mean_square_slope))

    def module(self) -> nn.Module:
        if self.positive == 1:
            return nn.ReLU() if self.negative == 0 else nn.LeakyReLU(self.negative)
        return Elementwise(repr(self), lambda x: self.negative * x.clamp(max=0) + self.positive * x.clamp(min=0))


def _reciprocal(deviation: Tensor) -> Tensor:
    return torch.where(deviation > 0, 1 / deviation, torch.zeros_like(deviation))


def correlation(k11: Tensor, k12: Tensor, k22: Tensor) -> Tensor:
    """k12/√(k11 k22) within [−1, 1]; 0 where a variance is 0."""
    return (k12 * _reciprocal(k11.sqrt()) * _reciprocal(k22.sqrt())).clamp(-1, 1)


@dataclass(frozen=True)
class Identity(Dual):
    """φ(z) = z."""

    def moments(self, k11: Tensor, k12: Tensor, k22: Tensor) -> Moments:
        return Moments(k12.clone(), torch.ones_like(k12))

    def diagonal(self, k: Tensor) -> Moments:
        return Moments(k.clone(), torch.ones_like(k))

    def module(self) -> nn.Module:
        return nn.Identity()


@dataclass(frozen=True)
class Erf(InPlace):
    """φ(z) = erf z; value (2/π)·arctan(2 k12/√D), D = (1 + 2 k11)(1 + 2 k22) − 4 k12² (Williams 1997), slope 4/(π√D)."""

    def moments_(self, k11: Tensor, k12: Tensor, k22: Tensor, slope: Tensor, spare: Tensor) -> None:
        first, second = 2 * k11, 2 * k22
        k12.mul_(2)
        torch.add(1 + first, second, out=slope)  # D in the limit |c| = 1
        torch.mul(first, second, out=spare).addcmul_(k12, k12, value=-1).add_(slope)
        torch.maximum(spare, slope, out=spare).sqrt_()
        torch.atan2(k12, spare, out=k12).mul_(2 / math.pi)
        torch.reciprocal(spare, out=slope).mul_(4 / math.pi)

    def diagonal(self, k: Tensor) -> Moments:
        root = (1 + 4 * k).sqrt()
        return Moments(torch.atan(2 * k / root) * (2 / math.pi), (4 / math.pi) / root)

    def module(self) -> nn.Module:
        return Elementwise("erf", torch.erf)


@dataclass(frozen=True)
class Gelu(InPlace):
    """φ(z) = z Φ(z), Φ the normal distribution function (not its approximation by tanh). With D = (1 + k11)(1 + k22) − k12²:
    value k12/4 + k12·arctan(k12/√D)/2π + [k11 k22 + k12²(1 − k11 k22)/((1 + k11)(1 + k22))]/(2π√D), by integration by parts.
    """

    def moments_(self, k11: Tensor, k12: Tensor, k22: Tensor, slope: Tensor, spare: Tensor) -> None:
        turn, one, two = 1 / (2 * math.pi), 1 / (1 + k11), 1 / (1 + k22)
        value = (one * two).addcmul_(k11 * one, k22 * two, value=-1)  # (1 − k11 k22)/((1 + k11)(1 + k22))
        torch.mul(k11, k22, out=spare)
        value.mul_(k12).mul_(k12).add_(spare)
        torch.add(1 + k11, k22, out=slope)  # D in the limit |c| = 1
        torch.maximum(spare.addcmul_(k12, k12, value=-1).add_(slope), slope, out=spare)
        torch.atan2(k12, spare.sqrt_(), out=slope).mul_(turn).add_(0.25)
        value.mul_(spare.reciprocal_()).mul_(turn).addcmul_(k12, slope)
        k12.mul_(spare)
        slope.addcmul_(k12, spare.mul_(spare).add_(one).add_(two), value=turn)
        k12.copy_(value)

    def diagonal(self, k: Tensor) -> Moments:
        size = 1 + 2 * k
        root = size.sqrt()
        share = torch.atan(k / root) / (2 * math.pi) + 0.25
        inverse = (1 / (2 * math.pi)) / root
        value = k * share + inverse * 2 * (k / (1 + k)) * k
        return Moments(value, share + k * inverse * (2 / (1 + k) + 1 / size))

    def module(self) -> nn.Module:
        return nn.GELU()


@dataclass(frozen=True)
class Sinusoid(Dual):
    r"""φ(z) = √2 · ``height`` · sin(``frequency`` · z + ``phase``); sin and cos with height 1/√2 and phases 0 and π/2; phase π/4 gives the
    Gaussian kernel. With a the frequency: value height²·[exp(−a²(k11 + k22 − 2 k12)/2) − cos 2p · exp(−a²(k11 + k22 + 2 k12)/2)].
    """

    height: float = 1.0
    frequency: float = 1.0
    phase: float = math.pi / 4

    def _moments(self, difference: Tensor, total: Tensor) -> Moments:
        """From the variances of u − v and of u + v."""
        square, scale = self.frequency**2, self.height**2
        near, far = torch.exp(difference * (-square / 2)), torch.exp(total * (-square / 2))
        turn = round(math.cos(2 * self.phase), 15)
        return Moments(scale * (near - turn * far), scale * square * (near + turn * far))

    def moments(self, k11: Tensor, k12: Tensor, k22: Tensor) -> Moments:
        return self._moments((k11 + k22 - 2 * k12).clamp_(min=0), (k11 + k22 + 2 * k12).clamp_(min=0))

    def diagonal(self, k: Tensor) -> Moments:
        return self._moments(torch.zeros_like(k), 4 * k)

    def module(self) -> nn.Module:
        scale = math.sqrt(2) * self.height
        return Elementwise(repr(self), lambda x: scale * torch.sin(self.frequency * x + self.phase))


@dataclass(frozen=True)
class Sign(Dual):
    """φ(z) = sign z; value (2/π)·arcsin c; its gradient is 0 wherever there is one, so the tangent kernel sees the last layer alone."""

    def moments(self, k11: Tensor, k12: Tensor, k22: Tensor) -> Moments:
        value = torch.asin(correlation(k11, k12, k22)) * (2 / math.pi)
        return Moments(value, torch.zeros_like(value))

    def diagonal(self, k: Tensor) -> Moments:
        return Moments((k > 0).to(k.dtype), torch.zeros_like(k))

    def module(self) -> nn.Module:
        return Elementwise("sign", torch.sign)


@dataclass(frozen=True)
class Square(Dual):
    """φ(z) = z²; value k11 k22 + 2 k12², slope 4 k12."""

    def moments(self, k11: Tensor, k12: Tensor, k22: Tensor) -> Moments:
        return Moments(k11 * k22 + 2 * k12 * k12, 4 * k12)

    def diagonal(self, k: Tensor) -> Moments:
        return Moments(3 * k * k, 4 * k)

    def module(self) -> nn.Module:
        return Elementwise("square", torch.square)


@dataclass(frozen=True)
class Exponential(Dual):
    """φ(z) = exp z; value and slope exp((k11 + k22)/2 + k12)."""

    def moments(self, k11: Tensor, k12: Tensor, k22: Tensor) -> Moments:
        value = torch.exp((k11 + k22) / 2 + k12)
        return Moments(value, value.clone())

    def diagonal(self, k: Tensor) -> Moments:
        value = torch.exp(2 * k)
        return Moments(value, value.clone())

    def module(self) -> nn.Module:
        return Elementwise("exp", torch.exp)


@dataclass(frozen=True)
class Bump(Dual):
    """φ(z) = exp(−z²); with D = (1 + 2 k11)(1 + 2 k22) − 4 k12², value D^(−1/2), slope 4 k12 D^(−3/2)."""

    def moments(self, k11: Tensor, k12: Tensor, k22: Tensor) -> Moments:
        least = 1 + 2 * k11 + 2 * k22
        value = torch.maximum(least + 4 * (k11 * k22 - k12 * k12), least).rsqrt_()
        return Moments(value, 4 * k12 * value**3)

    def diagonal(self, k: Tensor) -> Moments:
        value = (1 + 4 * k).rsqrt()
        return Moments(value, 4 * k * value**3)

    def module(self) -> nn.Module:
        return Elementwise("exp(−z²)", lambda x: torch.exp(-x * x))
