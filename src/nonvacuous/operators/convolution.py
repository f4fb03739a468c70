"""Convolutions as linear maps: any stride, padding, padding mode, dilation and groups, transposed or not, in any dimension.

Upper ends of the ℓ2 norm, each a theorem, the smallest taken:

* **circle** – zero-padded, the map is a submatrix of a block-circulant one on any circle of at least n + overhang positions,
  and of every *twisted* one (a phase at the seam), since what wraps around meets no pixel; its norm is the largest of the
  c_out × c_in matrices at the frequencies ``(2πk + α)/N`` (Sedghi, Gupta & Long 2019 for circular padding; strides by
  polyphase).  Of the twists 0 and π the better is taken.  For images of more frequencies than a grid of M, ``cos(πL/2M)``
  bridges the gap: for fixed v, ‖A(θ)v‖² is a trigonometric polynomial of degree L between 0 and its maximum, so it falls no faster
  than ``cos²(L·Δ/2)`` (M. Riesz 1914).
* **partly dense** – the same along some axes only, the others written out; dense – all written out.
* **padding** – for reflected or replicated borders, the norm of the padding times that of the convolution of the padded image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from nonvacuous.operators.certified import UNIT, gamma, largest_of, upper_end
from nonvacuous.operators.linear_map import LinearMap
from nonvacuous.operators.norm_entries import EntryNorms
from nonvacuous.operators.stencil import Axis, angles, half_of, pattern_sums

CONVOLVE = (F.conv1d, F.conv2d, F.conv3d)
SPREAD = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
LARGEST_GRID_TWISTED = 128
"""Above so many frequencies an axis a twist moves the bound by less than 0.1 %."""


class Convolution(LinearMap):
    """``Σ_j K_j ⊗ T_j`` with a kernel (c_out, c_in/groups, k₁ … k_D) over the given axes; ``transposed`` for its adjoint.

    For a transposed convolution the axes are those of the convolution it is the adjoint of: ``n_in`` is its *output* size.
    """

    def __init__(self, kernel: Tensor, axes: Sequence[Axis], groups: int, transposed: bool = False) -> None:
        self.kernel = kernel
        self.axes = tuple(axes)
        self.groups = groups
        self.transposed = transposed
        self.device = kernel.device
        inner = (kernel.shape[1] * groups, *(axis.n_in for axis in self.axes))
        outer = (kernel.shape[0], *(axis.n_out for axis in self.axes))
        self.shape_in, self.shape_out = (outer, inner) if transposed else (inner, outer)

    def scaled(self, scale: Tensor) -> Convolution:
        """The same, every output channel times its scale."""
        kernel = self.kernel.double()
        scale = scale.double()
        if not self.transposed:
            return Convolution(kernel * scale.reshape(-1, *[1] * (kernel.dim() - 1)), self.axes, self.groups)
        grouped = kernel.reshape(self.groups, -1, *kernel.shape[1:])
        factor = scale.reshape(self.groups, 1, kernel.shape[1], *[1] * len(self.axes))
        return Convolution((grouped * factor).reshape(kernel.shape), self.axes, self.groups, True)

    def apply(self, x: Tensor) -> Tensor:
        return self._spread(x) if self.transposed else self._convolve(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._convolve(y) if self.transposed else self._spread(y)

    def _convolve(self, x: Tensor) -> Tensor:
        for number, axis in enumerate(self.axes, 2):
            if axis.folds:
                index = torch.tensor([axis.source(t) for t in range(-axis.left, axis.last + 1)], device=x.device)
                x = x.index_select(number, index)
        pads = [(0, 0) if axis.folds else (axis.left, axis.last + 1 - axis.n_in) for axis in self.axes]
        x = F.pad(x, [n for pair in reversed(pads) for n in pair])
        convolve = CONVOLVE[len(self.axes) - 1]
        return convolve(x, self.kernel.to(x.dtype), None, self._strides, 0, self._dilations, self.groups)

    def _spread(self, y: Tensor) -> Tensor:
        spread = SPREAD[len(self.axes) - 1]
        x = spread(y, self.kernel.to(y.dtype), None, self._strides, 0, 0, self.groups, self._dilations)
        pads = [(0, 0) if axis.folds else (-axis.left, axis.n_in - axis.last - 1) for axis in self.axes]
        x = F.pad(x, [n for pair in reversed(pads) for n in pair])
        for number, axis in enumerate(self.axes, 2):
            if axis.folds:
                index = torch.tensor([axis.source(t) for t in range(-axis.left, axis.last + 1)], device=x.device)
                shape = [*x.shape]
                shape[number] = axis.n_in
                x = x.new_zeros(shape).index_add(number, index, x)
        return x

    @property
    def _strides(self) -> list[int]:
        return [axis.stride for axis in self.axes]

    @property
    def _dilations(self) -> list[int]:
        return [axis.dilation for axis in self.axes]

    @property
    def _grouped(self) -> Tensor:
        """(g, o, c, k₁ … k_D) in float64."""
        kernel = self.kernel.double()
        return kernel.reshape(self.groups, -1, *kernel.shape[1:])

    def entry_norms(self) -> EntryNorms:
        """Norms that are sums over entries, from the border patterns: no matrix is formed."""
        kernel = self._grouped
        rows = list(pattern_sums(kernel, [axis.row_patterns() for axis in self.axes]))
        columns = list(pattern_sums(kernel, [axis.column_patterns() for axis in self.axes]))
        by_row = [(_sums(array, 1), count) for array, count in rows]
        by_column = [(_sums(array, 2), count) for array, count in columns]
        norms = EntryNorms.from_lines(by_row, by_column, self.kernel[0].numel() * max(1, len(self.axes)))
        return norms.transposed if self.transposed else norms

    # Upper ends of the ℓ2 norm.

    def upper(self, hint: float, tolerance: float, memory: int) -> float:
        """A proved upper end; ``hint`` is a lower end, worth nothing but time.  ``memory`` bounds the arrays in bytes."""
        if self.kernel.numel() == 0 or 0 in self.shape_in or 0 in self.shape_out:
            return 0.0
        target = hint * (1 + tolerance)
        best = self._circle(hint, tolerance, memory, frozenset())
        if best <= target:
            return best
        for written_out in self._choices(memory):
            best = min(best, self._circle(hint, tolerance, memory, written_out))
            if best <= target:
                return best
        if any(axis.folds for axis in self.axes) and not math.isfinite(best):
            copies = math.prod(axis.padding_norm for axis in self.axes if axis.folds)
            inner = Convolution(self.kernel, [axis.padded if axis.folds else axis for axis in self.axes], self.groups)
            best = min(best, copies * inner.upper(hint / copies, tolerance, memory) * (1 + 8 * UNIT))
        return best

    def _choices(self, memory: int) -> list[frozenset[int]]:
        """Sets of axes to write out, cheapest first, that fit into memory and into about a minute's work."""
        priced = []
        for size in range(1, 1 << len(self.axes)):
            chosen = frozenset(n for n in range(len(self.axes)) if size >> n & 1)
            rows, columns, frequencies, each = self._block(chosen)
            thin, tall = min(rows, columns), max(rows, columns)
            work = frequencies * self.groups * (thin**3 / 3 + thin**2 * tall) * each**2
            if frequencies and 8 * each * (2 * rows * columns + 2 * thin**2) <= memory and work < 1e12:
                priced.append((work, sorted(chosen), chosen))
        return [chosen for _, _, chosen in sorted(priced, key=lambda entry: entry[:2])]

    def _block(self, written_out: frozenset[int]) -> tuple[int, int, int, int]:
        """(rows, columns, number of frequencies or 0, numbers an entry) of the blocks when these axes are written out."""
        rows, columns = self.kernel.shape[0] // self.groups, self.kernel.shape[1]
        frequencies = 1
        for number, axis in enumerate(self.axes):
            if number in written_out:
                rows, columns = rows * axis.n_out, columns * axis.n_in
            else:
                columns *= axis.stride
                frequencies *= axis.grid()[0]
        return rows, columns, frequencies, 1 if len(written_out) == len(self.axes) else 2

    def _circle(self, hint: float, tolerance: float, memory: int, written_out: frozenset[int]) -> float:
        """Upper end with the axes on circles except those written out; inf where an axis has no circle."""
        factor = 1.0
        sizes: list[int] = []
        twistable: list[bool] = []
        free = [n for n in range(len(self.axes)) if n not in written_out]
        for number in free:
            frequencies, times, seam = self.axes[number].grid()
            if not frequencies:
                return math.inf
            degree = self.axes[number].degree
            enough = math.ceil(math.pi * degree / 2 / math.sqrt(tolerance / 4 / len(free))) if degree else 1
            if enough < frequencies and frequencies > 2 * degree:
                frequencies, seam = max(enough, degree + 1), False
                times /= math.cos(math.pi * degree / 2 / frequencies)
            factor *= times
            sizes.append(frequencies)
            twistable.append(seam and 1 < frequencies <= LARGEST_GRID_TWISTED)
        target = hint * (1 + tolerance / 2) / factor
        best_estimate, best_twists = math.inf, (0.0,) * len(free)
        for twists in product(*[(math.pi, 0.0) if t else (0.0,) for t in twistable]):
            blocks = self._blocks(sizes, twists, written_out, memory)
            if any(twistable) or not written_out:
                estimate = max((float(largest_of(block).max()) for block in blocks), default=0.0)
            else:
                estimate = target
            if estimate < best_estimate:
                best_estimate, best_twists = estimate, twists
            if best_estimate <= target:
                break
        best = max(hint / factor, best_estimate) * (1 + tolerance / 4)
        for block in self._blocks(sizes, best_twists, written_out, memory):
            best = max(best, upper_end(block, best, tolerance / 4))
        return factor * (best + self._entry_error()) * (1 + 32 * UNIT)

    def _entry_error(self) -> float:
        """Norm of the rounding errors in the entries of a block: every tap enters with a phase known to a few hundred u."""
        taps = self._grouped.flatten(3)
        each = float(torch.linalg.vector_norm(taps, dim=(1, 2)).sum(1).max())
        reach = sum(axis.degree + 1 for axis in self.axes)
        return gamma(64 * reach + taps.shape[3]) * each * math.sqrt(math.prod(axis.n_out for axis in self.axes if axis.folds))

    def _blocks(
        self, sizes: Sequence[int], twists: Sequence[float], written_out: frozenset[int], memory: int
    ) -> Iterator[Tensor]:
        """Batches of blocks whose norms' maximum bounds the norm, one of each conjugate pair."""
        kernel = self._grouped
        free = [n for n in range(len(self.axes)) if n not in written_out]
        rows, columns, _, each = self._block(written_out)
        thin = min(rows, columns)
        share = 8 * each * self.groups * (3 * rows * columns + 3 * thin**2)
        points = half_of(sizes, twists)
        chunk = max(1, min(len(points), memory // 4 // share))
        waves = [self.axes[n].waves(angles(size, twist)) for n, size, twist in zip(free, sizes, twists, strict=True)]
        dense = {n: self.axes[n].dense(torch.float64).to(kernel.device) for n in written_out}
        for start in range(0, len(points), chunk):
            index = torch.tensor(points[start : start + chunk], dtype=torch.long)
            picked = {n: waves[k][index[:, k]].to(kernel.device) for k, n in enumerate(free)}
            yield self._contract(kernel, picked, dense)

    def _contract(self, kernel: Tensor, picked: dict[int, Tensor], dense: dict[int, Tensor]) -> Tensor:
        """(frequencies · groups, rows, columns): every axis's taps contracted with its waves or its 0–1 matrices."""
        free = sorted(picked)
        if free:
            order = [0, 1, 2, *(3 + n for n in sorted(dense)), *(3 + n for n in free)]
            moved = kernel.permute(order)
            lead = moved.shape[: 3 + len(dense)]
            coefficients = picked[free[0]]
            for n in free[1:]:
                other = picked[n]
                coefficients = torch.einsum("fas,fbt->fabst", coefficients, other).flatten(1, 2).flatten(2, 3)
            frequencies, taps, residues = coefficients.shape
            table = moved.reshape(-1, taps).T
            parts = []
            for residue in range(residues):
                used = coefficients[:, :, residue].abs().sum(0) > 0
                wave, rest = coefficients[:, used, residue], table[used]
                parts.append(torch.complex(wave.real @ rest, wave.imag @ rest))
            current = torch.stack(parts, -1) if residues > 1 else parts[0].unsqueeze(-1)
            current = current.reshape(frequencies, *lead, residues)
        else:
            current = kernel.reshape(1, *kernel.shape, 1)
        # current: (f, g, o, c, dense taps…, residues); contract the dense axes one by one into trailing (n_out, n_in) pairs
        for n in sorted(dense):
            current = torch.tensordot(current, dense[n].to(current.dtype), dims=([4], [0]))
        count = len(dense)
        outs = [5 + 2 * k for k in range(count)]
        ins = [6 + 2 * k for k in range(count)]
        current = current.permute(0, 1, 2, *outs, 3, 4, *ins)
        frequencies = current.shape[0]
        rows = math.prod(current.shape[2 : 3 + count])
        return current.reshape(frequencies * self.groups, rows, -1)


def _sums(array: Tensor, lines: int) -> tuple[Tensor, Tensor]:
    """Per line (output channel for lines = 1, input channel for 2) Σ|entry| and Σ entry²."""
    keep = {0, lines}
    others = [axis for axis in range(array.dim()) if axis not in keep]
    return array.abs().sum(others).flatten(), array.square().sum(others).flatten()
