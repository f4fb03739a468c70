"""Double descent: test risk against features, parameters, steps and examples, with its peak where the training data can just be fitted.

Belkin, Hsu, Ma and Mandal 2019, Reconciling modern machine-learning practice and the classical bias–variance trade-off; Nakkiran et al.
2020, Deep Double Descent (epochs and examples); Belkin, Hsu and Xu 2020, Two Models of Double Descent for Weak Features (`exact_risk`).

``python -m nonvacuous.studies.double_descent --out results/double_descent.csv`` trains the small networks on noisy digits.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import click
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.seeds import stream_seed
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.stacked_training import Member, Stack, trained_stack
from nonvacuous.runtime.tasks import Progress, progress_bar
from nonvacuous.studies.batch_size import draw


@dataclass(frozen=True)
class Point:
    """One fit.  size: features or parameters; steps: of training, 0 for least squares; risks: mean of ‖output − target‖²."""

    size: int
    examples: int
    outputs: int
    steps: int
    seed: int
    train_risk: float
    test_risk: float

    @property
    def ratio(self) -> float:
        """Features against examples, parameters against numbers to fit: size / n, or size / (n k) for a network."""
        return self.size / (self.examples * (self.outputs if self.steps else 1))


class Regression(NamedTuple):
    """Inputs ``[n, d]`` and targets ``[n, k]``, and the same for the test."""

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor

    def checked(self) -> Regression:
        """Itself.

        :raises InvalidInput: shapes that do not agree, no example, or numbers that are not finite.
        """
        for x, y in ((self.inputs, self.targets), (self.test_inputs, self.test_targets)):
            if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
                raise InvalidInput(f"inputs {tuple(x.shape)} and targets {tuple(y.shape)}: give [n, d] and [n, k] with n ≥ 1")
            if not (x.isfinite().all() and y.isfinite().all()):
                raise InvalidInput("inputs or targets hold NaN or infinity. Remove those examples")
        if self.inputs.shape[1] != self.test_inputs.shape[1] or self.targets.shape[1] != self.test_targets.shape[1]:
            raise InvalidInput("training and test data have different numbers of inputs or targets")
        return self

    def first(self, n: int) -> Regression:
        """Trained on the first ``n`` examples only."""
        if not 1 <= n <= len(self.inputs):
            raise InvalidInput(f"{n} of {len(self.inputs)} examples: give 1 to {len(self.inputs)}")
        return self._replace(inputs=self.inputs[:n], targets=self.targets[:n])


def exact_risk(inside: float, outside: float, noise: float, n: int, p: int) -> float:
    """E (y − x·β̂)² of least squares of least norm on ``p`` of the features of y = x·β + ε, x standard Gaussian, from n examples.

    Belkin, Hsu and Xu 2020, Theorem 1.  ``inside``: ‖β‖² of the p used; ``outside``: of the others; ``noise``: variance of ε.
    Infinite for n − 1 ≤ p ≤ n + 1 (unless nothing is outside and there is no noise, which is refused there).
    """
    if min(inside, outside, noise) < 0 or not math.isfinite(inside + outside + noise) or n < 1 or p < 0:
        raise InvalidInput("squared norms and noise are finite and at least 0, n at least 1, p at least 0")
    rest = outside + noise
    if p <= n - 2:
        return rest * (1 + p / (n - p - 1))
    if p >= n + 2:
        return inside * (1 - n / p) + rest * (1 + n / (p - n - 1))
    if not rest:
        raise InvalidInput(f"p = {p} beside n = {n} without noise: the theorem does not say. Take p ≤ n − 2 or p ≥ n + 2")
    return math.inf


def least_norm(features: Tensor, targets: Tensor) -> Tensor:
    """Weights ``[p, k]`` of least norm among those of least squared error, from features ``[n, p]`` in float64."""
    return torch.linalg.lstsq(features.double(), targets.double(), driver="gelsd").solution


def random_relu(inputs: Tensor, features: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A map ``[m, d]`` → ``[m, features]``: ReLU of random directions, scaled by the root mean square of ‖inputs‖."""
    scale = float(inputs.double().square().sum(1).mean().sqrt()) or 1.0
    directions = torch.randn(inputs.shape[1], features, generator=generator, dtype=torch.float64) / scale
    offsets = torch.randn(features, generator=generator, dtype=torch.float64)
    return lambda x: (x.double() @ directions + offsets).relu()


