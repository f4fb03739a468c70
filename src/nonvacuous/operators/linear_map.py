"""A layer as a linear map: shapes, what it does to a batch, and its adjoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.operators.copies import float64_copy


class LinearMap(ABC):
    """A linear map between spaces of arrays.

    ``apply`` takes a batch (b, *shape_in) to (b, *shape_out) and ``adjoint`` goes back, with ⟨Ax, y⟩ = ⟨x, Aᵀy⟩; both compute
    in the dtype of what they are given, on the device of the weights.
    """

    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]
    device: torch.device

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """A x for a batch of x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y for a batch of y."""

    @property
    def columns(self) -> int:
        """Dimension of the input space."""
        return prod(self.shape_in)

    @property
    def rows(self) -> int:
        """Dimension of the output space."""
        return prod(self.shape_out)

    @property
    def smaller_side(self) -> int:
        """min(rows, columns): no more singular values than that."""
        return min(self.rows, self.columns)

    def dense(self, dtype: torch.dtype = torch.float64, chunk: int = 512) -> Tensor:
        """The matrix (rows, columns), by applying the map, or its adjoint where that is fewer, to unit vectors."""
        by_columns = self.columns <= self.rows
        count = self.columns if by_columns else self.rows
        shape = self.shape_in if by_columns else self.shape_out
        parts = []
        for start in range(0, count, chunk):
            units = torch.zeros(min(chunk, count - start), count, dtype=dtype, device=self.device)
            units[:, start : start + chunk].fill_diagonal_(1)
            images = (self.apply if by_columns else self.adjoint)(units.reshape(-1, *shape))
            parts.append(images.reshape(images.shape[0], -1))
        matrix = torch.cat(parts) if parts else torch.zeros(0, 0, dtype=dtype)
        return matrix.mT if by_columns else matrix


class FunctionMap(LinearMap):
    """The linear part of a function known to be affine: ``f(x) − f(0)``; the adjoint is its vector-Jacobian product."""

    def __init__(
        self, function: Callable[[Tensor], Tensor], shape_in: Sequence[int], device: torch.device | None = None
    ) -> None:
        self.function = function
        self.shape_in = tuple(shape_in)
        self.device = torch.device("cpu") if device is None else device
        with torch.no_grad():
            self._origin = function(torch.zeros(1, *shape_in, dtype=torch.float64, device=self.device))
        self.shape_out = tuple(self._origin.shape[1:])

    def apply(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return (self.function(x.double()) - self._origin).to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        zero = torch.zeros(y.shape[0], *self.shape_in, dtype=torch.float64, device=y.device, requires_grad=True)
        with torch.enable_grad():
            (back,) = torch.autograd.grad(self.function(zero), zero, y.double(), allow_unused=True)
        return torch.zeros_like(zero).to(y.dtype) if back is None else back.to(y.dtype)


def affine_map(module: nn.Module, input_shape: Sequence[int]) -> FunctionMap:
    """The linear part of any module that is affine in eval mode, computed in float64 on a copy.

    That it is affine is tested at random points (a test can refute it, not prove it).

    Raises UnsupportedModule when the test refutes it, InvalidInput when the shape does not fit.
    """
    copied = float64_copy(module).requires_grad_(False)
    tensor = next(iter([*copied.parameters(), *copied.buffers()]), None)
    device = tensor.device if tensor is not None else torch.device("cpu")
    try:
        linear = FunctionMap(copied, input_shape, device)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise InvalidInput(f"{type(module).__name__} does not take an input of shape {tuple(input_shape)}: {error}") from error
    generator = torch.Generator(device=device).manual_seed(0)
    x, y = torch.randn(2, 1, *linear.shape_in, dtype=torch.float64, device=device, generator=generator)
    left = linear.apply(100 * x - 3 * y)
    right = 100 * linear.apply(x) - 3 * linear.apply(y)
    if not torch.allclose(left, right, rtol=1e-8, atol=1e-8 * float(1 + right.abs().max())):
        raise UnsupportedModule(
            f"{type(module).__name__}: not affine in eval mode, so it has no operator norm. "
            "Register a rule for it with @norms.register(…)."
        )
    return linear
