"""``nonvacuous audit``: measure a trained network once, certify what can be promised, and write the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nonvacuous.commands.budget import beside, seconds_of, workers
from nonvacuous.commands.landscape import surroundings
from nonvacuous.commands.loading import network, require_weights, sample
from nonvacuous.commands.options import every_command, trust_model_code
from nonvacuous.commands.output import Column, Output
from nonvacuous.commands.places import free_directory
from nonvacuous.commands.program import Interrupted
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.ledger import check_delta

if TYPE_CHECKING:
    from nonvacuous.auditing.result import Audit
    from nonvacuous.bounds.mixing import Mixing
    from nonvacuous.core.certificate import Certificate


@click.command(short_help="Certify a trained network and write its report.")
@click.option(
    "--model", "spec", required=True, metavar="MODEL", help="mlp:64-64-10, convnet:28x28x1-10, pkg.module:factory, file.pt2."
)
@click.option(
    "--weights", type=click.Path(path_type=Path), help="Trained weights, best as .safetensors; absent: as the factory returns."
)
@click.option("--train", "train_spec", required=True, metavar="DATA", help="The sample the network was trained on.")
@click.option("--test", "test_spec", metavar="DATA", help="A sample that training never read; may be absent.")
@click.option(
    "--initial-weights",
    type=click.Path(path_type=Path),
    help="Weights before training, for bounds on the distance from them; else 0.",
)
@click.option("--delta", type=float, default=0.05, show_default=True, help="Probability that any certificate may fail.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder for report and certificates."
)
@click.option(
    "--loss",
    default="zero_one",
    show_default=True,
    help="zero_one, brier, bounded_cross_entropy[:P], clipped_squared:SCALE, clipped_absolute:SCALE, missed:TOLERANCE.",
)
@click.option(
    "--input-range",
    metavar="LOW:HIGH",
    help="Least and largest number an input can hold (pixels: 0:1); bounds that need it are skipped without.",
)
@click.option("--allow-overlap", is_flag=True, help="Go on when test examples also occur in the training sample.")
@click.option(
    "--series/--independent",
    "ordered",
    default=None,
    help="The examples are a series in this order, or are vouched independent; absent, a test of the held-out losses decides.",
)
@click.option(
    "--mixing",
    metavar="LAW",
    help="What is assumed of a series: geometric:C,RHO (β(k) ≤ C·RHO^k) or m-dependent:M. Implies --series.",
)
@click.option(
    "--span", type=int, metavar="W", help="Observations that an example reads, target included (series:… says it itself)."
)
@click.option(
    "--gap", type=int, metavar="G", help="Observations left out between training and test (series:… says it itself)."
)
@click.option("--block", type=int, metavar="B", help="Examples in a block of a series; absent, chosen from their number.")
@click.option("--landscape", "drawn", is_flag=True, help="Also draw the loss around the network: DIR/landscape.html.")
@click.option(
    "--random-labels", is_flag=True, help="Also train the architecture anew on random labels: its capacity, as an indicator."
)
@click.option(
    "--refit",
    metavar="TIME",
    help="Also train the architecture anew within TIME (90s, 20m): DIR/budget.html. See `nonvacuous budget`.",
)
@click.option("--refit-epochs", type=float, default=10, show_default=True, help="Epochs of the recipe that --refit repeats.")
@click.option("--force", is_flag=True, help="Replace the audit that DIR holds; other files in it stay.")
@trust_model_code
@every_command("--seed", "--device", "--batch-size")
def audit(
    spec: str,
    weights: Path | None,
    train_spec: str,
    test_spec: str | None,
    initial_weights: Path | None,
    delta: float,
    out: Path,
    loss: str,
    input_range: str | None,
    allow_overlap: bool,
    ordered: bool | None,
    mixing: str | None,
    span: int | None,
    gap: int | None,
    block: int | None,
    drawn: bool,
    random_labels: bool,
    refit: str | None,
    refit_epochs: float,
    force: bool,
    trust_model_code: bool,
    seed: int,
    device: str,
    batch_size: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Certify what can be promised about a trained network, say where its error is, and write the report.

    Writes DIR/audit.html (works offline), DIR/audit.json and DIR/certificates/*.json, all or nothing. The certificates hold
    simultaneously with probability at least 1 − delta over the draw of the data, under the hypotheses that each lists.
    `nonvacuous --help` explains MODEL and DATA.
    """
    output = Output(as_json, quiet)
    check_delta(delta)
    refit_seconds = None if refit is None else seconds_of(refit)
    if refit is not None and (test_spec is None or spec.endswith(".pt2") or loss != "zero_one"):
        raise InvalidInput("--refit needs --test, a model that can be trained anew (no .pt2), and the loss zero_one")
    if random_labels and spec.endswith(".pt2"):
        raise InvalidInput("--random-labels trains the architecture anew, which an exported program (.pt2) does not allow")
    free_directory(out, force)
    require_weights(spec, weights)
    law = _law(ordered, mixing, (span, gap, block))

    from nonvacuous.auditing.run import audit as run
    from nonvacuous.auditing.series import Series
    from nonvacuous.runtime.training import resolved_device

    place = resolved_device(device)
    model = network(spec, weights, seed=seed, trust_model_code=trust_model_code)
    initial = None if initial_weights is None else network(spec, initial_weights, seed=seed, trust_model_code=trust_model_code)
    train = sample(train_spec, "train", loss)
    test = None if test_spec is None else sample(test_spec, "test", loss)
    try:
        result = run(
            model,
            train=train,
            test=test,
            loss=loss,
            delta=delta,
            initial=initial,
            device=str(place),
            batch_size=batch_size,
            seed=seed,
            progress=output.progress,
            allow_overlap=allow_overlap,
            name=spec,
            input_range=_two_numbers(input_range),
            series=Series(law, span, gap, block)
            if law is not None or (ordered and (span, gap, block) != (None,) * 3)
            else ordered,
        )
        if random_labels:
            from nonvacuous.auditing.memorization import with_capacity
            from nonvacuous.runtime.models import load_model

            result = with_capacity(result, lambda: load_model(spec), train, progress=output.progress, device=place)
        result.save(out, force=force)
    except KeyboardInterrupt:
        raise Interrupted(f"nothing was written to {out}") from None
    if as_json:
        output.document(json.loads((out / "audit.json").read_text(encoding="utf-8")))
    if not quiet:
        _print(result, output, out)
    if drawn:
        surroundings(spec, train_spec, model.to(place), train, out, seed=seed, output=output)
    if refit_seconds is not None and test is not None:
        beside(
            result,
            spec,
            train,
            test,
            out,
            seconds=refit_seconds,
            epochs=refit_epochs,
            seed=seed,
            delta=delta,
            device=str(place),
            processes=workers(place.type),
            output=output,
        )


