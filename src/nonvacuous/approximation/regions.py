"""Linear regions of a ReLU network: exact counts along a segment, in a plane, and in all of a small space; bounds beside them.

Two things are counted. *Patterns*: cells on which every unit keeps its state (activation regions; a max-pool counts as its
comparisons, made one after another). *Pieces*: different affine functions among them, never more; two cells apart from each other
on which the function is the same (constant, say) count as one piece. Counts are exact up to cells
thinner than 10⁻¹⁰ of the picture, which float64 does not see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import comb, lgamma, log, prod

import numpy as np
import torch
from torch import Tensor, nn

from nonvacuous.approximation.cells import Polyhedra, Vertices
from nonvacuous.approximation.subdivision import Found, Subdivision
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured

SAME = 1e-9
"""Relative difference below which two affine functions count as one."""


@dataclass(frozen=True)
class Regions:
    """What was found.

    Attributes: ``patterns`` and ``pieces``, the two counts; ``corners`` [N, V, d] and ``count`` [N], the cells (V corners at most, of
    which the first ``count`` are used), in the coordinates of the segment (d = 1) or the plane (d = 2), None for a whole space;
    ``piece`` [N] the number of each cell's affine function; ``outputs`` [N, d + 1, outputs] its coefficients, the constant last.
    """

    patterns: int
    pieces: int
    corners: np.ndarray | None
    count: np.ndarray | None
    piece: np.ndarray
    outputs: np.ndarray


def segment_regions(module: nn.Module, start: Tensor, end: Tensor) -> Regions:
    """Regions met on the way from ``start`` to ``end``, inputs of one example each (shape without the batch).

    The coordinate t runs from 0 to 1. Along a line pieces are counted as *maximal intervals*, so a function that returns counts twice.

    Raises :class:`~nonvacuous.core.errors.UnsupportedModule`, :class:`~nonvacuous.core.errors.InvalidInput`.
    """
    start, end = _finite(start, "start"), _finite(end, "end")
    if start.shape != end.shape or bool((start == end).all()):
        raise InvalidInput("a segment needs two different ends of one shape")
    found = list(Subdivision(module).run(Vertices.one(np.array([[0.0], [1.0]])), torch.stack([end - start, start])))
    regions = _collected(found)
    assert regions.corners is not None
    order = np.argsort(regions.corners[:, :, 0].min(1))
    changes = np.count_nonzero(np.diff(regions.piece[order]))
    return Regions(
        regions.patterns, 1 + int(changes), regions.corners[order], regions.count, regions.piece[order], regions.outputs[order]
    )


def slice_regions(
    module: nn.Module, origin: Tensor, first: Tensor, second: Tensor, corners: Sequence[Sequence[float]] | None = None
) -> Regions:
    """Regions met by a polygon in the plane origin + s·first + t·second of the input space.

    Args:
        origin, first, second: inputs of one example (shape without the batch).
        corners: a convex polygon's corners (s, t) in order; the square [−1, 1]² if absent.

    Raises :class:`~nonvacuous.core.errors.UnsupportedModule`, :class:`~nonvacuous.core.errors.InvalidInput`.
    """
    origin, first, second = _finite(origin, "origin"), _finite(first, "first"), _finite(second, "second")
    if not origin.shape == first.shape == second.shape:
        raise InvalidInput("origin and both directions must have one shape")
    spanned = torch.linalg.matrix_rank(torch.stack([first.flatten(), second.flatten()]))
    if int(spanned) < 2:
        raise InvalidInput("the two directions of a plane must be linearly independent")
    polygon = np.array(corners if corners is not None else [(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=np.float64)
    _check_convex(polygon)
    # Coordinates in which the polygon fills [−1, 1]²: the tolerance is then relative to its size.
    low, high = polygon.min(0), polygon.max(0)
    centre, half = (low + high) / 2, (high - low) / 2
    inputs = torch.stack([half[0] * first, half[1] * second, origin + centre[0] * first + centre[1] * second])
    regions = _collected(list(Subdivision(module).run(Vertices.one((polygon - centre) / half), inputs)))
    assert regions.corners is not None
    outputs = regions.outputs.copy()
    outputs[:, :2] /= half[:, None]
    outputs[:, 2] -= (outputs[:, :2] * centre[:, None]).sum(1)
    return Regions(regions.patterns, regions.pieces, regions.corners * half + centre, regions.count, regions.piece, outputs)


def total_regions(module: nn.Module, inputs: int | Sequence[int]) -> Regions:
    """All regions of R^d, by linear programs: for small networks (some thousand regions).

    Args: ``inputs`` the dimension d, or the shape of one example.
    """
    shape = (inputs,) if isinstance(inputs, int) else tuple(inputs)
    d = prod(shape)
    if d < 1:
        raise InvalidInput(f"inputs must be a dimension of at least 1 or a shape; got {inputs!r}")
    basis = torch.eye(d, dtype=torch.float64).reshape(d, *shape)
    inputs_ = torch.cat([basis, torch.zeros(1, *shape, dtype=torch.float64)])
    return _collected(list(Subdivision(module).run(Polyhedra.space(d), inputs_)))


def _collected(found: list[Found]) -> Regions:
    outputs = np.concatenate([part.outputs for part in found])
    piece = _numbered(outputs.reshape(len(outputs), -1))
    drawn = [part.cells for part in found if isinstance(part.cells, Vertices)]
    if not drawn:
        return Regions(len(outputs), int(piece.max()) + 1, None, None, piece, outputs)
    corners = np.zeros((len(outputs), max(cells.corners.shape[1] for cells in drawn), drawn[0].dimension))
    at = 0
    for cells in drawn:
        n, v, _ = cells.corners.shape
        corners[at : at + n, :v] = cells.corners
        at += n
    return Regions(
        len(outputs), int(piece.max()) + 1, corners, np.concatenate([cells.count for cells in drawn]), piece, outputs
    )


def _numbered(rows: np.ndarray) -> np.ndarray:
    """For rows ``[N, m]``, a number for each such that rows which agree up to ``SAME`` of the largest entry share it."""
    directions = np.random.default_rng(0).standard_normal((rows.shape[1], 2))
    seen = rows @ (directions / np.linalg.norm(directions, axis=0))
    scale = SAME * max(float(np.abs(seen).max()), 1e-300)
    order = np.lexsort((seen[:, 1], np.round(seen[:, 0] / scale / 8)))
    steps = np.abs(np.diff(seen[order], axis=0)).max(1) > scale
    number = np.empty(len(rows), dtype=np.int64)
    number[order] = np.concatenate([[0], np.cumsum(steps)])
    return number


def _finite(x: Tensor, name: str) -> Tensor:
    x = torch.as_tensor(x).double()
    if not bool(torch.isfinite(x).all()):
        raise InvalidInput(f"{name} holds NaN or infinite numbers")
    return x


def _check_convex(polygon: np.ndarray) -> None:
    if polygon.ndim != 2 or polygon.shape[1] != 2 or len(polygon) < 3 or not np.isfinite(polygon).all():
        raise InvalidInput("a polygon has at least three corners (s, t), finite numbers")
    edges = np.roll(polygon, -1, axis=0) - polygon
    turns = edges[:, 0] * np.roll(edges[:, 1], -1) - edges[:, 1] * np.roll(edges[:, 0], -1)
    if not ((turns > 0).all() or (turns < 0).all()):
        raise InvalidInput("the polygon must be convex, its corners in order around it, no three on a line")


# -- bounds ------------------------------------------------------------------------------------------------------------------


def log_montufar_lower(inputs: int, widths: Sequence[int]) -> float:
    """ln of a number of regions that *some* network with these hidden widths has: ∏_{l<L} ⌊n_l/n₀⌋^{n₀} · Σ_{j≤n₀} C(n_L, j).

    Met by :func:`folding_network`, not by networks with random weights. Source: Montúfar, Pascanu, Cho and Bengio 2014, Theorem 4.
    """
    _check_widths(inputs, widths)
    if min(widths) < inputs:
        raise InvalidInput(f"the theorem is for hidden layers at least as wide as the input ({inputs}); got {list(widths)}")
    folds = sum(inputs * log(width // inputs) for width in widths[:-1])
    return folds + log(sum(comb(widths[-1], j) for j in range(inputs + 1)))


def log_montufar_upper(inputs: int, widths: Sequence[int]) -> float:
    """ln of ∏_l Σ_{j ≤ d_l} C(n_l, j), d_l = min(n₀, …, n_{l−1}), which no ReLU network of these hidden widths exceeds.

    ``inputs`` is the input dimension, or the dimension of a slice. Source: Montúfar 2017 (SampTA), Proposition 3.
    """
    _check_widths(inputs, widths)
    total, d = 0.0, inputs
    for width in widths:
        total += log(sum(comb(width, j) for j in range(min(d, width) + 1)))
        d = min(d, width)
    return total


def log_serra_upper(inputs: int, widths: Sequence[int]) -> float:
    """ln of Σ_{(j₁…j_L)} ∏ C(n_l, j_l) over j_l ≤ min(n₀, n₁ − j₁, …, n_{l−1} − j_{l−1}, n_l): never above Montúfar's.

    ``inputs`` is the input dimension, or the dimension of a slice. Source: Serra, Tjandraatmadja and Ramalingam 2018, Theorem 1.
    """
    _check_widths(inputs, widths)
    below = [1] * (inputs + 1)  # regions of what follows, by the dimension that is left
    for width in reversed(widths):
        below = [sum(comb(width, j) * below[min(d, width - j)] for j in range(min(d, width) + 1)) for d in range(inputs + 1)]
    return log(below[inputs])


def hanin_rolnick_size(inputs: int, units: int) -> Measured:
    """units^inputs / inputs!, the size of the number of regions in a unit cube at random weights, whatever the depth: an indicator.

    The theorem has it up to a factor T^inputs, T unspecified. Source: Hanin and Rolnick 2019 (NeurIPS), Theorem 5.
    """
    _check_widths(inputs, [units])
    return Measured.indicator(float(np.exp(inputs * log(units) - lgamma(inputs + 1))))


def _check_widths(inputs: int, widths: Sequence[int]) -> None:
    if inputs < 1 or not widths or min(widths) < 1:
        raise InvalidInput(f"inputs and widths are whole numbers of at least 1; got {inputs} and {list(widths)}")


def folding_network(inputs: int, widths: Sequence[int], seed: int = 0) -> nn.Sequential:
    """A network with these hidden widths that attains :func:`log_montufar_lower` inside the cube [0, 1]^inputs.

    All hidden layers but the last fold the cube onto itself, ⌊n_l/n₀⌋ times along each axis; the last cuts it by hyperplanes in general
    position, all of whose C(n_L, 0) + … + C(n_L, n₀) cells meet the cube. Source: Montúfar et al. 2014, Section 3.
    """
    log_montufar_lower(inputs, widths)
    layers: list[nn.Module] = []
    fold = torch.eye(inputs, dtype=torch.float64), torch.zeros(inputs, dtype=torch.float64)  # what the next layer reads
    for width in widths[:-1]:
        p = width // inputs
        up = torch.zeros(width, inputs, dtype=torch.float64)
        shift = torch.zeros(width, dtype=torch.float64)
        down = torch.zeros(inputs, width, dtype=torch.float64)
        for axis, k in product(range(inputs), range(p)):
            up[axis * p + k, axis], shift[axis * p + k] = p, -k
            down[axis, axis * p + k] = 1.0 if k == 0 else 2.0 * (-1) ** k
        layers += [_affine(up @ fold[0], up @ fold[1] + shift), nn.ReLU()]
        fold = down, torch.zeros(inputs, dtype=torch.float64)
    normals, offsets = _general_position(inputs, widths[-1], seed)
    layers += [_affine(normals @ fold[0], normals @ fold[1] + offsets), nn.ReLU()]
    weights = 1.0 + torch.rand(1, widths[-1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return nn.Sequential(*layers, _affine(weights, torch.zeros(1, dtype=torch.float64)))


def _affine(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    layer.weight.data, layer.bias.data = weight, bias
    return layer


def _general_position(inputs: int, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Hyperplanes a·x + b whose vertices all lie inside (0, 1)^inputs: tangent to a moment curve through the centre, drawn small."""
    if inputs == 1:
        offsets = -(torch.arange(number, dtype=torch.float64) + 0.5) / number
        return torch.ones(number, 1, dtype=torch.float64), offsets
    generator = torch.Generator().manual_seed(seed)
    normals = torch.randn(number, inputs, generator=generator, dtype=torch.float64)
    normals /= normals.norm(dim=1, keepdim=True)
    offsets = torch.randn(number, generator=generator, dtype=torch.float64)
    reach = 1.0
    for chosen in combinations(range(number), inputs):
        index = torch.tensor(chosen)
        vertex = torch.linalg.solve(normals[index], -offsets[index])
        reach = max(reach, float(vertex.abs().max()))
    scale = 0.45 / reach  # all vertices now within 0.45 of the centre
    centre = torch.full((inputs,), 0.5, dtype=torch.float64)
    return normals, scale * offsets - normals @ centre
