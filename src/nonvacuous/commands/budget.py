"""``nonvacuous budget``: refit at several sizes, widths and lengths; say where the error is and what would reduce it most."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nonvacuous.commands.options import every_command
from nonvacuous.commands.output import Column, Output
from nonvacuous.commands.places import free_directory
from nonvacuous.commands.program import Interrupted
from nonvacuous.core.errors import InvalidInput

if TYPE_CHECKING:
    from nonvacuous.auditing.refits import RefitBudget
    from nonvacuous.auditing.result import Audit
    from nonvacuous.runtime.samples import Sample

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
REFITS = "refits"


@click.command(short_help="Refit to see where the error is and what would reduce it.")
@click.option("--model", "spec", required=True, metavar="MODEL", help="mlp:64-64-10, convnet:28x28x1-10, pkg.module:factory.")
@click.option("--train", "train_spec", required=True, metavar="DATA", help="The sample that the recipe trains on.")
@click.option("--test", "test_spec", metavar="DATA", help="A sample to measure on; absent: a fifth of the other is held out.")
@click.option("--time", "time_text", default="20m", show_default=True, metavar="TIME", help="For all refits: 90s, 20m, 2h.")
@click.option(
    "--epochs", type=float, default=10, show_default=True, help="The recipe's, on all examples; half and twice are seen too."
)
@click.option("--learning-rate", type=float, default=1e-3, show_default=True, help="The recipe's step size.")
@click.option(
    "--optimizer",
    type=click.Choice(["adam", "adamw", "sgd", "momentum"]),
    default="adam",
    show_default=True,
    help="How steps are made.",
)
@click.option(
    "--replicates", type=click.IntRange(1), default=8, show_default=True, help="Refits of each kind, if time allows."
)
@click.option(
    "--processes", type=click.IntRange(1), help="Workers with one thread each; default: as many as cores, at most 8."
)
@click.option("--delta", type=float, default=0.05, show_default=True, help="Probability that the risk interval may fail.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder for the report and the refits."
)
@click.option("--regression", is_flag=True, help="Targets are numbers, fitted and judged by squared error.")
@click.option("--resume", is_flag=True, help="Go on with the refits that DIR holds.")
@click.option("--force", is_flag=True, help="Replace what DIR holds.")
@every_command("--seed", "--device", "--batch-size", batch_size=128)
def budget(
    spec: str,
    train_spec: str,
    test_spec: str | None,
    time_text: str,
    epochs: float,
    learning_rate: float,
    optimizer: str,
    replicates: int,
    processes: int | None,
    delta: float,
    out: Path,
    regression: bool,
    resume: bool,
    force: bool,
    seed: int,
    device: str,
    batch_size: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train the recipe again at several sample sizes, widths and lengths, and say where its error is and what would reduce it most.

    Writes DIR/budget.html, DIR/budget.json and DIR/refits, one file for what was trained together. Ctrl-C keeps what is finished;
    the same command with --resume goes on from it, also to give a finished run more time.
    """
    output = Output(as_json, quiet)
    seconds = seconds_of(time_text)
    refits = out / REFITS
    if resume and not refits.is_dir():
        raise InvalidInput(f"--resume: {out} holds no refits. Leave --resume out")
    free_directory(out, force or resume)

    from nonvacuous.auditing.refits import budget as run
    from nonvacuous.runtime.sources import load
    from nonvacuous.runtime.training import resolved_device

    place = resolved_device(device)
    train = load(train_spec, "train", regression=regression)
    test = None if test_spec is None else load(test_spec, "test", regression=regression)
    if force and not resume and refits.is_dir():
        shutil.rmtree(refits)
    try:
        found = run(
            spec,
            train,
            test=test,
            seconds=seconds,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            optimizer=optimizer,
            replicates=replicates,
            seed=seed,
            delta=delta,
            processes=processes or workers(place.type),
            folder=refits,
            progress=output.progress,
            device=str(place),
        )
        found.save(out)
    except KeyboardInterrupt:
        kept = (
            f"what is finished is kept in {refits}; the same command with --resume goes on" if refits.is_dir() else "nothing"
        )
        raise Interrupted(kept) from None
    _print(found, output, out)
    if as_json:
        output.document(json.loads((out / "budget.json").read_text(encoding="utf-8")))
    if found.run.interrupted:
        raise Interrupted(f"the report is of what was finished; the same command with --resume goes on in {refits}")


def beside(audited: Audit, spec: str, train: Sample, test: Sample, out: Path, **settings: Any) -> None:
    """The budget of an audited network from refits, written beside its report. settings: as :func:`nonvacuous.budget` takes them."""
    from nonvacuous.auditing.refits import budget as run

    output: Output = settings.pop("output")
    found = run(spec, train, test=test, folder=out / REFITS, progress=output.progress, audited=audited, **settings)
    found.save(out)
    output.say()
    _print(found, output, out)


def workers(device: str) -> int:
    """As many processes as the CPU has cores, at most 8; one elsewhere."""
    return min(8, os.cpu_count() or 1) if device == "cpu" else 1


def seconds_of(text: str) -> float:
    """``90s``, ``20m``, ``1.5h`` or plain seconds as seconds.

    :raises InvalidInput: anything else, or no time at all.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)([smh]?)", text.strip().lower())
    if not match or float(match[1]) <= 0:
        raise InvalidInput(f"--time {text!r:.40} is not a time. Write 90s, 20m or 2h")
    return float(match[1]) * UNITS[match[2] or "s"]


def _print(found: RefitBudget, output: Output, out: Path) -> None:
    from nonvacuous.auditing import wording
    from nonvacuous.auditing.refit_report import gained, interval, sentence

    share = found.neighbour is not None
    output.prose(sentence(found, share))
    output.say()
    columns = [
        Column("  twice the"),
        Column("change", wraps=True),
        Column("risk falls by", right=True),
        Column("verdict"),
        Column("cost", right=True),
        Column("from", wraps=True),
    ]
    output.table(
        columns,
        [[f"  {x.name}", x.change, gained(x.gain, share), x.verdict, f"{x.cost:.1f} ×", x.how] for x in found.levers],
    )
    output.say()
    output.head("Where the error is")
    columns = [Column("  part"), Column("between", right=True), Column("kind"), Column("from", wraps=True)]
    rows = [
        [f"  {p.name}", interval(p.measured, share), wording.KINDS[p.measured.kind], p.source]
        for p in (*found.budget.parts, found.budget.risk)
    ]
    output.table(columns, rows)
    for note in found.notes:
        output.say()
        output.prose(f"note: {note}", hang=2)
    output.say()
    output.say(f"report  {out / 'budget.html'}")
