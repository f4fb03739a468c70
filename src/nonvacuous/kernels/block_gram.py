"""Gram matrices by stripes of rows: in memory, or computed anew at each use; on disk in :mod:`~nonvacuous.kernels.block_gram_disk`.

A stripe holds rows ``start … end − 1`` and columns ``0 … end − 1`` of the symmetric matrix: the lower triangle, once. Everything that
solves with a Gram matrix needs no more than the stripes in turn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.tasks import Progress

KernelFunction = Callable[[Tensor, Tensor], Tensor]
"""Inputs ``[n1, …]`` and ``[n2, …]`` to the kernel's block ``[n1, n2]``."""

ROWS = 512


class Stripe(NamedTuple):
    """rows: first row; values ``[b, start + b]``."""

    start: int
    values: Tensor


class StripedGram(ABC):
    """A symmetric matrix ``[n, n]``, read a stripe at a time.

    n: its size; dtype: of the stripes; rows: rows in a stripe.
    """

    n: int
    dtype: torch.dtype
    rows: int = ROWS

    @property
    def starts(self) -> range:
        """First rows of the stripes."""
        return range(0, self.n, self.rows)

    @abstractmethod
    def stripe(self, start: int) -> Tensor:
        """Rows ``start … end − 1``, columns ``0 … end − 1``."""

    def stripes(self) -> Iterator[Stripe]:
        """All stripes, from the top."""
        for start in self.starts:
            yield Stripe(start, self.stripe(start))

    def product(self, vectors: Tensor, *, accurate: bool = False) -> Tensor:
        """K V ``[n, k]`` in V's type. accurate: every product in float64, whatever the stripes' type."""
        inner = torch.float64 if accurate else self.dtype
        V = vectors.to(inner)
        out = torch.zeros(vectors.shape, dtype=inner, device=vectors.device)
        for start, values in self.stripes():
            values = values.to(inner)
            end = start + len(values)
            out[start:end] += values @ V[:end]
            if start:
                out[:start] += values[:, :start].T @ V[start:end]
        return out.to(vectors.dtype)

    def diagonal(self) -> Tensor:
        """``[n]``."""
        return torch.cat([values[:, start:].diagonal() for start, values in self.stripes()])

    def columns(self, chosen: Tensor) -> Tensor:
        """K[:, chosen] ``[n, m]``."""
        out = torch.empty(self.n, len(chosen), dtype=self.dtype, device=chosen.device)
        for start, values in self.stripes():
            end = start + len(values)
            left = chosen < end
            out[start:end, left] = values[:, chosen[left]]
            here = left & (chosen >= start)
            if start and bool(here.any()):
                out[:start, here] = values[chosen[here] - start, :start].T
        return out

    def dense(self) -> Tensor:
        """The whole matrix ``[n, n]``."""
        out: Tensor | None = None
        for start, values in self.stripes():
            if out is None:
                out = torch.empty(self.n, self.n, dtype=values.dtype, device=values.device)
            end = start + len(values)
            out[start:end, :end] = values
            out[:start, start:end] = values[:, :start].T
        assert out is not None
        return out


class MemoryGram(StripedGram):
    """A matrix that is there. whole: both triangles are the same and may be read; else only the lower one is.

    >>> gram = MemoryGram(torch.tensor([[2.0, 7.0], [1.0, 2.0]]))
    >>> gram.product(torch.tensor([[1.0], [0.0]])).flatten()
    tensor([2., 1.])
    """

    def __init__(self, matrix: Tensor, *, whole: bool = False) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix) or not matrix.is_floating_point():
            raise InvalidInput(
                f"a Gram matrix of shape {tuple(matrix.shape)}, {matrix.dtype}: give floating [n, n], n at least 1"
            )
        self.matrix, self.n, self.dtype, self.whole = matrix, len(matrix), matrix.dtype, whole

    def stripe(self, start: int) -> Tensor:
        values = self.matrix[start : start + self.rows, : min(start + self.rows, self.n)]
        own = values[:, start:]
        if not self.whole and len(own) > 1:  # the diagonal block is read from its lower half
            values = values.clone()
            values[:, start:] = own.tril() + own.tril(-1).T
        return values

    def product(self, vectors: Tensor, *, accurate: bool = False) -> Tensor:
        if not self.whole:
            return super().product(vectors, accurate=accurate)
        if not accurate or self.dtype == torch.float64:
            return (self.matrix @ vectors.to(self.dtype)).to(vectors.dtype)
        return torch.cat([part.double() @ vectors.double() for part in self.matrix.split(self.rows)]).to(vectors.dtype)


