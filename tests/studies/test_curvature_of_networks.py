"""ResNet-18 as published, an entry whose numbers are those of the dense matrix, and the stored file."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nonvacuous.measures.curvature import Effort
from nonvacuous.operators.curvature import hessian
from nonvacuous.studies.curvature_of_networks import Case, measured, peak_mb, read, resnet18


def test_resnet18_has_the_published_size_and_runs_at_a_fraction_of_its_width():
    assert sum(p.numel() for p in resnet18().parameters()) == 11_173_962  # the known number for 32×32 pictures of 10 classes
    small = resnet18(1, 4, width=2).eval()
    assert small(torch.zeros(3, 1, 32, 32)).shape == (3, 4)


@pytest.mark.skipif(peak_mb() == 0, reason="the system does not tell a process its peak memory")
def test_an_entry_brackets_the_dense_eigenvalues_on_uneven_batches():
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)), torch.randn(10, 4), torch.arange(10) % 3
    found = measured("small", Case(model.eval(), x, y, 4, Effort(top=2, bottom=1, trace=200, steps=5, probes=2)))
    dense = hessian(model, cross_entropy, [(x, y)]).dense().double()
    true = torch.linalg.eigvalsh((dense + dense.mT) / 2)
    assert found["batches"] == [4, 4, 2] and found["parameters"] == 27 and 0 <= found["accuracy"] <= 1
    for value, exact in zip(found["top"], true.flip(0).tolist(), strict=False):
        assert value["converged"] and value["lower"] - 1e-6 <= exact <= value["upper"] + 1e-6
    assert sum(found["trace"]) / 2 == pytest.approx(float(true.sum()), rel=1e-4)
    assert len(found["density"]["grid"]) == 200 and found["peak_mb"] > 50
    json.dumps(found, allow_nan=False)


def test_reading_a_file_that_is_not_there(tmp_path):
    assert read(tmp_path / "none.json") == []
