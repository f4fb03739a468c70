"""The practical levers against overfitting, side by side on real data: what each does to each part of the error, and to local slopes.

Decoupled weight decay (Loshchilov and Hutter 2019), early stopping, dropout (Srivastava et al. 2014), augmentation by shifts, snapshot
ensembles (Huang et al. 2017), batch and step size (optimization lecture), adversarial training (Madry et al. 2018; theory lecture),
and normalizers, each as one change of the same recipe on the same examples and seeds, at several sample sizes.

``python -m nonvacuous.studies.practical_levers --network dense --out results/practical_levers.csv`` writes one row a network on
Fashion-MNIST, leaves out levers that the file has already, and prints the effects; ``--network convolutional`` adds the other family.
"""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import click
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nonvacuous.core.errors import InvalidInput, NonvacuousError
from nonvacuous.measures.lipschitz import Ball, local_upper
from nonvacuous.measures.slopes import jacobian_norms
from nonvacuous.runtime.seeds import stream_seed
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.stacked_training import Member, Stack, trained_stack
from nonvacuous.runtime.tasks import Progress, progress_bar
from nonvacuous.runtime.values import Batch
from nonvacuous.studies.attacks import attacked, attacking, shifting
from nonvacuous.studies.batch_size import draw
from nonvacuous.studies.lever_effects import BASELINE, Effect, Row, effects, read
from nonvacuous.studies.lever_networks import (
    NETWORKS,
    Ensemble,
    Factory,
    batch_norm,
    dropout,
    group_norm,
    layer_norm,
)

LOOKS = 40
HELD_OUT = 0.2
RADIUS = 0.5
"""Of the Euclidean balls that attacks and local slopes are about."""
ATTACK_STEPS, TRAINING_ATTACK_STEPS = 10, 2
ATTACKED, SLOPES = 500, 10
"""Test examples that are attacked, and at which slopes are measured."""
PROVED = ("dense",)
"""Families whose local slopes are also bounded from above: for a convolutional network a proof takes seconds an example."""


@dataclass(frozen=True)
class Lever:
    """One recipe.  architecture: a name for the class of its weights; early: the weights of least loss on a held-out fifth of the examples,
    which are then not trained on; shifts: every picture moved at random by up to so many pixels; snapshots: average the predictions at
    the ends of so many cosine cycles of the step size; radius: train on inputs attacked within such a ball (0: as they are)."""

    name: str
    factory: Factory
    architecture: str = "plain"
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    early: bool = False
    shifts: int = 0
    snapshots: int = 0
    radius: float = 0.0


@dataclass(frozen=True)
class Protocol:
    """What every lever trains: ``examples`` and ``seeds`` for the effects, ``others`` with ``other_seeds`` for its learning curve."""

    examples: int = 2000
    seeds: int = 10
    epochs: float = 20
    others: tuple[int, ...] = (500, 1000, 4000)
    other_seeds: int = 4
    seed: int = 0

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(examples, seeds), the effects' first."""
        return [(self.examples, self.seeds), *((n, self.other_seeds) for n in self.others if n != self.examples)]


