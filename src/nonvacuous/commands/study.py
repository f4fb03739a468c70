"""``nonvacuous study``: experiments over many trainings of one recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nonvacuous.commands.options import every_command
from nonvacuous.commands.output import Column, Output
from nonvacuous.commands.places import free_directory
from nonvacuous.commands.program import Interrupted
from nonvacuous.core.errors import InvalidInput

if TYPE_CHECKING:
    from nonvacuous.runtime.samples import Sample

HIDDEN = 512


@click.group(short_help="Experiments over many trainings: randomization.")
def study() -> None:
    """Experiments over many trainings of one recipe."""


@study.command(short_help="Does the recipe fit random labels? Three panels.")
@click.option("--data", default="fashion-mnist", show_default=True, metavar="DATA", help="A classification of pictures.")
@click.option("--test", "test_data", metavar="DATA", help="Where the test error is measured; absent: the test part of --data.")
@click.option("--model", "spec", metavar="MODEL", help=f"Absent: fully connected with {HIDDEN} hidden units.")
@click.option("--examples", type=click.IntRange(1), default=2000, show_default=True, help="Drawn at random, one set for all.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Networks of each setting.")
@click.option("--corruption", "corruptions", type=float, multiple=True, help="Share of labels drawn anew; repeat it.")
@click.option(
    "--most-steps", type=click.IntRange(1), default=5000, show_default=True, help="Where a run that does not fit ends."
)
@click.option("--learning-rate", type=float, default=1e-3, show_default=True, help="The recipe's step size.")
@click.option(
    "--optimizer",
    type=click.Choice(["adam", "sgd", "momentum"]),
    default="adam",
    show_default=True,
    help="How steps are made.",
)
@click.option("--fitted-error", type=float, default=0.01, show_default=True, help="Training error that counts as fitted.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder for the page and numbers.")
@click.option("--resume", is_flag=True, help="Go on with the settings that DIR holds.")
@click.option("--force", is_flag=True, help="Replace the study that DIR holds; other files in it stay.")
@every_command("--seed", "--device", "--batch-size", batch_size=128)
def randomization(
    data: str,
    test_data: str | None,
    spec: str | None,
    examples: int,
    seeds: int,
    corruptions: tuple[float, ...],
    most_steps: int,
    learning_rate: float,
    optimizer: str,
    fitted_error: float,
    out: Path,
    resume: bool,
    force: bool,
    seed: int,
    device: str,
    batch_size: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train on true, corrupted and random labels, shuffled and random pixels and noise (Zhang et al. 2017).

    \b
      nonvacuous study randomization --examples 1000 --out random

    Writes DIR/randomization.html, .json and .csv after each setting. Ctrl-C keeps the settings that are finished; the same command with
    --resume goes on. The capacity it ends with is a lower bound on the Rademacher complexity of the architecture.
    """
    output = Output(as_json, quiet)
    kept = out / "randomization.json"
    if resume and not kept.is_file():
        raise InvalidInput(f"--resume: {out} holds no study. Leave --resume out")
    free_directory(out, force or resume)

    from nonvacuous.auditing.randomization import page, rows, sentence
    from nonvacuous.runtime.factories import write_text
    from nonvacuous.runtime.models import load_model
    from nonvacuous.runtime.sources import load
    from nonvacuous.runtime.tasks import progress_bar
    from nonvacuous.runtime.training import resolved_device
    from nonvacuous.studies.randomization import CORRUPTIONS, Recipe, arms
    from nonvacuous.studies.randomization import randomization as run

    recipe = Recipe(examples, seeds, most_steps, batch_size, learning_rate, optimizer, fitted_error, seed)
    place = resolved_device(device)
    which = arms(corruptions or CORRUPTIONS)
    train, test = load(data, "train"), load(test_data or data, "test")
    model = spec or _dense(train)
    if force and not resume:
        kept.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    with progress_bar(output.progress) as bar:
        found = run(lambda: load_model(model), train, test, recipe=recipe, which=which, kept=kept, progress=bar, device=place)
    if not found.runs:
        raise Interrupted("no setting was finished")
    for name, text in (("randomization.html", page(found, model, data)), ("randomization.csv", found.table())):
        write_text(out / name, text)
    columns = [Column("setting"), Column("steps to fit", right=True), Column("training error", right=True)]
    output.table([*columns, Column("test error", right=True)], rows(found))
    output.say()
    output.prose(sentence(found))
    output.say(f"report  {out / 'randomization.html'}")
    output.document(found.document())
    if found.interrupted:
        raise Interrupted(f"the report is of what was finished; the same command with --resume goes on in {out}")


def _dense(train: Sample) -> str:
    shape = train.input_shape
    if isinstance(shape, dict):
        raise InvalidInput("the inputs have names. Give --model")
    size = 1
    for side in shape:
        size *= side
    return f"mlp:{size}-{HIDDEN}-{train.classes}"
