"""Margins drawn into a band against cross-entropy: what it does to the margins and to the test error, on real sets, over paired seeds.

Lyu, Wang and Zhou 2022 (Neural Networks; arXiv:1812.10761) report that their loss (:class:`learning.losses.MarginDistributionLoss`) lowers
λ, the standard deviation of the margins over their mean, and with it the test error, the more so for few examples.  Here a network of one
hidden layer is trained on a small part of each set with either loss.  Each loss has as many settings to choose from, and the choice is
made on examples and with seeds that are used for nothing else; then both are trained from the same initial weights on the same examples
in the same order, seed by seed.  Reported: paired differences with Student's interval.  (A smaller gap between test and training error
is no gain by itself: a loss that fits the training examples less has one, too.)

``python -m nonvacuous.studies.margin_distribution --out results/margin_distribution.csv`` writes one row a network (four minutes).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import click
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.learning.losses import MarginDistributionLoss, margin_ratio
from nonvacuous.measures.student import mean_interval
from nonvacuous.runtime.samples import ArraySample
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.stacked_training import Member, Stack, trained_stack
from nonvacuous.runtime.tasks import Progress, progress_bar

CROSS_ENTROPY, MARGIN_DISTRIBUTION = "cross-entropy", "margin distribution"
CHOICE_SEEDS = range(1000, 1003)


@dataclass(frozen=True)
class Task:
    """A set, and how much of it is used.

    Attributes:
        data: name of the set. examples: trained on, drawn anew for each seed. spare: training examples to choose settings on.
        pool: training examples to draw from, after the spare ones; all that are left for None.
    """

    data: str
    examples: int
    spare: int
    pool: int | None = None
    steps: int = 300
    width: int = 64


TASKS = (
    Task("digits", 200, 360),
    Task("breast-cancer", 100, 150),
    Task("fashion-mnist", 1000, 2000, pool=10_000),
)


@dataclass(frozen=True)
class Setting:
    """A loss and a learning rate.  mean: r of the margin-distribution loss, with θ = 0.3 r and η = 0.5; 0 for cross-entropy."""

    mean: float
    learning_rate: float

    @property
    def name(self) -> str:
        """Of the loss."""
        return MARGIN_DISTRIBUTION if self.mean else CROSS_ENTROPY

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """(outputs, targets) to the mean over the batch."""
        return MarginDistributionLoss(self.mean, 0.3 * self.mean, 0.5) if self.mean else cross_entropy


SETTINGS = (
    *(Setting(0.0, rate) for rate in (3e-4, 1e-3, 3e-3, 1e-2, 2e-2, 3e-2, 6e-2, 1e-1)),
    *(Setting(mean, rate) for mean in (1.0, 5.0) for rate in (1e-3, 3e-3, 1e-2, 3e-2)),
)


@dataclass(frozen=True)
class Row:
    """One network.  mean, learning_rate: its setting; ratios λ (∞ where the mean margin is not positive) and errors (fractions wrong)."""

    data: str
    loss: str
    mean: float
    learning_rate: float
    seed: int
    train_ratio: float
    test_ratio: float
    train_error: float
    test_error: float

    @property
    def gap(self) -> float:
        """Test error less training error."""
        return self.test_error - self.train_error


@dataclass(frozen=True)
class Effect:
    """What the margin-distribution loss changes, less cross-entropy, over paired seeds; every interval an indicator at 95 %."""

    data: str
    train_ratio: Measured
    test_ratio: Measured
    test_error: Measured
    gap: Measured


def trained(task: Task, train: ArraySample, setting: Setting, seeds: Sequence[int]) -> tuple[list[Member], Stack]:
    """One network a seed, with its own examples, order and initial weights: the same ones for every setting."""
    inputs, targets, classes = _arrays(train)
    last = len(inputs) if task.pool is None else min(len(inputs), task.spare + task.pool)
    if task.spare < 1 or task.examples < 2 or task.spare + task.examples > last:
        raise InvalidInput(
            f"{task.data}: {task.spare} spare examples and {task.examples} to train on of {last}: give at least 1 and 2, and no more"
        )
    members = []
    for seed in seeds:
        drawn = torch.randperm(last - task.spare, generator=torch.Generator().manual_seed(seed))[: task.examples]
        members.append(Member(seed, task.spare + drawn))
    width = inputs[0].numel()
    stack = trained_stack(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(width, task.width), nn.ReLU(), nn.Linear(task.width, classes)),
        inputs,
        targets,
        members,
        steps=task.steps,
        batch_size=min(64, task.examples),
        learning_rate=setting.learning_rate,
        loss=setting.loss,
    )
    return members, stack


def errors(outputs: Tensor, targets: Tensor) -> Tensor:
    """Fractions wrong, ``[members]``, of outputs ``[members, n, k]``."""
    return (outputs.argmax(-1) != targets).double().mean(1)


def chosen(
    task: Task, train: ArraySample, settings: Sequence[Setting] = SETTINGS, progress: Progress | None = None
) -> list[Setting]:
    """For each loss the setting with the fewest errors on the spare examples, by networks of seeds used for nothing else."""
    inputs, targets, _ = _arrays(train)
    best: dict[str, tuple[float, Setting]] = {}
    with (progress or Progress()).task(f"settings for {task.data}", len(settings)) as advance:
        for setting in settings:
            _, stack = trained(task, train, setting, CHOICE_SEEDS)
            wrong = float(errors(stack.outputs(inputs[: task.spare]), targets[: task.spare]).mean())
            if setting.name not in best or wrong < best[setting.name][0]:
                best[setting.name] = (wrong, setting)
            advance(1)
    return [setting for _, setting in best.values()]


def measured(task: Task, train: ArraySample, test: ArraySample, setting: Setting, seeds: Sequence[int]) -> list[Row]:
    """One row a seed."""
    inputs, targets, _ = _arrays(train)
    test_inputs, test_targets, _ = _arrays(test)
    members, stack = trained(task, train, setting, seeds)
    rows, unseen = [], stack.outputs(test_inputs)
    for place, member in enumerate(members):
        network = stack.member(place)
        with torch.no_grad():
            seen, known = network(inputs[member.rows]), targets[member.rows]
        rows.append(
            Row(
                task.data,
                setting.name,
                setting.mean,
                setting.learning_rate,
                member.seed,
                float(margin_ratio(seen, known)),
                float(margin_ratio(unseen[place], test_targets)),
                float(errors(seen[None], known)),
                float(errors(unseen[place][None], test_targets)),
            )
        )
    return rows


def effects(rows: Sequence[Row]) -> list[Effect]:
    """One a set, in the order of the rows.

    :raises InvalidInput: seeds that do not come in pairs of the two losses, or fewer than two of them.
    """
    found = []
    for data in dict.fromkeys(row.data for row in rows):
        sides = [
            {row.seed: row for row in rows if (row.data, row.loss) == (data, loss)}
            for loss in (CROSS_ENTROPY, MARGIN_DISTRIBUTION)
        ]
        if sides[0].keys() != sides[1].keys() or len(sides[0]) < 2:
            raise InvalidInput(f"{data}: give two seeds or more, each with both losses")
        pairs = [(sides[0][seed], sides[1][seed]) for seed in sorted(sides[0])]

        def interval(what: str, pairs: list[tuple[Row, Row]] = pairs) -> Measured:
            return mean_interval([getattr(after, what) - getattr(before, what) for before, after in pairs], 0.95)

        found.append(Effect(data, *(interval(what) for what in ("train_ratio", "test_ratio", "test_error", "gap"))))
    return found


def verdict(change: Measured) -> str:
    """``confirmed`` where the interval is below 0, ``refuted`` where above, else ``not confirmed``."""
    return "confirmed" if change.upper < 0 else "refuted" if change.lower > 0 else "not confirmed"


def read(path: Path) -> list[Row]:
    """Rows that :func:`main` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(**{f.name: {"str": str, "int": int, "float": float}[str(f.type)](line[f.name]) for f in fields(Row)})
            for line in csv.DictReader(file)
        ]


