"""``nonvacuous certify``: train, and hand back a model with its guarantee."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nonvacuous.commands.loading import network, sample
from nonvacuous.commands.options import every_command
from nonvacuous.commands.output import Column, Output
from nonvacuous.commands.places import free_directory
from nonvacuous.commands.program import Interrupted
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.ledger import check_delta

if TYPE_CHECKING:
    from nonvacuous.learning.method import Certified, Method

UNFINISHED = "unfinished"


@click.command(short_help="Train a network and hand it back with its guarantee.")
@click.option("--model", "spec", required=True, metavar="MODEL", help="mlp:64-64-10, convnet:28x28x1-10, pkg.module:factory.")
@click.option("--train", "train_spec", required=True, metavar="DATA", help="All the labelled data there are.")
@click.option("--method", "word", default="auto", show_default=True, help="auto, holdout, pac-bayes, compression, …")
@click.option("--delta", type=float, default=0.05, show_default=True, help="Probability that the certificate may fail.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder for model and certificates."
)
@click.option("--weights", type=click.Path(path_type=Path), help="Weights of an existing network, for the method surrogate.")
@click.option("--unlabelled", metavar="DATA", help="Data whose labels are not used, for the method surrogate.")
@click.option("--source", metavar="DATA", help="Data of another source, for the method transfer.")
@click.option("--prior-frac", type=float, help="Part of the sample that makes the prior, for methods that have one.")
@click.option("--mirrored", is_flag=True, help="A mirrored picture keeps its class (garments do, digits do not).")
@click.option("--scale", type=float, help="Deviation of the prior, or other scale, that the method has before any data.")
@click.option("--resume", is_flag=True, help="Go on with the interrupted run in DIR.")
@click.option("--force", is_flag=True, help="Replace what DIR holds.")
@every_command("--seed", "--device")
def certify(
    spec: str,
    train_spec: str,
    word: str,
    delta: float,
    out: Path,
    weights: Path | None,
    unlabelled: str | None,
    source: str | None,
    prior_frac: float | None,
    mirrored: bool,
    scale: float | None,
    resume: bool,
    force: bool,
    seed: int,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a network on all the data and hand it back with its guarantee, a hold-out certificate beside it.

    Writes DIR/model.safetensors, DIR/certificates/*.json, DIR/certify.json and DIR/certify.html. The same options and seed give
    the same result on the same machine. Ctrl-C leaves what is done; the same command with --resume goes on from it.
    `nonvacuous verify DIR --train DATA` measures everything again.
    """
    output = Output(as_json, quiet)
    check_delta(delta)
    method = _method(word, prior_frac, mirrored, scale)
    unfinished = out / UNFINISHED
    if resume and not (unfinished / "run.json").is_file():
        raise InvalidInput(f"--resume: {out} holds no unfinished run. Leave --resume out")
    if unfinished.exists() and not (resume or force):
        raise InvalidInput(f"{unfinished} is an unfinished run. Pass --resume to go on with it, or --force to start afresh")
    free_directory(out, force or resume)
    if spec.endswith(".pt2"):
        raise InvalidInput(
            f"{spec} is an exported program, which cannot be trained here. Name its factory: pkg.module:factory"
        )

    from nonvacuous.auditing.certify_report import write
    from nonvacuous.learning.run import certify as run

    def factory():
        from nonvacuous.runtime.models import load_model

        return load_model(spec)

    given = None if weights is None else network(spec, weights, seed=seed, trust_model_code=False)
    network(spec, None, seed=seed, trust_model_code=False)  # a model that cannot be made is said before anything is written
    data = sample(train_spec, "train")
    free = None if unlabelled is None else sample(unlabelled, "test")
    other = None if source is None else sample(source, "train")
    if force and not resume and unfinished.is_dir():
        shutil.rmtree(unfinished)
    try:
        result = run(
            factory,
            data,
            method=method,
            delta=delta,
            seed=seed,
            device=device,
            model=given,
            unlabelled=free,
            source=other,
            folder=unfinished,
            progress=output.progress,
        )
        facts = {"model": spec, "train": train_spec, "method": word, "settings": method.settings, "delta": delta, "seed": seed}
        write(result, out, facts=facts)
    except KeyboardInterrupt:
        raise Interrupted(f"what is finished is kept in {unfinished}. The same command with --resume goes on") from None
    except InvalidInput:
        if not resume:
            _drop(unfinished)
        raise
    _drop(unfinished)
    _print(result, output, out)
    if as_json:
        output.document(json.loads((out / "certify.json").read_text(encoding="utf-8")))


def _method(word: str, prior_frac: float | None, mirrored: bool, scale: float | None) -> Method:
    from nonvacuous.learning.methods import method_class

    if prior_frac is not None and not 0 < prior_frac < 1:
        rest = "no prior" if prior_frac <= 0 else "nothing to certify with"
        raise InvalidInput(f"--prior-frac {prior_frac:g} leaves {rest}: it lies strictly between 0 and 1; 0.5 is usual")
    method = method_class(word)()
    given = {"prior_frac": prior_frac, "mirrored": mirrored or None, "scale": scale}
    lacks = {
        "prior_frac": "has no prior learned from a part of the data",
        "mirrored": "does not use mirrored pictures",
        "scale": "has no scale to set",
    }
    settings = {}
    for option, value in given.items():
        if value is None:
            continue
        name = next((f.name for f in dataclasses.fields(method) if f.name.startswith(option)), None)  # type: ignore[arg-type]
        if name is None:
            raise InvalidInput(f"--{option.replace('_', '-')}: the method {word} {lacks[option]}. Leave it out")
        settings[name] = value
    return dataclasses.replace(method, **settings)  # type: ignore[type-var]


def _drop(unfinished: Path) -> None:
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.parent.rmdir()
    except OSError:
        return


def _print(result: Certified, output: Output, out: Path) -> None:
    from nonvacuous.auditing.certify_report import promise, rows

    output.head(promise(result))
    columns = [
        Column("  risk ≤", right=True),
        Column("method"),
        Column("of", wraps=True),
        Column("n", right=True),
        Column("δ", right=True),
    ]
    output.table(columns, [[row.value, row.method, row.predictor, row.n, row.delta] for row in rows(result)])
    if result.comparator is not None:
        output.prose("The hold-out comparator is a statement of its own: to choose between the two afterwards, count δ twice.")
    if result.record.multiple is not None:
        output.say(f"cost          {result.record.multiple:.1f} × plain training ({result.record.seconds:.1f} s)")
    for note in result.record.tried:
        output.prose(note, indent=2, hang=2)
    output.say(f"model         {out / 'model.safetensors'}")
    output.say(f"report        {out / 'certify.html'}")
    output.say(f"check         nonvacuous verify {out} --train DATA")
