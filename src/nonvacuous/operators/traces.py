"""Trace and diagonal of a symmetric operator from a few products, with error bars: XTrace and XDiag.

Both split the matrix into what the images of random vectors span, which they count exactly, and the rest, which they sample; every
random vector takes both parts in turn (leave one out), and the spread of these estimates is the error bar.

Source: Epperly, Tropp and Webber 2024, "XTrace: Making the most of every sample in stochastic trace estimation" (SIAM J. Matrix Anal.
Appl. 45), in the tradition of Hutch++ (Meyer, Musco, Musco and Woodruff 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.operators.lanczos import Advance, checked_operator

ERRORS = 2.0
"""Standard errors on either side in a bracket."""


@dataclass(frozen=True)
class Trace:
    """``value`` and its standard ``error`` (estimated; 0 where the trace was summed), after so many ``products``."""

    value: float
    error: float
    products: int

    def measured(self) -> Measured:
        """Value ± 2 standard errors; an indicator, as the error is itself an estimate."""
        reach = ERRORS * self.error
        return Measured(self.value - reach, self.value + reach, Kind.INDICATOR)


@dataclass(frozen=True)
class Diagonal:
    """``values`` [P] and their standard ``errors`` [P], after so many ``products``."""

    values: Tensor
    errors: Tensor
    products: int


def trace(operator: Any, products: int = 30, *, seed: int | torch.Generator = 0, advance: Advance | None = None) -> Trace:
    """XTrace with ``products`` products, half of them on random vectors on the sphere; exact with P products where P is no larger.

    Unbiased. Holds 2 · products vectors of length P at a time.

    >>> trace(torch.diag(torch.arange(20.0)), 40)
    Trace(value=190.0, error=0.0, products=20)
    """
    size = _checked(operator, products)
    if size <= products:
        return Trace(float(_dense(operator, size, advance).diagonal().double().sum()), 0.0, size)
    n = products // 2
    omega = _random(operator, n, seed)
    omega = omega / torch.linalg.vector_norm(omega, dim=0) * size**0.5
    seen = _Seen(operator, omega, advance)
    H, W = seen.Q.mT.double() @ seen.Z.double(), (seen.Q.mT @ omega).double()
    S, R = seen.S, seen.R
    kept = W - S * (S * W).sum(0)
    left = (omega.double().square().sum(0) - kept.square().sum(0)).clamp_min(1e-300)
    dimensions = size - seen.rank + (1 if bool(S.any()) else 0)
    quadratic = (W * R).sum(0) - 2 * (kept * R).sum(0) + (kept * (H @ kept)).sum(0)
    found = H.trace() - (S * (H @ S)).sum(0) + quadratic * dimensions / left
    return Trace(float(found.mean()), float(found.std() / n**0.5), seen.products)


def diagonal(
    operator: Any, products: int = 30, *, seed: int | torch.Generator = 0, advance: Advance | None = None
) -> Diagonal:
    """XDiag with ``products`` products, half of them on random signs; exact with P products where P is no larger. Unbiased.

    >>> diagonal(torch.diag(torch.arange(4.0)), 10).values
    tensor([0., 1., 2., 3.])
    """
    size = _checked(operator, products)
    if size <= products:
        values = _dense(operator, size, advance).diagonal().clone()
        return Diagonal(values, torch.zeros_like(values), size)
    n = products // 2
    omega = _random(operator, n, seed).sign()
    seen = _Seen(operator, omega, advance)
    S = seen.S.to(omega.dtype)
    missing, images = seen.Q @ S, seen.Z @ S
    base = (seen.Q * seen.Z).sum(1)
    found = omega * missing * (seen.S * seen.R).sum(0).to(omega.dtype) - missing * images
    return Diagonal(base + found.mean(1), found.std(1) / n**0.5, seen.products)


class _Seen:
    """Q [P, r] orthonormal, spanning A Ω; Z = A Q; R = QᵀAΩ; S [r, n]: what column i alone adds to the span, 0 if nothing."""

    def __init__(self, operator: Any, omega: Tensor, advance: Advance | None) -> None:
        images = _times(operator, omega, advance)
        Q, R = torch.linalg.qr(images)
        sizes = R.diagonal().abs()
        scale = float(sizes.max())
        deficient = not float(sizes.min()) > 100 * torch.finfo(omega.dtype).eps * scale
        if deficient:
            U, sigma, _ = torch.linalg.svd(R)
            Q = Q @ U[:, : max(1, int((sigma > 100 * torch.finfo(omega.dtype).eps * float(sigma.max())).sum()))]
        self.Q, self.rank = Q, Q.shape[1]
        self.R = (Q.mT @ images).double()
        self.Z = _times(operator, Q, advance)
        if deficient:
            self.S = torch.zeros_like(self.R)
        else:
            inverse = torch.linalg.solve_triangular(
                self.R.triu(), torch.eye(self.rank, dtype=torch.float64).to(self.R), upper=True
            )
            self.S = torch.nn.functional.normalize(inverse.mT, dim=0)
        self.products = omega.shape[1] + self.rank


def _times(operator: Any, matrix: Tensor, advance: Advance | None) -> Tensor:
    columns = []
    for column in matrix.mT:
        columns.append(operator @ column)
        if advance is not None:
            advance(1)
    images = torch.stack(columns, 1)
    if not bool(torch.isfinite(images).all()):
        raise InvalidInput("a product with the operator holds NaN or infinity: the loss overflows at these weights")
    return images


def _dense(operator: Any, size: int, advance: Advance | None) -> Tensor:
    return _times(operator, torch.eye(size, dtype=operator.dtype, device=operator.device), advance)


def _random(operator: Any, n: int, seed: int | torch.Generator) -> Tensor:
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    drawn = torch.randn(operator.shape[0], n, generator=generator, dtype=torch.float64)
    return drawn.to(dtype=operator.dtype, device=operator.device)


def _checked(operator: Any, products: int) -> int:
    size = checked_operator(operator)
    if products < 4:
        raise InvalidInput(f"{products} products are too few for an estimate with an error bar: give at least 4")
    return size
