"""The pairs of pixels that a kernel needs along one image axis, laid out so that a convolution is a sum of neighbours.

A convolution with shared weights sends the pair (y, y') to pairs (y + a, y' + a): it stays on its diagonal y' − y. So the pairs are kept
diagonal after diagonal, with zeros between (the padding), and what a convolution needs is a running sum along that one axis.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

ALIGNMENT = 16
"""Entries a cache line of float32 holds; long axes are filled up to a multiple, so that shifting by a row keeps alignment."""


@dataclass(frozen=True)
class Diagonals:
    """Pairs (y, y + δ) of 0 … size − 1 for each offset δ, ``gap`` zeros before, between and after the diagonals.

    >>> Diagonals(3, (0, 1), 1).first.tolist()  # 3 stands for "between"
    [3, 0, 1, 2, 3, 0, 1, 3]
    """

    size: int
    offsets: tuple[int, ...]
    gap: int

    @classmethod
    def of(cls, size: int, offsets: Iterable[int], gap: int) -> Diagonals:
        """With the offsets that an axis of that size has."""
        return cls(size, tuple(sorted({d for d in offsets if abs(d) < size})), gap)

    @cached_property
    def bases(self) -> dict[int, int]:
        """Place of each diagonal's first pair."""
        places, at = {}, self.gap
        for d in self.offsets:
            places[d] = at
            at += self.size - abs(d) + self.gap
        return places

    @cached_property
    def length(self) -> int:
        """Entries along the axis, gaps included."""
        plain = sum(self.size - abs(d) + self.gap for d in self.offsets) + self.gap
        return plain if plain < 2 * ALIGNMENT else -(-plain // ALIGNMENT) * ALIGNMENT

    def place(self, y: int, offset: int) -> int:
        """Where the pair (y, y + offset) would lie if the diagonal went on beyond its ends; its diagonal must be there."""
        return self.bases[offset] + y - max(0, -offset)

    @cached_property
    def pairs(self) -> list[tuple[int, int, int]]:
        """(place, y, offset) of every pair."""
        return [
            (self.place(y, d), y, d) for d in self.offsets for y in range(max(0, -d), self.size - max(0, d))
        ]  # fmt: skip

    def _indices(self, second: bool) -> Tensor:
        index = torch.full((self.length,), self.size)
        for place, y, d in self.pairs:
            index[place] = y + d if second else y
        return index

    @cached_property
    def first(self) -> Tensor:
        """y of every place; ``size`` in the gaps."""
        return self._indices(second=False)

    @cached_property
    def second(self) -> Tensor:
        """y' of every place; ``size`` in the gaps."""
        return self._indices(second=True)

    @cached_property
    def occupied(self) -> Tensor:
        """1 at pairs, 0 in gaps."""
        return (self.first < self.size).double()

    def windows(self, out: Diagonals, stride: int, padding: int) -> tuple[Tensor, Tensor]:
        """For every place of ``out`` where its convolution window begins here, and whether there is one (else it is a zero)."""
        starts, there = torch.zeros(out.length, dtype=torch.long), torch.zeros(out.length, dtype=torch.float64)
        for place, i, d in out.pairs:
            if stride * d in self.bases:
                starts[place], there[place] = self.place(stride * i - padding, stride * d), 1.0
        return starts, there

    def pooled(self, out: Diagonals, window: int, stride: int) -> Tensor:
        """``[window², out.length]``: the places whose mean is the pooled pair; place 0, a gap, where there is nothing."""
        index = torch.zeros(window * window, out.length, dtype=torch.long)
        for place, i, d in out.pairs:
            for a in range(window):
                for b in range(window):
                    index[a * window + b, place] = self.place(stride * i + a, stride * d + b - a)
        return index

    def selected(self, out: Diagonals) -> Tensor:
        """``[out.length]``: places of the pairs of ``out``, a part of these; place 0, a gap, in its gaps."""
        index = torch.zeros(out.length, dtype=torch.long)
        for place, y, d in out.pairs:
            index[place] = self.place(y, d)
        return index


def convolved_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Outputs along an axis; 0 or less where the kernel does not fit."""
    return (size + 2 * padding - kernel) // stride + 1


def convolved_from(offsets: Iterable[int], stride: int) -> frozenset[int]:
    """The offsets a convolution reads to give these."""
    return frozenset(stride * d for d in offsets)


def pooled_from(offsets: Iterable[int], window: int, stride: int) -> frozenset[int]:
    """The offsets that pooling reads to give these."""
    return frozenset(stride * d + e for d in offsets for e in range(1 - window, window))


def every(size: int) -> frozenset[int]:
    """All offsets of an axis."""
    return frozenset(range(1 - size, size))
