"""What every method must survive: a memoriser, labels that are noise, and whoever repeats the run in search of a gap.

`METHODS` is the registry: a small setting of each method for a task small enough for many repetitions. Risks are exact: the inputs are
unit vectors of a finite domain whose labels have known probabilities, so the risk of a fixed network is a sum, not an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.stats import binom
from torch import Tensor, nn

from nonvacuous.learning.holdout import HoldOut
from nonvacuous.learning.method import Certified, Method, Task
from nonvacuous.runtime.data import Sample, as_sample

#: A setting that trains in well under a second on a hundred examples; add one line a method.
METHODS: dict[str, Method] = {"holdout": HoldOut(fraction=0.4, epochs=8, learning_rate=0.05, batch_size=32)}


@dataclass(frozen=True)
class Half(HoldOut):
    """A second method for tests of choices among methods: half of the sample is held out."""

    fraction: float = 0.5
    word: ClassVar[str] = "half"


@dataclass(frozen=True)
class Finite:
    """Inputs e_1 … e_points with equal probability; label 1 with probability ``ones[i]`` at e_i."""

    ones: Tensor

    @property
    def points(self) -> int:
        """Size of the domain."""
        return len(self.ones)

    def sample(self, n: int, seed: int) -> Sample:
        """n independent examples."""
        generator = torch.Generator().manual_seed(seed)
        where = torch.randint(self.points, (n,), generator=generator)
        labels = (torch.rand(n, generator=generator) < self.ones[where]).long()
        noise = torch.rand(n, 1, generator=generator)  # makes inputs distinct, so that a split by content sees single examples
        return as_sample((torch.cat([torch.eye(self.points)[where], noise], 1), labels), classes=2)

    def factory(self) -> nn.Module:
        """A linear classifier that reads the point and ignores the rest."""
        return Pointwise(self.points)

    def risk(self, model: nn.Module) -> float:
        """The exact risk of a fixed network that ignores the noise."""
        inputs = torch.cat([torch.eye(self.points), torch.full((self.points, 1), 0.5)], 1)
        with torch.no_grad():
            says = model(inputs).argmax(1)
        return float(torch.where(says == 1, 1 - self.ones, self.ones).mean())


class Pointwise(nn.Sequential):
    """Scores of two classes from the first ``points`` numbers of an input."""

    def __init__(self, points: int) -> None:
        super().__init__(Leading(points), nn.Linear(points, 2))


class Leading(nn.Module):
    """The first ``points`` columns."""

    def __init__(self, points: int) -> None:
        super().__init__()
        self.points = points

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.points]


def certified(method: Method, world: Finite, n: int, seed: int, delta: float) -> Certified:
    """One run on a fresh sample; the run's own seed was fixed beforehand."""
    return method.certified(Task(world.factory, world.sample(n, seed), delta=delta, seed=0))


def too_many(repetitions: int, delta: float, chance: float = 1e-4) -> int:
    """Violations so many that a method failing with probability ``delta`` shows them with probability at most ``chance``."""
    return int(binom.isf(chance, repetitions, delta)) + 1
