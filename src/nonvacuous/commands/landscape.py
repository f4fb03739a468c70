"""``nonvacuous landscape``: the loss around a network, between two, or along a training run, as pictures and numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nonvacuous.commands.loading import network, require_weights
from nonvacuous.commands.options import every_command, trust_model_code
from nonvacuous.commands.output import Output
from nonvacuous.commands.places import free_directory, made_directory
from nonvacuous.commands.program import Interrupted
from nonvacuous.core.errors import InvalidInput

if TYPE_CHECKING:
    from torch import nn

    from nonvacuous.auditing.landscape import Landscape
    from nonvacuous.optimization.directions_path import PathPlane
    from nonvacuous.optimization.slices_objective import Objective
    from nonvacuous.optimization.surfaces import Axis, Estimate
    from nonvacuous.runtime.samples import Sample

PAGE, NUMBERS, ARRAYS, PICTURE, UNFINISHED = (
    "landscape.html",
    "landscape.json",
    "landscape.npz",
    "landscape.png",
    "unfinished.npz",
)
WEIGHTS_FILES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")


@dataclass(frozen=True)
class Plan:
    """The grid: its axes, the plane of a path that they span, whether the line links two networks, and how to evaluate it."""

    axes: list[Axis]
    plane: PathPlane | None = None
    linked: bool = False
    store: Path | None = None
    resume: bool = False
    tolerance: float | None = None
    most_seconds: float = 600.0


@click.command(short_help="Draw the loss around a network, between two, or along a training run.")
@click.option("--model", "spec", required=True, metavar="MODEL", help="mlp:64-64-10, convnet:28x28x1-10, pkg.module:factory.")
@click.option("--weights", type=click.Path(path_type=Path), help="The network's weights; absent: as the factory returns it.")
@click.option(
    "--weights2", "other", type=click.Path(path_type=Path), help="Other weights: draw the line to them, and its barrier."
)
@click.option("--align", is_flag=True, help="Permute the hidden units of --weights2 to match --weights first.")
@click.option(
    "--path",
    "run",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Checkpoints of a run, in the order of their names: its plane.",
)
@click.option("--eigenvectors", is_flag=True, help="Along the top eigenvectors of the Hessian instead of random directions.")
@click.option("--train", "data", required=True, metavar="DATA", help="The examples whose mean loss is drawn.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder for pages, numbers and pictures."
)
@click.option(
    "--dimensions", type=click.IntRange(1, 2), default=2, show_default=True, help="A line or a plane (without --weights2)."
)
@click.option("--points", type=int, help="Points an axis.  [default: 25 for a plane, 51 for a line]")
@click.option("--range", "reach", type=float, default=1.0, show_default=True, help="How far to go to each side.")
@click.option(
    "--examples",
    type=click.IntRange(1),
    default=2000,
    show_default=True,
    help="Examples drawn from DATA; the error of that shows.",
)
@click.option(
    "--statistics",
    type=click.Choice(["recalibrated", "frozen", "batch"]),
    default="recalibrated",
    show_default=True,
    help="What batch-norm divides by: estimated anew at each point, as stored, or of each batch.",
)
@click.option("--tolerance", type=float, help="Coarse to fine: interpolate where that is this close in loss.")
@click.option("--regression", is_flag=True, help="Targets are numbers; the loss is the squared error.")
@click.option(
    "--most-seconds", type=float, default=600.0, show_default=True, help="Refuse a grid that is estimated to take longer."
)
@click.option("--resume", is_flag=True, help="Go on from what an interrupted run left in DIR.")
@click.option("--force", is_flag=True, help="Replace the landscape that DIR holds; other files in it stay.")
@trust_model_code
@every_command("--seed", "--device", "--batch-size", batch_size=512)
def landscape(
    spec: str,
    weights: Path | None,
    other: Path | None,
    align: bool,
    run: Path | None,
    eigenvectors: bool,
    data: str,
    out: Path,
    dimensions: int,
    points: int | None,
    reach: float,
    examples: int,
    statistics: str,
    tolerance: float | None,
    regression: bool,
    most_seconds: float,
    resume: bool,
    force: bool,
    trust_model_code: bool,
    seed: int,
    device: str,
    batch_size: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw the loss of a network over a line or a plane through its weights.

    \b
      nonvacuous landscape --model mlp:64-64-10 --weights w.safetensors --train digits --out plane
      nonvacuous landscape --model mlp:64-64-10 --weights a.safetensors --weights2 b.safetensors --train digits --out line
      nonvacuous landscape --model mlp:64-64-10 --path checkpoints --train digits --out run

    Random directions are filter-normalised (Li et al. 2018). Says first how long it will take, and refuses more than
    --most-seconds. Ctrl-C leaves what is done in DIR; the same command with --resume goes on. Writes DIR/landscape.html (works
    offline), landscape.json, landscape.npz and, where matplotlib is installed, landscape.png.
    """
    output = Output(as_json, quiet)
    _check_options(other, run, align, eigenvectors)
    store = out / UNFINISHED
    if resume and not store.is_file():
        raise InvalidInput(f"--resume: {out} holds no unfinished landscape. Leave --resume out")
    free_directory(out, force or resume)
    checkpoints = [] if run is None else _checkpoints(run)
    weights = checkpoints[-1] if checkpoints and weights is None else weights
    require_weights(spec, weights)

    from nonvacuous.optimization.slices_objective import Statistics, objective
    from nonvacuous.optimization.slices_restored import batch_norms
    from nonvacuous.runtime.sources import load
    from nonvacuous.runtime.training import resolved_device

    place = resolved_device(device)
    model = network(spec, weights, seed=seed, trust_model_code=trust_model_code).to(place)
    chosen = Statistics(statistics) if batch_norms(model) else Statistics.FROZEN
    sample = load(data, "train", regression=regression)
    target = objective(model, sample, statistics=chosen, examples=examples, batch_size=batch_size, seed=seed)
    if other is not None:
        state = _other_state(spec, other, align, model, seed, trust_model_code)
        axes, plane = [_towards(target, state, points or 51)], None
    elif checkpoints:
        axes, plane = _along_path(target, checkpoints, points or 25, reach)
    else:
        directions = _directions(target, dimensions, eigenvectors, seed)
        axes, plane = [_axis(d, reach, points or (25 if dimensions == 2 else 51)) for d in directions], None
    with made_directory(out):
        if not resume:
            store.unlink(missing_ok=True)
        plan = Plan(axes, plane, other is not None, store, resume, tolerance, most_seconds)
        found = _drawn(spec, data, target, plan, output)
        document = _write(out, found)
        store.unlink(missing_ok=True)
    _report(found, out, output)
    output.document(document)


