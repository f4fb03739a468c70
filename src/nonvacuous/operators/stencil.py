"""A convolution as a sum over taps: index maps, blocks over frequencies, and border patterns.

Along one axis the output i reads the inputs ``ρ(s·i + d·j − p)``, j = 0 … k − 1, where ρ maps an index outside the image to
the pixel its padding copies (or drops it: zeros).  As a matrix the convolution is ``Σ_j K_j ⊗ T_{j₁} ⊗ … ⊗ T_{j_D}`` with the
0–1 matrices T of the axes; everything below contracts that sum without forming it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import product

import torch
from torch import Tensor

Groups = tuple[tuple[int, ...], ...]
"""Taps of one kernel axis, those together whose entries add up."""


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution: kernel size, stride, dilation, padding on the left, sizes, and how the padding is filled."""

    kernel: int
    stride: int
    dilation: int
    left: int
    n_in: int
    n_out: int
    mode: str = "zeros"

    @cached_property
    def reads(self) -> tuple[tuple[int | None, ...], ...]:
        """For every output the input each tap reads, None where it reads a zero."""
        return tuple(
            tuple(self.source(self.stride * i + self.dilation * j - self.left) for j in range(self.kernel))
            for i in range(self.n_out)
        )

    def source(self, index: int) -> int | None:
        """The pixel that stands at ``index`` of the padded image; None for a zero."""
        if 0 <= index < self.n_in:
            return index
        if self.mode == "circular":
            return index % self.n_in
        if self.mode == "replicate":
            return min(max(index, 0), self.n_in - 1)
        if self.mode == "reflect":
            return -index if index < 0 else 2 * (self.n_in - 1) - index
        return None

    @property
    def folds(self) -> bool:
        """Whether any tap reads a padded pixel that is not zero."""
        return self.mode != "zeros" and (self.left > 0 or self.last >= self.n_in)

    @property
    def last(self) -> int:
        """Largest index read, padding included."""
        return self.stride * (self.n_out - 1) + self.dilation * (self.kernel - 1) - self.left

    @property
    def padded(self) -> Axis:
        """The same axis over the padded image, without padding."""
        return Axis(self.kernel, self.stride, self.dilation, 0, self.left + self.last + 1, self.n_out)

    @property
    def padding_norm(self) -> float:
        """ℓ2 norm of the padding alone: √(largest number of copies of a pixel)."""
        copies = Counter(self.source(index) for index in range(-self.left, self.last + 1))
        copies.pop(None, None)
        return math.sqrt(max(copies.values(), default=0))

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The 0–1 matrices T, (kernel, n_out, n_in)."""
        taps = torch.zeros(self.kernel, self.n_out, self.n_in, dtype=dtype)
        for i, row in enumerate(self.reads):
            for j, index in enumerate(row):
                if index is not None:
                    taps[j, i, index] += 1
        return taps

    def row_groups(self) -> list[Groups]:
        """Which taps fall on the same pixel, for every output."""
        return [_grouped(row) for row in self.reads]

    def row_patterns(self) -> dict[Groups, int]:
        """:meth:`row_groups`, equal ones counted."""
        return Counter(self.row_groups())

    def column_patterns(self) -> dict[Groups, int]:
        """:meth:`column_groups`, equal ones counted."""
        return Counter(self.column_groups())

    def column_groups(self) -> list[Groups]:
        """For every input, the taps through which each output reads it."""
        seen: dict[int, list[tuple[int, ...]]] = {index: [] for index in range(self.n_in)}
        for row in self.reads:
            taps: dict[int, list[int]] = {}
            for j, index in enumerate(row):
                if index is not None:
                    taps.setdefault(index, []).append(j)
            for index, group in taps.items():
                seen[index].append(tuple(group))
        return [tuple(sorted(groups)) for groups in seen.values()]

    @cached_property
    def phases(self) -> tuple[tuple[int, int], ...]:
        """(residue r, shift q) of every tap: ``d·j − p = s·q + r``."""
        return tuple((o % self.stride, o // self.stride) for j in range(self.kernel) for o in [self.dilation * j - self.left])

    @cached_property
    def first(self) -> dict[int, int]:
        """Smallest shift of every residue; a phase factor of the residue's input, which no singular value sees."""
        first: dict[int, int] = {}
        for residue, shift in self.phases:
            first[residue] = min(shift, first.get(residue, shift))
        return first

    @cached_property
    def step(self) -> int:
        """Greatest common divisor of the shifts' differences within a residue; 0 when every residue has one tap."""
        return reduce(math.gcd, (shift - self.first[residue] for residue, shift in self.phases), 0)

    @property
    def degree(self) -> int:
        """Span of the shifts in units of ``step``: degree of ‖A(θ)v‖² as a trigonometric polynomial."""
        if not self.step:
            return 0
        return max(shift - self.first[residue] for residue, shift in self.phases) // self.step

    def grid(self) -> tuple[int, float, bool]:
        """(frequencies M, factor, twistable): the norm is at most factor × the largest over angles ``(2πk + α)/M``.

        Zeros: a circle of N ≥ coarse size + overhang has the map as a submatrix, whatever the twist α of its seam.  Circular
        padding is the circle itself, of n_in/stride, with rows left out, or repeated (factor √repeats).  M = 0: no circle.
        """
        shifts = [q for _, q in self.phases]
        if self.folds:
            if self.mode != "circular" or self.n_in % self.stride:
                return 0, 1.0, False
            size = self.n_in // self.stride
            repeats = math.sqrt(-(-self.n_out // size))
            return (size // math.gcd(size, self.step) if self.step else 1), repeats, False
        coarse = -(-self.n_in // self.stride)
        size = max(coarse - min(min(shifts), 0), self.n_out + max(max(shifts), 0), coarse, self.n_out)
        return (-(-size // self.step) if self.step else 1), 1.0, True

    def waves(self, angles: Tensor) -> Tensor:
        """(frequencies, kernel, stride) coefficients: tap j enters residue r_j with ``exp(i·l_j·θ)``."""
        out = torch.zeros(len(angles), self.kernel, self.stride, dtype=torch.complex128)
        for j, (residue, shift) in enumerate(self.phases):
            out[:, j, residue] = torch.exp(1j * angles * ((shift - self.first[residue]) // (self.step or 1)))
        return out


def _grouped(row: Sequence[int | None]) -> Groups:
    groups: dict[int, list[int]] = {}
    for j, index in enumerate(row):
        if index is not None:
            groups.setdefault(index, []).append(j)
    return tuple(sorted(tuple(group) for group in groups.values()))


def angles(frequencies: int, twist: float) -> Tensor:
    """(2πk + α)/M, k = 0 … M − 1."""
    return (2 * math.pi * torch.arange(frequencies, dtype=torch.float64) + twist) / frequencies


def half_of(sizes: Sequence[int], twists: Sequence[float]) -> list[tuple[int, ...]]:
    """One of each pair {θ, −θ} of a product grid with twists 0 or π: real kernels have the same singular values at both."""
    kept = []
    for index in product(*(range(size) for size in sizes)):
        mirror = tuple((-k - (twist != 0)) % size for k, size, twist in zip(index, sizes, twists, strict=True))
        if index <= mirror:
            kept.append(index)
    return kept


def pattern_sums(kernel: Tensor, patterns: Sequence[dict[Groups, int]]) -> Iterator[tuple[Tensor, int]]:
    """Entries that meet in one row (or column) of the matrix, and how many rows are alike.

    ``kernel`` is (g, o, c, k₁ … k_D); each yielded array is (g, o, c, groups₁ … groups_D), the taps of a group summed.
    """
    for chosen in product(*(p.items() for p in patterns)):
        current, count = kernel, 1
        for axis, (groups, times) in enumerate(chosen):
            matrix = kernel.new_zeros(len(groups), kernel.shape[3 + axis])
            for row, taps in enumerate(groups):
                matrix[row, list(taps)] = 1
            current = torch.movedim(torch.tensordot(current, matrix, dims=([3 + axis], [1])), -1, 3 + axis)
            count *= times
        yield current, count
