"""The steps of a recursion on pixel pairs: each takes the kernels of a tile of image pairs from one layer's layout to the next's."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nonvacuous.kernels.duals import Dual, Rectifier
from nonvacuous.kernels.pair_tiles import Layout, State, Tile


class Factors(NamedTuple):
    """What the tensors still have to be multiplied by, so that the next pass over them does it."""

    nngp: float = 1.0
    ntk: float = 1.0


class Step(ABC):
    """inplace: it may overwrite its input."""

    inplace = False

    @abstractmethod
    def put_down(self, state: State, tile: Tile) -> State:
        """Add its operations to the tile's programme; where the next state will be."""


def put_down(steps: Sequence[Step], state: State, tile: Tile, *, keep: bool) -> State:
    """One after another; buffers are free for others as soon as they are read. keep: the first state is needed afterwards."""
    for step in steps:
        if keep and step.inplace:
            state, keep = tile.copied(state), False
        following = step.put_down(state, tile)
        stays = [part.data_ptr() for part in following.parts]
        if not keep:
            tile.give(*(part for part in state.parts if part.data_ptr() not in stays))
        keep = keep and following.nngp is state.nngp
        state = following
    return tile.copied(state) if keep else state


@dataclass(frozen=True)
class Activated(Step):
    """An elementwise function; ``number``: which of the tables of variances it reads."""

    dual: Dual
    number: int
    inplace = True

    @property
    def factors(self) -> Factors:
        """What a relu's last multiplication leaves to the next step."""
        return Factors(-self._weight, self._weight) if self._weight else Factors()

    @property
    def _weight(self) -> float:
        """(b − a)²/2π of the rectifiers that are 0 on one side; 0 for all else."""
        if isinstance(self.dual, Rectifier) and self.dual.negative * self.dual.positive == 0:
            return (self.dual.positive - self.dual.negative) ** 2 / (2 * math.pi)
        return 0.0

    def measure(self, state: State, tile: Tile) -> None:
        """``[batch, h + 1, w + 1]``: of every pixel's variance what the step multiplies by; the last row and column serve the gaps."""
        variances = tile.per_pixel(state)
        batch, height, width = variances.shape
        table = variances.new_empty(batch, height + 1, width + 1)
        tile.measured.append(table)
        tile.do(table.fill_, 0.0 if self._weight else 1.0)
        tile.do(table[:, :height, :width].copy_, variances)
        if self._weight:
            tile.do(table.clamp_, min={torch.float32: 1e-34, torch.float64: 1e-250}[table.dtype])
            tile.do(table.rsqrt_)

    def tables(self, layout: Layout, tile: Tile) -> tuple[Tensor, Tensor]:
        """Both sides' rows, their columns already those of the layout (of equal pixels, the rows too); a little more on one side, so
        that equals count as equal.
        """
        sides = (self._side(layout, tile, second=second) for second in (False, True))
        one, two = sides
        margin = 4 * torch.finfo(two.dtype).eps
        if self._weight:
            tile.do(two.mul_, -(1 + margin))
        elif isinstance(self.dual, Rectifier):
            tile.do(two.mul_, 1 - 2 * margin)
        return one, two

    def _side(self, layout: Layout, tile: Tile, *, second: bool) -> Tensor:
        table, images = tile.table(self.number, second=second)
        (rows, columns), (height, width) = layout, table.shape[1:]
        if tile.marginals is not None and layout.of_equal_pixels:
            whole = table.index_select(1, tile.placed(rows.first)).index_select(2, tile.placed(columns.first)).flatten(1)
            chosen = tile.take(tile.batch * rows.length, columns.length)
            tile.do(torch.index_select, whole, 0, images, out=chosen.view(tile.batch, -1))
            return chosen
        chosen = tile.take(tile.batch * height, width).view(tile.batch, height, width)
        tile.do(torch.index_select, table, 0, images, out=chosen)
        wide = tile.take(tile.batch * height, columns.length)
        across = tile.placed(columns.second if second else columns.first)
        tile.do(torch.index_select, chosen.view(-1, width), 1, across, out=wide)
        tile.give(chosen)
        return wide

    def put_down(self, state: State, tile: Tile) -> State:
        layout, ntk = state.layout, state.ntk
        if tile.marginals is None:
            self.measure(state, tile)
        if ntk is state.nngp:
            ntk = tile.take(*state.nngp.shape)
        tables = self.tables(layout, tile)
        for strip in tile.strips(layout):
            source = None if state.ntk is None else state.ntk[strip]
            self.on_strip(state.nngp[strip], source, None if ntk is None else ntk[strip], layout, tile, strip, tables)
        tile.give(*tables)
        return State(state.nngp, ntk, layout)

    def on_strip(
        self,
        nngp: Tensor,
        source: Tensor | None,
        ntk: Tensor | None,
        layout: Layout,
        tile: Tile,
        strip: slice,
        tables: tuple[Tensor, Tensor],
    ) -> None:
        """``nngp`` in place; ``ntk`` becomes ``source`` times the slope (source may be ntk, or nngp)."""
        height = layout.rows.size + 1
        one, two, three = (tile.take(*nngp.shape) for _ in range(3))
        for into, table, rows in zip((one, two), tables, (layout.rows.first, layout.rows.second), strict=True):
            if tile.marginals is not None and layout.of_equal_pixels:
                tile.do(into.copy_, table[strip])
            else:
                tile.do(torch.index_select, table, 0, tile.repeated(rows, height)[strip], out=into)
        if self._weight:
            tile.do(one.mul_, two)  # −1/√(k11 k22)
            tile.do(torch.mul, nngp, one, out=two)  # −c, whose arccos is π − arccos c
            tile.do(two.clamp_, -1, 1)
            tile.do(torch.acos, two, out=three)
            if ntk is not None:
                tile.do(torch.mul, source, three, out=ntk)
            tile.do(torch.mul, two, two, out=nngp)
            tile.do(nngp.neg_)
            tile.do(nngp.add_, 1)
            tile.do(nngp.sqrt_)
            tile.do(nngp.addcmul_, two, three, value=-1)
            tile.do(nngp.div_, one)
        else:
            four = tile.take(*nngp.shape)
            tile.do(self._general, one, nngp, two, source, ntk, three, four)
            tile.give(four)
            tile.zero_gaps(nngp, layout, strip)
        tile.give(one, two, three)

    def _general(
        self,
        k11: Tensor,
        nngp: Tensor,
        k22: Tensor,
        source: Tensor | None,
        ntk: Tensor | None,
        slope: Tensor,
        spare: Tensor,
    ) -> None:
        if ntk is not None and source is not None and source is not ntk:
            ntk.copy_(source)
        self.dual.moments_(k11, nngp, k22, slope, spare)
        if ntk is not None:
            ntk.mul_(slope)


