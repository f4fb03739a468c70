"""Transfer: what is coded is the difference from a network that another sample gave."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidEvidence, InvalidInput
from nonvacuous.learning.compression import Compression
from nonvacuous.learning.method import Task
from nonvacuous.learning.transfer import Transfer
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.models import mlp

SETTINGS = {"dimension": 64, "epochs": 8, "batch_size": 100}


def teacher(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 10, generator=generator)
    return x, (torch.sin(2 * x[:, 0]) + x[:, 1] > 0).long()


def task(n: int = 500, source: tuple[Tensor, Tensor] | None = None) -> Task:
    x, y = teacher(n, 1)
    given = as_sample(source if source is not None else teacher(4000, 2), classes=2)
    return Task(lambda: mlp(10, 32, 2), as_sample((x, y), classes=2), seed=1, source=given)


def test_a_source_of_the_same_kind_saves_bits_and_errors() -> None:
    given = task()
    moved, alone = Transfer(**SETTINGS).certified(given), Compression(**SETTINGS).certified(given)
    assert moved.certificate.value < alone.certificate.value - 0.05
    x, y = teacher(20_000, 9)
    assert (moved.model(x).argmax(1) != y).float().mean() <= moved.certificate.value
    measured = Transfer(**SETTINGS).evidence(moved.certificate, moved.model, given)
    assert measured["code_bits"] == moved.certificate.evidence["code_bits"]
    assert measured["errors"] <= moved.certificate.evidence["errors"]


def test_another_source_is_noticed() -> None:
    given = task()
    done = Transfer(**SETTINGS).certified(given)
    with pytest.raises(InvalidEvidence, match="source sample"):
        Transfer(**SETTINGS).evidence(done.certificate, done.model, task(source=teacher(4000, 3)))


def test_a_source_that_holds_the_sample_is_refused() -> None:
    x, y = teacher(500, 1)
    with pytest.raises(InvalidInput, match="500 examples of the source"):
        Transfer(**SETTINGS).certified(task(source=(x, 1 - y)))
    with pytest.raises(InvalidInput, match="another sample"):
        Transfer(**SETTINGS).certified(replace(task(), source=None))