def random_features(
    data: Regression, features: Sequence[int], *, seeds: int = 5, seed: int = 0, progress: Progress | None = None
) -> tuple[Point, ...]:
    """Least squares of least norm on random ReLU features, at each number of features."""
    data.checked()
    if not features or min(features) < 1 or seeds < 1:
        raise InvalidInput("give at least one number of features, each at least 1, and at least one seed")
    points = []
    with (progress or Progress()).task("random features", len(features)) as advance:
        for size in features:
            for i in range(seeds):
                generator = torch.Generator().manual_seed(stream_seed(seed, f"random features {i}"))
                lifted = random_relu(data.inputs, size, generator)
                weights = least_norm(lifted(data.inputs), data.targets)
                train, test = (
                    float((lifted(x) @ weights - y).square().sum(1).mean())
                    for x, y in ((data.inputs, data.targets), (data.test_inputs, data.test_targets))
                )
                points.append(Point(size, len(data.inputs), data.targets.shape[1], 0, i, train, test))
            advance(1)
    return tuple(points)


def by_samples(
    data: Regression, features: int, examples: Sequence[int], *, seeds: int = 5, seed: int = 0
) -> tuple[Point, ...]:
    """The same number of random features from the first n examples, for each n: more data can hurt."""
    return tuple(point for n in examples for point in random_features(data.first(n), [features], seeds=seeds, seed=seed))


