"""Pick-to-Learn: its preference, its certificate on real digits, resumption, level two, fresh labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from nonvacuous.core.errors import InvalidEvidence, InvalidInput
from nonvacuous.learning.in_memory import Held, answers, held
from nonvacuous.learning.method import Task
from nonvacuous.learning.sample_compression import SampleCompression
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.sources import load

SMALL = SampleCompression(start=40, least=16, rounds=4, epochs=15, learning_rate=5e-3)


def blobs(n: int, seed: int, noise: bool = False):
    generator = np.random.default_rng(seed)
    y = generator.integers(3, size=n)
    x = generator.normal(size=(n, 2)).astype(np.float32) + (0 if noise else 3 * np.eye(3)[y][:, :2])
    return as_sample((x.astype(np.float32), y), classes=3)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3))


def test_it_certifies_digits_above_the_true_error() -> None:
    """A network for the bundled digits, certified on all of them; the test part is only looked at afterwards."""
    train, test = load("digits", "train"), load("digits", "test")
    network = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))  # noqa: E731
    method = SampleCompression(start=60, least=32, rounds=6, epochs=40, learning_rate=3e-3)
    done = method.certified(Task(network, train, seed=0))
    inputs, targets = held(test)
    error = float((answers(done.model, inputs).argmax(1) != targets).float().mean())
    assert error < done.certificate.value < 0.3
    assert done.certificate.evidence["n"] == train.n, "certified on all the data"


def test_the_learner_has_a_preference() -> None:
    """Given only its compression set (picked, and still wrong), in another order, it picks the same and ends with the same weights."""
    sample = blobs(150, 0)
    task = Task(small, sample, seed=0)
    data = held(sample)
    lot = torch.randperm(150, generator=task.generator("tags"))
    *_, run = SMALL._rounds(task, data, task.network(), 3)
    # ``picked`` already holds what the next round would train on, so what c(D) keeps is the picks of the last training and the errors.
    before = SMALL._size_at(2, 150)
    wrong = answers(run.model, data.inputs).argmax(1) != data.targets
    keep = wrong.clone()
    keep[run.picked[:before]] = True
    assert keep.sum() < 150, "something must be left out"
    rows = torch.tensor([i for i in lot.tolist() if keep[i]])  # in the order of their tags

    class Same(Task):
        def generator(self, purpose: str) -> torch.Generator:
            return super().generator(purpose)

    part = Held(data.inputs[rows], data.targets[rows])
    again = Same(small, sample, seed=0)
    import nonvacuous.learning.sample_compression as room

    original = room.torch.randperm
    try:
        room.torch.randperm = lambda n, generator=None: (
            torch.arange(n) if n == len(rows) and n != 40 else original(n, generator=generator)
        )
        *_, fewer = SMALL._rounds(again, part, again.network(), 3)
    finally:
        room.torch.randperm = original
    assert all(
        torch.equal(a, b) for a, b in zip(run.model.state_dict().values(), fewer.model.state_dict().values(), strict=True)
    )
    assert fewer.sizes[2] == len(rows) == run.sizes[2]


def test_resumed_is_unbroken(tmp_path) -> None:
    sample = blobs(200, 1)
    whole = SMALL.certified(Task(small, sample, seed=3))
    task = Task(small, sample, seed=3, folder=tmp_path)
    rounds = SMALL._rounds(task, held(sample), task.network(), SMALL.rounds)
    next(rounds), next(rounds)
    rounds.close()
    resumed = SMALL.certified(task)
    assert resumed.certificate.digest == whole.certificate.digest


def test_level_two_replays_the_rounds_and_refuses_another_network() -> None:
    sample = blobs(200, 2)
    done = SMALL.certified(Task(small, sample, seed=1))
    again = SMALL.evidence(done.certificate, done.model, Task(small, sample, seed=1))
    assert again == dict(done.certificate.evidence)
    with torch.no_grad():
        next(done.model.parameters()).add_(1e-3)
    with pytest.raises(InvalidEvidence, match="another network"):
        SMALL.evidence(done.certificate, done.model, Task(small, sample, seed=1))


def test_fresh_labels_are_not_certified_below_chance() -> None:
    """Labels independent of the inputs: the true risk is 2/3, and the certificate stays above it in every seed."""
    for seed in range(4):
        done = SMALL.certified(Task(small, blobs(120, seed, noise=True), delta=0.2, seed=seed))
        assert done.certificate.value >= 2 / 3


def test_too_few_examples_say_how_many_would_do() -> None:
    with pytest.raises(InvalidInput, match="160"):
        SMALL.certified(Task(small, blobs(30, 0), seed=0))
