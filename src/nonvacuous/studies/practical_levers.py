"""The practical levers against overfitting, side by side on real data (optimization lecture): what each does to training and test risk.

Decoupled weight decay (Loshchilov and Hutter 2019), early stopping, dropout (Srivastava et al. 2014), augmentation by shifts, snapshot
ensembles (Huang et al. 2017), batch and step size, and normalizers, each as one change of the same recipe, on the same examples and seeds.

``python -m nonvacuous.studies.practical_levers --out results/practical_levers.csv`` writes one row a network and prints the effects.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import click
import torch
from torch import Tensor, nn
from torch.nn.functional import nll_loss

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.measures.student import mean_interval
from nonvacuous.runtime.models import mlp
from nonvacuous.runtime.seeds import stream_seed
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.stacked_training import Member, Stack, trained_stack
from nonvacuous.runtime.tasks import Progress, progress_bar
from nonvacuous.runtime.values import Batch
from nonvacuous.studies.batch_size import draw

CONFIDENCE = 0.95
BASELINE = "baseline"
LOOKS = 40
HELD_OUT = 0.2


@dataclass(frozen=True)
class Lever:
    """One recipe.  early: the step of least loss on a held-out fifth of the examples, which are then not trained on; shifts: every example
    also moved by up to so many pixels; snapshots: average the predictions at the ends of so many cosine cycles of the step size."""

    name: str
    factory: Callable[[], nn.Module]
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    early: bool = False
    shifts: int = 0
    snapshots: int = 0


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


def levers(pixels: int, classes: int, hidden: int = 64) -> tuple[Lever, ...]:
    """The baseline, a dense network of two hidden layers by Adam, and eleven changes of it."""

    def network(*after: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            layers: list[nn.Module] = [nn.Flatten()]
            for fan_in in (pixels, hidden):
                layers += [nn.Linear(fan_in, hidden), *(one() for one in after)]
            return nn.Sequential(*layers, nn.Linear(hidden, classes))

        return make

    plain = Lever(BASELINE, lambda: mlp(pixels, hidden, hidden, classes))
    return (
        plain,
        replace(plain, name="weight decay", weight_decay=1.0),
        replace(plain, name="early stopping", early=True),
        replace(plain, name="dropout", factory=network(nn.ReLU, lambda: nn.Dropout(0.3))),
        replace(plain, name="augmentation", shifts=1),
        replace(plain, name="snapshot ensemble", snapshots=4),
        replace(plain, name="batch / 4", batch_size=8),
        replace(plain, name="batch × 4", batch_size=128),
        replace(plain, name="step size × 4", learning_rate=8e-3),
        replace(plain, name="step size / 4", learning_rate=5e-4),
        replace(plain, name="layer norm", factory=network(lambda: nn.LayerNorm(hidden), nn.ReLU)),
        replace(plain, name="group norm", factory=network(lambda: nn.GroupNorm(8, hidden), nn.ReLU)),
    )


@dataclass(frozen=True)
class Row:
    """One network: zero-one and log loss on its own training examples (before augmentation) and on the test."""

    lever: str
    seed: int
    train_error: float
    test_error: float
    train_loss: float
    test_loss: float


@dataclass
class _Trial:
    """One lever on all seeds."""

    lever: Lever
    train: Batch
    test: Batch
    steps: int
    own: list[Tensor]
    kept: list[Tensor] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    chosen: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def rows(self, seeds: Sequence[int]) -> list[Row]:
        assert isinstance(self.train.inputs, Tensor) and isinstance(self.test.inputs, Tensor)
        lever, n = self.lever, len(self.train.targets)
        copies = _shifted(self.train.inputs, lever.shifts)
        share = round(HELD_OUT * len(self.own[0])) if lever.early else 0
        self.kept = [rows[:share] for rows in self.own]
        trained = [torch.cat([rows[share:] + n * c for c in range(len(copies))]) for rows in self.own]
        cycle = max(1, self.steps // max(1, lever.snapshots))
        ends = [cycle * i for i in range(1, lever.snapshots + 1)] or [self.steps]
        looks = sorted({max(1, round(self.steps * i / LOOKS)) for i in range(1, LOOKS + 1)}) if lever.early else ends
        sums: list[tuple[Tensor, Tensor]] = []

        def observe(step: int, stack: Stack) -> None:
            both = (stack.outputs(self.train.inputs).softmax(-1), stack.outputs(self.test.inputs).softmax(-1))  # type: ignore[arg-type]
            if lever.early:
                self._choose(both)
            else:
                sums.append(both)

        trained_stack(
            lever.factory,
            torch.cat(copies),
            self.train.targets.repeat(len(copies)),
            [Member(seed, rows) for seed, rows in zip(seeds, trained, strict=True)],
            steps=self.steps,
            batch_size=lever.batch_size,
            learning_rate=lever.learning_rate,
            optimizer=self._optimizer(cycle),
            observe=observe,
            observed=looks,
        )
        if lever.early:
            ended = self.chosen
        else:
            means = [torch.stack([pair[part] for pair in sums]).mean(0) for part in (0, 1)]
            ended = list(zip(*means, strict=True))
        return [self._row(i, *pair) for i, pair in enumerate(ended)]

    def _optimizer(self, cycle: int) -> Callable[..., torch.optim.Optimizer]:
        decay = self.lever.weight_decay
        if self.lever.snapshots:
            return lambda parameters, lr: _Restarts(parameters, lr, cycle, decay)
        return lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr, weight_decay=decay)

    def _choose(self, both: tuple[Tensor, Tensor]) -> None:
        losses = [float(_log_loss(both[0][i][rows], self.train.targets[rows])) for i, rows in enumerate(self.kept)]
        if not self.best:
            self.best, self.chosen = [math.inf] * len(losses), [(both[0][i], both[1][i]) for i in range(len(losses))]
        for i, loss in enumerate(losses):
            if loss < self.best[i]:
                self.best[i], self.chosen[i] = loss, (both[0][i], both[1][i])

    def _row(self, i: int, train: Tensor, test: Tensor) -> Row:
        mine = train[self.own[i]], self.train.targets[self.own[i]]
        if not bool(train.isfinite().all()):
            raise InvalidInput(f"{self.lever.name}: a network diverged. Lower its step size")
        errors = [float((p.argmax(-1) != y).double().mean()) for p, y in (mine, (test, self.test.targets))]
        losses = [float(_log_loss(p, y)) for p, y in (mine, (test, self.test.targets))]
        return Row(self.lever.name, i, *errors, *losses)


def _log_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    return nll_loss(probabilities.clamp_min(1e-12).log(), labels)


def _shifted(x: Tensor, by: int) -> list[Tensor]:
    """The pictures ``[n, c, h, w]`` moved by every offset up to ``by``, edges filled with 0; the first as they are."""
    if not by:
        return [x]
    if x.ndim != 4:
        raise InvalidInput(f"inputs of shape {tuple(x.shape)}: only pictures [n, c, h, w] can be shifted")
    padded = nn.functional.pad(x, (by, by, by, by))
    height, width = x.shape[2:]
    offsets = sorted(
        ((a, b) for a in range(2 * by + 1) for b in range(2 * by + 1)), key=lambda o: abs(o[0] - by) + abs(o[1] - by)
    )
    return [padded[:, :, a : a + height, b : b + width] for a, b in offsets]


def run(
    train: Batch,
    test: Batch,
    which: Sequence[Lever],
    *,
    examples: int = 200,
    steps: int = 1000,
    seeds: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
    finished: Callable[[Sequence[Row]], object] = lambda rows: None,
) -> list[Row]:
    """Train each lever on ``examples`` of ``train``, drawn anew for each seed but the same for every lever; all seeds train at once.

    ``finished`` is given each lever's rows.  Ctrl-C returns those that are done.

    :raises InvalidInput: no lever, fewer than 10 examples or more than there are, no step or seed, or a network that diverged.
    """
    n = len(train.targets)
    if not which or not 10 <= examples <= n or steps < 1 or seeds < 1:
        raise InvalidInput(
            f"{examples} of {n} examples, {steps} steps, {seeds} seeds, {len(which)} levers: give 10 to {n}, and at least 1"
        )
    own = [stream_seed(seed, f"practical levers {i}") for i in range(seeds)]
    drawn = [torch.randperm(n, generator=torch.Generator().manual_seed(stream_seed(s, "examples")))[:examples] for s in own]
    rows: list[Row] = []
    try:
        with (progress or Progress()).task("levers", len(which)) as advance:
            for lever in which:
                here = _Trial(lever, train, test, steps, drawn).rows(own)
                rows += here
                finished(here)
                advance(1)
    except KeyboardInterrupt:
        pass
    return rows


@dataclass(frozen=True)
class Effect:
    """A lever less the baseline, in mean over seeds: training risk, test risk, and test − training."""

    lever: str
    train: Measured
    test: Measured
    gap: Measured


def effects(rows: Sequence[Row], measure: str = "error") -> list[Effect]:
    """Of ``error`` or ``loss``: Student's intervals of differences paired by seed, which hold for all levers and parts at once with 95 %.

    The intervals are over seeds (examples and weights), on one test sample: indicators.

    :raises InvalidInput: another measure, no baseline, or fewer than three common seeds.
    """
    if measure not in ("error", "loss"):
        raise InvalidInput(f"measure {measure!r}: error or loss")
    base = {row.seed: row for row in rows if row.lever == BASELINE}
    names = [name for name in dict.fromkeys(row.lever for row in rows) if name != BASELINE]
    found = []
    for name in names:
        pairs = [(row, base[row.seed]) for row in rows if row.lever == name and row.seed in base]
        if len(pairs) < 3:
            raise InvalidInput(f"{name}: {len(pairs)} seeds in common with the baseline; an interval needs three. Run more")
        train, test = (
            torch.tensor([getattr(a, f"{part}_{measure}") - getattr(b, f"{part}_{measure}") for a, b in pairs]).double()
            for part in ("train", "test")
        )
        parts = [mean_interval(x, CONFIDENCE, 3 * len(names)) for x in (train, test, test - train)]
        found.append(Effect(name, *parts))
    return found


def read(path: Path) -> list[Row]:
    """The rows that a file holds."""
    kinds: dict[str, Callable[[str], object]] = {"str": str, "int": int, "float": float}
    with path.open(newline="", encoding="utf-8") as file:
        return [Row(**{f.name: kinds[str(f.type)](row[f.name]) for f in fields(Row)}) for row in csv.DictReader(file)]  # type: ignore[arg-type]


@click.command()
@click.option("--data", default="digits", show_default=True, help="DATA with a train and a test part: pictures.")
@click.option("--examples", type=click.IntRange(10), default=200, show_default=True, help="Drawn anew for each seed.")
@click.option("--steps", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--seeds", type=click.IntRange(3), default=10, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="A .csv; levers it has are left out."
)
def main(data: str, examples: int, steps: int, seeds: int, out: Path) -> None:
    """Train all levers, and print what each does to training risk, test risk and their gap."""
    train, test = draw(load(data, "train"), None, 0), draw(load(data, "test"), None, 0)
    assert isinstance(train.inputs, Tensor)
    done = read(out) if out.exists() else []
    have = {row.lever for row in done}
    every = levers(train.inputs[0].numel(), int(train.targets.max()) + 1)
    missing = [lever for lever in every if lever.name not in have]
    with progress_bar(True) as bar, out.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        if not done:
            writer.writeheader()

        def keep(rows: Sequence[Row]) -> None:
            done.extend(rows)
            for row in rows:
                writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(row).items()})
            file.flush()

        if missing:
            run(train, test, missing, examples=examples, steps=steps, seeds=seeds, progress=bar, finished=keep)
    for measure in ("error", "loss"):
        click.echo(f"{measure:<18} {'training':<24} {'test':<24} gap")
        for effect in effects(done, measure):
            texts = (f"{m.lower:+.4f} to {m.upper:+.4f}" for m in (effect.train, effect.test, effect.gap))
            click.echo(f"{effect.lever:<18} " + " ".join(f"{text:<24}" for text in texts))


if __name__ == "__main__":
    main()