def two_layers(inputs: int, hidden: int, outputs: int) -> nn.Module:
    """``inputs·hidden + hidden + hidden·outputs + outputs`` parameters, ReLU between."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def networks(
    data: Regression,
    hidden: Sequence[int],
    *,
    steps: Sequence[int],
    seeds: int = 3,
    seed: int = 0,
    learning_rate: float = 1e-2,
    progress: Progress | None = None,
    finished: Callable[[Sequence[Point]], object] = lambda points: None,
) -> tuple[Point, ...]:
    """Two-layer ReLU networks by Adam on all examples at once, squared loss, measured after each number of ``steps``.

    ``finished`` is given the points of each width as it is done.  Ctrl-C returns those that are done.

    :raises InvalidInput: no width, no step, or steps below 1.
    """
    data = Regression(*(x.float() for x in data)).checked()
    if not hidden or min(hidden) < 1 or not steps or min(steps) < 1 or seeds < 1:
        raise InvalidInput("give widths and steps, each at least 1, and at least one seed")
    n, d = data.inputs.shape
    k = data.targets.shape[1]
    members = [Member(stream_seed(seed, f"network {i}"), torch.arange(n)) for i in range(seeds)]
    points: list[Point] = []
    try:
        with (progress or Progress()).task("networks", len(hidden)) as advance:
            for width in hidden:
                size = width * (d + 1 + k) + k
                here: list[Point] = []

                def observe(step: int, stack: Stack, size: int = size, here: list[Point] = here) -> None:
                    answers = (stack.outputs(data.inputs), stack.outputs(data.test_inputs))
                    train, test = (
                        (a - y).square().sum(-1).mean(1).tolist()
                        for a, y in zip(answers, (data.targets, data.test_targets), strict=True)
                    )
                    here += [Point(size, n, k, step, i, train[i], test[i]) for i in range(seeds)]

                trained_stack(
                    lambda width=width: two_layers(d, width, k),  # type: ignore[misc]
                    data.inputs,
                    data.targets,
                    members,
                    steps=max(steps),
                    batch_size=n,
                    learning_rate=learning_rate,
                    loss=lambda outputs, y: (outputs - y).square().sum(-1).mean(),
                    observe=observe,
                    observed=steps,
                )
                points += here
                finished(here)
                advance(1)
    except KeyboardInterrupt:
        pass
    return tuple(points)


def peak(points: Sequence[Point], by: Callable[[Point], float] = lambda point: point.ratio) -> float:
    """``by`` of the points whose mean test risk over seeds is largest.

    :raises InvalidInput: no points.
    """
    if not points:
        raise InvalidInput("no points: nothing has a peak")
    groups: dict[float, list[float]] = {}
    for point in points:
        groups.setdefault(by(point), []).append(point.test_risk)
    return max(groups, key=lambda place: sum(groups[place]) / len(groups[place]))


def noisy_digits(n: int, noise: float, seed: int = 0) -> Regression:
    """Handwritten digits as regression on one-hot targets; training labels replaced by uniform ones with probability ``noise``.

    Inputs are centred by the training mean and scaled to a mean ‖x‖² of d.
    """
    if not 0 <= noise <= 1:
        raise InvalidInput(f"noise {noise!r}: it is the share of labels drawn anew, from 0 to 1")
    train, test = draw(load("digits"), n, seed), draw(load("digits", "test"), None, seed)
    assert isinstance(train.inputs, Tensor) and isinstance(test.inputs, Tensor)
    generator = torch.Generator().manual_seed(stream_seed(seed, "label noise"))
    drawn = torch.randint(10, (len(train.targets),), generator=generator)
    labels = torch.where(torch.rand(len(train.targets), generator=generator) < noise, drawn, train.targets)
    x, t = train.inputs.flatten(1), test.inputs.flatten(1)
    mean, scale = x.mean(0), (x - x.mean(0)).square().mean().sqrt()
    targets, tested = (one_hot(y, 10).to(x.dtype) for y in (labels, test.targets))
    return Regression((x - mean) / scale, targets, (t - mean) / scale, tested)


def read(path: Path) -> list[Point]:
    """The points that a file holds."""
    with path.open(newline="", encoding="utf-8") as file:
        kinds = {f.name: float if f.type == "float" else int for f in fields(Point)}
        return [Point(**{name: kind(row[name]) for name, kind in kinds.items()}) for row in csv.DictReader(file)]  # type: ignore[arg-type]


@click.command()
@click.option("--examples", type=click.IntRange(10), default=50, show_default=True)
@click.option("--noise", type=float, default=0.2, show_default=True)
@click.option("--hidden", default="1,2,4,6,7,8,10,12,16,24,48,96,192", show_default=True, help="Widths, by commas.")
@click.option("--steps", default="30,60,125,250,500,1000,2000", show_default=True, help="When to measure, by commas.")
@click.option("--seeds", type=click.IntRange(1), default=4, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="A .csv; widths it has are left out."
)
def main(examples: int, noise: float, hidden: str, steps: str, seeds: int, out: Path) -> None:
    """Train small networks of each width on noisy digits; say where the test risk peaks."""
    done = read(out) if out.exists() else []
    data = noisy_digits(examples, noise)
    sizes = {width * (data.inputs.shape[1] + 11) + 10: width for width in map(int, hidden.split(","))}
    missing = [width for size, width in sizes.items() if size not in {p.size for p in done}]
    with progress_bar(True) as bar, out.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Point)], lineterminator="\n")
        if not done:
            writer.writeheader()

        def keep(points: Sequence[Point]) -> None:
            done.extend(points)
            for p in points:
                row = asdict(p) | {"train_risk": f"{p.train_risk:.6g}", "test_risk": f"{p.test_risk:.6g}"}
                writer.writerow(row)
            file.flush()

        if missing:
            looks = [int(step) for step in steps.split(",")]
            networks(data, missing, steps=looks, seeds=seeds, progress=bar, finished=keep)
    last = max(p.steps for p in done)
    click.echo(f"peak at {peak([p for p in done if p.steps == last]):.2f} parameters for each number to fit")


if __name__ == "__main__":
    main()
