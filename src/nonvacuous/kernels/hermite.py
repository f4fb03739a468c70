r"""Dual functions of an activation that has no closed form: its Hermite series.

With h_j the normalised Hermite polynomials and :math:`a_j(k) = E[φ(\sqrt k z)h_j(z)]`, Mehler's formula gives
:math:`E[φ(u)φ(v)] = Σ_j a_j(k_{11})a_j(k_{22})c^j`, c the correlation. Stopping after J terms leaves at most
:math:`|c|^{J+1}\sqrt{r(k_{11})r(k_{22})}` with :math:`r(k) = E[φ(\sqrt kz)^2] - Σ_{j≤J}a_j(k)^2`. What is summed is positive semi-definite.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.duals import Dual, Elementwise, Moments, correlation

TERMS = 128
_REACH, _PANELS, _POINTS = (
    12.0,
    24,
    24,
)  # panels of Gauss–Legendre points on [−reach, 0] and on [0, reach]: a kink at 0 costs nothing
_ROWS = 2048


class NoClosedForm(UserWarning):
    """The kernel rests on a truncated series; its error is given by :meth:`HermiteSeries.truncation`."""


@cache
def _rule() -> tuple[Tensor, Tensor]:
    """Points z, and weights × density × h_j(z) as a matrix [points, TERMS + 1]; float64."""
    points, weights = np.polynomial.legendre.leggauss(_POINTS)
    width = _REACH / _PANELS
    starts = np.arange(-_PANELS, _PANELS) * width
    z = (starts[:, None] + (points + 1) * width / 2).ravel()
    density = np.tile(weights * width / 2, 2 * _PANELS) * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    hermite = np.empty((TERMS + 1, z.size))
    hermite[0], hermite[1] = 1, z
    for j in range(1, TERMS):
        hermite[j + 1] = (z * hermite[j] - math.sqrt(j) * hermite[j - 1]) / math.sqrt(j + 1)
    return torch.from_numpy(z), torch.from_numpy((hermite * density).T.copy())


class HermiteSeries(Dual):
    """φ is any function that acts on each number of a tensor alone and can be differentiated by torch."""

    closed_form: ClassVar[bool] = False

    def __init__(self, function: Callable[[Tensor], Tensor], name: str) -> None:
        probe = torch.linspace(-3, 3, 7, dtype=torch.float64)
        with torch.no_grad():
            values = function(probe)
            again = function(probe.flip(0))
        if not isinstance(values, Tensor) or values.shape != probe.shape or not torch.equal(values, again.flip(0)):
            raise InvalidInput(f"activation {name}: it must map every number of a tensor by itself, the same way each time")
        if not values.isfinite().all():
            raise InvalidInput(f"activation {name}: it is not finite on [−3, 3]")
        self.function, self.name = function, name
        warnings.warn(
            f"{name} has no closed form here: its kernels are Hermite series of up to {TERMS} terms; "
            "truncation() of its dual bounds what they leave out",
            NoClosedForm,
            stacklevel=3,
        )

    def __repr__(self) -> str:
        return f"HermiteSeries({self.name})"

    def _samples(self, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """φ and φ' at √k times the rule's points, [len(k), points] each, and the rule's matrix."""
        points, matrix = (part.to(k.device) for part in _rule())
        z = (k.double().clamp(min=0).sqrt()[:, None] * points).requires_grad_()
        with torch.enable_grad():
            values = self.function(z)
            slopes = torch.autograd.grad(values.sum(), z)[0] if values.requires_grad else torch.zeros_like(z)
        return values.detach(), slopes, matrix

    def coefficients(self, k: Tensor, least: float = 0.0) -> tuple[Tensor, Tensor]:
        """Of φ and of φ', ``[terms, …]``, float64; computed once where ``k`` is expanded. Last terms go if each is below √``least`` of
        the root of the squares' sum.
        """
        small = k[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in k.stride())]
        parts: list[tuple[Tensor, Tensor]] = []
        for part in small.reshape(-1).split(_ROWS):
            values, slopes, matrix = self._samples(part)
            parts.append((values @ matrix, slopes @ matrix))
        value, slope = (_trimmed(torch.cat(each).T, least).reshape(-1, *small.shape) for each in zip(*parts, strict=True))
        return value, slope

    def moments(self, k11: Tensor, k12: Tensor, k22: Tensor) -> Moments:
        least = torch.finfo(k12.dtype).eps / 16
        first, second = self.coefficients(k11, least), self.coefficients(k22, least)
        c = correlation(k11, k12, k22).double()
        value, slope = (series_(c, a, b, torch.empty_like(c)).to(k12.dtype) for a, b in zip(first, second, strict=True))
        return Moments(value, slope)

    def diagonal(self, k: Tensor) -> Moments:
        parts: list[tuple[Tensor, Tensor]] = []
        for part in k.reshape(-1).split(_ROWS):
            values, slopes, matrix = self._samples(part)
            weight = matrix[:, 0]  # h_0 = 1
            parts.append((values.square() @ weight, slopes.square() @ weight))
        value, slope = (torch.cat(each).reshape(k.shape).to(k.dtype) for each in zip(*parts, strict=True))
        return Moments(value, slope)

    def truncation(self, k: Tensor) -> Moments:
        """What the series leaves out at variance ``k`` and c = ±1, for φ and for φ'; at other c, |c|^129 of it. The quadrature of the
        coefficients (1152 points) is not part of it.
        """
        exact = self.diagonal(k.double())
        value, slope = self.coefficients(k)
        left = (exact.value - value.square().sum(0)).clamp(min=0), (exact.slope - slope.square().sum(0)).clamp(min=0)
        return Moments(left[0].to(k.dtype), left[1].to(k.dtype))

    def module(self) -> nn.Module:
        return self.function if isinstance(self.function, nn.Module) else Elementwise(self.name, self.function)


def _trimmed(coefficients: Tensor, least: float) -> Tensor:
    matters = (coefficients.square() > least * coefficients.square().sum(0)).any(1).nonzero()
    return coefficients[: int(matters[-1]) + 1 if len(matters) else 1]


def series_(c: Tensor, first: Tensor, second: Tensor, out: Tensor) -> Tensor:
    """``out`` = Σ_j first_j second_j c^j by Horner's rule, from the last term that matters at the largest |c|."""
    terms = min(len(first), len(second))
    largest = max(map(abs, torch.stack(torch.aminmax(c)).tolist())) if c.numel() else 0.0
    sizes = first[:terms].reshape(terms, -1).abs().amax(1) * second[:terms].reshape(terms, -1).abs().amax(1)
    left = (sizes * largest ** torch.arange(terms, dtype=sizes.dtype, device=sizes.device)).flip(0).cumsum(0).flip(0)
    last = int((left > torch.finfo(c.dtype).eps / 16 * left[0]).sum()) - 1
    out.zero_()
    for j in range(last, -1, -1):
        out.mul_(c).addcmul_(first[j], second[j])
    return out
