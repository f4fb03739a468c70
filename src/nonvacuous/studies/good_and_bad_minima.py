"""Good and bad global minima (optimization lecture; Wu, Zhu and E 2017): networks that fit the same data and err differently.

The data are two interleaved spirals in the plane, as a picture of the lecture's kind; its exact points are not given. A network with two
hidden layers of 4 … 512 units is trained on the same points for the table of training and test accuracy by width. Bad minima are planted
as in the paper: beside the n clean points a network trains on further points with *wrong* labels ("poison"), then goes on with the clean
points alone. Both kinds fit the clean points; compared are their test accuracy, the Hessian's largest eigenvalue on the clean points, and
the basin: the share of random moves of a given length relative to the weights, per layer, from which training on the clean points comes
back to a network with the same answers.

``python -m nonvacuous.studies.good_and_bad_minima --out results/good_and_bad_minima.json`` prints the table and the comparison, and
writes them, row by row.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nonvacuous.core.errors import InvalidInput
from nonvacuous.operators.curvature import hessian
from nonvacuous.operators.lanczos import top_eigenpairs
from nonvacuous.runtime.factories import write_text
from nonvacuous.runtime.models import mlp
from nonvacuous.runtime.seeds import stream_seed
from nonvacuous.runtime.stacked_training import Member, Stack, trained_stack
from nonvacuous.runtime.values import Batch

WIDTHS = (4, 8, 16, 32, 64, 128, 256, 512)


def spirals(n: int, seed: int, *, turns: float = 1.0, noise: float = 0.05) -> Batch:
    """n points [n, 2] of two interleaved spirals of radius up to 1, with Gaussian noise, and their arm 0 or 1 [n]."""
    if n < 2 or not 0 < turns < math.inf or not 0 <= noise < math.inf:
        raise InvalidInput(
            f"{n} points, {turns!r} turns, noise {noise!r}: give 2 points or more, turns above 0, noise of at least 0"
        )
    generator = torch.Generator().manual_seed(stream_seed(seed, "spirals"))
    y = torch.arange(n) % 2
    t = torch.rand(n, generator=generator).sqrt()
    angle = 2 * math.pi * turns * t + math.pi * y
    x = t[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return Batch(x + noise * torch.randn(n, 2, generator=generator), y)


@dataclass(frozen=True)
class WidthRow:
    """Accuracies (shares) of the networks of one width, one entry a seed."""

    width: int
    train: tuple[float, ...]
    test: tuple[float, ...]


@dataclass(frozen=True)
class Minimum:
    """A network that was trained with ``poison`` wrong labels for each clean one, then on the clean ones alone.

    ``loss``, ``train``, ``test``: mean cross entropy and accuracies on the clean points, and test accuracy; ``top``: the largest eigenvalue
    found of the Hessian there.
    """

    poison: float
    seed: int
    loss: float
    train: float
    test: float
    top: float


def by_width(
    train: Batch,
    test: Batch,
    widths: Sequence[int] = WIDTHS,
    *,
    seeds: int = 3,
    steps: int = 1500,
    learning_rate: float = 0.01,
) -> list[WidthRow]:
    """Train and test accuracy of MLPs with two hidden layers of each width, all seeds of a width at once."""
    if not widths or min(widths) < 1 or seeds < 1:
        raise InvalidInput(f"widths {list(widths)} and {seeds} seeds: give at least one of each, of 1 or more")
    x, y = _points(train)
    rows = []
    for width in widths:
        members = [Member(stream_seed(seed, f"width {width}"), torch.arange(len(y))) for seed in range(seeds)]
        stack = trained_stack(
            _factory(width), x, y, members, steps=steps, batch_size=min(64, len(y)), learning_rate=learning_rate
        )
        accuracies = [
            tuple((stack.outputs(points).argmax(-1) == labels).double().mean(1).tolist())
            for points, labels in (_points(train), _points(test))
        ]
        rows.append(WidthRow(width, accuracies[0], accuracies[1]))
    return rows


@dataclass(frozen=True)
class Planted:
    """Networks of one amount of poison, and what was measured of them."""

    networks: tuple[nn.Module, ...]
    minima: tuple[Minimum, ...]


def planted(
    train: Batch,
    test: Batch,
    poison: float,
    *,
    width: int = 64,
    seeds: int = 3,
    steps: int = 1500,
    settle: int = 2000,
    target: float = 1e-3,
    learning_rate: float = 0.005,
) -> Planted:
    """Minima of the loss on ``train`` reached through ``poison`` · n wrongly labelled points from the same law (``test``'s own points are
    never among them), then full-batch steps on the clean ones, ``settle`` at most, until their mean cross entropy is at most ``target``.

    poison 0 gives good minima: the second phase from the initial weights. The common loss matters: under cross entropy the Hessian falls
    with the loss, so that a minimum trained for longer looks flatter.
    """
    if not 0 <= poison < math.inf or seeds < 1 or steps < 0 or settle < 0 or not target > 0:
        raise InvalidInput(
            f"poison {poison!r}, {seeds} seeds, {steps}, {settle} steps, loss {target!r}: none below 0, a seed, a loss > 0"
        )
    x, y = _points(train)
    wrong = round(poison * len(y))
    if wrong:
        extra, labels = _points(spirals(max(2, wrong), 977))
        points, targets = torch.cat([x, extra[:wrong]]), torch.cat([y, 1 - labels[:wrong]])
    else:
        points, targets = x, y
    members = [Member(stream_seed(seed, "planted"), torch.arange(len(targets))) for seed in range(seeds)]
    stack = trained_stack(
        _factory(width),
        points,
        targets,
        members,
        steps=steps if wrong else 0,
        batch_size=len(targets),
        learning_rate=learning_rate,
    )
    networks = tuple(_settled([stack.member(i) for i in range(seeds)], x, y, settle, learning_rate / 5, target))
    tx, ty = _points(test)
    minima = []
    for seed, net in enumerate(networks):
        with torch.no_grad():
            loss = float(cross_entropy(net(x), y))
            shares = [float((net(a).argmax(1) == b).double().mean()) for a, b in ((x, y), (tx, ty))]
        top = float(top_eigenpairs(hessian(copy.deepcopy(net).double(), cross_entropy, [(x.double(), y)]), 1).values[0])
        minima.append(Minimum(poison, seed, loss, shares[0], shares[1], top))
    return Planted(networks, tuple(minima))


def returned(
    net: nn.Module,
    train: Batch,
    test: Batch,
    radius: float,
    *,
    moves: int = 8,
    settle: int = 300,
    agree: float = 0.95,
    seed: int = 0,
) -> float:
    """Share of ``moves`` from which training comes back: every weight tensor moved by radius · its norm in a random direction, then
    ``settle`` steps on ``train``; back is fitting it again and answering at least ``agree`` of ``test``'s points as before.
    """
    if not 0 <= radius < math.inf or moves < 1 or not 0 < agree <= 1:
        raise InvalidInput(
            f"radius {radius!r}, {moves} moves, agreement {agree!r}: a radius ≥ 0, 1 move or more, agreement in (0, 1]"
        )
    generator = torch.Generator().manual_seed(stream_seed(seed, f"moves {radius}"))
    starts = []
    for _ in range(moves):
        start = copy.deepcopy(net)
        with torch.no_grad():
            for p in start.parameters():
                direction = torch.randn(p.shape, generator=generator).to(p)
                p.add_(direction * (radius * p.norm() / direction.norm()))
        starts.append(start)
    x, y = _points(train)
    tx, _ = _points(test)
    with torch.no_grad():
        answers = net(tx).argmax(1)
        back = [
            bool((there(x).argmax(1) == y).all()) and float((there(tx).argmax(1) == answers).double().mean()) >= agree
            for there in _settled(starts, x, y, settle, 1e-3)
        ]
    return sum(back) / len(back)


@torch.enable_grad()
def _settled(
    networks: list[nn.Module], x: Tensor, y: Tensor, steps: int, learning_rate: float, target: float = -1.0
) -> list[nn.Module]:
    """Full-batch training of networks of one architecture from where they are, all at once; each as it was when its loss, looked at
    every 10 steps, was first at most ``target``, or after all steps.
    """
    if not steps:
        return networks
    queue, found = iter(copy.deepcopy(networks)), dict[int, nn.Module]()

    def look(_: int, stack: Stack) -> None:
        scores = stack.outputs(x)
        for i in range(len(networks)):
            if i not in found and float(cross_entropy(scores[i], y)) <= target:
                found[i] = stack.member(i)

    members = [Member(i, torch.arange(len(y))) for i in range(len(networks))]
    stack = trained_stack(
        lambda: next(queue),
        x,
        y,
        members,
        steps=steps,
        batch_size=len(y),
        learning_rate=learning_rate,
        observe=look,
        observed=range(0, steps + 1, 10) if target > 0 else (),
    )
    return [found.get(i, stack.member(i)) for i in range(len(networks))]


def _factory(width: int) -> Callable[[], nn.Module]:
    return lambda: mlp(2, width, width, 2)


def _points(batch: Batch) -> tuple[Tensor, Tensor]:
    x, y = batch.inputs, batch.targets
    if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] != 2 or len(x) != len(y) or not bool(torch.isfinite(x).all()):
        raise InvalidInput("the points of this study are [n, 2], finite, with one label 0 or 1 each")
    return x, y


RADII = (0.1, 0.2, 0.4)


@click.command()
@click.option("--points", default=60, help="Clean training points.")
@click.option("--seeds", default=5)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file for the numbers.")
def main(points: int, seeds: int, out: Path | None) -> None:
    """The table by width, and good against planted minima."""
    train, test = spirals(points, 0), spirals(1000, 1)
    table: dict[str, Any] = {"points": points, "radii": RADII, "by_width": [], "minima": []}

    def keep(part: str, row: dict[str, Any]) -> None:
        table[part].append(row)
        if out is not None:
            write_text(out, json.dumps(table, indent=1, allow_nan=False) + "\n")

    for width in WIDTHS:
        (row,) = by_width(train, test, (width,), seeds=seeds)
        keep("by_width", asdict(row))
        click.echo(f"hidden: {row.width:>3}  train {max(row.train):.1%}  test {sum(row.test) / len(row.test):.1%}")
    for poison in (0.0, 1.0, 2.0):
        found = planted(train, test, poison, seeds=seeds)
        for net, m in zip(found.networks, found.minima, strict=True):
            back = [returned(net, train, test, radius) for radius in RADII]
            keep("minima", asdict(m) | {"back": back})
            click.echo(f"poison {poison:g}  train {m.train:.1%}  test {m.test:.1%}  λ_max {m.top:.3g}  back {back}")


if __name__ == "__main__":
    main()
