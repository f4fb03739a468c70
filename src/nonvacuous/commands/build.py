"""``nonvacuous build``: a network for a function the user types, with its proved error and a picture."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nonvacuous.commands.options import every_command
from nonvacuous.commands.output import Output
from nonvacuous.commands.places import free_directory, made_directory
from nonvacuous.core.errors import InvalidInput

if TYPE_CHECKING:
    from nonvacuous.approximation.built import Built
    from nonvacuous.approximation.expressions import Expression
    from nonvacuous.approximation.targets import Box

NETWORK, FACTS, PLOT = "network.safetensors", "network.json", "plot.png"


@click.command(short_help="Build a network for a function you type, with its proved error.")
@click.argument("expression")
@click.option(
    "--domain", "domains", required=True, multiple=True, metavar="A,B", help="Interval; one for each variable, or one for all."
)
@click.option("--eps", type=float, required=True, help="Largest error anywhere on the domain.")
@click.option("--lipschitz", type=float, help="Lipschitz constant of the function; proved from the expression if left out.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Directory to write to; without it, only print.")
@click.option("--force", is_flag=True, help="Replace the files of an earlier build.")
@every_command()
def build(
    expression: str,
    domains: tuple[str, ...],
    eps: float,
    lipschitz: float | None,
    out: Path | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Build a ReLU network within --eps of EXPRESSION everywhere on --domain, and draw both.

    \b
      nonvacuous build "sin(3*x)*exp(-x)" --domain 0,2*pi --eps 0.01 --out bumps
      nonvacuous build "max(x1, x2)**2" --domain=-1,1 --eps 0.1 --out square

    EXPRESSION holds numbers, x (or x1, x2, x3), + - * / **, parentheses, pi, e, and abs, cos, exp, log, max, min, sin, sqrt,
    tan, tanh; it is parsed, never run as code. One that begins with a minus sign goes in parentheses: "(-x)". The error is
    proved between samples too: from the Lipschitz constant given, or from one that interval arithmetic finds.

    DIR gets network.safetensors, network.json (size, error, how to load it) and plot.png.
    """
    output = Output(as_json, quiet)
    if out is not None:
        free_directory(out, force)

    from nonvacuous.approximation.expressions import parse

    function = parse(expression)
    box = _box(domains, function.dimension)
    if out is not None:
        _check_drawing()
    function, built = _built(expression, box, eps, lipschitz)
    facts = _facts(function, box, eps, lipschitz, built)
    if out is not None:
        with made_directory(out):
            _write(out, function, box, eps, built, facts)
    _report(out, facts, output)


def _box(domains: tuple[str, ...], named: int) -> Box:
    """Pairs of numbers; a single one serves every variable that the expression names."""
    from nonvacuous.approximation.expressions import constant
    from nonvacuous.approximation.targets import as_box

    pairs = []
    for domain in domains:
        ends = domain.split(",")
        if len(ends) != 2:
            raise InvalidInput(f"--domain {domain!r}: write its two ends as A,B; one --domain for each variable")
        try:
            pairs.append((constant(ends[0]), constant(ends[1])))
        except InvalidInput as error:
            raise InvalidInput(f"--domain {domain!r}: {error}") from None
    if len(pairs) == 1:
        pairs *= named
    if len(pairs) < named:
        raise InvalidInput(
            f"the expression names x{named}, but there are {len(pairs)} --domain options; give {named}, or one for all"
        )
    return as_box(pairs, most=3)


def _check_drawing() -> None:
    try:
        import matplotlib
    except ImportError:
        raise InvalidInput("plot.png is drawn by matplotlib, which is missing: pip install 'nonvacuous[gallery]'") from None
    matplotlib.use("Agg")


def _built(expression: str, box: Box, eps: float, lipschitz: float | None) -> tuple[Expression, Built]:
    from nonvacuous.approximation import bumps
    from nonvacuous.approximation.expressions import parse

    function = parse(expression, len(box))
    domain = box[0] if len(box) == 1 else box
    try:
        return function, bumps.approximate(function, domain, eps, lipschitz=lipschitz)
    except InvalidInput as error:
        says = str(error).replace("pass lipschitz=… if", "pass --lipschitz L if").replace("lipschitz=…", "--lipschitz L")
        raise InvalidInput(says.replace("pass lipschitz ≥", "pass --lipschitz of at least")) from error


