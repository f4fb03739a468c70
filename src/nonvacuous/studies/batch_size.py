"""Small against large batches (optimization lecture; Keskar et al. 2017): does a large batch end in a sharper minimum that errs more?

Keskar's claim is of networks that both fit the training data, so every run here trains until an epoch's mean training loss falls to the
same value.  Three arms share seed, subset and initial weights: a small batch; a tenth of the data at the small batch's learning rate, as in
the paper; and the same large batch at a learning rate scaled by √(B/b), the rule for Adam (Malladi et al. 2022, On the SDEs and Scaling
Rules for Adaptive Gradient Algorithms), since a learning rate tuned for one size says little about another (Goyal et al. 2017; Shallue et
al. 2019).  Differences are paired by seed, with Student intervals that hold for all claims at once (Bonferroni).

``python -m nonvacuous.studies.batch_size --data fashion-mnist --examples 2000 --seeds 12 --out results/batch_size.csv`` writes one row a
run, leaves out rows that the file has already, and prints the verdicts.  Those of the stored file, 12 seeds, batches of 32 and 200: the
large batch ends less tolerant to noise on the weights (σ and adaptive σ), at either learning rate: confirmed.  Keskar's and the adaptive
sharpness are larger at the unscaled rate: confirmed; at the scaled rate, undecided.  That it
errs more (+0.3 points, between −0.2 and +0.9): undecided.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path

import click
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.measures.student import mean_interval
from nonvacuous.optimization.sharpness import ball_sharpness, box_sharpness
from nonvacuous.optimization.sharpness_flatness import flatness_std
from nonvacuous.optimization.sharpness_invariant import fisher_rao_norm
from nonvacuous.optimization.slices_objective import objective
from nonvacuous.runtime.models import initialise, mlp
from nonvacuous.runtime.samples import Sample
from nonvacuous.runtime.seeds import stream_seed
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.tasks import progress_bar
from nonvacuous.runtime.values import Batch

SMALL_BATCH, LARGE_SHARE = 32, 0.1
LEARNING_RATE = 1e-3
CONFIDENCE = 0.95


class Arm(Enum):
    """What is compared."""

    SMALL = "small"
    LARGE = "large"
    LARGE_SCALED = "large, scaled rate"


@dataclass(frozen=True)
class Run:
    """One training: sizes, where it ended, and the sharpness there (each the lower end found; σ the middle of its bracket).

    ``box``: Keskar's φ in per cent at ε = 10⁻³; ``sam``: at ρ = 0.05; ``adaptive_sam``: at ρ = 0.5; ``noise_std`` and
    ``adaptive_noise_std``: at a loss rise of 0.1; ``fisher_rao``: norm.  ``fitted``: whether the training loss got down to the target.
    """

    data: str
    examples: int
    arm: str
    seed: int
    batch_size: int
    learning_rate: float
    epochs: int
    steps: int
    fitted: bool
    train_loss: float
    train_error: float
    test_loss: float
    test_error: float
    box: float
    sam: float
    adaptive_sam: float
    noise_std: float
    adaptive_noise_std: float
    fisher_rao: float
    seconds: float


@dataclass(frozen=True)
class Claim:
    """``name`` of a column of `Run`, and whether the lecture has it ``larger`` for the large batch."""

    name: str
    larger: bool


CLAIMS = (
    Claim("test_error", True),
    Claim("box", True),
    Claim("sam", True),
    Claim("adaptive_sam", True),
    Claim("noise_std", False),
    Claim("adaptive_noise_std", False),
)


class Verdict(Enum):
    """Where the interval of the difference lies."""

    CONFIRMED = "confirmed"
    REVERSED = "reversed"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Finding:
    """The mean difference (large − small) of a claim's column over ``pairs`` seeds, its interval, and what follows."""

    claim: Claim
    arm: Arm
    mean: float
    interval: Measured
    pairs: int
    verdict: Verdict


def run(
    data: str,
    train: Batch,
    test: Batch,
    arm: Arm,
    seed: int,
    *,
    target: float = 0.02,
    most_epochs: int = 400,
    hidden: int = 64,
) -> Run:
    """Train one arm on ``train`` until an epoch's mean loss is at most ``target``, and measure it there."""
    begun = time.perf_counter()
    assert isinstance(train.inputs, Tensor)
    n, inputs, classes = len(train.targets), train.inputs[0].numel(), int(train.targets.max()) + 1
    large = max(SMALL_BATCH, round(LARGE_SHARE * n))
    size = SMALL_BATCH if arm is Arm.SMALL else large
    rate = LEARNING_RATE * (math.sqrt(large / SMALL_BATCH) if arm is Arm.LARGE_SCALED else 1.0)
    model = initialise(lambda: mlp(inputs, hidden, classes), stream_seed(seed, "weights"))
    epochs, loss = _fit(model, train, size, rate, seed, target, most_epochs)
    few = objective(model, (train.inputs, train.targets), examples=1000, seed=stream_seed(seed, "sharpness"))
    (train_loss, train_error), (test_loss, test_error) = (_ended(model, part) for part in (train, test))
    return Run(
        data=data,
        examples=n,
        arm=arm.value,
        seed=seed,
        batch_size=size,
        learning_rate=rate,
        epochs=epochs,
        steps=epochs * math.ceil(n / size),
        fitted=loss <= target,
        train_loss=train_loss,
        train_error=train_error,
        test_loss=test_loss,
        test_error=test_error,
        box=box_sharpness(few, steps=5, restarts=0).percent.lower,
        sam=ball_sharpness(few, rho=0.05).rise.lower,
        adaptive_sam=ball_sharpness(few, rho=0.5, adaptive=True).rise.lower,
        noise_std=flatness_std(few, draws=10).midpoint,
        adaptive_noise_std=flatness_std(few, draws=10, adaptive=True).midpoint,
        fisher_rao=fisher_rao_norm(few).midpoint,
        seconds=time.perf_counter() - begun,
    )


