"""``nonvacuous train``: the plain, seeded trainer behind the demo and the examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nonvacuous.commands.loading import network
from nonvacuous.commands.options import every_command
from nonvacuous.commands.output import Output
from nonvacuous.commands.places import free_files, made_directory
from nonvacuous.commands.program import Interrupted
from nonvacuous.core.errors import InvalidInput

if TYPE_CHECKING:
    from torch import nn

    from nonvacuous.runtime.samples import Sample
    from nonvacuous.runtime.training import TrainingRecord


@dataclass(frozen=True)
class Files:
    """What a run writes: ``weights`` and ``initial`` at its end, the other two only while it is unfinished."""

    weights: Path

    @property
    def initial(self) -> Path:
        """Weights before the first step."""
        return self._beside("initial")

    @property
    def checkpoint(self) -> Path:
        """State after the last finished epoch."""
        return self._beside("checkpoint")

    @property
    def start(self) -> Path:
        """The initial weights of an unfinished run."""
        return self._beside("checkpoint.initial")

    def _beside(self, word: str) -> Path:
        return self.weights.with_name(f"{self.weights.stem}.{word}.safetensors")

    def drop_unfinished(self) -> None:
        """Remove what only an unfinished run needs."""
        self.checkpoint.unlink(missing_ok=True)
        self.start.unlink(missing_ok=True)


@click.command(short_help="Train a network with the plain, seeded trainer.")
@click.option("--model", "spec", required=True, metavar="MODEL", help="mlp:64-64-10, convnet:28x28x1-10, pkg.module:factory.")
@click.option(
    "--train", "train_spec", required=True, metavar="DATA", help="digits, fashion-mnist, file.npz, pkg.module:factory."
)
@click.option("--epochs", type=click.IntRange(1), required=True, help="Passes over the data.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Trained weights, FILE.safetensors."
)
@click.option("--learning-rate", type=float, default=1e-3, show_default=True, help="Step size.")
@click.option(
    "--optimizer",
    type=click.Choice(["adam", "adamw", "sgd", "momentum"]),
    default="adam",
    show_default=True,
    help="How steps are made.",
)
@click.option("--regression", is_flag=True, help="Targets are numbers, fitted by squared error.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint of an interrupted run.")
@click.option("--force", is_flag=True, help="Replace files that exist, and forget an unfinished run.")
@every_command("--seed", "--device", "--batch-size", batch_size=128)
def train(
    spec: str,
    train_spec: str,
    epochs: int,
    out: Path,
    learning_rate: float,
    optimizer: str,
    regression: bool,
    resume: bool,
    force: bool,
    seed: int,
    device: str,
    batch_size: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a network and save its weights, and its initial weights beside them.

    The same options and seed give the same weights on the same machine. Ctrl-C leaves a checkpoint; the same command with
    --resume goes on from it and ends with the weights of an unbroken run. Any other trainer will do as well: `nonvacuous
    audit` takes weights from anywhere.
    """
    output = Output(as_json, quiet)
    files = Files(out)
    _check_files(files, resume=resume, force=force)
    if spec.endswith(".pt2"):
        raise InvalidInput(
            f"{spec} is an exported program, which cannot be trained here. Name its factory: pkg.module:factory"
        )

    from nonvacuous.runtime.sources import load
    from nonvacuous.runtime.training import resolved_device

    place = resolved_device(device)
    model = network(spec, None, seed=seed, trust_model_code=False)
    sample = load(train_spec, "train", regression=regression)
    settings = {
        "epochs": epochs,
        "seed": seed,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "device": place,
        "progress": output.progress,
    }
    with made_directory(out.parent):
        record = _trained(model, sample, files, resume, settings)
    _report(record, files, output)


def _check_files(files: Files, resume: bool, force: bool) -> None:
    if files.weights.suffix != ".safetensors":
        raise InvalidInput(
            f"--out {files.weights}: weights are written as safetensors; name it {files.weights.stem}.safetensors"
        )
    free_files([files.weights, files.initial], force)
    unfinished = files.checkpoint.exists()
    if resume and not (unfinished and files.start.exists()):
        raise InvalidInput(
            f"--resume: there is no unfinished run beside {files.weights} ({files.checkpoint.name}). Leave --resume out"
        )
    if unfinished and not (resume or force):
        raise InvalidInput(
            f"{files.checkpoint} is an unfinished run. Pass --resume to go on from it, or --force to start afresh"
        )


def _trained(model: nn.Module, sample: Sample, files: Files, resume: bool, settings: dict[str, Any]) -> TrainingRecord:
    """Train, and put all files in place; a run that cannot go on leaves none behind, an interrupted one its checkpoint."""
    from nonvacuous.runtime.training import train as run
    from nonvacuous.runtime.weights import save_weights

    try:
        if not resume:
            files.drop_unfinished()
            save_weights(model, files.start)
        record = run(model, sample, checkpoint=files.checkpoint, resume=resume, **settings)
    except BaseException as error:
        hopeless = isinstance(error, InvalidInput) or not files.checkpoint.exists()
        if hopeless and not resume:
            files.drop_unfinished()
        raise
    if record.interrupted:
        if not files.checkpoint.exists():
            files.drop_unfinished()
            raise Interrupted("no epoch was finished, so nothing is left")
        done = f"{record.epochs} of {settings['epochs']} epochs are kept in {files.checkpoint}"
        raise Interrupted(f"{done}. The same command with --resume goes on")
    save_weights(model, files.weights)
    files.start.replace(files.initial)
    files.drop_unfinished()
    return record


def _report(record: TrainingRecord, files: Files, output: Output) -> None:
    right = f", {100 * record.accuracies[-1]:.2f}% right" if record.accuracies else ""
    output.say(
        f"trained {record.epochs} epochs in {sum(record.seconds):.1f} s; in the last one, loss {record.losses[-1]:.4g}{right}"
    )
    output.say(f"weights          {files.weights}")
    output.say(f"initial weights  {files.initial}")
    output.document(
        {
            "weights": str(files.weights),
            "initial_weights": str(files.initial),
            "epochs": record.epochs,
            "seed": record.seed,
            "losses": list(record.losses),
            "accuracies": list(record.accuracies),
            "seconds": list(record.seconds),
        }
    )
