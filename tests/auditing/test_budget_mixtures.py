"""Budgets where two parts of the error matter at once, in a known ratio: least squares, where every part is known exactly.

y = Σ u_j x_j + a Σ q_j + σ ε for Gaussian inputs x, q_j = (x_j² − 1)/√2, j = 1 … 8, and a network that is linear in x and in the first
4 · width of the q_j.  All features have mean 0, deviation 1 and no correlation, so that the risk of given weights is σ² plus the squared
distance to the true ones, and the best of the class has the risk σ² + a² (8 − 4 · width): a makes the width's part, σ the data's, and
the number of steps the training's.
"""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from nonvacuous.auditing.refit_budget import refit_budget
from nonvacuous.auditing.refits import _risk
from nonvacuous.core.measured import Measured
from nonvacuous.runtime.seeds import stream_seed
from nonvacuous.runtime.stacked_training import Member, trained_stack
from nonvacuous.runtime.widths import Widened
from nonvacuous.studies.levers import Lever, contenders, levers
from nonvacuous.studies.refits import Cell, Plan, plan
from nonvacuous.studies.refitting import Refitted, World, refitted, rows

N, TESTS, LINEAR, SQUARES, BATCH, RATE = 400, 4000, 12, 8, 50, 0.01
NAMES = ("data", "width", "training")