def _law(ordered: bool | None, mixing: str | None, cut: tuple[int | None, ...]) -> Mixing | None:
    """The assumption about a series, None where there is none; raises :class:`InvalidInput` where options contradict each other."""
    from nonvacuous.bounds.mixing import Mixing

    if ordered is False and (mixing is not None or any(number is not None for number in cut)):
        raise InvalidInput("--independent says that the examples are no series: leave out --mixing, --span, --gap and --block")
    if mixing is None and ordered is None and any(number is not None for number in cut):
        raise InvalidInput(
            "--span, --gap and --block are about a series: say what is assumed of it with --mixing, or pass --series"
        )
    return None if mixing is None else Mixing.parse(mixing)


def _two_numbers(text: str | None) -> tuple[float, float] | None:
    """LOW:HIGH as numbers."""
    if text is None:
        return None
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise InvalidInput(f"--input-range is LOW:HIGH, as in 0:1; got {text!r:.60}") from None


def _print(result: Audit, output: Output, out: Path) -> None:
    from nonvacuous.auditing.series import warnings

    _headline(result, output)
    for sentence in warnings(result.facts):
        output.prose(f"Warning: {sentence}", hang=2)
    output.say()
    _ladder(result, output)
    _budget(result, output)
    _indicators(result, output)
    if result.skipped:
        output.say()
        output.head("Not applied")
        for reason in dict.fromkeys(skipped.reason for skipped in result.skipped):
            names = ", ".join(skipped.bound for skipped in result.skipped if skipped.reason == reason)
            output.prose(f"{names}: {reason}", indent=2, hang=2)
    for note in _notes(result):
        output.say()
        output.prose(f"note: {note}", hang=2)
    output.say()
    output.say(f"report        {out / 'audit.html'}")
    output.say(f"certificates  {out / 'certificates'} ({len(result.certificates)}; check them with `nonvacuous verify {out}`)")


