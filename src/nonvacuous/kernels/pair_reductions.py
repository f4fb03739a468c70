"""The steps of a recursion on pixel pairs that have no weights of their own: means, choices, norms, and sums of two paths."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nonvacuous.kernels.pair_steps import Factors, Step, put_down
from nonvacuous.kernels.pair_tiles import Layout, State, Tile


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
