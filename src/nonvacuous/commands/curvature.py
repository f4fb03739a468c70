"""``nonvacuous curvature``: eigenvalues, trace and spectral density of a network's loss, and its gradients layer by layer."""

from __future__ import annotations

import json
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
    from torch import Tensor, nn

    from nonvacuous.measures.curvature import CurvatureSummary
    from nonvacuous.runtime.samples import Sample

PAGE, NUMBERS = "curvature.html", "curvature.json"


@click.command(short_help="Eigenvalues, trace and spectral density of the loss, gradients by layer.")
@click.option("--model", "spec", required=True, metavar="MODEL", help="mlp:64-64-10, convnet:28x28x1-10, pkg.module:factory.")
@click.option("--weights", type=click.Path(path_type=Path), help="The network's weights; absent: as the factory returns it.")
@click.option("--train", "data", required=True, metavar="DATA", help="The examples whose mean loss is differentiated.")
@click.option(
    "--loss",
    type=click.Choice(["cross_entropy", "squared_error"]),
    default="cross_entropy",
    show_default=True,
    help="The loss whose mean it is; squared_error reads targets as numbers.",
)
@click.option(
    "--matrix",
    type=click.Choice(["hessian", "ggn", "fisher"]),
    default="hessian",
    show_default=True,
    help="Which curvature: the Hessian, generalised Gauss-Newton, or Fisher.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder for curvature.html and curvature.json.",
)
@click.option("--examples", type=click.IntRange(1), default=2000, show_default=True, help="The first so many of DATA.")
@click.option("--top", type=click.IntRange(0), default=5, show_default=True, help="Largest eigenvalues to find.")
@click.option("--bottom", type=click.IntRange(0), default=1, show_default=True, help="Smallest eigenvalues to find.")
@click.option("--steps", type=click.IntRange(1), default=40, show_default=True, help="Lanczos steps a probe of the density.")
@click.option("--probes", type=click.IntRange(0), default=5, show_default=True, help="Random probes of the density; 0: none.")
@click.option("--tolerance", type=float, default=1e-3, show_default=True, help="Residual of an eigenvalue, relative to it.")
@click.option(
    "--training-mode", is_flag=True, help="Batch norm by each batch's own statistics (the stored ones stay as they are)."
)
@click.option("--most-seconds", type=float, default=1800.0, show_default=True, help="Refuse what is estimated to take longer.")
@click.option("--force", is_flag=True, help="Replace the curvature that DIR holds; other files in it stay.")
@trust_model_code
@every_command("--seed", "--device", "--batch-size")
def curvature(
    spec: str,
    weights: Path | None,
    data: str,
    loss: str,
    matrix: str,
    out: Path,
    examples: int,
    top: int,
    bottom: int,
    steps: int,
    probes: int,
    tolerance: float,
    training_mode: bool,
    most_seconds: float,
    force: bool,
    trust_model_code: bool,
    seed: int,
    device: str,
    batch_size: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure how a network's loss bends at its weights, and how its gradient changes from layer to layer.

    \b
      nonvacuous curvature --model mlp:64-64-10 --weights w.safetensors --train digits --out bends

    Says first how long it will take at most, and refuses more than --most-seconds. Eigenvalues come as brackets; one that did not
    converge says so. Ctrl-C leaves what is done in DIR. All numbers are indicators: they promise nothing about new data.
    """
    output = Output(as_json, quiet)
    free_directory(out, force)
    require_weights(spec, weights)
    if not 0 < tolerance < 1:
        raise InvalidInput(f"--tolerance {tolerance}: it lies strictly between 0 and 1")

    from torch.nn.functional import cross_entropy, mse_loss

    from nonvacuous.measures.curvature import Effort, curvature_summary
    from nonvacuous.operators.curvature import fisher, ggn, hessian
    from nonvacuous.runtime.sources import load
    from nonvacuous.runtime.tasks import progress_bar
    from nonvacuous.runtime.training import resolved_device

    place = resolved_device(device)
    model = network(spec, weights, seed=seed, trust_model_code=trust_model_code).to(place)
    model.train(training_mode)
    regression = loss == "squared_error"
    batches = _batches(load(data, "train", regression=regression), examples, batch_size)
    if regression:
        batches = _shaped(batches, model)
    with made_directory(out):
        with progress_bar(output.progress) as bar:
            found = curvature_summary(
                model,
                mse_loss if regression else cross_entropy,
                batches,
                loss_name=loss.replace("_", " "),
                make={"hessian": hessian, "ggn": ggn, "fisher": fisher}[matrix],
                effort=Effort(top, bottom, 30, steps, probes, tolerance),
                most_seconds=most_seconds,
                announce=lambda needed: output.say(f"time       at most about {needed:.3g} s"),
                progress=bar,
                seed=seed,
            )
        written = _write(out, found, spec, data)
    _report(found, out, output)
    output.document(written)
    if "interrupted" in found.absent.values():
        raise Interrupted(f"what was done is in {out}")


def _batches(sample: Sample, examples: int, batch_size: int) -> list[tuple[Any, Tensor]]:
    """The first examples, in memory."""
    import torch

    rows = torch.arange(min(examples, sample.n))
    return [(batch[0], batch[1]) for batch in sample.batches(batch_size, rows)]


def _shaped(batches: list[tuple[Any, Tensor]], model: nn.Module) -> list[tuple[Any, Tensor]]:
    """Targets in the outputs' shape and dtype, where they have as many numbers."""
    import torch

    from nonvacuous.runtime.models import outputs

    reference = next(model.parameters())
    shaped = []
    for x, y in batches:
        with torch.no_grad():
            inputs = {k: v.to(reference.device) for k, v in x.items()} if isinstance(x, dict) else x.to(reference.device)
            shape = outputs(model, inputs).shape
        if y.numel() != shape.numel():
            raise InvalidInput(
                f"the model gives {tuple(shape)} for targets {tuple(y.shape)}: squared error needs as many numbers"
            )
        shaped.append((x, y.reshape(shape).to(reference.dtype)))
    return shaped


def _write(out: Path, found: CurvatureSummary, spec: str, data: str) -> dict[str, Any]:
    from nonvacuous.auditing.curvature import document, page
    from nonvacuous.runtime.factories import write_text

    content = {"model": spec, "data": data, **document(found)}
    write_text(out / PAGE, page(found, spec, data))
    write_text(out / NUMBERS, json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    return content


def _report(found: CurvatureSummary, out: Path, output: Output) -> None:
    from nonvacuous.auditing.curvature import told

    for name, value in told(found):
        output.prose(f"{name + ':' if name else ' ' * 20} {value}", hang=2)
    output.say(f"written    {out / PAGE}, {NUMBERS}")
