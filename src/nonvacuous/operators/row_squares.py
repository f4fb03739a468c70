"""Squared ℓ2 norms of all rows of a linear map, one for every number it gives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nonvacuous.core.errors import UnsupportedModule
from nonvacuous.operators.convolution import Convolution
from nonvacuous.operators.linear_map import LinearMap
from nonvacuous.operators.maps import AxisMaps, Chain, ChannelScale, Matrix, Rearrangement

MOST_ENTRIES = 2**30
"""Entries of a product of maps that are computed, a few rows at a time."""
CHUNK = 2**22
"""Of them at once."""


def row_squares(linear: LinearMap) -> Tensor:
    """``Σ_j A_ij²`` for every output i, shape ``shape_out``, float64, to within rounding.

    One layer: by counting the kernel's entries where they land inside the image; a product of layers: row by row.
    Raises UnsupportedModule for a product of more than 2³⁰ entries (:func:`is_within_reach` tells beforehand).

    >>> row_squares(Matrix(torch.tensor([[3.0, 4.0], [0.0, 2.0]])))
    tensor([25.,  4.], dtype=torch.float64)
    """
    if isinstance(linear, Convolution):
        return linear.row_squares()
    if isinstance(linear, Rearrangement):
        return torch.ones(linear.shape_out, dtype=torch.float64)
    squared = _squared(linear)
    if squared is not None:
        return squared.apply(torch.ones(1, *linear.shape_in, dtype=torch.float64, device=linear.device))[0]
    if isinstance(linear, Chain) and isinstance(linear.maps[-1], Rearrangement):
        before = row_squares(Chain.folded(linear.maps[:-1]))
        return linear.maps[-1].apply(before.unsqueeze(0))[0]
    if isinstance(linear, Chain) and isinstance(linear.maps[0], Rearrangement):
        return row_squares(Chain.folded(linear.maps[1:]))
    if not is_within_reach(linear):
        raise UnsupportedModule(
            f"a product of layers of shape {linear.shape_in} → {linear.shape_out}: its entries are too many to be computed; "
            "ask for the norms of its parts"
        )
    return _row_by_row(linear)


def is_within_reach(linear: LinearMap) -> bool:
    """Whether :func:`row_squares` gives an answer: a single layer, or a product of at most 2³⁰ entries."""
    real = [part for part in linear.maps if not isinstance(part, Rearrangement)] if isinstance(linear, Chain) else [linear]
    single = len(real) < 2 and all(isinstance(p, Convolution | Matrix | ChannelScale | AxisMaps | Rearrangement) for p in real)
    return single or linear.rows * linear.columns <= MOST_ENTRIES


def _squared(linear: LinearMap) -> LinearMap | None:
    """The map with squared entries, where those are at hand: in a Kronecker product squares are products of squares."""
    if isinstance(linear, Matrix):
        return Matrix(linear.weight.double().square(), linear.lead)
    if isinstance(linear, ChannelScale):
        return ChannelScale(linear.scale.double().square(), linear.shape_in)
    if isinstance(linear, AxisMaps):
        return AxisMaps([matrix.square() for matrix in linear.matrices], linear.lead, linear.factor**2)
    return None


def _row_by_row(linear: LinearMap) -> Tensor:
    step = max(1, CHUNK // max(linear.rows, linear.columns))
    parts = []
    for start in range(0, linear.rows, step):
        units = torch.zeros(min(step, linear.rows - start), linear.rows, dtype=torch.float64, device=linear.device)
        units[:, start : start + step].fill_diagonal_(1)
        parts.append(linear.adjoint(units.reshape(-1, *linear.shape_out)).flatten(1).square().sum(1))
    return torch.cat(parts).reshape(linear.shape_out) if math.prod(linear.shape_out) else torch.zeros(linear.shape_out)
