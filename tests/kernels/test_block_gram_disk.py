"""Gram matrices on disk: resumed after an interrupt, refused when foreign, other or damaged."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.block_gram_disk import INDEX, bytes_needed, gram_on_disk


def gaussian(a, b):
    return torch.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 2)


@pytest.fixture
def x():
    return torch.randn(50, 4, generator=torch.Generator().manual_seed(0))


def test_it_is_the_matrix(x, tmp_path):
    gram = gram_on_disk(gaussian, x, tmp_path / "g", name="gaussian", rows=16)
    torch.testing.assert_close(gram.dense(), gaussian(x, x))
    stored = sum(np.load(f).nbytes for f in (tmp_path / "g").glob("*.npy"))
    assert stored == bytes_needed(50, 4, 16) < 50 * 50 * 4


def test_an_interrupt_loses_one_stripe_and_the_same_call_goes_on(x, tmp_path):
    calls = []

    def counted(a, b):
        calls.append(len(b))
        if len(calls) == 3 and not calls[0] < 0:
            raise KeyboardInterrupt
        return gaussian(a, b)

    with pytest.raises(KeyboardInterrupt):
        gram_on_disk(counted, x, tmp_path / "g", name="gaussian", rows=16)
    assert len(json.loads((tmp_path / "g" / INDEX).read_text())["stripes"]) == 2
    before = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "g").glob("*.npy")}
    assert len(before) == 2 and not list((tmp_path / "g").glob(".*partial"))
    gram = gram_on_disk(counted, x, tmp_path / "g", name="gaussian", rows=16)
    after = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "g").glob("*.npy")}
    assert all(after[name] == then for name, then in before.items()) and len(after) == 4
    torch.testing.assert_close(gram.dense(), gaussian(x, x))


def test_a_finished_directory_is_used_again_without_computing(x, tmp_path):
    gram_on_disk(gaussian, x, tmp_path, name="gaussian", rows=16)
    seen = []
    gram_on_disk(lambda a, b: (seen.append(a.shape[0] * b.shape[0]), gaussian(a, b))[1], x, tmp_path, name="gaussian", rows=16)
    assert sum(seen) < 100  # two corners


def test_foreign_directories_are_left_alone(x, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InvalidInput, match="other things"):
        gram_on_disk(gaussian, x, tmp_path, name="gaussian")
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(InvalidInput):
        gram_on_disk(gaussian, x, tmp_path / "thesis.txt", name="gaussian")


def test_another_matrix_is_refused(x, tmp_path):
    gram_on_disk(gaussian, x, tmp_path, name="gaussian", rows=16)
    for changed, words in (
        ({"inputs": x + 1}, "inputs"),
        ({"inputs": x[:40]}, "n 50"),
        ({"inputs": x.double()}, "dtype"),
        ({"name": "laplace"}, "laplace"),
        ({"rows": 8}, "rows"),
    ):
        with pytest.raises(InvalidInput, match=words):
            gram_on_disk(gaussian, **{"inputs": x, "directory": tmp_path, "name": "gaussian", "rows": 16} | changed)
    with pytest.raises(InvalidInput, match="another kernel"):
        gram_on_disk(lambda a, b: 2 * gaussian(a, b), x, tmp_path, name="gaussian", rows=16)


@pytest.mark.parametrize("damage", ["bit", "cut", "gone", "index", "text"])
def test_damage_is_refused(x, tmp_path, damage):
    gram_on_disk(gaussian, x, tmp_path, name="gaussian", rows=16)
    file, index = tmp_path / "rows-000000016.npy", tmp_path / INDEX
    content = bytearray(file.read_bytes())
    if damage == "bit":
        content[-5] ^= 1
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[:-7])
    elif damage == "gone":
        file.unlink()
    elif damage == "index":
        index.write_text(index.read_text()[:-20])
    else:
        index.write_text(json.dumps({**json.loads(index.read_text()), "stripes": {"0": "x"}}))
    with pytest.raises(InvalidInput, match=r"damaged|changed|missing"):
        gram_on_disk(gaussian, x, tmp_path, name="gaussian", rows=16)


def test_too_small_a_disk_says_so(x, tmp_path, monkeypatch):
    import shutil
    from collections import namedtuple

    monkeypatch.setattr(shutil, "disk_usage", lambda p: namedtuple("Usage", "total used free")(10, 9, 1))
    with pytest.raises(InvalidInput, match="free"):
        gram_on_disk(gaussian, x, tmp_path / "g", name="gaussian")


def test_no_pickle_is_ever_read(x, tmp_path):
    gram_on_disk(gaussian, x, tmp_path, name="gaussian", rows=16)
    np.save(tmp_path / "rows-000000016.npy", np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidInput, match="damaged"):
        gram_on_disk(gaussian, x, tmp_path, name="gaussian", rows=16)