@dataclass(frozen=True)
class Convolved(Step):
    """A convolution with fresh weights, or a dense layer on a vector; then perhaps an elementwise function, strip by strip in cache."""

    out: Layout
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    weight_variance: float
    bias_variance: float
    factors: Factors
    activation: Activated | None = None

    def put_down(self, state: State, tile: Tile) -> State:
        activation, columns, layout = self.activation, self.out.columns, state.layout
        shape = (tile.batch * self.out.rows.length, columns.length)
        fused = activation is not None and tile.marginals is not None
        nngp = tile.take(*shape)
        ntk = nngp if state.ntk is None and not fused else tile.take(*shape)
        tables = activation.tables(self.out, tile) if activation is not None and fused else None
        per_weight = self.weight_variance / (self.kernel[0] * self.kernel[1])
        border = self.padding[0] if self.shifts(0, layout) else 0
        for part in State(nngp, ntk, self.out).parts:
            tile.do(part[:border].zero_)
            tile.do(part[len(part) - border :].zero_)
        for strip in tile.strips(self.out, border):
            mean, tangent = nngp[strip], ntk[strip]
            box, taken = self._window(state.nngp, layout, tile, strip)
            tile.do(torch.mul, box, tile.mask(columns, per_weight * self.factors.nngp, len(mean)), out=mean)
            tile.give(*taken)
            if self.bias_variance:
                tile.do(mean.add_, tile.mask(columns, self.bias_variance, len(mean)))
            if state.ntk is not None:
                box, taken = self._window(state.ntk, layout, tile, strip)
                tile.do(torch.addcmul, mean, box, tile.mask(columns, per_weight * self.factors.ntk, len(mean)), out=tangent)
                tile.give(*taken)
                tile.zero_gap_rows(tangent, self.out.rows, strip)
            tile.zero_gap_rows(mean, self.out.rows, strip)
            if activation is not None and tables is not None:
                activation.on_strip(mean, mean if state.ntk is None else tangent, tangent, self.out, tile, strip, tables)
        tile.give(*(tables or ()))
        state = State(nngp, ntk, self.out)
        return activation.put_down(state, tile) if activation is not None and not fused else state

    def shifts(self, axis: int, layout: Layout) -> bool:
        """Whether outputs lie where inputs lie, so that the window of the entry k begins at k − padding."""
        same = self.stride[axis] == 1 and self.kernel[axis] == 2 * self.padding[axis] + 1
        return same and layout[axis] == self.out[axis]

    def _window(self, x: Tensor, layout: Layout, tile: Tile, strip: slice) -> tuple[Tensor, list[Tensor]]:
        """Sums over the kernel's window, ``[rows of the strip, columns of out]``, garbage in the gaps; and the buffers this took."""
        taken: list[Tensor] = []

        def spare(rows: int, columns: int) -> Tensor:
            taken.append(tile.take(rows, columns))
            return taken[-1]

        (height, width), (down, across), length = self.kernel, self.padding, layout.columns.length
        count = strip.stop - strip.start
        if self.shifts(0, layout):
            sums = x[strip.start - down : strip.stop + down]
            if height > 1:
                spares = (spare(*sums.shape).view(-1), spare(*sums.shape).view(-1))
                sums = tile.box_sum(sums.view(-1), height, length, spares).view(count, length)
        else:
            starts, there = layout.rows.windows(self.out.rows, self.stride[0], down)
            index, sums, part = tile.repeated(starts, layout.rows.length)[strip], spare(count, length), spare(count, length)
            tile.do(torch.index_select, x, 0, index, out=sums)
            for a in range(1, height):
                tile.do(torch.index_select, x, 0, index + a, out=part)
                tile.do(sums.add_, part)
            if not bool(there.all()):
                tile.do(sums.mul_, there.repeat(tile.batch)[strip, None].to(sums))
        shifted = self.shifts(1, layout)
        if width > 1:
            lead = across if shifted else 0
            spares = (spare(count + 1, length).view(-1)[lead:], spare(count + 1, length).view(-1)[lead:])
            box = tile.box_sum(sums.view(-1), width, 1, spares)
            sums = box.as_strided((count, length), (length, 1), box.storage_offset() - lead)
            flat = sums.view(-1)
            if lead:
                tile.do(flat[:lead].zero_)  # in a gap, so that any number does, but nothing was written there
            tile.do(flat[lead + len(box) :].zero_)
        if not shifted:
            starts, there = layout.columns.windows(self.out.columns, self.stride[1], across)
            chosen = spare(count, len(starts))
            tile.do(torch.index_select, sums, 1, tile.placed(starts), out=chosen)
            if not bool(there.all()):
                tile.do(chosen.mul_, there.to(chosen))
            sums = chosen
        return sums, taken
