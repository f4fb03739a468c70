"""Evidence of the partition bounds: a grid of cells fixed by the declared range, and how much the loss can vary in each.

The grid is a function of what is known before the data: the declared range, the number of coordinates, classes and examples. The variation
at a training example s is a proved bound of ℓ(z) − ℓ(s) over *every* z in its cell, from an upper end of the network's Lipschitz constant
over the cell: a classifier that stores its training set has a large constant, and pays here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from nonvacuous.core.bound import Sample
from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.core.quantities import MOST_EXAMPLES
from nonvacuous.measures.lipschitz import Box, local_table
from nonvacuous.measures.logs import safe_exp
from nonvacuous.measures.losses import scores
from nonvacuous.measures.norm_evidence import declared_range, symbolic_graph
from nonvacuous.measures.predictor import evaluating
from nonvacuous.measures.subject import Number, Subject, measure
from nonvacuous.runtime.values import Inputs

TRAINING = Sample.TRAINING
EXAMPLES_A_CELL = 20
"""Examples for each cell that the grid aims at: the frequencies of K cells are known to about √(K/n)."""
MOST_LOCAL = 32
"""Occupied cells up to which each gets a Lipschitz constant of its own; beyond, one for the whole range serves all."""
EDGE = 1e-6
"""Relative room around a cell, for numbers that rounding puts on the other side of its edge."""


@dataclass(frozen=True)
class Grid:
    """The cube [low, high]^D cut into ``per_side`` intervals along each coordinate, times K labels."""

    low: float
    high: float
    coordinates: int
    per_side: int
    labels: int

    @property
    def cells(self) -> int:
        """Cells of X × Y."""
        return self.labels * self.per_side**self.coordinates

    @property
    def side(self) -> float:
        """Length of an edge of a cell."""
        return (self.high - self.low) / self.per_side

    @property
    def diameter(self) -> float:
        """Largest Euclidean distance of two inputs of one cell, rounded up."""
        return self.side * math.sqrt(self.coordinates) * (1 + EDGE)

    def places(self, inputs: torch.Tensor) -> np.ndarray:
        """Index of each input's cell along every coordinate [b, D]."""
        steps = ((inputs.reshape(len(inputs), -1).double() - self.low) / self.side).floor()
        return steps.clamp(0, self.per_side - 1).to(torch.int64).numpy()

    def box(self, place: np.ndarray, shape: tuple[int, ...]) -> Box:
        """The cell as a box of inputs, a little enlarged."""
        lower = torch.from_numpy(place).double().reshape(shape) * self.side + self.low
        room = EDGE * max(self.high - self.low, abs(self.low), abs(self.high))
        return Box(lower - room, lower + self.side + room)


def grid_of(low: float, high: float, coordinates: int, labels: int, n: int) -> Grid:
    """The grid for n examples: as fine as leaves about ``EXAMPLES_A_CELL`` for each cell, one input cell in many dimensions.

    >>> grid_of(0.0, 1.0, 2, 2, 4000).cells, grid_of(0.0, 1.0, 64, 10, 4000).cells
    (200, 10)
    """
    if not high > low:
        raise InvalidInput(f"the range of the inputs has low < high; got [{low:g}, {high:g}]")
    per_side = max(1, int((n / EXAMPLES_A_CELL / labels) ** (1 / coordinates) + 1e-9))
    while per_side > 1 and labels * float(per_side) ** coordinates > MOST_EXAMPLES:
        per_side -= 1
    return Grid(low, high, coordinates, per_side, labels)


@dataclass(frozen=True)
class Partitioned:
    """The grid, the number of its cells that are met, and the mean variation of the loss within cells."""

    grid: Grid
    occupied: int
    variation: float
    largest_lipschitz: float


def partitioned(subject: Subject) -> Partitioned:
    """Cells and variations of a subject, computed once.

    Raises :class:`InvalidInput` where no range is declared or the loss has no known constant, :class:`UnsupportedModule` where the network
    has no Lipschitz bound.
    """
    return subject.once(("partition", subject.input_range), lambda: _partitioned(subject))


