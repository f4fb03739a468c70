"""The same recipe trained again and again: at several sample sizes, widths and lengths of training, within a time given."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nonvacuous.core.errors import InvalidInput

__all__ = ["Cell", "Plan", "Refit", "Unit", "plan"]

FEWEST = 200
"""Examples below which the parts of the error cannot be told apart."""

LENGTHS = (0.5, 1.0, 2.0)
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
WIDTHS = (2.0, 0.5, 0.25)
STACKED = 8
"""Small networks trained at once."""


@dataclass(frozen=True, order=True)
class Cell:
    """One sample size and one width, at which every length of training is seen."""

    n: int
    width: float


@dataclass(frozen=True)
class Unit:
    """What is trained in one go: the networks of these replicates in one cell."""

    cell: Cell
    replicates: tuple[int, ...]

    @property
    def key(self) -> str:
        """A name for its file."""
        return f"n{self.cell.n}-w{self.cell.width:g}-r{self.replicates[0]}-{self.replicates[-1]}"


@dataclass(frozen=True)
class Plan:
    """What to train, most telling first.

    n: the whole sample; epochs: of the recipe, which is also seen after half and after twice as many; cells: in the order in which a
    round visits them; rounds: each a set of replicates, whose examples and seeds differ; matched: smaller samples are trained for as many
    *steps* as the whole one, so that more data and longer training are told apart; otherwise for as many epochs.
    """

    n: int
    epochs: float
    batch_size: int
    learning_rate: float
    optimizer: str
    seed: int
    cells: tuple[Cell, ...]
    rounds: tuple[tuple[int, ...], ...]
    lengths: tuple[float, ...] = LENGTHS
    matched: bool = True

    @property
    def units(self) -> list[Unit]:
        """All of it, round by round."""
        return [Unit(cell, replicates) for replicates in self.rounds for cell in self.cells]

    def steps(self, n: int, length: float) -> int:
        """Optimizer steps on n examples that make ``length`` times the recipe's training."""
        return max(1, round(length * self.epochs * (self.n if self.matched else n) / self.batch_size))

    @property
    def base(self) -> Cell:
        """The recipe as it stands: all examples, width 1."""
        return Cell(self.n, 1.0)


def plan(
    n: int,
    *,
    epochs: float = 10,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    optimizer: str = "adam",
    seed: int = 0,
    replicates: int = 8,
    adjustable: bool = True,
    small: bool = True,
) -> Plan:
    """The sizes n/8, n, n/4, n/2 at width 1, then widths 2, 1/2, 1/4 at n, then corners of the plane; as many replicates as time allows.

    adjustable: whether the network has other widths; small: whether its replicates are trained at once.

    :raises InvalidInput: fewer than 200 examples, or settings out of range.
    """
    if n < FEWEST:
        raise InvalidInput(
            f"{n} examples to train on: below {FEWEST} the refits' own luck is larger than any part of the error, so neither the"
            " parts nor the best lever can be told. `nonvacuous audit` still certifies what it can; or bring more data"
        )
    if not (0 < epochs < math.inf and batch_size >= 1 and 0 < learning_rate < math.inf and replicates >= 1):
        raise InvalidInput(
            f"epochs {epochs!r}, batch size {batch_size}, learning rate {learning_rate!r}, replicates {replicates}: give positive numbers"
        )
    sizes = sorted({max(FEWEST // 8, round(share * n)) for share in SHARES})
    cells = [Cell(size, 1.0) for size in (sizes[0], sizes[-1], *sizes[1:-1])]
    if adjustable:
        cells += [Cell(n, width) for width in WIDTHS] + [Cell(size, width) for size in sizes[-3:-1] for width in (2.0, 0.5)]
    together = min(STACKED, replicates) if small else 1
    rounds = tuple(tuple(range(i, min(i + together, replicates))) for i in range(0, replicates, together))
    return Plan(n, epochs, batch_size, learning_rate, optimizer, seed, tuple(cells), rounds)


@dataclass(frozen=True, eq=False)
class Refit:
    """One network that was trained, after one length of training.

    train_risk: mean loss on the examples it saw; losses: on each test example ``[m]``; seconds: of training up to here, its share of a
    stack's; parameters: how many it has.
    """

    cell: Cell
    length: float
    replicate: int
    train_risk: float
    losses: NDArray[np.float32] = field(repr=False)
    seconds: float
    parameters: int

    @property
    def risk(self) -> float:
        """Mean test loss."""
        return float(self.losses.mean())