def _arrays(sample: ArraySample) -> tuple[Tensor, Tensor, int]:
    targets = sample.targets
    if not isinstance(sample.inputs, Tensor) or targets is None or sample.classes is None:
        raise InvalidInput("give a sample of one input tensor with classes as targets")
    return sample.inputs, targets, sample.classes


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="CSV file to write.")
@click.option("--data", "names", multiple=True, type=click.Choice([task.data for task in TASKS]), help="Sets; all without.")
@click.option("--seeds", default=16, type=click.IntRange(min=2))
def main(out: Path, names: tuple[str, ...], seeds: int) -> None:
    """One row a network; the differences are printed."""
    rows: list[Row] = []
    with progress_bar(True) as bar:
        for task in TASKS:
            if names and task.data not in names:
                continue
            train, test = (_checked(load(task.data, part)) for part in ("train", "test"))
            settings = chosen(task, train, progress=bar)
            with bar.task(f"networks for {task.data}", len(settings)) as advance:
                for setting in settings:
                    rows += measured(task, train, test, setting, range(seeds))
                    advance(1)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    for effect in effects(rows):
        for what in ("train_ratio", "test_ratio", "test_error", "gap"):
            change = getattr(effect, what)
            click.echo(f"{effect.data:<14} {what:<12} [{change.lower:+.4f}, {change.upper:+.4f}]  {verdict(change)}")


def _checked(sample: object) -> ArraySample:
    if not isinstance(sample, ArraySample):
        raise InvalidInput("the set must fit into memory")
    return sample


if __name__ == "__main__":
    main()
