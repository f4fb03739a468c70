"""Gram matrices of a convolution on a circle at every frequency, from the products of its taps.

With taps K_τ at lags l_τ the block at θ is ``A(θ) = Σ K_τ e^{i l_τ·θ}`` and ``A(θ)A(θ)ᴴ = Σ_q R_q e^{iq·θ}`` with the real
``R_q = Σ K_τ K_σᵀ`` over pairs of lag difference q.  So many small products serve all frequencies; no block is formed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from nonvacuous.operators.certified import UNIT, gamma
from nonvacuous.operators.stencil import Axis, angles, half_of


class Spectrum:
    """``R_q`` for one of each pair ±q, of the smaller side of the blocks.

    Attributes: ``side`` rows of the Gram matrices; ``groups``; ``error`` an upper end of the norm of the rounding errors in a
    Gram matrix: every entry is a sum of at most taps · columns products with phases known to a few hundred u, so that they are
    below ``γ · (Σ_τ‖K_τ‖_F)²``.
    """

    def __init__(self, kernel: Tensor, axes: Sequence[Axis]) -> None:
        self.groups, out, inner = kernel.shape[:3]
        residues = math.prod(axis.stride for axis in axes)
        places = [[(r, (q - axis.first[r]) // (axis.step or 1)) for r, q in axis.phases] for axis in axes]
        taps = []
        for index in product(*(range(axis.kernel) for axis in axes)):
            at = [places[n][j] for n, j in enumerate(index)]
            residue = 0
            for axis, (r, _) in zip(axes, at, strict=True):
                residue = residue * axis.stride + r
            taps.append((index, residue, tuple(lag for _, lag in at)))
        self.by_rows = out <= inner * residues
        self.side = out if self.by_rows else inner * residues
        zero = (0,) * len(axes)
        pairs = [
            (a, b, tuple(x - y for x, y in zip(a[2], b[2], strict=True)))
            for k, a in enumerate(taps)
            for b in taps[k:]
            if not self.by_rows or a[1] == b[1]
        ]
        lags = sorted({zero, *(max(lag, tuple(-x for x in lag)) for _, _, lag in pairs)})
        number = {lag: k for k, lag in enumerate(lags)}
        self.lags = torch.tensor(lags, dtype=torch.float64)
        self.matrices = torch.zeros(len(lags), self.groups, self.side, self.side, dtype=torch.float64, device=kernel.device)
        for (index, residue, _), (other, other_residue, _), difference in pairs:
            left, right = (kernel[(slice(None),) * 3 + tap].double() for tap in (index, other))
            block = left @ right.mT if self.by_rows else left.mT @ right
            lag = difference if self.by_rows else tuple(-x for x in difference)
            row, column = (0, 0) if self.by_rows else (residue, other_residue)
            if lag < zero:
                lag, block, row, column = tuple(-x for x in lag), block.mT, column, row
            height, width = block.shape[-2:]
            total = self.matrices[number[lag]]
            total[:, row * height : (row + 1) * height, column * width : (column + 1) * width] += block
            if lag == zero and index != other:  # the mirrored pair, elsewhere the transpose at −q
                total[:, column * width : (column + 1) * width, row * height : (row + 1) * height] += block.mT
        self.matrices = self.matrices.flatten(1)
        sizes = torch.linalg.vector_norm(kernel.flatten(3).double(), dim=(1, 2)).sum(1)
        reach = sum(axis.degree + 1 for axis in axes)
        terms = 64 * reach + len(taps) * max(out, inner) + 4 * len(lags) + 16
        self.error = gamma(terms) * float(sizes.max()) ** 2 * (1 + 64 * UNIT)

    def grams(self, sizes: Sequence[int], twists: Sequence[float], memory: int) -> Iterator[Tensor]:
        """Batches (frequencies · groups, side, side) of Gram matrices over a grid, one of each conjugate pair."""
        axes = [angles(size, twist) for size, twist in zip(sizes, twists, strict=True)]
        points = half_of(sizes, twists)
        share = 5 * 16 * self.groups * self.side**2
        chunk = max(1, min(len(points), memory // 8 // share))
        device = self.matrices.device
        for start in range(0, len(points), chunk):
            index = torch.tensor(points[start : start + chunk], dtype=torch.long).reshape(-1, len(axes))
            theta = torch.stack([axis[index[:, n]] for n, axis in enumerate(axes)], 1)
            phases = theta @ self.lags.T
            real, imaginary = torch.cos(phases).to(device), torch.sin(phases).to(device)
            real[:, 0] = 0.5  # the lag 0 has no mirror image
            shape = (len(index) * self.groups, self.side, self.side)
            even, odd = (real @ self.matrices).reshape(shape), (imaginary @ self.matrices).reshape(shape)
            yield torch.complex(even + even.mT, odd - odd.mT)


def largest_of_grams(grams: Tensor, steps: int = 12) -> float:
    """An estimate from below of the largest √eigenvalue in a batch, by power iteration; trusted by nobody."""
    if grams.shape[-1] == 1:
        return math.sqrt(max(0.0, float(grams.real.max())))
    generator = torch.Generator(device=grams.device).manual_seed(0)
    vector = torch.randn(len(grams), grams.shape[-1], 1, dtype=grams.dtype, device=grams.device, generator=generator)
    tiny = torch.finfo(torch.float64).tiny
    size = torch.zeros(len(grams))
    for _ in range(steps):
        vector = vector / torch.linalg.vector_norm(vector, dim=(-2, -1), keepdim=True).clamp_min(tiny)
        vector = grams @ vector
        size = torch.linalg.vector_norm(vector, dim=(-2, -1))
    return math.sqrt(float(size.max()))


def upper_end_of_grams(grams: Tensor, error: float, start: float, step: float) -> float:
    """A proved upper end of √(largest eigenvalue) over a batch of Gram matrices known to within ``error``.

    The first of start, start·(1 + step), … for which all ``t²I − G`` factorise; those with ``‖G‖_F ≤ t²`` pass at once.
    """
    side = grams.shape[-1]
    sizes = torch.linalg.vector_norm(grams, dim=(-2, -1)) * (1 + gamma(2 * side**2 + 8))
    most = math.sqrt(float(sizes.max()) + error) * (1 + 4 * UNIT)
    if side == 1 or most <= start:
        return most
    trial, factor = max(start, most / side**0.5 * 0.5), gamma(4 * (side + 3))
    if not trial > 0:
        return most
    while trial < most:
        shifted = grams[sizes > trial**2].neg()
        shifted.diagonal(dim1=-2, dim2=-1).add_(trial**2)
        if bool((torch.linalg.cholesky_ex(shifted).info == 0).all()):
            trace = side * trial**2 * (1 + 4 * UNIT)
            excess = error + factor / (1 - factor) * trace + 8 * UNIT * trial**2
            return min(most, math.sqrt(trial**2 + excess) * (1 + 4 * UNIT))
        trial *= 1 + step
        step *= 2
    return most