def surroundings(spec: str, data: str, model: nn.Module, sample: Sample, out: Path, *, seed: int, output: Output) -> None:
    """A small plane of the loss around an audited network, written beside its report, which then links to it."""
    from nonvacuous.auditing.landscape import linked
    from nonvacuous.optimization.slices_objective import objective
    from nonvacuous.runtime.factories import write_text

    target = objective(model, sample, examples=1000, seed=seed)
    axes = [_axis(d, 1.0, 15) for d in _directions(target, 2, False, seed)]
    plan = Plan(axes, tolerance=0.05, most_seconds=300.0)
    _write(out, _drawn(spec, data, target, plan, output))
    report = out / "audit.html"
    if report.is_file():
        write_text(report, linked(report.read_text(encoding="utf-8"), PAGE))
    output.say(f"landscape  {out / PAGE} (an indicator)")


def _check_options(other: Path | None, run: Path | None, align: bool, eigenvectors: bool) -> None:
    given = [name for name, there in (("--weights2", other), ("--path", run), ("--eigenvectors", eigenvectors)) if there]
    if len(given) > 1:
        raise InvalidInput(f"{' and '.join(given)} name different directions. Choose one of them")
    if align and other is None:
        raise InvalidInput("--align needs the weights to align: --weights2 FILE")


def _checkpoints(folder: Path) -> list[Path]:
    """Weights files of a folder, numbers in their names counted as numbers."""
    import re

    if not folder.is_dir():
        raise InvalidInput(f"--path {folder} is no folder. Name the folder that holds the checkpoints of a run")
    found = [file for file in folder.iterdir() if file.suffix in WEIGHTS_FILES]
    if len(found) < 3:
        raise InvalidInput(f"--path {folder} holds {len(found)} files of weights; a path has three or more")
    return sorted(found, key=lambda file: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)])


def _other_state(spec: str, other: Path, align: bool, model: nn.Module, seed: int, trusted: bool) -> dict[str, Any]:
    second = network(spec, other, seed=seed, trust_model_code=trusted)
    if not align:
        return second.state_dict()
    from nonvacuous.optimization.modes_alignment import aligned

    return aligned(model, second.state_dict())


def _towards(target: Objective, state: dict[str, Any], points: int) -> Axis:
    from nonvacuous.optimization.directions import between
    from nonvacuous.optimization.surfaces import axis

    if points < 3:
        raise InvalidInput(f"--points {points}: a barrier lies between the ends, so at least 3 are needed")
    return axis(between(target.model, state, "from the first weights (0) to the second (1)"), 0.0, 1.0, points)


def _axis(direction: Any, reach: float, points: int) -> Axis:
    from nonvacuous.optimization.surfaces import axis

    if not 0 < reach < float("inf"):
        raise InvalidInput(f"--range {reach}: it must be positive and finite; 1 goes as far as the weights are large")
    return axis(direction, -reach, reach, points)