class _Restarts(torch.optim.AdamW):
    """AdamW whose step size falls from its own to 0 on a cosine in each cycle."""

    def __init__(self, parameters: Sequence[Tensor], lr: float, cycle: int, weight_decay: float) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay)
        self._top, self._cycle, self._done = lr, cycle, 0

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step."""
        for group in self.param_groups:
            group["lr"] = self._top * (1 + math.cos(math.pi * (self._done % self._cycle) / self._cycle)) / 2
        self._done += 1
        super().step(closure)


def levers(shape: Sequence[int], classes: int, family: str = "dense", **size: int) -> tuple[Lever, ...]:
    """The baseline, a small network by Adam, and changes of it, one each. family: of `NETWORKS`; size: what its function takes.

    Weight decay is 0.5, decoupled.  Adversarial training attacks within a ball of `RADIUS`.

    :raises InvalidInput: another family.
    """
    if family not in NETWORKS:
        raise InvalidInput(f"network {family!r}. Possible: {', '.join(NETWORKS)}")

    def network(**around: Callable[[int, int], nn.Module]) -> Factory:
        return NETWORKS[family](shape, classes, **around, **size)  # type: ignore[arg-type]

    plain = Lever(BASELINE, network())

    def normalized(name: str, by: Callable[[int, int], nn.Module]) -> Lever:
        return replace(plain, name=name, architecture=name, factory=network(before=by))

    found = [
        plain,
        replace(plain, name="weight decay", weight_decay=0.5),
        replace(plain, name="early stopping", early=True),
        replace(plain, name="dropout", factory=network(after=dropout)),
        replace(plain, name="augmentation", shifts=1),
        replace(plain, name="snapshot ensemble", architecture="ensemble", snapshots=4),
        replace(plain, name="adversarial training", radius=RADIUS),
        replace(plain, name="step size × 4", learning_rate=8e-3),
        replace(plain, name="step size / 4", learning_rate=5e-4),
        normalized("batch norm", batch_norm),
        normalized("layer norm", layer_norm),
        normalized("group norm", group_norm),
        replace(plain, name="batch × 4", batch_size=256),
        replace(plain, name="batch / 4", batch_size=16),
    ]
    return tuple(lever for lever in found if len(shape) == 3 or not lever.shifts)


@dataclass
class _Trial:
    """One lever on all seeds at one sample size."""

    lever: Lever
    family: str
    train: Batch
    test: Batch
    epochs: float
    measured: bool
    own: list[Tensor]
    snapshots: list[list[nn.Module]] = field(default_factory=list)
    best: list[tuple[float, nn.Module]] = field(default_factory=list)

    def rows(self, seeds: Sequence[int]) -> list[Row]:
        assert isinstance(self.train.inputs, Tensor)
        lever = self.lever
        share = round(HELD_OUT * len(self.own[0])) if lever.early else 0
        kept, trained = [rows[:share] for rows in self.own], [rows[share:] for rows in self.own]
        steps = max(1, lever.snapshots, round(self.epochs * len(self.own[0]) / lever.batch_size))
        cycle = steps // max(1, lever.snapshots)
        ends = [cycle * i for i in range(1, lever.snapshots + 1)] or [steps]
        looks = sorted({max(1, round(steps * i / LOOKS)) for i in range(1, LOOKS + 1)}) if lever.early else ends

        def observe(_: int, stack: Stack) -> None:
            networks = [stack.member(i) for i in range(len(seeds))]
            if lever.early:
                self._choose(networks, kept)
            else:
                self.snapshots.append(networks)

        trained_stack(
            lever.factory,
            self.train.inputs,
            self.train.targets,
            [Member(seed, rows) for seed, rows in zip(seeds, trained, strict=True)],
            steps=steps,
            batch_size=lever.batch_size,
            learning_rate=lever.learning_rate,
            optimizer=self._optimizer(cycle),
            perturbed=self._perturbed(),
            observe=observe,
            observed=looks,
        )
        if lever.early:
            ended = [network for _, network in self.best]
        else:
            columns = list(zip(*self.snapshots, strict=True))
            ended = [Ensemble(column) if lever.snapshots else column[0] for column in columns]
        return [self._row(i, network.eval()) for i, network in enumerate(ended)]

    def _optimizer(self, cycle: int) -> Callable[..., torch.optim.Optimizer]:
        decay = self.lever.weight_decay
        if self.lever.snapshots:
            return lambda parameters, lr: _Restarts(parameters, lr, cycle, decay)
        return lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr, weight_decay=decay, fused=True)

    def _perturbed(self) -> Callable[[Stack, Tensor, Tensor], Tensor] | None:
        if self.lever.radius:
            return attacking(self.lever.radius, TRAINING_ATTACK_STEPS)
        return shifting(self.lever.shifts) if self.lever.shifts else None

    def _choose(self, networks: Sequence[nn.Module], kept: Sequence[Tensor]) -> None:
        assert isinstance(self.train.inputs, Tensor)
        losses = [
            _judged(network, self.train.inputs[rows], self.train.targets[rows])[1]
            for network, rows in zip(networks, kept, strict=True)
        ]
        before = self.best or [(math.inf, network) for network in networks]
        self.best = [
            min(old, (loss, net), key=lambda pair: pair[0]) for old, loss, net in zip(before, losses, networks, strict=True)
        ]

    def _row(self, i: int, network: nn.Module) -> Row:
        assert isinstance(self.train.inputs, Tensor) and isinstance(self.test.inputs, Tensor)
        lever, rows = self.lever, self.own[i]
        train = _judged(network, self.train.inputs[rows], self.train.targets[rows])
        test = _judged(network, self.test.inputs, self.test.targets)
        if not all(map(math.isfinite, (*train, *test))):
            raise InvalidInput(f"{lever.name}: a network diverged. Lower its step size")
        row = Row(self.family, lever.name, lever.architecture, len(rows), i, train[0], test[0], train[1], test[1])
        if not self.measured:
            return row
        x, y = self.test.inputs[:ATTACKED], self.test.targets[:ATTACKED]
        moved = attacked(lambda z: cross_entropy(network(z), y, reduction="none"), x, RADIUS, ATTACK_STEPS)
        low, high = (math.nan, math.nan) if lever.snapshots else slopes(network, x[:SLOPES], self.family in PROVED)
        return replace(row, attacked_error=_judged(network, moved, y)[0], slope_lower=low, slope_upper=high)


@torch.no_grad()
def _judged(network: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Zero-one and log loss."""
    outputs = torch.cat([network(x) for x in inputs.split(1000)])
    return float((outputs.argmax(-1) != targets).double().mean()), float(cross_entropy(outputs, targets))


def slopes(network: nn.Module, inputs: Tensor, proved: bool = True, radius: float = RADIUS) -> tuple[float, float]:
    """Means over inputs of the ends of the local Lipschitz constant of the outputs on the ball around each: gradient norm, and a proof.

    The upper end is nan where no proof is asked for, or a layer has no rule for it.
    """
    low, high = float(jacobian_norms(network, inputs).mean()), math.nan
    with contextlib.suppress(NonvacuousError):
        high = sum(local_upper(network, Ball(x, radius)).upper for x in inputs) / len(inputs) if proved else high
    return low, high


