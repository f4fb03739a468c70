"""``nonvacuous verify``: re-check certificates, their arithmetic (no torch) and, given model and data, their evidence."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nonvacuous.commands.loading import network, require_weights, sample
from nonvacuous.commands.options import every_command, trust_model_code
from nonvacuous.commands.output import Output
from nonvacuous.core.errors import CertificateRefused, InvalidInput

if TYPE_CHECKING:
    from nonvacuous.verification import Verification


@click.command(short_help="Re-check certificates; with model and data, their evidence too.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option("--model", "spec", metavar="MODEL", help="Level two: measure again with this model.")
@click.option("--weights", type=click.Path(path_type=Path), help="Its trained weights.")
@click.option(
    "--initial-weights", type=click.Path(path_type=Path), help="Its weights before training, if the audit was given them."
)
@click.option("--train", "train_spec", metavar="DATA", help="The training sample.")
@click.option("--test", "test_spec", metavar="DATA", help="The held-out sample.")
@click.option("--unlabelled", metavar="DATA", help="Unlabelled sample, for certificates of `certify` that used one.")
@click.option("--source", metavar="DATA", help="Sample of another source, likewise.")
@trust_model_code
@every_command("--device", "--batch-size")
def verify(
    paths: tuple[Path, ...],
    spec: str | None,
    weights: Path | None,
    initial_weights: Path | None,
    train_spec: str | None,
    test_spec: str | None,
    unlabelled: str | None,
    source: str | None,
    trust_model_code: bool,
    device: str,
    batch_size: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Re-check certificates: files, or folders with certificates in them, however deep.

    Level one needs nothing else and loads no torch: the file is whole, and its evidence gives its value by the theorem it
    names. Level two (--model with --weights, and --train or --test) measures the evidence again. For the folder of `nonvacuous
    certify`, --train is enough: it holds the model (name it again with --model if it is not a built-in one). The exit code is 0 only if
    everything holds. A digest catches accidents; it is not a signature.
    """
    from nonvacuous.verification import certificate_files

    output = Output(as_json, quiet)
    files = list(dict.fromkeys(certificate_files(paths)))
    again: dict[str, Any] = {}
    if train_spec is not None and weights is None and _all_learned(files):
        again = {
            name: None if s is None else sample(s, part)
            for name, s, part in (
                ("train", train_spec, "train"),
                ("unlabelled", unlabelled, "test"),
                ("source", source, "train"),
            )
        }
        if spec is not None:
            again["factory"] = lambda: network(spec, None, seed=0, trust_model_code=trust_model_code)
        from nonvacuous.runtime.training import resolved_device

        again |= {"device": str(resolved_device(device)), "progress": output.progress}
    elif spec is not None:
        if train_spec is None and test_spec is None:
            raise InvalidInput("--model measures the evidence again and needs the data too: pass --train, --test or both")
        require_weights(spec, weights)
        from nonvacuous.runtime.training import resolved_device

        samples = {"train": train_spec, "test": test_spec}
        networks = {"model": (spec, weights), "initial": (spec if initial_weights else None, initial_weights)}
        again = _measured_again(networks, samples, _loss(files), trust_model_code)
        again |= {"device": str(resolved_device(device)), "batch_size": batch_size, "progress": output.progress}
    elif given := [
        option
        for option, value in (
            ("--weights", weights),
            ("--initial-weights", initial_weights),
            ("--train", train_spec),
            ("--test", test_spec),
        )
        if value is not None
    ]:
        raise InvalidInput(f"{', '.join(given)} without --model: name the model to measure the evidence again")

    from nonvacuous.auditing.levels import verify as check

    result = check(files, **again)
    _print(result, output)
    output.document(_content(result))
    if not result.ok:
        raise click.exceptions.Exit(1)


def _all_learned(files: list[Path]) -> bool:
    """Whether all readable certificates come from `nonvacuous certify`."""
    from nonvacuous.core.certificate import Certificate

    found = []
    for path in files:
        with suppress(CertificateRefused):
            found.append("method" in Certificate.load(path).measurement)
    return bool(found) and all(found)


def _measured_again(
    networks: dict[str, tuple[str | None, Path | None]], samples: dict[str, str | None], loss: str, trust_model_code: bool
) -> dict[str, Any]:
    """What level two measures with: networks and samples by the name of ``verify``'s argument, None where not given."""
    models = {
        name: None if spec is None else network(spec, weights, seed=0, trust_model_code=trust_model_code)
        for name, (spec, weights) in networks.items()
    }
    data = {part: None if spec is None else sample(spec, part, loss) for part, spec in samples.items()}
    return {**models, **data}


def _loss(files: list[Path]) -> str:
    """The loss that the first readable certificate speaks of: it says whether targets are classes or numbers."""
    from nonvacuous.core.certificate import Certificate

    for path in files:
        with suppress(CertificateRefused):
            return Certificate.load(path).loss
    return "zero_one"


def _print(result: Verification, output: Output) -> None:
    for checked in result.results:
        if not checked.ok:
            line = f"refused  {checked.source}: {checked.message}"
            click.echo(line, err=True) if output.quiet else output.say(line)
        elif result.unmeasured and checked.level == 1:
            output.say(f"skipped  {checked.source}: {checked.message.partition('; ')[2]}")
    output.say(result.summary)


def _content(result: Verification) -> dict[str, Any]:
    rows = []
    for checked in result.results:
        c = checked.certificate
        row = {"path": checked.source, "ok": checked.ok, "level": checked.level, "message": checked.message}
        if c is not None:
            row |= {"bound": c.bound, "predictor": c.predictor, "loss": c.loss, "value": c.value, "delta": c.delta}
        rows.append(row)
    level = max(checked.level for checked in result.results)
    held = {
        "verified": result.verified if level == 2 else 0,
        "consistent": result.unmeasured if level == 2 else result.verified,
    }
    return {"ok": result.ok, "level": level, **held, "refused": result.refused, "results": rows}
