"""What every method must survive: a memoriser, labels that are noise, and whoever repeats the run in search of a gap.

`METHODS` is the registry: a small setting of each method for a task small enough for many repetitions. Risks are exact: the inputs are
unit vectors of a finite domain whose labels have known probabilities, so the risk of a network, drawn afresh or fixed, is a sum of chances,
not an estimate (`SLACK` covers the grid of the number that makes inputs distinct).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import singledispatch
from typing import ClassVar

import torch
from scipy.stats import binom
from torch import Tensor, nn

from nonvacuous.learning.auto import Auto
from nonvacuous.learning.compression import Compression
from nonvacuous.learning.data_dependent import DataDependent
from nonvacuous.learning.deep_pac_bayes import DeepPacBayes
from nonvacuous.learning.disintegrated import Disintegrated
from nonvacuous.learning.holdout import HoldOut
from nonvacuous.learning.linear_head import GibbsLinear
from nonvacuous.learning.method import Certified, Method, Task
from nonvacuous.learning.pac_bayes import PacBayes
from nonvacuous.learning.plain import plainly_trained
from nonvacuous.learning.sample_compression import SampleCompression
from nonvacuous.learning.shallow import Shallow
from nonvacuous.learning.stochastic import StochasticNetwork
from nonvacuous.learning.surrogate import Surrogate
from nonvacuous.learning.trained_features import GibbsOnNetwork
from nonvacuous.learning.transfer import Transfer
from nonvacuous.runtime.data import Sample, as_sample

HEAD = {"alternatives": 1, "directions": 10, "epochs": 60, "batch_size": 200, "learning_rate": 0.1}

#: A setting that trains in well under a second on `examples` of them; add one line a method.
METHODS: dict[str, Method] = {
    "holdout": HoldOut(fraction=0.4, epochs=8, learning_rate=0.05, batch_size=32),
    "pac-bayes": PacBayes(**HEAD),  # type: ignore[arg-type]
    "disintegrated": Disintegrated(**HEAD),  # type: ignore[arg-type]
    "pac-bayes-deep": DeepPacBayes(plain_epochs=5, epochs=25, batch_size=200, learning_rate=0.05, draws=50),
    "sample-compression": SampleCompression(start=10, least=8, rounds=3, epochs=20, batch_size=16, learning_rate=0.05),
    "compression": Compression(dimension=24, epochs=150, batch_size=200, active=0.5, price=1.0),
    "data-dependent": DataDependent(prior_fraction=0.5, epochs=8, learning_rate=0.05, batch_size=32, posterior_epochs=5),
    "surrogate": Surrogate(members=2, fraction=0.5, epochs=8, learning_rate=0.05, batch_size=32),
    "transfer": Transfer(
        dimension=24, epochs=150, batch_size=200, active=0.5, price=1.0, source_epochs=5, source_learning_rate=0.05
    ),
    "shallow": Shallow(width=100, scale=3.0, epochs=30, batch_size=200, draws=20, learning_rate=0.02),
}


@dataclass(frozen=True)
class SmallAuto(Auto):
    """The choice among methods in their small settings."""

    candidates: tuple[str, ...] = ("holdout", "pac-bayes", "sample-compression")
    weights: tuple[float, ...] = (0.5, 0.4, 0.1)

    def candidate(self, word: str) -> Method:
        return METHODS[word]


METHODS["auto"] = SmallAuto()

GRID = 500
SLACK = 1 / GRID
"""A network's answer at one point changes with the further number once or twice: the grid errs by less than this."""


def examples(method: Method) -> int:
    """A sample size at which the method's certificate says something: the shallow network's theorem loses the largest factor."""
    return 2000 if isinstance(method, Shallow) else 200


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
        """A linear classifier."""
        return nn.Sequential(nn.Linear(self.points + 1, 2))

    def risk(self, model: nn.Module) -> float:
        """The risk of a network, to within `SLACK`: the mean over the points and a fine grid of the further number."""
        further = (torch.arange(GRID) + 0.5) / GRID
        inputs = torch.cat([torch.eye(self.points).repeat_interleave(GRID, 0), further.repeat(self.points)[:, None]], 1)
        with torch.no_grad():
            one = chance_of_one(model, inputs).double()
        ones = self.ones.double().repeat_interleave(GRID)
        return float((one * (1 - ones) + (1 - one) * ones).mean())


@singledispatch
def chance_of_one(model: nn.Module, inputs: Tensor) -> Tensor:
    """The chance that the predictor says 1, for each input: 0 or 1 for a fixed network."""
    return (model(inputs).argmax(1) == 1).double()


@chance_of_one.register
def _(model: GibbsLinear, inputs: Tensor) -> Tensor:
    mean, std = model.head.law(model.features(inputs))
    return torch.special.ndtr((mean[:, 1] - mean[:, 0]) / std.square().sum(1).sqrt())


@chance_of_one.register
def _(model: StochasticNetwork, inputs: Tensor) -> Tensor:
    """For one layer: its outputs V·N(m, s²) differ by a Gaussian."""
    (layer,) = model.gaussian()
    coordinates = layer.coordinates(inputs)
    mean, variance = coordinates @ layer.rotated_mean.T, coordinates.square() @ (2 * layer.log_std).exp().T
    out = torch.eye(2) if layer.basis_out is None else layer.basis_out
    apart = out[1] - out[0]
    return torch.special.ndtr((mean @ apart) / (variance @ apart.square()).sqrt())


@chance_of_one.register
def _(model: GibbsOnNetwork, inputs: Tensor) -> Tensor:
    mean, std = model.law(model.features(inputs))
    return torch.special.ndtr((mean[:, 1] - mean[:, 0]) / std.square().sum(1).sqrt())


def certified(method: Method, world: Finite, n: int, seed: int, delta: float) -> Certified:
    """One run on a fresh sample; the run's own seed was fixed beforehand.

    The network to be certified as it is has learnt all labels by heart as well as it can; the source has other labels for every input.
    """
    task = Task(world.factory, world.sample(n, seed), delta=delta, seed=0)
    if isinstance(method, Surrogate):
        trained = plainly_trained(task, task.train, purpose="all labels", epochs=40, learning_rate=0.05, batch_size=32).model
        task = replace(task, model=trained, unlabelled=world.sample(n, seed + 10**6))
    if isinstance(method, Transfer):
        task = replace(task, source=Finite(1 - world.ones).sample(n, seed + 10**6))
    return method.certified(task)


def too_many(repetitions: int, delta: float, chance: float = 1e-4) -> int:
    """Violations so many that a method failing with probability ``delta`` shows them with probability at most ``chance``."""
    return int(binom.isf(chance, repetitions, delta)) + 1