def _partitioned(subject: Subject) -> Partitioned:
    slope = _loss_slope(subject)
    low, high = declared_range(subject)
    symbolic_graph(subject)
    shape = tuple(subject.capacity_example.shape[1:])
    grid = grid_of(low, high, math.prod(shape), _labels(subject), subject.train.n)
    places, labels = _where(subject, grid)
    cells, index = np.unique(places, axis=0, return_inverse=True)
    index = index.reshape(-1)
    occupied = len(np.unique(index * grid.labels + labels))
    lipschitz = _lipschitz(subject, grid, cells, shape)[index]
    return Partitioned(
        grid, occupied, float(np.mean(_variations(subject, lipschitz * grid.diameter, slope))), float(lipschitz.max())
    )


def _loss_slope(subject: Subject) -> float | None:
    """Lipschitz constant of the loss in the scores, ℓ2; None for the 0–1 loss, which the margin decides."""
    name, _, constant = subject.loss.name.partition(":")
    if subject.loss.regression:
        raise InvalidInput("a partition has one label a cell; the targets here are numbers")
    if name == "zero_one":
        return None
    if name == "brier":
        return math.sqrt(0.5) * (1 + 1e-12)  # ½‖p − y‖²: the softmax is ½-Lipschitz, ‖p − y‖ at most √2
    if name == "bounded_cross_entropy":
        return math.sqrt(2) / -math.log(float(constant)) * (1 + 1e-12)  # gradient p − y before the division
    raise InvalidInput(
        f"no Lipschitz constant of the loss {subject.loss.name!r:.40} is known: use zero_one, brier or bounded_cross_entropy"
    )


def _labels(subject: Subject) -> int:
    """Classes the network tells apart."""
    example: Inputs = subject.capacity_example
    with evaluating(subject.predictor):
        return scores(subject.predictor(example)).shape[1]


def _where(subject: Subject, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Input cell [n, D] (one column of zeros where there is one cell) and label [n] of every training example."""
    places, labels = [], []
    for batch in subject.train_sample.batches():
        labels.append(batch.targets.numpy())
        one = grid.per_side == 1 or isinstance(batch.inputs, dict)
        places.append(np.zeros((len(batch.targets), 1), dtype=np.int64) if one else grid.places(batch.inputs))  # type: ignore[arg-type]
    return np.concatenate(places), np.concatenate(labels)


def _lipschitz(subject: Subject, grid: Grid, cells: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Upper end of the network's Lipschitz constant over each input cell."""
    if grid.per_side == 1 or len(cells) > MOST_LOCAL:
        whole = Grid(grid.low, grid.high, grid.coordinates, 1, grid.labels)
        return np.full(len(cells), _constant(subject, whole.box(np.zeros(grid.coordinates, dtype=np.int64), shape)))
    return np.array([_constant(subject, grid.box(cell, shape)) for cell in cells])


def _constant(subject: Subject, box: Box) -> float:
    table = local_table(subject.module, box, tolerance=0.05)
    if table.log_upper == math.inf:
        raise UnsupportedModule(f"the network has no Lipschitz constant on a cell: {table.reason}")
    return safe_exp(table.log_upper)


def _variations(subject: Subject, reach: np.ndarray, slope: float | None) -> np.ndarray:
    """Bound of ℓ(z) − ℓ(s) for each training example s [n], scores moving by at most ``reach`` in its cell."""
    if slope is None:
        safe = subject.margins > math.sqrt(2) * (1 + 1e-12) * reach
        return np.where(subject.train.losses >= 1, 0.0, np.where(safe, 0.0, 1.0))
    return np.minimum(1.0 - subject.train.losses, slope * reach)


@measure("cells", TRAINING)
def cells(subject: Subject, _: float) -> Number:
    """K, empty cells included."""
    return partitioned(subject).grid.cells


@measure("occupied_cells", TRAINING)
def occupied_cells(subject: Subject, _: float) -> Number:
    """Cells of X × Y with a training example in them."""
    return partitioned(subject).occupied


@measure("cell_variation", TRAINING)
def cell_variation(subject: Subject, _: float) -> Number:
    """Mean over the training examples of the largest increase of the loss in their cell."""
    value = partitioned(subject).variation
    return Measured(0.0, min(1.0, value * (1 + 1e-9)), Kind.EXACT)
