"""Curvature over the ranks of a process group: each has its own batches, all get the whole product."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nonvacuous.operators import curvature


def _case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return model, torch.randn(9, 4, dtype=torch.float64), torch.randint(0, 3, (9,))


def _rank(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model, x, y = _case()
    own = [(x[:6], y[:6])] if rank == 0 else [(x[6:], y[6:])]
    group = torch.distributed.group.WORLD
    operator = curvature.hessian(model, cross_entropy, own, group=group)
    top = [value.midpoint for value in curvature.eigenvalues(operator, 2)]
    torch.save(
        {"dense": operator.dense(), "top": torch.tensor(top, dtype=torch.float64), "n": operator.examples},
        f"{folder}/{rank}.pt",
    )
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_give_the_matrix_of_all_examples(tmp_path):
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    model, x, y = _case()
    whole = curvature.hessian(model, cross_entropy, [(x, y)]).dense()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["dense"], whole, rtol=1e-10, atol=1e-12)
        assert found["n"] == 9
        torch.testing.assert_close(found["top"], torch.linalg.eigvalsh(whole).flip(0)[:2], rtol=1e-3, atol=1e-6)
