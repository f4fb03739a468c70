"""One documentation page for every registered bound, written from the class: statement, evidence, hypotheses, source."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from pathlib import Path

from nonvacuous.core.bound import Bound, registered
from nonvacuous.core.quantities import QUANTITIES

# What mathematics and array shapes write, and reStructuredText reads as markup: the first bar of |x|, the star of (n, *shape).
MARKUP = re.compile(r"(?<!\\)\|(?=\S)|(?<=[ (])\*(?=[\w ]+[,)])")


def as_written(lines: Iterable[str]) -> list[str]:
    """The lines with such bars and stars escaped; code, between backquotes or in a doctest up to its blank line, as it is."""
    escaped, in_doctest = [], False
    for line in lines:
        in_doctest = bool(line.strip()) and (in_doctest or line.lstrip().startswith(">>>"))
        if not in_doctest:
            pieces = re.split(r"(`+[^`]*`+)", line)
            pieces[::2] = [MARKUP.sub(r"\\\g<0>", prose) for prose in pieces[::2]]
            line = "".join(pieces)
        escaped.append(line)
    return escaped


def heading(text: str, mark: str) -> list[str]:
    return [text, mark * len(text), ""]


def listed(intro: str, items: list[str]) -> list[str]:
    return [intro, "", *(f"- {item}" for item in items), ""]


def page(bound: type[Bound]) -> str:
    """The page of one bound, in reStructuredText."""
    directions = bound.directions()
    evidence = []
    for name in bound.Evidence._fields:
        entry = QUANTITIES[name]
        evidence += [
            f"``{name}`` ({entry.symbol}, {entry.unit})",
            f"    {entry.description} Range [{entry.low:g}, {entry.high:g}]; {directions[name].value}.",
            "",
        ]
    lines = [
        *heading(bound.title, "="),
        f"On the command line: ``nonvacuous bounds {bound.name}``. In Python: ``{bound.__module__}.{bound.__qualname__}``.",
        "",
        *heading("Statement", "-"),
        inspect.cleandoc(bound.__doc__ or ""),
        "",
        *heading("Evidence", "-"),
        *evidence,
        *heading("Hypotheses", "-"),
        *listed(
            f"The sample is {bound.sample.value}, of at least {bound.least_n} examples; the loss is: {bound.loss.value}.",
            [hypothesis.statement for hypothesis in bound.hypotheses],
        ),
        *listed("A certificate may speak of:", [predictor.value for predictor in bound.predictors]),
        *heading("Source", "-"),
        bound.source,
        "",
    ]
    return "\n".join(as_written("\n".join(lines).splitlines()))


def write(folder: Path) -> None:
    """Write ``index.rst`` and a page a bound into ``folder``; pages of bounds that are gone are removed."""
    folder.mkdir(exist_ok=True)
    bounds = registered()
    pages = {f"{name}.rst": page(bound) for name, bound in bounds.items()}
    rows = [f"- :doc:`{bound.title} <{name}>`: {bound.statement()}" for name, bound in bounds.items()]
    index = [
        *heading("Bounds", "="),
        "Every theorem that can issue a certificate. Each is one class, re-checked by its own",
        "",
    ]
    index[-2] += " arithmetic; a certificate whose arithmetic is false cannot be made."
    toctree = [".. toctree::", "   :hidden:", "", *(f"   {name}" for name in bounds), ""]
    pages["index.rst"] = "\n".join([*index, *as_written(rows), "", *toctree])
    for old in folder.glob("*.rst"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        target = folder / name
        if not target.exists() or target.read_text(encoding="utf-8") != text:  # an untouched page is not built again
            target.write_text(text, encoding="utf-8")
