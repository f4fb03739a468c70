"""Convex cells that hyperplanes cut: intervals, polygons, and polyhedra of any small dimension.

A hyperplane is given, for each cell, by coefficients ``[N, d + 1]`` of a function a·x + b (the constant last). A cell is *cut* if the
function takes values above ``TOLERANCE`` and below −``TOLERANCE`` times its own size on the cell; pieces thinner than that are not seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from nonvacuous.core.errors import InvalidInput

TOLERANCE = 1e-10
Array = np.ndarray


class Cells(ABC):
    """``len(cells)`` convex cells in ``dimension`` coordinates."""

    dimension: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def taken(self, index: Array) -> Cells:
        """The cells at ``index`` [M]."""

    @abstractmethod
    def joined(self, other: Cells) -> Cells:
        """These cells and then those."""

    @abstractmethod
    def cut(self, functions: Array) -> Array:
        """Which of the functions ``[N, d + 1, U]`` cut which cells: ``[N, U]``."""

    @abstractmethod
    def halves(self, function: Array) -> tuple[Cells, Cells]:
        """The parts where the function ``[N, d + 1]`` is negative, and where it is positive; every cell must be cut by it."""

    @abstractmethod
    def inner(self) -> Array:
        """A point inside each cell ``[N, d]``."""


@dataclass(frozen=True)
class Vertices(Cells):
    """Intervals (d = 1) or convex polygons (d = 2): corners ``[N, V, d]`` in order, of which the first ``count`` [N] are used."""

    corners: Array
    count: Array

    @property
    def dimension(self) -> int:  # type: ignore[override]
        return int(self.corners.shape[2])

    @classmethod
    def one(cls, corners: Array) -> Vertices:
        """A single interval or polygon with corners ``[V, d]``."""
        corners = np.asarray(corners, dtype=np.float64)
        return cls(corners[None], np.array([len(corners)]))

    def __len__(self) -> int:
        return len(self.count)

    def taken(self, index: Array) -> Vertices:
        count = self.count[index]
        return Vertices(self.corners[index][:, : count.max(initial=1)], count)

    def joined(self, other: Cells) -> Vertices:
        assert isinstance(other, Vertices)
        width = max(self.corners.shape[1], other.corners.shape[1])
        return Vertices(
            np.concatenate([_widened(self.corners, width), _widened(other.corners, width)]), np.append(self.count, other.count)
        )

    def cut(self, functions: Array) -> Array:
        values = self._values(functions)
        used = np.arange(self.corners.shape[1])[None, :, None] < self.count[:, None, None]
        scale = TOLERANCE * self._size(functions)
        high = np.where(used, values, -np.inf).max(1)
        low = np.where(used, values, np.inf).min(1)
        return (high > scale) & (low < -scale)

    def _values(self, functions: Array) -> Array:
        """Values at the corners: ``[N, V, U]``."""
        return np.einsum("nvd,ndu->nvu", self.corners, functions[:, :-1]) + functions[:, None, -1]

    @staticmethod
    def _size(functions: Array) -> Array:
        return np.abs(functions).sum(1)

    def halves(self, function: Array) -> tuple[Vertices, Vertices]:
        values = self._values(function[:, :, None])[:, :, 0]
        values[np.abs(values) <= TOLERANCE * self._size(function)[:, None]] = 0.0
        place = np.arange(self.corners.shape[1])
        used = place < self.count[:, None]
        wrapped = np.where(place + 1 < self.count[:, None], place + 1, 0)
        after = np.broadcast_to(1 - place, used.shape) if self.dimension == 1 else wrapped
        next_values = np.take_along_axis(values, after, 1)
        next_corners = np.take_along_axis(self.corners, after[:, :, None], 1)
        crossing = used & (values * next_values < 0)
        share = np.where(crossing, values / np.where(crossing, values - next_values, 1.0), 0.0)
        points = self.corners + share[:, :, None] * (next_corners - self.corners)
        return self._side(used & (values <= 0), crossing, points), self._side(used & (values >= 0), crossing, points)

    def _side(self, kept: Array, crossing: Array, points: Array) -> Vertices:
        """Corners kept and crossing points, in order, packed to the left."""
        n, v = kept.shape
        if self.dimension == 1:
            ends = np.where(kept[:, :, None], self.corners, points)
            return Vertices(ends, np.full(n, 2))
        there = np.stack([kept, crossing], 2).reshape(n, 2 * v)
        both = np.stack([self.corners, points], 2).reshape(n, 2 * v, 2)
        order = np.argsort(~there, axis=1, kind="stable")
        count = there.sum(1)
        width = count.max(initial=1)
        return Vertices(np.take_along_axis(both, order[:, :width, None], 1), count)

    def inner(self) -> Array:
        used = np.arange(self.corners.shape[1])[None, :, None] < self.count[:, None, None]
        return np.where(used, self.corners, 0.0).sum(1) / self.count[:, None]


def _widened(corners: Array, width: int) -> Array:
    return np.pad(corners, ((0, 0), (0, width - corners.shape[1]), (0, 0)))


@dataclass(frozen=True)
class Polyhedra(Cells):
    """Open polyhedra {x : a·x + b < 0 for each row}, a list of ``[rows, d + 1]`` arrays; one linear program a question."""

    rows: tuple[Array, ...]
    dimension: int

    @classmethod
    def space(cls, dimension: int) -> Polyhedra:
        """All of R^d."""
        return cls((np.zeros((0, dimension + 1)),), dimension)

    def __len__(self) -> int:
        return len(self.rows)

    def taken(self, index: Array) -> Polyhedra:
        return Polyhedra(tuple(self.rows[i] for i in index), self.dimension)

    def joined(self, other: Cells) -> Polyhedra:
        assert isinstance(other, Polyhedra)
        return Polyhedra(self.rows + other.rows, self.dimension)

    def cut(self, functions: Array) -> Array:
        return np.array(
            [
                [all(_radius(np.vstack([rows, sign * f])) > TOLERANCE for sign in (1.0, -1.0)) for f in functions[i].T]
                for i, rows in enumerate(self.rows)
            ],
            dtype=bool,
        ).reshape(len(self), functions.shape[2])

    def halves(self, function: Array) -> tuple[Polyhedra, Polyhedra]:
        return tuple(  # type: ignore[return-value]
            Polyhedra(tuple(np.vstack([rows, sign * f]) for rows, f in zip(self.rows, function, strict=True)), self.dimension)
            for sign in (1.0, -1.0)
        )

    def inner(self) -> Array:
        return np.array([_ball(rows)[0] for rows in self.rows]).reshape(len(self), self.dimension)


def _ball(rows: Array) -> tuple[Array, float]:
    """Centre and radius (at most 1) of a ball inside {a·x + b ≤ 0}; radius ≤ 0 where the inside is empty."""
    d = rows.shape[1] - 1
    norms = np.linalg.norm(rows[:, :-1], axis=1)
    if np.any((norms <= 1e-300) & (rows[:, -1] >= 0)):
        return np.zeros(d), -1.0  # a constant function that is not negative
    kept = norms > 1e-300
    a = np.column_stack([rows[kept, :-1] / norms[kept, None], np.ones(kept.sum())])
    b = -rows[kept, -1] / norms[kept]
    found = linprog(np.append(np.zeros(d), -1.0), a, b, bounds=[(None, None)] * d + [(None, 1.0)], method="highs")
    if found.status != 0 or found.x is None:
        raise InvalidInput(f"the linear program of a cell could not be solved: {found.message}")
    return found.x[:d], float(found.x[d])


def _radius(rows: Array) -> float:
    return _ball(rows)[1]