class Squares(nn.Module):
    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.squares = max(1, round(4 * width))
        self.weights = nn.Linear(LINEAR + self.squares, 1, bias=False)
        nn.init.zeros_(self.weights.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.weights(torch.cat([x, (x[:, : self.squares] ** 2 - 1) / 2**0.5], 1))


def squares(width: float = 1.0) -> nn.Module:
    return Squares(width)


@dataclasses.dataclass(frozen=True)
class Truth:
    """a², σ² and the recipe's epochs."""

    quadratic: float
    noise: float
    epochs: float

    def drawn(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, LINEAR, generator=generator)
        q = (x[:, :SQUARES] ** 2 - 1) / 2**0.5
        noise = self.noise**0.5 * torch.randn(n, generator=generator)
        return x, x.sum(1) / LINEAR**0.5 + self.quadratic**0.5 * q.sum(1) + noise

    def risk(self, network: Squares) -> float:
        """Exactly, from the weights."""
        weights = network.weights.weight.detach()[0].double()
        true = torch.full((LINEAR + SQUARES,), LINEAR**-0.5, dtype=torch.float64)
        true[LINEAR:] = self.quadratic**0.5
        distance = float(((weights - true[: len(weights)]) ** 2).sum())
        return self.noise + distance + self.quadratic * (SQUARES - network.squares)

    def plan(self, n: int, replicates: int, seed: int) -> Plan:
        made = plan(
            n, epochs=self.epochs, batch_size=BATCH, learning_rate=RATE, optimizer="sgd", seed=seed, replicates=replicates
        )
        return dataclasses.replace(made, cells=tuple(c for c in made.cells if c.width == 1 or c == Cell(n, 2.0)))

    def world(self, n: int, seed: int) -> World:
        (x, y), (test_x, test_y) = self.drawn(n, 2 * seed), self.drawn(TESTS, 2 * seed + 1)
        return World(Widened(squares), x, y, test_x, test_y, None)

    def mean_risk(self, n: int, width: float = 1.0, length: float = 1.0, samples: int = 64) -> float:
        """Over samples, of what the recipe's steps make of them: all in one stack."""
        x, y = self.drawn(samples * n, 777)
        members = [Member(i, torch.arange(i * n, (i + 1) * n)) for i in range(samples)]
        return float(np.mean([self.risk(m) for m in self.networks(x, y, members, width, self.steps(length))]))

    def of_sample(self, world: World, width: float = 1.0, length: float = 1.0, orders: int = 12) -> float:
        """Over orders of the same sample."""
        members = [Member(1000 + i, torch.arange(N)) for i in range(orders)]
        networks = self.networks(world.inputs, world.targets, members, width, self.steps(length))
        return float(np.mean([self.risk(network) for network in networks]))

    def steps(self, length: float) -> int:
        return self.plan(N, 1, 0).steps(N, length)

    def networks(self, x: Tensor, y: Tensor, members: list[Member], width: float, steps: int) -> list[Squares]:
        loss = lambda outputs, targets: nn.functional.mse_loss(outputs.squeeze(-1), targets)  # noqa: E731
        stack = trained_stack(
            lambda: Squares(width),
            x,
            y,
            members,
            steps=steps,
            batch_size=BATCH,
            learning_rate=RATE,
            optimizer=torch.optim.SGD,
            loss=loss,
        )
        return [stack.member(i) for i in range(len(members))]  # type: ignore[misc]

    def parts(self, world: World, run: Refitted) -> dict[str, float]:
        """All parts of the risk of the first network on all examples, exactly: it is trained once more, and h° is least squares."""
        first = run.at(run.plan.base)[0]
        member = Member(stream_seed(run.plan.seed, f"replicate 0 at {N}, 1.0"), rows(run.plan, N, 0))
        (network,) = self.networks(world.inputs, world.targets, [member], 1.0, self.steps(1.0))
        with torch.no_grad():
            losses = (network(world.test_inputs).squeeze(-1) - world.test_targets) ** 2
        np.testing.assert_allclose(losses.numpy(), first.losses, rtol=1e-3, atol=1e-4)
        features = torch.cat([world.inputs, (world.inputs[:, :4] ** 2 - 1) / 2**0.5], 1).double()
        fitted = torch.linalg.lstsq(features, world.targets.double()[:, None]).solution
        least = float(((features @ fitted)[:, 0] - world.targets).square().mean())
        best = self.noise + 4 * self.quadratic
        return {
            "irreducible": self.noise,
            "approximation": 4 * self.quadratic,
            "sampling": least - best,
            "optimization": first.train_risk - least,
            "generalization": self.risk(network) - first.train_risk,
        }

    @cache  # noqa: B019
    def gains(self) -> dict[str, float]:
        """What each doubling gains in truth, over samples."""
        today = self.mean_risk(N)
        after = (self.mean_risk(2 * N), self.mean_risk(N, 2.0), self.mean_risk(N, 1.0, 2.0))
        return {name: today - risk for name, risk in zip(NAMES, after, strict=True)}


MIXTURES = {
    "data and width, alike": Truth(quadratic=0.0085, noise=1.0, epochs=20),
    "width three times training": Truth(quadratic=0.035, noise=0.05, epochs=10),
    "training five times data": Truth(quadratic=0.0, noise=0.4, epochs=8),
}


@dataclasses.dataclass(frozen=True)
class Seen:
    """One budget beside the truth: its levers, and whether each interval holds it."""

    levers: list[Lever]
    gains: dict[str, bool]
    parts: dict[str, bool]


def seen(truth: Truth, seed: int) -> Seen:
    world = truth.world(N, seed)
    run = refitted(world, truth.plan(N, 4, seed), seconds=10_000, progress=False)
    found = levers(run)
    today = truth.of_sample(world)
    true = {
        "data": truth.gains()["data"],
        "width": today - truth.of_sample(world, 2.0),
        "training": today - truth.of_sample(world, 1.0, 2.0),
    }
    first = run.at(run.plan.base)[0]
    budget = refit_budget(run, train_risk=first.train_risk, floor=0.0, risk=_risk(first.losses, None, 0.1))
    parts = truth.parts(world, run)
    return Seen(found, {x.name: true[x.name] in x.gain for x in found}, {k: held(v, budget[k]) for k, v in parts.items()})


def held(value: float, measured: Measured) -> bool:
    return measured.lower - 1e-6 <= value <= measured.upper + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("mixture", MIXTURES)
def test_intervals_cover_and_the_first_lever_is_right_or_a_tie_is_said(mixture: str) -> None:
    truth = MIXTURES[mixture]
    gains = truth.gains()
    order = sorted(gains, key=lambda name: -gains[name])
    if mixture == "data and width, alike":
        assert 0.6 < gains["data"] / gains["width"] < 1.6 and abs(gains["training"]) < 0.1 * gains["width"]
    else:
        assert mixture.startswith(order[0]) and mixture.endswith(order[1]) and 2 < gains[order[0]] / gains[order[1]] < 7
    runs = [seen(truth, seed) for seed in range(8)]
    for kind in ("gains", "parts"):
        for name in getattr(runs[0], kind):
            missed = sum(not getattr(run, kind)[name] for run in runs)
            assert missed <= stats.binom.isf(0.01, len(runs), 0.1), (kind, name, missed)  # intervals at 90 %
    told = [[lever.name for lever in contenders(run.levers)] for run in runs]
    if mixture == "data and width, alike":
        assert all(len(names) != 1 for names in told), told  # no winner is named where there is none
    else:
        assert all(names and names[0] == order[0] for names in told), told
