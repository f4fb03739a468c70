"""Critical points of a deep linear network, written down from the spectrum of the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from nonvacuous.optimization.deep_linear import Moments, Weights

RELATIVE = 1e-10


@dataclass(frozen=True)
class Spectrum:
    """Σ = YXᵀ(XXᵀ)⁺XYᵀ: eigenvalues ``[d_y]`` in descending order, eigenvectors ``[d_y, d_y]`` as columns, and the least-squares
    map M = YXᵀ(XXᵀ)⁺ ``[d_y, d_x]``.
    """

    eigenvalues: Tensor
    vectors: Tensor
    map: Tensor

    @classmethod
    def of(cls, moments: Moments) -> Spectrum:
        """From second moments; directions that no example has are left out of the inverse."""
        best = moments.cross @ torch.linalg.pinv(moments.gram, rtol=RELATIVE, hermitian=True)
        sigma = best @ moments.cross.mT
        values, vectors = torch.linalg.eigh((sigma + sigma.mT) / 2)
        return cls(values.flip(0).clamp(min=0.0), vectors.flip(1), best)

    @property
    def rank(self) -> int:
        """How many eigenvalues are positive."""
        return int((self.eigenvalues > RELATIVE * self.eigenvalues.max().clamp(min=1e-300)).sum())

    def index_sets(self, largest: int) -> Iterator[tuple[int, ...]]:
        """All sets of at most ``largest`` positive eigenvalues, by size."""
        for size in range(min(largest, self.rank) + 1):
            yield from combinations(range(self.rank), size)

    def value(self, square: float, chosen: Sequence[int]) -> float:
        """½(‖Y‖² − Σ_{i∈I} λ_i): the loss at every critical point that belongs to the index set I."""
        return 0.5 * (square - float(self.eigenvalues[list(chosen)].sum()))


@dataclass(frozen=True)
class Built:
    """A critical point: its weights, and two ways down, each a direction in weight space (or None).

    turn: rotates a chosen eigenvector towards a better one; the second derivative along it is −(λ_j − λ_i). grow: makes a new
    rank; the loss along it falls as t^order, order being the number of inner blocks that are zero.
    """

    chosen: tuple[int, ...]
    weights: tuple[Tensor, ...]
    turn: tuple[Tensor, ...] | None
    grow: tuple[Tensor, ...] | None
    order: int


def built(
    spectrum: Spectrum, moments: Moments, widths: Sequence[int], chosen: tuple[int, ...], zero: frozenset[int], seed: int
) -> Built:
    """The critical point of index set I = ``chosen`` whose inner blocks are zero in the layers ``zero`` and random elsewhere.

    With r the size of I and U_I the chosen eigenvectors, W_1 = [U_IᵀM; D_1], W_l = diag(1_r, D_l), W_L = [U_I, D_L], so that the product is
    U_I U_Iᵀ M + D_L⋯D_1. If at least two of the blocks D are zero, every gradient vanishes: the residual's cross moment is
    (1 − U_I U_Iᵀ)YXᵀ, which the chosen rows annihilate, and every other term holds all the blocks but one. Then random invertible
    changes of basis between the layers, which the loss does not see, hide the blocks.

    Args:
        widths: d_x, d_1, …, d_H, d_y; each inner one at least r.
        zero: at least two layers, counted from 0.
    """
    generator = torch.Generator().manual_seed(seed)
    r, layers = len(chosen), len(widths) - 1
    chosen_vectors = spectrum.vectors[:, list(chosen)]
    weights, noise = [], []
    for layer in range(layers):
        rows, columns = widths[layer + 1], widths[layer]
        top = 0 if layer == layers - 1 else r
        left = 0 if layer == 0 else r
        block = torch.randn(rows - top, columns - left, dtype=torch.float64, generator=generator)
        block /= max(1.0, max(block.shape)) ** 0.5
        W = torch.zeros(rows, columns, dtype=torch.float64)
        if layer == 0:
            W[:r] = chosen_vectors.mT @ spectrum.map
        elif layer == layers - 1:
            W[:, :r] = chosen_vectors
        else:
            W[:r, :r] = torch.eye(r, dtype=torch.float64)
        N = torch.zeros_like(W)
        (N if layer in zero else W)[top:, left:] = block
        weights.append(W)
        noise.append(N)
    grow = _growing(weights, noise, moments, r, zero)
    turn = _turning(spectrum, weights, chosen)
    changes = [_basis(width, generator) for width in widths[1:-1]]
    moved = _moved(weights, changes)
    return Built(
        chosen,
        moved,
        None if turn is None else _moved(turn, changes),
        None if grow is None else _moved(grow, changes),
        len(zero),
    )


def _growing(weights: Weights, noise: list[Tensor], moments: Moments, r: int, zero: frozenset[int]) -> list[Tensor] | None:
    """The zero blocks' directions, of the sign and size that make the loss fall until t = 1; None where the blocks' product is zero."""
    product = None
    for layer, (W, N) in enumerate(zip(weights, noise, strict=True)):
        block = (N if layer in zero else W)[0 if layer == len(weights) - 1 else r :, 0 if layer == 0 else r :]
        product = block if product is None else block @ product
    assert product is not None
    fall = float((product * _residual_cross(weights, moments)).sum())
    if abs(fall) <= 1e-12 * float(moments.cross.norm() * product.norm()):
        return None
    reach = float(((product @ moments.gram) * product).sum())
    size = (abs(fall) / reach) ** (1.0 / len(zero))  # the loss along the curve is least at t = 1
    first = min(zero)
    return [N * (size if fall > 0 or layer != first else -size) for layer, N in enumerate(noise)]


def _residual_cross(weights: Weights, moments: Moments) -> Tensor:
    product = weights[0]
    for W in weights[1:]:
        product = W @ product
    return -moments.slope(product)


def _turning(spectrum: Spectrum, weights: Weights, chosen: tuple[int, ...]) -> list[Tensor] | None:
    absent = [i for i in range(spectrum.rank) if i not in chosen]
    if not chosen or not absent:
        return None
    last, best = chosen[-1], absent[0]
    if not spectrum.eigenvalues[best] > spectrum.eigenvalues[last] * (1 + RELATIVE):
        return None
    direction = [torch.zeros_like(W) for W in weights]
    u = spectrum.vectors[:, best]
    direction[0][len(chosen) - 1] = u @ spectrum.map
    direction[-1][:, len(chosen) - 1] = u
    return direction


def _basis(size: int, generator: torch.Generator) -> Tensor:
    rotation = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))[0]
    return rotation * (0.5 + torch.rand(size, dtype=torch.float64, generator=generator))


def _moved(weights: Weights, changes: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """C_l W_l C_{l−1}⁻¹, with the identity at both ends."""
    moved = []
    for layer, W in enumerate(weights):
        if layer < len(changes):
            W = changes[layer] @ W
        if layer:
            W = torch.linalg.solve(changes[layer - 1].mT, W.mT).mT
        moved.append(W)
    return tuple(moved)
