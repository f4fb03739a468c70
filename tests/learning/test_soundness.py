"""Every registered method against the memoriser, noise, and a world whose risks are exact."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from tests.learning.soundness import METHODS, SLACK, Finite, certified, examples, too_many
from torch import Tensor, nn

from nonvacuous.learning.auto import Auto
from nonvacuous.learning.holdout import HoldOut, declared_split
from nonvacuous.learning.method import Certified, Method, Task
from nonvacuous.runtime.data import as_sample

EACH = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


DELTA = 0.2
CHANCE = 0.01  # seeds are fixed: a test that passes goes on passing, and 5 repetitions can fail it


def noise_below(method: Method, repetitions: int) -> int:
    """How often labels that are 1 with probability 0.4 whatever the input are certified below 1 − max π = 0.4."""
    world, n = Finite(torch.full((40,), 0.4)), max(60, examples(method) // 2)
    return sum(certified(method, world, n, seed, DELTA).certificate.value < 0.4 for seed in range(repetitions))


def known_below(method: Method, repetitions: int) -> tuple[int, float]:
    """How often a certificate lies below the exact risk, and the smallest certificate."""
    world, gaps, values = Finite(torch.tensor([0.02, 0.97, 0.1, 0.9] * 2)), 0, []
    for seed in range(repetitions):
        one = certified(method, world, examples(method), seed, DELTA)
        gaps += one.certificate.value < world.risk(one.model) - SLACK
        values.append(one.certificate.value)
    return gaps, min(values)


@EACH
def test_labels_of_noise_are_never_certified_below_their_risk(method: Method) -> None:
    repetitions = 60 if isinstance(method, HoldOut) else 5
    assert noise_below(method, repetitions) < too_many(repetitions, DELTA, CHANCE)


@EACH
def test_risks_that_are_known_exactly(method: Method) -> None:
    repetitions = 60 if isinstance(method, HoldOut) else 5
    gaps, least = known_below(method, repetitions)
    assert gaps < too_many(repetitions, DELTA, CHANCE)
    assert least < 0.495  # the test has teeth: saying always the same errs more often than this


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_noise_and_known_risks_again_with_more_repetitions(method: Method) -> None:
    repetitions = 20
    assert noise_below(method, repetitions) < too_many(repetitions, DELTA, CHANCE)
    assert known_below(method, repetitions)[0] < too_many(repetitions, DELTA, CHANCE)


@pytest.mark.parametrize("word", ["pac-bayes", "pac-bayes-deep"])
def test_the_exact_risk_of_random_predictors_is_what_their_calls_show(word: str) -> None:
    world = Finite(torch.tensor([0.02, 0.97, 0.1, 0.9] * 2))
    model = certified(METHODS[word], world, 60, 0, DELTA).model
    batch = next(iter(world.sample(40_000, 7).batches(40_000)))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        seen = float((model(batch.inputs).argmax(1) != batch.targets).double().mean())
    assert abs(seen - world.risk(model)) < 5 * 0.5 / 200  # five deviations of a mean of 40,000


class Memory(nn.Module):
    """Says 1 where it has seen the input with label 1, else 0; its only parameter serves the optimizer."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.x, self.y = x, y

    def forward(self, x: Tensor) -> Tensor:
        seen = (x[:, None] == self.x[None]).all(2)
        one = (seen & (self.y == 1)).any(1).double()
        return torch.stack([0.5 + 0 * one, one], 1) + 0 * self.unused


def test_memory_of_what_it_was_trained_on_is_not_certified_below_its_risk() -> None:
    """All labels are 1; a network that says 1 only where it has been trained errs on every new input."""
    sample = as_sample((torch.rand(200, 3, generator=torch.Generator().manual_seed(1)), torch.ones(200).long()), classes=2)
    method = HoldOut(epochs=1)
    kept = declared_split(Task(None, sample), method.fraction).kept
    batch = next(iter(kept.batches(200)))
    one = method.certified(Task(lambda: Memory(batch.inputs, batch.targets), sample))
    assert one.certificate.value == 1.0
    with torch.no_grad():
        assert bool((one.model(batch.inputs).argmax(1) == 1).all())


@dataclass(frozen=True)
class Lot(HoldOut):
    """A network that is never trained, on a split that is its own: start and split come from the number of the lot."""

    fraction: float = 0.5
    epochs: int | None = 0
    lot: int = 0

    def certified(self, task: Task) -> Certified:
        return super().certified(replace(task, seed=self.lot))


@dataclass(frozen=True)
class Lots(Auto):
    """A choice among eight of them."""

    candidates: tuple[str, ...] = tuple(f"lot {j}" for j in range(8))
    weights: tuple[float, ...] = (1.0,) * 8

    def _chosen(self, task: Task) -> tuple[list[tuple[Method, float]], list[str]]:
        return [(type(word, (Lot,), {"word": word})(lot=j), 1.0) for j, word in enumerate(self.candidates)], []


@pytest.mark.slow
def test_auto_pays_for_its_choice_and_one_that_did_not_would_be_caught() -> None:
    """Labels by a fair coin: every classifier's risk is a half."""
    world, repetitions, auto = Finite(torch.full((40,), 0.5)), 25, Lots()
    paid = free = 0
    for draw in range(repetitions):
        task = Task(world.factory, world.sample(60, draw), delta=DELTA)
        paid += auto.certified(task).certificate.value < 0.5
        free += min(one.certified(task.part(one.word, DELTA)).certificate.value for one, _ in auto._chosen(task)[0]) < 0.5
    assert paid < too_many(repetitions, DELTA, CHANCE) <= free


@pytest.mark.slow
def test_repeating_the_run_until_it_looks_better_breaks_the_promise() -> None:
    """RUN_ONCE is no decoration: the best of a hundred and twenty seeds on noise is certified below its risk more often than δ allows."""
    world, delta, repetitions = Finite(torch.full((40,), 0.4)), 0.2, 12
    method = HoldOut(fraction=0.5, epochs=0)
    broken = 0
    for draw in range(repetitions):
        sample = world.sample(60, draw)
        best = min(
            method.certified(Task(world.factory, sample, delta=delta, seed=seed)).certificate.value for seed in range(120)
        )
        broken += best < 0.4
    assert broken >= too_many(repetitions, delta, 1e-3)
