"""``nonvacuous bounds``: every theorem that can issue a certificate, and one of them in full. Loads no torch."""

from __future__ import annotations

import inspect
import re
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING, Any

import click

from nonvacuous.commands.options import every_command
from nonvacuous.commands.output import Column, Output

if TYPE_CHECKING:
    from nonvacuous.core.bound import Bound

WORKED_DIGITS = 7


@click.command(short_help="List the theorems, or print one in full.")
@click.argument("name", required=False)
@every_command()
def bounds(name: str | None, as_json: bool, quiet: bool) -> None:
    """List every bound, or print NAME in full: statement, hypotheses, evidence, constants, source, worked numbers.

    --quiet prints the names only.
    """
    from nonvacuous.core.bound import find, registered

    out = Output(as_json, quiet)
    if name is not None:
        bound = find(name)
        _print(bound, out)
        out.document(described(bound))
        return
    known = registered()
    if quiet and not as_json:
        click.echo("\n".join(known))
    _list(list(known.values()), out)
    out.document([_summary(bound) for bound in known.values()])


def _list(known: list[type[Bound]], out: Output) -> None:
    if out.stream.isatty():
        for bound in known:
            out.head(bound.name)
            out.prose(f"{bound.sample.value} sample · {bound.loss.value} · speaks of: {_predictors(bound)}", indent=2)
            out.prose(bound.statement(), indent=2)
        out.say()
        out.prose("`nonvacuous bounds NAME` prints one in full.")
        return
    columns = [Column("name"), Column("sample"), Column("loss"), Column("speaks of"), Column("statement")]
    rows = [[b.name, b.sample.value, b.loss.value, _predictors(b), b.statement()] for b in known]
    out.table(columns, rows)


def _predictors(bound: type[Bound]) -> str:
    return ", ".join(predictor.name.lower() for predictor in bound.predictors)


def _summary(bound: type[Bound]) -> dict[str, Any]:
    return {
        "name": bound.name,
        "title": bound.title,
        "statement": bound.statement(),
        "sample": bound.sample.value,
        "loss": bound.loss.value,
        "predictors": [predictor.name.lower() for predictor in bound.predictors],
    }


def described(bound: type[Bound]) -> dict[str, Any]:
    """Everything the class says, as plain values."""
    from nonvacuous.core.quantities import QUANTITIES

    directions = bound.directions()
    evidence = []
    for field in bound.Evidence._fields:
        entry = QUANTITIES[field]
        evidence.append(
            {
                "name": field,
                "symbol": entry.symbol,
                "unit": entry.unit,
                "range": [_end(entry.low), _end(entry.high)],
                "direction": directions[field].name.lower(),
                "meaning": directions[field].value,
                "reads": entry.reads.value,
                "description": entry.description,
            }
        )
    return {
        **_summary(bound),
        "remarks": _remarks(bound),
        "hypotheses": [{"name": h.name, "statement": h.statement, "checkable": h.checkable} for h in bound.hypotheses],
        "least_n": bound.least_n,
        "evidence": evidence,
        "parameters": _parameters(bound),
        "source": bound.source,
        "worked": [_worked(bound, *example) for example in bound.worked],
        "python": f"{bound.__module__}.{bound.__qualname__}",
    }


def _end(number: float) -> float | str:
    return number if abs(number) != float("inf") else ("inf" if number > 0 else "-inf")


def _remarks(bound: type[Bound]) -> list[str]:
    """The docstring after the statement, without its doctests."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(bound.__doc__ or ""))[1:]
    return [" ".join(p.split()) for p in paragraphs if p.strip() and not p.lstrip().startswith(">>>")]


def _parameters(bound: type[Bound]) -> dict[str, Any]:
    try:
        return bound().parameters
    except TypeError:  # a parameter without a default
        return {name: "required" for name in getattr(bound, "__dataclass_fields__", {})}


def _worked(bound: type[Bound], evidence: tuple[Any, ...], delta: float, stated: float) -> dict[str, Any]:
    """A known number of the class, and what the bound gives today, rounded up."""
    value = bound().solve(bound.Evidence(*evidence), delta)
    return {
        "evidence": dict(zip(bound.Evidence._fields, evidence, strict=True)),
        "delta": delta,
        "value": ceil(Fraction(value) * 10**WORKED_DIGITS) / 10**WORKED_DIGITS,
        "stated": stated,
    }


def _print(bound: type[Bound], out: Output) -> None:
    from nonvacuous.core.bound import Direction

    if out.quiet:
        return
    content = described(bound)
    arrows = {Direction.UP: "worse", Direction.DOWN: "better", Direction.FREE: "free", Direction.EXACT: "exact"}
    out.head(f"{content['title']} bound ({content['name']})")
    out.prose(content["statement"], indent=2)
    for remark in content["remarks"]:
        out.prose(remark, indent=2)
    out.say()
    out.head("Rests on")
    for hypothesis in content["hypotheses"]:
        out.prose(f"- {hypothesis['statement']}", indent=2, hang=2)
    least = f", at least {bound.least_n} examples" if bound.least_n > 1 else ""
    out.prose(f"- Sample: {bound.sample.value}{least}. Loss: {bound.loss.value}.", indent=2, hang=2)
    out.say()
    out.head("Speaks of")
    for predictor in bound.predictors:
        out.prose(f"- {predictor.name.lower()}: {predictor.value}", indent=2, hang=2)
    out.say()
    out.head("Evidence")
    rows = [
        [
            f"  {e['name']}",
            e["symbol"],
            e["unit"],
            f"[{_short(e['range'][0])}, {_short(e['range'][1])}]",
            arrows[bound.directions()[e["name"]]],
            e["description"],
        ]
        for e in content["evidence"]
    ]
    titles = ("  name", "symbol", "unit", "range", "more is", "what it is")
    out.table([Column(title, wraps=title == "what it is") for title in titles], rows)
    out.say()
    out.head("Constants fixed beforehand")
    out.prose(", ".join(f"{k} = {v}" for k, v in content["parameters"].items()) or "none besides δ", indent=2)
    out.say()
    out.head("Source")
    out.prose(content["source"], indent=2)
    if content["worked"]:
        out.say()
        out.head("Worked numbers")
    for example in content["worked"]:
        numbers = ", ".join(f"{name} = {_short(value)}" for name, value in example["evidence"].items())
        out.prose(f"{numbers}, δ = {example['delta']:g}  →  risk ≤ {example['value']:.{WORKED_DIGITS}f}", indent=2, hang=2)


def _short(value: Any) -> str:
    if isinstance(value, float | int):
        if value == 2**53:
            return "2⁵³"
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    return str(value).replace("inf", "∞") if not isinstance(value, tuple) else f"({len(value)} numbers)"
