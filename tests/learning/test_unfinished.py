"""Fits that are broken off and gone on with end with the same bits as whole ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nonvacuous.core.errors import InvalidInput
from nonvacuous.learning import unfinished
from nonvacuous.learning.compression import Compression
from nonvacuous.learning.data_dependent import DataDependent
from nonvacuous.learning.method import Method, Task
from nonvacuous.learning.pac_bayes import PacBayes
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.models import linear
from nonvacuous.runtime.tasks import Progress
from nonvacuous.runtime.weights import weights_digest


def task() -> Task:
    x = torch.randn(240, 6, generator=torch.Generator().manual_seed(1))
    return Task(lambda: linear(6, 2), as_sample((x, (x[:, 0] > 0).long()), classes=2), seed=3)


METHODS: dict[str, tuple[Method, str]] = {
    "pac-bayes": (PacBayes(epochs=6, batch_size=50, directions=10), "posterior"),
    "compression": (Compression(dimension=12, epochs=6, batch_size=60), "code"),
    "data-dependent": (DataDependent(epochs=2, posterior_epochs=6), "posterior-0.25"),
}


@pytest.mark.parametrize("word", METHODS)
def test_a_broken_off_fit_ends_like_a_whole_one(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, name = METHODS[word]
    whole = method.certified(task())
    monkeypatch.setattr(unfinished, "SECONDS", 0.0)
    keep, told = unfinished.Unfinished.keep, []

    def broken(self: unfinished.Unfinished, epoch: int, *numbers: float) -> None:
        keep(self, epoch, *numbers)
        store = self._store
        if store is not None and store.path.stem == name and epoch == 3 and not told:
            told.append(epoch)
            raise KeyboardInterrupt

    monkeypatch.setattr(unfinished.Unfinished, "keep", broken)
    kept = replace(task(), folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        method.certified(kept)
    begun: list[int] = []
    resumed = unfinished.Unfinished.resumed

    def noted(self: unfinished.Unfinished, *start: float) -> unfinished.Standing:
        standing = resumed(self, *start)
        begun.append(standing.epoch)
        return standing

    monkeypatch.setattr(unfinished.Unfinished, "resumed", noted)
    again = method.certified(kept)
    assert 3 in begun
    assert again.certificate.digest == whole.certificate.digest
    assert weights_digest(again.model) == weights_digest(whole.model)


def test_the_file_of_another_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "SECONDS", 0.0)
    kept = replace(task(), folder=tmp_path, progress=Progress())
    PacBayes(epochs=2, batch_size=50, directions=10).certified(kept)
    with pytest.raises(InvalidInput, match="another run"):
        PacBayes(epochs=3, batch_size=50, directions=10).certified(kept)
