"""What the steps of a pixel-pair recursion pass on: the kernels of a tile of image pairs, their buffers, the images' own variances."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nonvacuous.kernels.diagonals import Diagonals

STRIP = 32_768
"""Numbers of a strip: a few strips together stay in a core's second-level cache."""


SHORT = 64
"""Rows of fewer numbers are slow to broadcast over."""


class Layout(NamedTuple):
    """Which pixel pairs are kept: a product of row pairs and column pairs."""

    rows: Diagonals
    columns: Diagonals

    @property
    def size(self) -> int:
        """Numbers kept for one image pair."""
        return self.rows.length * self.columns.length

    @property
    def of_equal_pixels(self) -> bool:
        """Whether no others are kept."""
        return self.rows.offsets == self.columns.offsets == (0,)


class Buffers:
    """Memory that steps take and give back while they are put down; ``held`` is the number of bytes made."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._free: dict[int, list[Tensor]] = {}
        self.held = 0

    def take(self, rows: int, columns: int) -> Tensor:
        """An uninitialised ``[rows, columns]``."""
        size = _rounded(rows * columns)
        spare = self._free.get(size)
        if spare:
            flat = spare.pop()
        else:
            flat = self._like.new_empty(size)
            self.held += size * self._like.element_size()
        return flat[: rows * columns].view(rows, columns)

    def give(self, *tensors: Tensor) -> None:
        """Hand back what was taken."""
        for tensor in tensors:
            size = _rounded(tensor.numel())
            self._free.setdefault(size, []).append(tensor.as_strided((size,), (1,), 0))


def _rounded(numbers: int) -> int:
    """Up by an eighth at most, so that strips of almost the same length share buffers."""
    unit = 2 ** max(0, numbers.bit_length() - 4)
    return -(-numbers // unit) * unit


class State(NamedTuple):
    """nngp, ntk: ``[B · rows, columns]`` of a layout, zeros in its gaps. ntk: None while it is 0; the same tensor as nngp where equal."""

    nngp: Tensor
    ntk: Tensor | None
    layout: Layout

    @property
    def parts(self) -> list[Tensor]:
        """The tensors held, each once."""
        return [self.nngp] if self.ntk is None or self.ntk is self.nngp else [self.nngp, self.ntk]


class Marginals(NamedTuple):
    """Variances that steps need of every image alone, table by table: ``[n, …]`` a side."""

    first: list[Tensor]
    second: list[Tensor]


class Tile:
    """A programme for ``batch`` image pairs at a time: steps put their operations down once, on buffers that stay; then it is run for tile
    after tile, with other ``first`` and ``second`` (``[batch]`` indices of images). marginals: None while they are being measured, each
    image with itself, into ``measured``.
    """

    def __init__(self, like: Tensor, batch: int, marginals: Marginals | None) -> None:
        self._like, self.batch, self.marginals = like, batch, marginals
        self.first, self.second = (torch.zeros(batch, dtype=torch.long, device=like.device) for _ in range(2))
        self.buffers = Buffers(like)
        self.measured: list[Tensor] = []
        self._kept: dict[object, Tensor] = {}
        self._operations: list[Callable[[], object]] = []

    def do(self, operation: Callable[..., Any], *arguments: object, **named: object) -> None:
        """Put an operation down; what it returns is not looked at."""
        self._operations.append(partial(operation, *arguments, **named))

    def run(self, first: Tensor, second: Tensor) -> None:
        """Carry the programme out for at most ``batch`` pairs; the last is repeated to fill the tile."""
        for index, into in ((first, self.first), (second, self.second)):
            into[: len(index)] = index
            into[len(index) :] = index[-1]
        for operation in self._operations:
            operation()

    def table(self, number: int, *, second: bool) -> tuple[Tensor, Tensor]:
        """A table of variances and which of its rows this tile reads."""
        if self.marginals is None:
            return self.measured[number], torch.arange(self.batch, device=self._like.device)
        return (self.marginals.second[number], self.second) if second else (self.marginals.first[number], self.first)

    def take(self, rows: int, columns: int) -> Tensor:
        """See :meth:`Buffers.take`."""
        return self.buffers.take(rows, columns)

    def give(self, *tensors: Tensor) -> None:
        """See :meth:`Buffers.give`."""
        self.buffers.give(*tensors)

    def copied(self, state: State) -> State:
        """The same in other buffers."""

        def copy(x: Tensor) -> Tensor:
            into = self.take(*x.shape)
            self.do(into.copy_, x)
            return into

        nngp = copy(state.nngp)
        return State(nngp, nngp if state.ntk is state.nngp else None if state.ntk is None else copy(state.ntk), state.layout)

    def strips(self, layout: Layout, border: int = 0) -> list[slice]:
        """Runs of rows that stay in cache, but for ``border`` rows at both ends; one run on a device without such a cache."""
        rows, columns = self.batch * layout.rows.length - 2 * border, layout.columns.length
        step = max(1, STRIP * torch.get_num_threads() // columns) if self._like.device.type == "cpu" else rows
        count = max(1, round(rows / step))
        edges = [border + rows * k // count for k in range(count + 1)]
        return [slice(*pair) for pair in itertools.pairwise(edges)]

    def placed(self, index: Tensor) -> Tensor:
        """An index vector on the device."""
        return index.to(self._like.device)

    def repeated(self, index: Tensor, stride: int) -> Tensor:
        """An index vector for every pair of the tile in turn, ``stride`` further each time."""
        return self.placed((torch.arange(self.batch)[:, None] * stride + index).flatten())

    def mask(self, columns: Diagonals, scale: float, count: int) -> Tensor:
        """``scale`` at pairs of columns, 0 in the gaps; for ``count`` rows, written out where rows are short."""
        key = (columns, scale, count)
        if key not in self._kept:
            row = (columns.occupied * scale).to(self._like)
            self._kept[key] = row.repeat(count, 1) if columns.length < SHORT else row
        return self._kept[key]

    def zero_gap_rows(self, x: Tensor, rows: Diagonals, strip: slice) -> None:
        """Zeros into those rows of the strip ``x`` that are gaps."""
        gaps = (rows.first == rows.size).repeat(self.batch)[strip].nonzero().flatten()
        if len(gaps):
            self.do(x.index_fill_, 0, self.placed(gaps), 0.0)

    def zero_gaps(self, x: Tensor, layout: Layout, strip: slice, scale: float = 1.0) -> None:
        """Zeros into the gaps of a strip ``x``; all else times ``scale``."""
        self.do(x.mul_, self.mask(layout.columns, scale, len(x)))
        self.zero_gap_rows(x, layout.rows, strip)

    def per_pixel(self, state: State) -> Tensor:
        """``[batch, h, w]``, a view: the entries of equal pixels."""
        rows, columns = state.layout
        y, x = rows.bases[0], columns.bases[0]
        whole = state.nngp.view(self.batch, rows.length, columns.length)
        return whole[:, y : y + rows.size, x : x + columns.size]

    def box_sum(self, x: Tensor, count: int, step: int, spare: tuple[Tensor, Tensor]) -> Tensor:
        """Of a flat ``x``: Σ_a x[k + a·step], a < count, in about 2 log₂ count additions; the last (count − 1)·step places are left out.

        The result is a view of one of the two flat ``spare`` tensors, or x itself; no difference is taken, so no digit is lost.
        """
        sums, covered, targets = x, 1, list(spare)

        def plus(other: Tensor) -> Tensor:
            valid = x.numel() - (covered + (1 if other is x else covered) - 1) * step
            out = targets[0][:valid]
            targets.reverse()
            self.do(torch.add, sums[:valid], other[covered * step :][:valid], out=out)
            return out

        for bit in bin(count)[3:]:
            sums = plus(sums)
            covered *= 2
            if bit == "1":
                sums = plus(x)
                covered += 1
        return sums
