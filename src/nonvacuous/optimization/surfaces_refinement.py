"""Coarse to fine: a grid whose points are evaluated where interpolation would miss, and interpolated elsewhere.

The grid is halved level by level.  A point of the finer level is evaluated unless the points around it, on the level before, were
predicted so well that a quarter of their worst miss (what halving the step leaves of a second-order error) is within the tolerance.  That
is an estimate, not a bound: a spike between the points of the second level is not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import maximum_filter

Evaluate = Callable[[np.ndarray], np.ndarray]
"""Indices [m, axes] → values [m]."""

COARSEST = 5
ORDER = 4.0


class Refined(NamedTuple):
    """``values`` on the whole grid, and which of them were ``evaluated``."""

    values: np.ndarray
    evaluated: np.ndarray


def levels(length: int) -> list[np.ndarray]:
    """Indices of an axis of ``length`` points, from at most about `COARSEST` of them to all; the ends always belong.

    >>> [list(map(int, level)) for level in levels(9)]
    [[0, 2, 4, 6, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8]]
    """
    stride = 1
    while (length - 1) // (2 * stride) + 1 >= COARSEST:
        stride *= 2
    found = []
    while stride:
        found.append(np.unique([*range(0, length, stride), length - 1]))
        stride //= 2
    return found


def refined(shape: tuple[int, ...], evaluate: Evaluate, tolerance: float) -> Refined:
    """All values of a grid of ``shape``, those evaluated that ``tolerance`` (in units of the values) asks for.

    >>> flat = refined((17, 17), lambda at: at.sum(1).astype(float), 1e-6)  # linear: two levels suffice
    >>> int(flat.evaluated.sum()), float(abs(flat.values - np.add.outer(np.arange(17.0), np.arange(17.0))).max()) < 1e-9
    (81, True)
    """
    axes = [levels(length) for length in shape]
    depth = max(map(len, axes))
    axes = [[level[0]] * (depth - len(level)) + level for level in axes]
    values, evaluated = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    misses = np.zeros(shape)
    for number in range(depth):
        here = [axis[number] for axis in axes]
        grid = np.stack(np.meshgrid(*here, indexing="ij"), -1).reshape(-1, len(shape))
        new = grid[np.isnan(values[tuple(grid.T)])]
        if number == 0:
            ask, predicted, expected = new, np.zeros(len(new)), np.zeros(len(new))
        else:
            before = [axis[number - 1] for axis in axes]
            predicted = _interpolated(before, values[np.ix_(*before)], new)
            expected = _nearby(before, misses[np.ix_(*before)], new) / ORDER if number > 1 else np.full(len(new), np.inf)
            needed = ~(expected <= tolerance) | ~np.isfinite(predicted)
            ask = new[needed]
            values[tuple(new[~needed].T)], misses[tuple(new[~needed].T)] = predicted[~needed], expected[~needed]
            predicted = predicted[needed]
        if len(ask):
            found = evaluate(ask)
            with np.errstate(invalid="ignore"):
                miss = np.abs(found - predicted) if number else np.zeros(len(ask))
            values[tuple(ask.T)], evaluated[tuple(ask.T)] = np.where(np.isnan(found), np.inf, found), True
            misses[tuple(ask.T)] = np.where(np.isfinite(miss), miss, np.inf)
        if number:
            _spread(here, new, misses)
    return Refined(values, evaluated)


def _spread(here: list[np.ndarray], new: np.ndarray, misses: np.ndarray) -> None:
    """Every point of the level takes the worst miss among itself and its neighbours that are ``new`` on it: the others have none."""
    fresh = np.zeros_like(misses)
    fresh[tuple(new.T)] = misses[tuple(new.T)]
    block = np.ix_(*here)
    misses[block] = maximum_filter(fresh[block], size=3, mode="nearest")


def _interpolated(axes: list[np.ndarray], values: np.ndarray, at: np.ndarray) -> np.ndarray:
    smooth = bool(np.isfinite(values).all()) and min(map(len, axes)) >= 4
    interpolator = RegularGridInterpolator(
        [axis.astype(float) for axis in axes], values, method="cubic" if smooth else "linear"
    )
    with np.errstate(invalid="ignore"):
        return np.asarray(interpolator(at.astype(float)))


def _nearby(axes: list[np.ndarray], misses: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The worst miss at the corners of the cell of the coarser level that each point lies in."""
    corners: list[tuple[np.ndarray, ...]] = [()]
    for axis, places in zip(axes, at.T, strict=True):
        above = np.searchsorted(axis, places, side="left").clip(0, len(axis) - 1)
        below = (np.searchsorted(axis, places, side="right") - 1).clip(0, len(axis) - 1)
        corners = [(*corner, side) for corner in corners for side in (below, above)]
    return np.max([misses[corner] for corner in corners], axis=0)