def _facts(function: Expression, box: Box, eps: float, lipschitz: float | None, built: Built) -> dict[str, Any]:
    state = {name: list(value.shape) for name, value in built.module.state_dict().items()}
    kind = type(built.module).__name__
    home = type(built.module).__module__
    return {
        "expression": function.text,
        "domain": [list(ends) for ends in box],
        "eps": eps,
        "lipschitz": lipschitz,
        "lipschitz_from": "proved by interval arithmetic" if lipschitz is None else "given",
        "error": {"lower": built.error.lower, "upper": built.error.upper, "kind": built.error.kind.name.lower()},
        "network": kind,
        "stored_numbers": built.cost.parameters,
        "weights": built.cost.macs,
        "units": 2 * built.cost.macs - built.cost.operations,
        "tensors": state,
        "load": f"from {home} import {kind}; from safetensors.torch import load_file; "
        f"network = {kind}(**load_file({NETWORK!r}))  # [n, {len(box)}] to [n], float64",
    }


def _write(out: Path, function: Expression, box: Box, eps: float, built: Built, facts: dict[str, Any]) -> None:
    """All three files, or none: made beside their places, then moved there."""
    from nonvacuous.runtime.weights import save_weights

    with tempfile.TemporaryDirectory(dir=out, prefix=".build-") as made:
        folder = Path(made)
        save_weights(built.module, folder / NETWORK)
        (folder / FACTS).write_text(json.dumps(facts, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        _draw(folder / PLOT, function, box, eps, built)
        for name in (NETWORK, FACTS, PLOT):
            os.replace(folder / name, out / name)


def _draw(path: Path, function: Expression, box: Box, eps: float, built: Built) -> None:
    """Target, network and error: curves in one dimension, pictures above (x3 at its middle)."""
    import torch
    from matplotlib.figure import Figure

    axes_of = [torch.linspace(a, b, 1500 if len(box) == 1 else 160, dtype=torch.float64).clamp(a, b) for a, b in box[:2]]
    x = torch.cartesian_prod(*axes_of).reshape(-1, len(axes_of))
    if len(box) == 3:
        middle = torch.full((len(x), 1), (box[2][0] + box[2][1]) / 2, dtype=torch.float64)
        x = torch.cat([x, middle], 1)
    with torch.no_grad():
        target, network = function(x), built.module(x)
    error = network - target
    if len(box) == 1:
        figure = Figure(figsize=(8, 6), layout="constrained")
        top, bottom = figure.subplots(2, sharex=True, height_ratios=[2, 1])
        top.plot(x[:, 0], target, color="0.6", lw=3, label=function.text)
        top.plot(x[:, 0], network, color="tab:blue", lw=1, label=f"network, {built.cost.macs:,} weights")
        top.legend(frameon=False)
        bottom.plot(x[:, 0], error, color="tab:red", lw=0.8)
        for level in (-built.error.upper, built.error.upper):
            bottom.axhline(level, color="0.5", lw=0.8, ls="--")
        bottom.set(xlabel="x", ylabel="error", title=f"error, at most {built.error.upper:.4g} everywhere (eps {eps:g})")
    else:
        figure = Figure(figsize=(12, 3.8), layout="constrained")
        shape = [len(axis) for axis in axes_of]
        low, high = float(torch.minimum(target, network).min()), float(torch.maximum(target, network).max())
        panels = [(function.text, target, low, high, "viridis"), ("network", network, low, high, "viridis")]
        seen = float(error.abs().max()) or 1.0
        panels.append((f"error, at most {built.error.upper:.4g} everywhere", error, -seen, seen, "RdBu"))
        for ax, (title, value, least, most, colours) in zip(figure.subplots(1, 3), panels, strict=True):
            picture = value.reshape(shape).T
            extent = (*box[0], *box[1])
            image = ax.imshow(picture, extent=extent, origin="lower", aspect="auto", vmin=least, vmax=most, cmap=colours)
            ax.set(title=title, xlabel="x1", ylabel="x2")
            figure.colorbar(image, ax=ax)
    figure.savefig(path, dpi=120)


def _report(out: Path | None, facts: dict[str, Any], output: Output) -> None:
    error = facts["error"]
    sure = "proved" if error["kind"] == "exact" else "an indicator, not proved"
    output.say(f"network   {facts['network']}: {facts['weights']:,} weights, {facts['units']:,} units")
    output.say(
        f"error     between {error['lower']:.6g} and {error['upper']:.6g} ({sure}; Lipschitz constant {facts['lipschitz_from']})"
    )
    if out is None:
        output.say("files     none; --out DIR saves the network, its facts and a plot")
    else:
        output.say(f"files     {out / NETWORK}, {out / FACTS}, {out / PLOT}")
    output.document({**facts, "out": None if out is None else str(out)})
