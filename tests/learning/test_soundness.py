"""Every registered method against the memoriser, noise, and a world whose risks are exact."""

from __future__ import annotations

import pytest
import torch
from tests.learning.soundness import METHODS, Finite, certified, too_many
from torch import Tensor, nn

from nonvacuous.learning.holdout import HoldOut, declared_split
from nonvacuous.learning.method import Method, Task
from nonvacuous.runtime.data import as_sample

EACH = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


@EACH
def test_labels_of_noise_are_never_certified_below_their_risk(method: Method) -> None:
    """Labels are 1 with probability 0.4 whatever the input: no classifier has a risk below 1 − max π = 0.4."""
    world, delta, repetitions = Finite(torch.full((40,), 0.4)), 0.2, 60
    below = sum(certified(method, world, 60, seed, delta).certificate.value < 0.4 for seed in range(repetitions))
    assert below < too_many(repetitions, delta)


@EACH
def test_risks_that_are_known_exactly(method: Method) -> None:
    world, delta, repetitions = Finite(torch.tensor([0.02, 0.97, 0.3, 0.6] * 3)), 0.2, 60
    gaps, values = 0, []
    for seed in range(repetitions):
        one = certified(method, world, 100, seed, delta)
        gaps += one.certificate.value < world.risk(one.model)
        values.append(one.certificate.value)
    assert gaps < too_many(repetitions, delta)
    assert min(values) < 0.5  # the test has teeth: certificates are not all vacuous


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


@pytest.mark.slow
def test_repeating_the_run_until_it_looks_better_breaks_the_promise() -> None:
    """RUN_ONCE is no decoration: the best of forty seeds on noise is certified below its risk more often than δ allows."""
    world, delta, repetitions = Finite(torch.full((40,), 0.4)), 0.2, 12
    method = HoldOut(fraction=0.5, epochs=0)
    broken = 0
    for draw in range(repetitions):
        sample = world.sample(60, draw)
        best = min(
            method.certified(Task(world.factory, sample, delta=delta, seed=seed)).certificate.value for seed in range(40)
        )
        broken += best < 0.4
    assert broken >= too_many(repetitions, delta)
