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
from functools import reduce
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from nonvacuous.operators.certified import UNIT, gamma, upper_end
from nonvacuous.operators.direct import upper_end_of_taps
from nonvacuous.operators.linear_map import LinearMap
from nonvacuous.operators.norm_entries import EntryNorms
from nonvacuous.operators.spectrum import Spectrum, largest_of_grams, upper_end_of_grams
from nonvacuous.operators.stencil import Axis, angles, half_of, pattern_sums

CONVOLVE = (F.conv1d, F.conv2d, F.conv3d)
SPREAD = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
COARSE = 0.05
"""Bracket width from which more work is worth it."""
LITTLE_WORK, MUCH_WORK = 1e10, 3e11
"""Floating-point operations (a core does about 3e10 a second) spent on a finer bracket, and on one still wider than COARSE."""
SMALL_BLOCK = 256
"""Blocks up to so many rows or columns are formed and factorised in batches, larger ones one by one."""
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
        """(g, o, c, k₁ … k_D)."""
        return self.kernel.reshape(self.groups, -1, *self.kernel.shape[1:])

    def absolute_size(self) -> float:
        """An upper end of ``‖|A|‖₂``: √ of the largest row sum of |kernel| times the largest column sum, copies counted."""
        kernel = self._grouped.abs()
        taps = list(range(3, kernel.dim()))
        rows = float(kernel.sum([2, *taps], dtype=torch.float64).max())
        columns = float(kernel.sum([1, *taps], dtype=torch.float64).max())
        copies = math.prod(axis.padding_norm**2 for axis in self.axes if axis.folds)
        return math.sqrt(rows * columns * copies) * (1 + gamma(self.kernel.numel() + 64))

    def entry_norms(self) -> EntryNorms:
        """Norms that are sums over entries, from the border patterns: no matrix is formed."""
        kernel = self._grouped.double()
        rows = pattern_sums(kernel, [axis.row_patterns() for axis in self.axes])
        by_row = [(_sums(array, 1), count) for array, count in rows]
        columns = pattern_sums(kernel, [axis.column_patterns() for axis in self.axes])
        by_column = [(_sums(array, 2), count) for array, count in columns]
        norms = EntryNorms.from_lines(by_row, by_column, self.kernel[0].numel() * max(1, len(self.axes)))
        return norms.transposed if self.transposed else norms

    def row_squares(self) -> Tensor:
        """``Σ entries²`` of every row, shape ``shape_out``: a table over border patterns, laid out over the image."""
        groups = [axis.column_groups() if self.transposed else axis.row_groups() for axis in self.axes]
        patterns = [list(dict.fromkeys(axis)) for axis in groups]
        sums = pattern_sums(self._grouped.double(), [dict.fromkeys(axis, 1) for axis in patterns])
        squares = torch.stack([_sums(array, 2 if self.transposed else 1)[1] for array, _ in sums], 1)
        table = squares.reshape(-1, *(len(axis) for axis in patterns))
        for number, (axis, known) in enumerate(zip(groups, patterns, strict=True), 1):
            place = {pattern: n for n, pattern in enumerate(known)}
            table = table.index_select(number, torch.tensor([place[g] for g in axis], device=table.device))
        return table

    # Upper ends of the ℓ2 norm.

    def upper(self, hint: float, tolerance: float, memory: int) -> float:
        """A proved upper end; ``hint`` is a lower end, worth nothing but time.  ``memory`` bounds the arrays in bytes."""
        if self.kernel.numel() == 0 or 0 in self.shape_in or 0 in self.shape_out:
            return 0.0
        target = hint * (1 + tolerance)
        best = self._circle(hint, tolerance, memory, frozenset())
        if best <= target:
            return best
        for work, written_out in self._choices(memory):
            if work > (MUCH_WORK if best > hint * (1 + COARSE) else LITTLE_WORK):
                continue
            best = min(best, self._circle(hint, tolerance, memory, written_out))
            if best <= target:
                return best
        if any(axis.folds for axis in self.axes) and not math.isfinite(best):
            copies = math.prod(axis.padding_norm for axis in self.axes if axis.folds)
            inner = Convolution(self.kernel, [axis.padded if axis.folds else axis for axis in self.axes], self.groups)
            best = min(best, copies * inner.upper(hint / copies, tolerance, memory) * (1 + 8 * UNIT))
        return best

    def _choices(self, memory: int) -> list[tuple[float, frozenset[int]]]:
        """Sets of axes to write out, cheapest first, that fit into memory, with their work."""
        priced = []
        for size in range(1, 1 << len(self.axes)):
            chosen = frozenset(n for n in range(len(self.axes)) if size >> n & 1)
            rows, columns, frequencies, each = self._block(chosen)
            thin = min(rows, columns)
            work = frequencies * self.groups * thin**3 / 3 * each**2
            if frequencies and 8 * each * thin**2 * 1.25 <= memory:
                priced.append((work, sorted(chosen), chosen))
        return [(work, chosen) for work, _, chosen in sorted(priced, key=lambda entry: entry[:2])]

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
        rows, columns, _, _ = self._block(written_out)
        if written_out and min(rows, columns) > SMALL_BLOCK:
            return factor * self._direct(sizes, written_out, hint / factor, tolerance) * (1 + 32 * UNIT)
        target = hint * (1 + tolerance / 2) / factor
        choices = list(product(*[(math.pi, 0.0) if t else (0.0,) for t in twistable]))
        lags = math.prod(2 * axis.degree + 1 for axis in self.axes) / 2 + 1
        if written_out or 8 * lags * self.groups * min(rows, columns) ** 2 > memory:
            best = target
            for block in self._blocks(sizes, choices[0], written_out, memory):
                best = max(best, upper_end(block, best, tolerance / 4))
            return factor * (best + self._entry_error()) * (1 + 32 * UNIT)
        spectrum = Spectrum(self._grouped, self.axes)
        best_estimate, best_twists = math.inf, choices[-1]
        for twists in choices:
            estimate = 0.0
            for grams in spectrum.grams(sizes, twists, memory):
                estimate = max(estimate, largest_of_grams(grams))
                if estimate >= best_estimate:
                    break
            if estimate < best_estimate:
                best_estimate, best_twists = estimate, twists
            if best_estimate <= target:
                break
        best = max(hint / factor, best_estimate) * (1 + tolerance / 4)
        for grams in spectrum.grams(sizes, best_twists, memory):
            best = max(best, upper_end_of_grams(grams, spectrum.error, best, tolerance / 4))
        return factor * best * (1 + 32 * UNIT)

    def _direct(self, sizes: Sequence[int], written_out: frozenset[int], hint: float, tolerance: float) -> float:
        """As :meth:`_circle`, block after block without forming them, with the twist 0 (π where the axis allows it)."""
        free = [n for n in range(len(self.axes)) if n not in written_out]
        twists = [
            math.pi if self.axes[n].grid()[2] and size == self.axes[n].grid()[0] else 0.0
            for n, size in zip(free, sizes, strict=False)
        ]
        rows, columns, _, _ = self._block(written_out)
        places = reduce(_kronecker, [self.axes[n].dense(torch.float64) for n in sorted(written_out)]).to(self.device)
        waves = [self.axes[n].waves(angles(size, twist)) for n, size, twist in zip(free, sizes, twists, strict=True)]
        best = hint * (1 + tolerance / 2)
        for point in half_of(sizes, twists):
            picked = {n: waves[k][point[k]].unsqueeze(0).to(self.device) for k, n in enumerate(free)}
            for kernel in self._grouped:
                taps = self._contract(kernel.unsqueeze(0), picked, written_out)  # (1, 1, o, c, taps…, residues)
                taps = taps[0, 0].flatten(2, -2).permute(2, 0, 1, 3).flatten(2)
                if rows <= columns:
                    best = max(best, upper_end_of_taps(taps, places, best, tolerance / 4))
                else:
                    best = max(best, upper_end_of_taps(taps.mH, places.mT, best, tolerance / 4))
        return best + self._entry_error()

    def _entry_error(self) -> float:
        """Norm of the rounding errors in the entries of a block: every tap enters with a phase known to a few hundred u."""
        taps = self._grouped.flatten(3)
        each = float(torch.linalg.vector_norm(taps, dim=(1, 2), dtype=torch.float64).sum(1).max())
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
            yield self._written_out(self._contract(kernel, picked, written_out), dense)

    def _contract(self, kernel: Tensor, picked: dict[int, Tensor], written_out: frozenset[int]) -> Tensor:
        """(frequencies, g, o, c, taps of the axes written out …, residues): the other axes' taps contracted with waves."""
        free = sorted(picked)
        moved = kernel.permute(0, 1, 2, *(3 + n for n in sorted(written_out)), *(3 + n for n in free))
        lead, taps = moved.shape[: 3 + len(written_out)], moved.shape[3 + len(written_out) :]
        residues = [self.axes[n].stride for n in free]
        frequencies = len(picked[free[0]]) if free else 1
        dtype = torch.complex128 if free else torch.float64
        total = torch.zeros(math.prod(residues), frequencies, *lead, dtype=dtype, device=kernel.device)
        for index in product(*(range(size) for size in taps)):  # tap by tap: no copy of the kernel
            residue, wave = 0, torch.ones(frequencies, dtype=dtype, device=kernel.device)
            for n, j, stride in zip(free, index, residues, strict=True):
                r = self.axes[n].phases[j][0]
                residue, wave = residue * stride + r, wave * picked[n][:, j, r]
            part = moved
            for j in reversed(index):
                part = part[..., j]
            total[residue] += wave.reshape(-1, *[1] * part.dim()) * part.double()
        return total.movedim(0, -1)

    def _written_out(self, current: Tensor, dense: dict[int, Tensor]) -> Tensor:
        """(frequencies · groups, rows, columns): the remaining taps contracted with their 0–1 matrices, one by one."""
        for n in sorted(dense):
            current = torch.tensordot(current, dense[n].to(current.dtype), dims=([4], [0]))
        count = len(dense)
        outs = [5 + 2 * k for k in range(count)]
        ins = [6 + 2 * k for k in range(count)]
        current = current.permute(0, 1, 2, *outs, 3, 4, *ins)
        frequencies = current.shape[0]
        rows = math.prod(current.shape[2 : 3 + count])
        return current.reshape(frequencies * self.groups, rows, -1)


def _kronecker(first: Tensor, second: Tensor) -> Tensor:
    """0–1 matrices (k, a, b) and (l, c, d) of two axes as those of the pair, (k·l, a·c, b·d)."""
    product_ = torch.einsum("kab,lcd->klacbd", first, second)
    k, n_first, n_second = product_.shape[0] * product_.shape[1], first.shape[1], second.shape[1]
    return product_.reshape(k, n_first * n_second, -1)


def _sums(array: Tensor, lines: int) -> tuple[Tensor, Tensor]:
    """Per line (output channel for lines = 1, input channel for 2) Σ|entry| and Σ entry²."""
    keep = {0, lines}
    others = [axis for axis in range(array.dim()) if axis not in keep]
    return array.abs().sum(others).flatten(), array.square().sum(others).flatten()
