"""Gram matrices by several processes: the numbers of one, and errors that say what to do."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.block_gram import gram
from nonvacuous.kernels.block_gram_disk import gram_on_disk
from nonvacuous.kernels.gram_processes import stripes_by_processes
from nonvacuous.kernels.recursion import nngp_ntk


def tangent(a: torch.Tensor, b: torch.Tensor, depth: int) -> torch.Tensor:
    return nngp_ntk(a, b, depth=depth).ntk


def broken(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.full((len(a), len(b)), torch.nan)


@pytest.fixture
def x():
    return torch.randn(70, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow  # three pools of processes that import torch
def test_several_processes_give_the_numbers_of_one(x, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        kernel = partial(tangent, depth=2)
        alone = gram(kernel, x, rows=16)
        together = gram(kernel, x, rows=16, processes=2)
        assert torch.equal(alone, together) and torch.equal(together, together.T)
        kept = gram_on_disk(kernel, x, tmp_path / "g", name="ntk", rows=16, processes=2)
        assert torch.equal(kept.dense(), alone)
    finally:
        torch.set_num_threads(threads)
    with pytest.raises(InvalidInput, match="row 0 is NaN"):
        gram(broken, x[:10], rows=16, processes=2)


def test_what_cannot_be_sent_is_said(x):
    with pytest.raises(InvalidInput, match=r"functools\.partial"):
        gram(lambda a, b: a @ b.T, x, processes=2)
    for count in (0, -1, 1.5, True):
        with pytest.raises(InvalidInput, match="processes="):
            list(stripes_by_processes(broken, x, 16, [0], count))
    with pytest.raises(InvalidInput, match="on meta"):
        list(stripes_by_processes(broken, x.to("meta"), 16, [0], 2))