class RecomputedGram(StripedGram):
    """A matrix that is never kept: each stripe is computed at each use. No memory, and a kernel evaluation an entry a pass."""

    def __init__(self, kernel: KernelFunction, inputs: Tensor, rows: int = ROWS) -> None:
        self.inputs, self.kernel = checked_inputs(inputs), kernel
        self.n, self.rows, self.dtype = len(inputs), rows, inputs.dtype

    def stripe(self, start: int) -> Tensor:
        return computed_stripe(self.kernel, self.inputs, start, self.rows)


def checked_inputs(inputs: Tensor, what: str = "inputs") -> Tensor:
    """The inputs, if they are usable: floating ``[n, …]``, not empty, finite (the first bad row is named)."""
    if inputs.ndim < 2 or not len(inputs) or inputs.dtype not in (torch.float32, torch.float64):
        raise InvalidInput(
            f"{what} of shape {tuple(inputs.shape)}, {inputs.dtype}: give [n, …], n at least 1 (one example alone is x[None]), in float32"
            " or float64"
        )
    bad = ~torch.isfinite(inputs.reshape(len(inputs), -1)).all(1)
    if bool(bad.any()):
        raise InvalidInput(f"{what}: row {int(bad.nonzero()[0])} holds NaN or Inf ({int(bad.sum())} such rows). Remove them")
    return inputs


def computed_block(kernel: KernelFunction, rows: Tensor, columns: Tensor, start: int = 0) -> Tensor:
    """kernel(rows, columns), of the right shape and finite. start: number of the first row, for messages."""
    block = kernel(rows, columns)
    if block.shape != (len(rows), len(columns)):
        raise InvalidInput(
            f"the kernel gave shape {tuple(block.shape)} for {len(rows)} and {len(columns)} inputs: it must be [n1, n2]"
        )
    finite = torch.isfinite(block)
    if not bool(finite.all()):
        row = int((~finite).any(1).nonzero()[0])
        raise InvalidInput(
            f"the kernel of row {start + row} is NaN or infinite: look at that input, or at the kernel's deviations"
        )
    return block


def computed_stripe(kernel: KernelFunction, inputs: Tensor, start: int, rows: int) -> Tensor:
    """One stripe, its diagonal block symmetric to the last bit."""
    end = min(start + rows, len(inputs))
    values = computed_block(kernel, inputs[start:end], inputs[:end], start).clone()
    own = values[:, start:]
    values[:, start:] = own.tril() + own.tril(-1).T
    return values


def gram(
    kernel: KernelFunction, inputs: Tensor, *, rows: int = ROWS, processes: int = 1, progress: Progress | None = None
) -> Tensor:
    """The whole Gram matrix ``[n, n]``, symmetric to the last bit: half of the entries are computed, the others copied.

    processes: how many compute stripes, each on one thread; see :mod:`~nonvacuous.kernels.gram_processes` for what the kernel then must be.

    Raises:
        InvalidInput: inputs of the wrong rank or not finite, or a kernel that gives another shape or numbers that are not finite.
    """
    striped = RecomputedGram(kernel, inputs, rows)
    out = torch.empty(striped.n, striped.n, dtype=striped.dtype, device=inputs.device)
    with (progress or Progress()).task("Gram matrix", entries(striped.n)) as advance:
        for start, values in computed_stripes(kernel, inputs, rows, striped.starts, processes):
            end = start + len(values)
            out[start:end, :end] = values
            out[:start, start:end] = values[:, :start].T
            advance(values.numel())
    return out


def computed_stripes(
    kernel: KernelFunction, inputs: Tensor, rows: int, starts: Iterable[int], processes: int
) -> Iterator[Stripe]:
    """The stripes that begin at ``starts``, as they are done."""
    if processes != 1:
        from nonvacuous.kernels.gram_processes import stripes_by_processes

        yield from stripes_by_processes(kernel, inputs, rows, starts, processes)
        return
    for start in starts:
        yield Stripe(start, computed_stripe(kernel, inputs, start, rows))


def entries(n: int) -> int:
    """About how many entries the stripes hold."""
    return n * (n + 1) // 2