def run(
    train: Batch,
    test: Batch,
    which: Sequence[Lever],
    protocol: Protocol | None = None,
    *,
    family: str = "dense",
    progress: Progress | None = None,
    finished: Callable[[Sequence[Row]], object] = lambda rows: None,
) -> list[Row]:
    """Train each lever on examples of ``train`` drawn anew for each seed but the same for every lever; all seeds train at once.

    ``finished`` is given each lever's rows.  Ctrl-C returns those that are done.

    :raises InvalidInput: no lever, fewer than 10 examples or more than there are, no epoch or seed, or a network that diverged.
    """
    protocol, n = protocol or Protocol(), len(train.targets)
    sizes = protocol.sizes
    if not which or any(not 10 <= size <= n or seeds < 1 for size, seeds in sizes) or not 0 < protocol.epochs < math.inf:
        raise InvalidInput(
            f"{', '.join(str(size) for size, _ in sizes)} of {n} examples, {protocol.epochs:g} epochs, {protocol.seeds} and"
            f" {protocol.other_seeds} seeds, {len(which)} levers: give 10 to {n} examples, and at least 1 of the others"
        )
    rows: list[Row] = []
    try:
        with (progress or Progress()).task(f"levers, {family}", len(which) * len(sizes)) as advance:
            for lever in which:
                here: list[Row] = []
                for size, count in sizes:
                    own = [stream_seed(protocol.seed, f"practical levers {i}") for i in range(count)]
                    drawn = [
                        torch.randperm(n, generator=torch.Generator().manual_seed(stream_seed(s, "examples")))[:size]
                        for s in own
                    ]
                    measured = size == protocol.examples
                    here += _Trial(lever, family, train, test, protocol.epochs, measured, drawn).rows(own)
                    advance(1)
                rows += here
                finished(here)
    except KeyboardInterrupt:
        pass
    return rows


@click.command()
@click.option("--data", default="fashion-mnist", show_default=True, help="DATA with a train and a test part: pictures.")
@click.option("--network", "families", multiple=True, type=click.Choice(list(NETWORKS)), help="Repeat it; absent: both.")
@click.option(
    "--examples", type=click.IntRange(10), default=Protocol.examples, show_default=True, help="Drawn anew for each seed."
)
@click.option(
    "--other", "others", type=click.IntRange(10), multiple=True, help="Other sizes, for curves; absent: 500 to 4000."
)
@click.option("--epochs", type=float, default=Protocol.epochs, show_default=True)
@click.option("--seeds", type=click.IntRange(3), default=Protocol.seeds, show_default=True)
@click.option(
    "--other-seeds", type=click.IntRange(1), default=Protocol.other_seeds, show_default=True, help="At the other sizes."
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="A .csv; levers it has are left out."
)
def main(
    data: str,
    families: tuple[str, ...],
    examples: int,
    others: tuple[int, ...],
    epochs: float,
    seeds: int,
    other_seeds: int,
    out: Path,
) -> None:
    """Train all levers, and print what each does to each part of the error."""
    train, test = draw(load(data, "train"), None, 0), draw(load(data, "test"), None, 0)
    assert isinstance(train.inputs, Tensor)
    shape, classes = tuple(train.inputs.shape[1:]), int(train.targets.max()) + 1
    protocol = Protocol(examples, seeds, epochs, others or Protocol().others, other_seeds)
    done = read(out) if out.exists() else []
    with progress_bar(True) as bar, out.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        if not done:
            writer.writeheader()

        def keep(rows: Sequence[Row]) -> None:
            done.extend(rows)
            for row in rows:
                writer.writerow({k: _written(v) for k, v in asdict(row).items()})
            file.flush()

        for family in families or tuple(NETWORKS):
            have = {row.lever for row in done if row.family == family}
            missing = [lever for lever in levers(shape, classes, family) if lever.name not in have]
            if missing:
                run(train, test, missing, protocol, family=family, progress=bar, finished=keep)
    for family in dict.fromkeys(row.family for row in done):
        for measure in ("error", "loss"):
            click.echo(f"\n{family}, {measure}" + f"\n{'':<21}" + "".join(f"{name:<20}" for name in HEADS))
            for effect in effects([row for row in done if row.family == family], measure):
                click.echo(told(effect))


HEADS = ("risk", "approximation", "optimization", "generalization", "attacked error", "slope, ratio")


def told(effect: Effect) -> str:
    """An effect as one line."""
    numbers = (effect.risk, effect.approximation, effect.optimization, effect.generalization, effect.attacked)
    texts = ["" if m is None else f"{m.lower:+.4f} to {m.upper:+.4f}" for m in numbers]
    texts.append("" if effect.slope is None else f"{effect.slope.lower:.2f} to {effect.slope.upper:.2f}")
    return f"{effect.lever:<21}" + "".join(f"{text:<20}" for text in texts)


def _written(value: object) -> object:
    return ("" if math.isnan(value) else f"{value:.6g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