def _headline(result: Audit, output: Output) -> None:
    from nonvacuous.auditing import wording

    facts = result.facts
    sure = _plain(wording.confidence(facts.delta))
    try:
        best = result.best
    except LookupError:
        output.prose(f"Nothing could be certified about {facts.model} as given; the reasons are below.")
        return
    if best.vacuous:
        output.prose(f"Every certificate for {facts.model} is vacuous: nothing is promised.")
        return
    if wording.is_share(facts.loss):
        output.head(f"With {sure} confidence, {facts.model} errs on at most {_value(best)} of new examples.")
    else:
        what = f"the mean {wording.words(facts.loss)} loss of {facts.model} on new examples"
        output.head(f"With {sure} confidence, {what} is at most {_value(best)}.")
    samples = [facts.train] if facts.test is None else [facts.train, facts.test]
    seen = ", ".join(
        f"{_plain(wording.observed(s.risk, facts.loss))} on {s.n:,} {role} examples"
        for s, role in zip(samples, ("training", "test"), strict=False)
    )
    output.prose(f"Measured: {seen}.", hang=2)
    argued = [assumption.statement for assumption in best.hypotheses if not assumption.checked]
    if argued:
        output.say("Provided, which no program can check, that:")
    for statement in argued:
        output.prose(f"- {statement[0].lower()}{statement[1:]}", indent=2, hang=2)


def _ladder(result: Audit, output: Output) -> None:
    """The certificates, tightest first."""
    from nonvacuous.auditing import wording
    from nonvacuous.core.bound import find

    output.head("Certificates, all of which hold at once")
    columns = [
        Column("  risk ≤", right=True),
        Column("bound"),
        Column("of", wraps=True),
        Column("n", right=True),
        Column("sample"),
        Column("δ", right=True),
    ]
    rows = []
    for c in result.certificates:
        sample, n = find(c.bound).sample.value, f"{int(c.evidence['n']):,}"
        rows.append([_value(c), c.bound, wording.look(c.predictor).name, n, sample, wording.share(c.delta)])
    vacuous = frozenset(i for i, c in enumerate(result.certificates) if c.vacuous)
    output.table(columns, rows, dim=vacuous)
    if not rows:
        output.say("  none")


def _budget(result: Audit, output: Output) -> None:
    """Where the error is, part by part."""
    from nonvacuous.auditing import wording

    output.say()
    output.head("Where the error is")
    columns = [Column("  part"), Column("between", right=True), Column("kind"), Column("from", wraps=True)]
    rows = [
        [
            f"  {part.name}",
            _plain(wording.interval(part.measured, result.facts.loss)),
            wording.KINDS[part.measured.kind],
            part.source,
        ]
        for part in (*result.budget.parts, result.budget.risk)
    ]
    output.table(columns, rows)


def _indicators(result: Audit, output: Output) -> None:
    if not result.indicators:
        return
    output.say()
    output.head("Indicators (they promise nothing)")
    columns = [Column("  name"), Column("value", right=True), Column("unit"), Column("why no certificate", wraps=True)]
    rows = []
    for i in result.indicators:
        value = " to ".join(dict.fromkeys((f"{i.lower:.4g}", f"{i.upper:.4g}")))
        rows.append([f"  {i.name}", value, i.unit, i.reason])
    output.table(columns, rows)


def _notes(result: Audit) -> list[str]:
    facts = result.facts
    notes = [note for sample in (facts.train, facts.test) if sample is not None for note in sample.notes]
    if facts.overlap:
        some = "example occurs" if facts.overlap == 1 else "examples occur"
        notes.append(f"{facts.overlap:,} test {some} in the training sample too and each was counted as an error.")
    return notes


def _value(certificate: Certificate) -> str:
    from nonvacuous.auditing import wording

    return _plain(wording.certified(certificate))


def _plain(text: Any) -> str:
    """Without the narrow space that a terminal may not draw."""
    return str(text).replace("\u202f%", "%").replace("\u202f", " ")
