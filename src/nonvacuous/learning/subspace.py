"""A random subspace whose basis costs nothing to store: signs and Hadamard transforms drawn from a seed.

P = D₂ H D₁ H, cut to the first m rows and to d columns picked at random, where H is the N × N Hadamard matrix over √N, D₁ and D₂ are
random signs, and N is the power of two at or above both. Its columns are directions in the space of the weights, nearly orthogonal,
spread evenly over all of them. Both transforms together divide by N, a power of two: integers go to numbers that float32 holds exactly
as long as their sums stay below 2^24, so that every machine decodes the same weights.

Source: the construction of Ailon and Chazelle 2009 (SIAM J. Comput. 39) as used for weights by Li et al. 2018 (ICLR).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.fingerprint import mixed

MOST_DIRECTIONS = 1 << 24


@dataclass(frozen=True)
class Subspace:
    """``dimension`` random directions in the space of ``size`` numbers, a function of ``seed`` on every machine."""

    size: int
    dimension: int
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MOST_DIRECTIONS or not 1 <= self.dimension <= MOST_DIRECTIONS:
            raise InvalidInput(
                f"a subspace of {self.dimension} directions in the space of {self.size} weights: both lie between 1 and {MOST_DIRECTIONS}"
            )

    @property
    def order(self) -> int:
        """Order of the Hadamard matrices."""
        return 1 << (max(self.size, self.dimension) - 1).bit_length()

    def expand(self, w: Tensor) -> Tensor:
        """P w: weights ``[size]`` from coordinates ``[dimension]``, differentiable.

        >>> Subspace(4, 2, seed=1).expand(torch.tensor([1.0, 0.0])).norm().item()
        1.0
        """
        out: Tensor = _Expansion.apply(w, self)
        return out

    @cached_property
    def places(self) -> Tensor:
        """Which columns of the square matrix are taken, ``[dimension]``."""
        return torch.from_numpy(np.argsort(self._words(0), kind="stable")[: self.dimension].astype(np.int64))

    @cached_property
    def signs(self) -> tuple[Tensor, Tensor]:
        """The diagonals of D₁ and D₂."""
        first, second = (torch.from_numpy(1.0 - 2.0 * (self._words(k) >> np.uint64(63)).astype(np.float32)) for k in (1, 2))
        return first, second

    def _words(self, purpose: int) -> np.ndarray:
        start = mixed(mixed(np.array([self.seed % 2**64], dtype=np.uint64)) ^ np.uint64(purpose))
        return mixed(mixed(np.arange(self.order, dtype=np.uint64)) ^ start)


class _Expansion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, subspace: Subspace) -> Tensor:
        ctx.subspace = subspace
        first, second = subspace.signs
        x = w.new_zeros(subspace.order)
        x[subspace.places] = w
        return (second * hadamard(first * hadamard(x)) / subspace.order)[: subspace.size]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        subspace: Subspace = ctx.subspace
        first, second = subspace.signs
        x = gradients[0].new_zeros(subspace.order)
        x[: subspace.size] = gradients[0]
        return (hadamard(first * hadamard(second * x)) / subspace.order)[subspace.places], None


def hadamard(x: Tensor) -> Tensor:
    """The unscaled Hadamard transform of ``x`` [N], N a power of two, in N log N additions.

    >>> hadamard(torch.tensor([1.0, 0.0, 0.0, 2.0]))
    tensor([ 3., -1., -1.,  3.])
    """
    half = 1
    while half < x.numel():
        pairs = x.reshape(-1, 2, half)
        x = torch.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).reshape(-1)
        half *= 2
    return x