def _fit(
    model: nn.Module, train: Batch, size: int, rate: float, seed: int, target: float, most_epochs: int
) -> tuple[int, float]:
    """Epochs and the last epoch's mean loss.  The order of the examples is the same in every arm."""
    assert isinstance(train.inputs, Tensor)
    adam = torch.optim.Adam(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(stream_seed(seed, "order"))
    n, epoch, mean = len(train.targets), 0, math.inf
    while epoch < most_epochs and mean > target:
        total = 0.0
        for rows in torch.randperm(n, generator=generator).split(size):
            loss = cross_entropy(model(train.inputs[rows]), train.targets[rows])
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()
            total += float(loss.detach()) * len(rows)
        epoch, mean = epoch + 1, total / n
        if not math.isfinite(mean):
            raise InvalidInput(f"the training loss became {mean} at learning rate {rate:g}. Lower it")
    return epoch, mean


@torch.no_grad()
def _ended(model: nn.Module, part: Batch) -> tuple[float, float]:
    assert isinstance(part.inputs, Tensor)
    answers = torch.cat([model(x) for x in part.inputs.split(2048)])
    return float(cross_entropy(answers, part.targets)), float((answers.argmax(1) != part.targets).double().mean())


def findings(runs: Sequence[Run], arm: Arm = Arm.LARGE, claims: Sequence[Claim] = CLAIMS) -> list[Finding]:
    """Each claim about ``arm`` against the small batch: paired by seed, intervals that hold together with confidence 95 %.

    Only seeds at which both arms fitted count.

    :raises InvalidInput: fewer than three such seeds.
    """
    small = {r.seed: r for r in runs if r.arm == Arm.SMALL.value and r.fitted}
    other = {r.seed: r for r in runs if r.arm == arm.value and r.fitted}
    seeds = sorted(small.keys() & other.keys())
    if len(seeds) < 3:
        raise InvalidInput(
            f"{len(seeds)} seeds at which both {arm.value!r} and the small batch fitted: an interval needs three. Run more"
        )
    found = []
    for claim in claims:
        gaps = torch.tensor(
            [getattr(other[s], claim.name) - getattr(small[s], claim.name) for s in seeds], dtype=torch.float64
        )
        interval = mean_interval(gaps, CONFIDENCE, len(claims))
        above, below = interval.lower > 0, interval.upper < 0
        verdict = (
            Verdict.UNDECIDED if not (above or below) else Verdict.CONFIRMED if above == claim.larger else Verdict.REVERSED
        )
        found.append(Finding(claim, arm, float(gaps.mean()), interval, len(seeds), verdict))
    return found


def draw(sample: Sample, examples: int | None, seed: int) -> Batch:
    """``examples`` of a sample at random (all if None), in memory."""
    order = None
    if examples is not None and examples < sample.n:
        order = torch.randperm(sample.n, generator=torch.Generator().manual_seed(stream_seed(seed, "subset")))[:examples]
    batches = list(sample.batches(4096, order))
    inputs = [batch.inputs for batch in batches if isinstance(batch.inputs, Tensor)]
    if len(inputs) != len(batches) or sample.classes is None:
        raise InvalidInput("the study is of classifiers of plain arrays")
    return Batch(torch.cat(inputs), torch.cat([batch.targets for batch in batches]))


def read(path: Path) -> list[Run]:
    """The runs that a file holds."""
    kinds: dict[str, Callable[[str], object]] = {"int": int, "float": float, "str": str, "bool": lambda text: text == "True"}
    with path.open(newline="", encoding="utf-8") as file:
        return [Run(**{f.name: kinds[str(f.type)](row[f.name]) for f in fields(Run)}) for row in csv.DictReader(file)]  # type: ignore[arg-type]


@click.command()
@click.option("--data", default="fashion-mnist", show_default=True, help="DATA with a train and a test part.")
@click.option("--examples", type=click.IntRange(100), help="Training examples, drawn anew for each seed; all if left out.")
@click.option("--seeds", type=click.IntRange(3), default=20, show_default=True)
@click.option("--target", type=float, default=0.02, show_default=True, help="Training loss at which a run ends.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="A .csv, gone on with if it exists."
)
def main(data: str, examples: int | None, seeds: int, target: float, out: Path) -> None:
    """Train the three arms for each seed, and say what is confirmed."""
    train, test = load(data, "train"), draw(load(data, "test"), None, 0)
    done = read(out) if out.exists() else []
    keys = {(r.data, r.arm, r.seed) for r in done}
    with (
        progress_bar(True) as bar,
        bar.task("training", seeds * len(Arm)) as advance,
        out.open("a", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, [f.name for f in fields(Run)])
        if not done:
            writer.writeheader()
        for seed in range(seeds):
            part = draw(train, examples, seed)
            for arm in Arm:
                if (data, arm.value, seed) not in keys:
                    done.append(run(data, part, test, arm, seed, target=target))
                    writer.writerow(asdict(done[-1]))
                    file.flush()
                advance(1)
    for arm in (Arm.LARGE, Arm.LARGE_SCALED):
        for f in findings([r for r in done if r.data == data], arm):
            click.echo(f"{arm.value:<20} {f.claim.name:<20} {f.mean:+.4g} in {f.interval}, {f.pairs} seeds: {f.verdict.value}")


if __name__ == "__main__":
    main()
