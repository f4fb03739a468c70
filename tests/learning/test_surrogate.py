"""An unmodified network through a surrogate: one δ, level two, the memoriser, bad input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.learning.in_memory import answers, held
from nonvacuous.learning.method import Task
from nonvacuous.learning.surrogate import Surrogate
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.training import train

METHOD = Surrogate(members=2, epochs=12, learning_rate=5e-3)


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


@pytest.fixture(scope="module")
def parts():
    inputs, targets = held(load("digits", "train"))
    fresh, labels = held(load("digits", "test"))
    torch.manual_seed(0)
    model = network()
    sample = as_sample((inputs, targets), classes=10)
    train(model, sample, epochs=15, progress=False)
    return model, sample, as_sample((fresh, labels), classes=10)


def test_it_covers_the_network_with_one_delta(parts) -> None:
    model, sample, fresh = parts
    done = METHOD.certified(Task(network, sample, seed=0, model=model, unlabelled=fresh))
    assert done.comparator is not None
    surrogate = done.comparator.certificate
    assert done.certificate.evidence["surrogate_errors"] == surrogate.evidence["errors"]
    assert done.certificate.measurement_delta == 0
    assert done.certificate.delta == surrogate.delta == 0.05
    inputs, targets = held(fresh)
    assert float((answers(model, inputs).argmax(1) != targets).float().mean()) < done.certificate.value < 0.4
    assert done.model is model
    task = Task(network, sample, seed=0, model=model, unlabelled=fresh)
    assert dict(METHOD.evidence(done.certificate, model, task)) == dict(done.certificate.evidence)


class Memoriser(nn.Module):
    """Right on every training example, one class after the right one on all others."""

    def __init__(self, inputs: Tensor, targets: Tensor, fresh: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.inputs = torch.cat([inputs, fresh]).flatten(1)
        self.answer = torch.cat([targets, (labels + 1) % 10])

    def forward(self, x: Tensor) -> Tensor:
        nearest = torch.cdist(x.flatten(1), self.inputs).argmin(1)
        return nn.functional.one_hot(self.answer[nearest], 10).float()


def test_the_memoriser_is_found_out(parts) -> None:
    _, sample, fresh = parts
    memoriser = Memoriser(*held(sample), *held(fresh))
    done = METHOD.certified(Task(network, sample, seed=0, model=memoriser, unlabelled=fresh))
    assert done.certificate.value > 0.95


def test_a_training_example_among_the_unlabelled_counts_against_it(parts) -> None:
    model, sample, _ = parts
    inputs, targets = held(sample)
    seen = as_sample((inputs[:100], targets[:100]), classes=10)
    task = Task(network, sample, seed=0, model=model, unlabelled=seen)
    assert METHOD._apart(model, model, task) == 100


def test_what_is_missing_is_said(parts) -> None:
    model, sample, fresh = parts
    with pytest.raises(InvalidInput, match="--weights"):
        METHOD.certified(Task(network, sample, unlabelled=fresh))
    with pytest.raises(InvalidInput, match="--unlabelled"):
        METHOD.certified(Task(network, sample, model=model))
