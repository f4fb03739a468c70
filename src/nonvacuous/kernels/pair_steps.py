"""The steps of a recursion on pixel pairs: each takes the kernels of a tile of image pairs from one layer's layout to the next's."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nonvacuous.kernels.diagonals import Diagonals
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
        """Both sides' rows, their columns already those of the layout; a little more on one side, so that equals count as equal."""
        sides = (self._side(layout.columns, tile, second=second) for second in (False, True))
        one, two = sides
        margin = 4 * torch.finfo(two.dtype).eps
        if self._weight:
            tile.do(two.mul_, -(1 + margin))
        elif isinstance(self.dual, Rectifier):
            tile.do(two.mul_, 1 - 2 * margin)
        return one, two

    def _side(self, columns: Diagonals, tile: Tile, *, second: bool) -> Tensor:
        table, images = tile.table(self.number, second=second)
        height, width = table.shape[1:]
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
            tile.do(torch.mul, box, tile.mask(columns, per_weight * self.factors.nngp), out=mean)
            tile.give(*taken)
            if self.bias_variance:
                tile.do(mean.add_, tile.mask(columns, self.bias_variance))
            if state.ntk is not None:
                box, taken = self._window(state.ntk, layout, tile, strip)
                tile.do(torch.addcmul, mean, box, tile.mask(columns, per_weight * self.factors.ntk), out=tangent)
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


@dataclass(frozen=True)
class Pooled(Step):
    """Means over windows."""

    out: Layout
    kernel: tuple[int, int]
    stride: tuple[int, int]
    factors: Factors

    def put_down(self, state: State, tile: Tile) -> State:
        nngp = self._mean(state.nngp, state.layout, tile, self.factors.nngp)
        if state.ntk is None or state.ntk is state.nngp:
            return State(nngp, None if state.ntk is None else nngp, self.out)
        return State(nngp, self._mean(state.ntk, state.layout, tile, self.factors.ntk), self.out)

    def _mean(self, x: Tensor, layout: Layout, tile: Tile, factor: float) -> Tensor:
        (rows, columns), height = layout, tile.batch * self.out.rows.length
        down, part = tile.take(height, columns.length), tile.take(height, columns.length)
        for k, places in enumerate(rows.pooled(self.out.rows, self.kernel[0], self.stride[0])):
            tile.do(torch.index_select, x, 0, tile.repeated(places, rows.length), out=part if k else down)
            if k:
                tile.do(down.add_, part)
        mean, last = tile.take(height, self.out.columns.length), tile.take(height, self.out.columns.length)
        for k, places in enumerate(columns.pooled(self.out.columns, self.kernel[1], self.stride[1])):
            tile.do(torch.index_select, down, 1, tile.placed(places), out=last if k else mean)
            if k:
                tile.do(mean.add_, last)
        tile.give(down, part, last)
        tile.zero_gaps(mean, self.out, slice(0, height), factor / (self.kernel[0] * self.kernel[1]) ** 2)
        return mean


@dataclass(frozen=True)
class Averaged(Step):
    """One number from all pixel pairs of its input (all offsets: global pooling; offset 0 alone: flattening): their sum times ``scale``."""

    out: Layout
    scale: float
    factors: Factors

    def put_down(self, state: State, tile: Tile) -> State:
        def total(x: Tensor, factor: float) -> Tensor:
            numbers = tile.take(tile.batch, 1)
            tile.do(torch.sum, x.view(tile.batch, -1), 1, keepdim=True, out=numbers)
            tile.do(numbers.mul_, self.scale * factor)
            return numbers

        nngp = total(state.nngp, self.factors.nngp)
        if state.ntk is None or state.ntk is state.nngp:
            return State(nngp, None if state.ntk is None else nngp, self.out)
        return State(nngp, total(state.ntk, self.factors.ntk), self.out)


@dataclass(frozen=True)
class Selected(Step):
    """Fewer pixel pairs of the same images."""

    out: Layout

    def put_down(self, state: State, tile: Tile) -> State:
        if state.layout == self.out:
            return state
        rows, columns = state.layout
        down = tile.repeated(rows.selected(self.out.rows), rows.length)
        across = tile.placed(columns.selected(self.out.columns))
        height = tile.batch * self.out.rows.length

        def chosen(x: Tensor) -> Tensor:
            part, kept = tile.take(height, columns.length), tile.take(height, self.out.columns.length)
            tile.do(torch.index_select, x, 0, down, out=part)
            tile.do(torch.index_select, part, 1, across, out=kept)
            tile.give(part)
            tile.zero_gaps(kept, self.out, slice(0, height))
            return kept

        nngp, ntk = chosen(state.nngp), state.ntk
        return State(nngp, nngp if ntk is state.nngp else None if ntk is None else chosen(ntk), self.out)


@dataclass(frozen=True)
class Scaled(Step):
    """The factors that were left, multiplied out."""

    factors: Factors
    inplace = True

    def put_down(self, state: State, tile: Tile) -> State:
        for part, factor in zip(state.parts, self.factors, strict=False):
            tile.do(part.mul_, factor)
        return state


@dataclass(frozen=True)
class Normalized(Step):
    """Layer norm over channels and pixels; ``number``: its table, of each image's 1/√(variance + ε)."""

    epsilon: float
    number: int
    inplace = True

    def put_down(self, state: State, tile: Tile) -> State:
        if tile.marginals is None:
            table = state.nngp.new_empty(tile.batch)
            tile.measured.append(table)
            tile.do(torch.mean, tile.per_pixel(state), (1, 2), out=table)
            tile.do(table.add_, self.epsilon)
            tile.do(table.rsqrt_)
        one, two = tile.take(tile.batch, 1), tile.take(tile.batch, 1)
        for into, second in ((one, False), (two, True)):
            table, images = tile.table(self.number, second=second)
            tile.do(torch.index_select, table, 0, images, out=into.view(-1))
        tile.do(one.mul_, two)
        for part in state.parts:
            tile.do(part.view(tile.batch, -1).mul_, one)
        tile.give(one, two)
        return state


@dataclass(frozen=True)
class Added(Step):
    """Two paths and their sum, in the layout ``out``."""

    branch: tuple[Step, ...]
    shortcut: tuple[Step, ...]
    out: Layout

    def put_down(self, state: State, tile: Tile) -> State:
        ends = Selected(self.out)
        left, right = (put_down((*path, ends), state, tile, keep=True) for path in (self.branch, self.shortcut))
        if left.ntk is left.nngp:
            left, right = right, left
        tile.do(left.nngp.add_, right.nngp)
        if left.ntk is not None and right.ntk is not None and left.ntk is not left.nngp:
            tile.do(left.ntk.add_, right.ntk)
        tile.give(*right.parts)
        return State(left.nngp, left.ntk, self.out)