def _along_path(target: Objective, checkpoints: list[Path], points: int, reach: float) -> tuple[list[Axis], PathPlane]:
    """Axes that hold the whole path, with a quarter of its extent (times --range) to each side."""
    from nonvacuous.optimization.directions_path import path_plane
    from nonvacuous.optimization.surfaces import axis

    plane = path_plane(target.model, checkpoints)
    low, high = plane.coordinates.min(0).values, plane.coordinates.max(0).values
    room = 0.25 * reach * (high - low)
    ends = zip(plane.directions, (low - room).tolist(), (high + room).tolist(), strict=True)
    return [axis(d, a, b, points) for d, a, b in ends], plane


def _directions(target: Objective, dimensions: int, eigenvectors: bool, seed: int) -> list[Any]:
    from nonvacuous.optimization.directions import Direction, filter_normalized, orthogonalized, random_direction, trainable
    from nonvacuous.runtime.seeds import stream_seed

    model = target.model
    if not eigenvectors:
        return [
            filter_normalized(model, random_direction(model, stream_seed(seed, f"direction {k}"), f"random direction {k + 1}"))
            for k in range(dimensions)
        ]
    from nonvacuous.operators.curvature import hessian
    from nonvacuous.operators.lanczos import top_eigenpairs

    def mean(answers: Any, targets: Any) -> Any:
        return target.loss(answers, targets).mean()

    operator = hessian(model, mean, target.batches)
    pairs = top_eigenpairs(operator, dimensions, seed=seed)
    size = sum(float((x.double() ** 2).sum()) for x in trainable(model).values()) ** 0.5
    found = []
    for k, vector in enumerate(pairs.vectors.T):
        unit = Direction(f"eigenvector {k + 1} of the Hessian", operator.split(vector))
        found.append(unit.scaled(0.1 * size))  # a step of 1 is a tenth of the weights' norm
    return found if dimensions == 1 else [found[0], orthogonalized(found[1], found[0])]


def _drawn(spec: str, data: str, target: Objective, plan: Plan, output: Output) -> Landscape:
    from nonvacuous.auditing.landscape import Landscape, Track
    from nonvacuous.optimization.modes import barrier
    from nonvacuous.optimization.surfaces import surface
    from nonvacuous.runtime.tasks import progress_bar

    def announce(cost: Estimate) -> None:
        output.say(f"cost       {cost}")

    try:
        with progress_bar(output.progress) as bar:
            found = surface(
                target,
                plan.axes,
                tolerance=plan.tolerance,
                store=plan.store,
                resume=plan.resume,
                most_seconds=plan.most_seconds,
                announce=announce,
                progress=bar,
            )
    except KeyboardInterrupt:
        kept = plan.store is not None and plan.store.exists()
        left = (
            f"what is done is kept in {plan.store}. The same command with --resume goes on"
            if kept
            else "nothing is left of the grid"
        )
        raise Interrupted(left) from None
    plane = plan.plane
    track = None if plane is None else Track(plane.coordinates.numpy())
    loss = error = None
    if plan.linked:
        loss = barrier(found.coordinates[0], found.loss)
        error = None if found.error is None else barrier(found.coordinates[0], found.error)
    return Landscape(spec, data, found, track, None if plane is None else plane.shares, loss, error)


def _write(out: Path, found: Landscape) -> dict[str, Any]:
    """All files, each whole or not at all; the JSON last."""
    import numpy as np

    from nonvacuous.auditing.landscape import document, page
    from nonvacuous.runtime.factories import replacement, write_text

    s = found.surface
    content = document(found)
    arrays: dict[str, Any] = {"loss": s.loss, "loss_std": s.loss_std, "rise_std": s.rise_std, "evaluated": s.evaluated}
    arrays |= {f"axis{k + 1}": c for k, c in enumerate(s.coordinates)} | ({} if s.error is None else {"error": s.error})
    write_text(out / PAGE, page(found))
    with replacement(out / ARRAYS) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    try:
        from nonvacuous.auditing.landscape_static import figure
    except ImportError:
        pass
    else:
        with replacement(out / PICTURE) as temporary, temporary.open("wb") as file:
            figure(found).savefig(file, dpi=120, format="png")
    write_text(out / NUMBERS, json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    return content


def _report(found: Landscape, out: Path, output: Output) -> None:
    from nonvacuous.auditing.landscape import told

    for name, value in told(found):
        output.prose(f"{name}: {value}", hang=2)
    output.say(f"written    {out / PAGE}, {NUMBERS}, {ARRAYS}" + (f", {PICTURE}" if (out / PICTURE).exists() else ""))
