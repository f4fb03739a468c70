"""Bias and variance by capacity on 1-D regression with heteroscedastic noise: trees, polynomials and MLPs (optimization lecture).

The distribution is known, so risk = noise + bias² + variance is split without a test sample, from refits on samples of their own; all
families and capacities see the same samples, so their differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.measures.student import mean_interval
from nonvacuous.runtime.models import mlp
from nonvacuous.runtime.seeds import stream_seed
from nonvacuous.runtime.stacked_training import Member, trained_stack
from nonvacuous.runtime.tasks import Progress

Array = NDArray[np.float64]
GRID = 500
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Problem:
    """y = mean(x) + deviation(x)·ε for x uniform on [−1, 1] and ε standard Gaussian; both functions map ``[m]`` to ``[m]``."""

    mean: Callable[[Array], Array]
    deviation: Callable[[Array], Array]

    def draw(self, refits: int, n: int, seed: int) -> tuple[Array, Array]:
        """Inputs and targets ``[refits, n]``."""
        generator = np.random.default_rng(stream_seed(seed, "heteroscedastic regression"))
        x = generator.uniform(-1, 1, (refits, n))
        flat = x.ravel()
        y = self.mean(flat) + self.deviation(flat) * generator.normal(size=flat.shape)
        if not np.isfinite(y).all():
            raise InvalidInput("the problem's mean or deviation is not finite on [−1, 1]. Give functions that are")
        return x, y.reshape(x.shape)


def heteroscedastic() -> Problem:
    """A sine of one and a half periods, whose noise grows from 0.05 on the left to 0.65 on the right."""
    return Problem(lambda x: np.sin(1.5 * np.pi * x), lambda x: 0.35 + 0.3 * x)


class Family(Protocol):
    """Models of growing capacity."""

    @property
    def name(self) -> str:
        """How figures call it."""
        ...

    def answers(self, x: Array, y: Array, at: Array, capacity: int, seed: int) -> Array:
        """Predictions ``[refits, m]`` at ``at`` [m] of models fitted to each row of ``x``, ``y`` [refits, n]."""
        ...


@dataclass(frozen=True)
class Trees:
    """One decision tree; capacity: its leaves."""

    name: str = "decision tree"

    def answers(self, x: Array, y: Array, at: Array, capacity: int, seed: int) -> Array:
        """As `Family.answers`."""
        from sklearn.tree import DecisionTreeRegressor

        grow = (
            (lambda: DecisionTreeRegressor(max_leaf_nodes=capacity, random_state=seed % 2**32))
            if capacity > 1
            else (lambda: DecisionTreeRegressor(max_depth=1, min_samples_leaf=x.shape[1]))
        )
        return np.stack([grow().fit(a[:, None], b).predict(at[:, None]) for a, b in zip(x, y, strict=True)])


@dataclass(frozen=True)
class Polynomials:
    """Least squares; capacity: the degree."""

    name: str = "polynomial"

    def answers(self, x: Array, y: Array, at: Array, capacity: int, seed: int) -> Array:
        """As `Family.answers`."""
        from sklearn.linear_model import LinearRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import PolynomialFeatures

        return np.stack(
            [
                make_pipeline(PolynomialFeatures(capacity), LinearRegression()).fit(a[:, None], b).predict(at[:, None])
                for a, b in zip(x, y, strict=True)
            ]
        )


@dataclass(frozen=True)
class Networks:
    """One hidden layer of ReLU, no regularization, Adam on all examples at once; capacity: hidden units.  All refits train together.

    The step size is ``learning_rate`` up to ``reference`` units and falls with 1/width beyond: a step of Adam moves every weight by
    about its step size, so at one step size a wider network's outputs move further (Yang and Hu 2021).  ``reference=None`` keeps it.
    """

    steps: int = 2000
    learning_rate: float = 1e-2
    reference: int | None = 16
    name: str = "1-hidden-layer MLP"

    def rate(self, width: int) -> float:
        """The step size at a width."""
        return self.learning_rate if self.reference is None else self.learning_rate * min(1.0, self.reference / width)

    def answers(self, x: Array, y: Array, at: Array, capacity: int, seed: int) -> Array:
        """As `Family.answers`.

        :raises InvalidInput: a loss that became infinite.
        """
        refits, n = x.shape
        stack = trained_stack(
            lambda: mlp(1, capacity, 1),
            torch.tensor(x.ravel(), dtype=torch.float32)[:, None],
            torch.tensor(y.ravel(), dtype=torch.float32)[:, None],
            [Member(stream_seed(seed, f"network {i}"), torch.arange(i * n, (i + 1) * n)) for i in range(refits)],
            steps=self.steps,
            batch_size=n,
            learning_rate=self.rate(capacity),
            loss=lambda outputs, targets: (outputs - targets).square().mean(),
        )
        found: Array = stack.outputs(torch.tensor(at, dtype=torch.float32)[:, None])[..., 0].double().numpy()
        if not np.isfinite(found).all():
            raise InvalidInput(f"a network of {capacity} units diverged at learning rate {self.rate(capacity):g}. Lower it")
        return found


@dataclass(frozen=True, eq=False)
class Split:
    """One capacity.  risk = noise + bias + variance (means over x); ``risks`` [refits]: of each refit; ``answers`` [refits, m] at ``at``.

    noise: E deviation².  bias: squared, of the mean refit, less the share of the variance that a mean of so few refits still has (so its
    expectation is right, and it may come out below 0).  variance: between refits.
    """

    capacity: int
    noise: float
    bias: float
    variance: float
    risks: Array
    at: Array
    answers: Array

    @property
    def risk(self) -> float:
        """Mean over refits; equal to the sum of the parts."""
        return float(self.risks.mean())


def split(problem: Problem, answers: Array, at: Array, capacity: int) -> Split:
    """Noise, bias and variance from predictions ``[refits, m]`` at ``at`` [m], points that stand for the distribution of x.

    :raises InvalidInput: fewer than two refits, or shapes that do not agree.
    """
    if answers.ndim != 2 or len(answers) < 2 or answers.shape[1] != len(at):
        raise InvalidInput(f"answers {answers.shape} at {at.shape}: give [refits, m] and [m], with at least two refits")
    truth, noise = problem.mean(at), float(np.mean(problem.deviation(at) ** 2))
    variance = float(answers.var(0, ddof=1).mean())
    bias = float(((answers.mean(0) - truth) ** 2).mean()) - variance / len(answers)
    return Split(capacity, noise, bias, variance, ((answers - truth) ** 2).mean(1) + noise, at, answers)


def capacity_curve(
    family: Family,
    capacities: Sequence[int],
    *,
    problem: Problem | None = None,
    n: int = 40,
    refits: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Split, ...]:
    """The split of the risk at each capacity, from ``refits`` models on ``n`` examples each.

    :raises InvalidInput: no capacity or one below 1, fewer than 2 refits, no example.
    """
    if not capacities or min(capacities) < 1 or refits < 2 or n < 1:
        raise InvalidInput("give capacities of at least 1, at least 2 refits, and at least one example")
    problem = problem or heteroscedastic()
    x, y = problem.draw(refits, n, seed)
    at = -1 + (2 * np.arange(GRID) + 1) / GRID
    found = []
    with (progress or Progress()).task(family.name, len(capacities)) as advance:
        for capacity in capacities:
            found.append(split(problem, family.answers(x, y, at, capacity, seed), at, capacity))
            advance(1)
    return tuple(found)


def rise(curve: Sequence[Split]) -> Measured:
    """Mean rise of the risk from its least over capacities to the largest capacity, relative to the least; 95 % over refits.

    Student's interval of paired differences.  The least is chosen by the same refits, which makes the rise look larger, never smaller.

    :raises InvalidInput: fewer than two capacities.
    """
    if len(curve) < 2:
        raise InvalidInput("a rise needs at least two capacities")
    last = max(curve, key=lambda split: split.capacity)
    best = min(curve, key=lambda split: split.risk)
    gaps = (last.risks - best.risks) / best.risk
    return mean_interval(gaps, CONFIDENCE)
