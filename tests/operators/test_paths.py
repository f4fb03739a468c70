"""Path norms against an enumeration of all paths."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tests.oracles.dense import dense_matrix
from torch import nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.operators.paths import log_path_norm


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_every_path_of_a_small_net(power: float) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.LeakyReLU(0.1), nn.Linear(2, 3))
    first, second, third = (layer.weight.detach().double() for layer in (net[0], net[2], net[4]))
    total = sum(
        abs(float(first[j, i] * second[k, j] * third[m, k])) ** power
        for i, j, k, m in itertools.product(range(3), range(4), range(2), range(3))
    )
    measured = log_path_norm(net, (3,), power=power)
    assert measured.lower <= math.log(total) / power <= measured.upper
    assert measured.width < 1e-12


def test_convolutions_pooling_and_batch_norm_are_their_matrices() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 2)
    )
    net[1].running_var.uniform_(0.5, 2)
    flow, shape = torch.ones(32, dtype=torch.float64), (2, 4, 4)
    for layer, at in ((net[0], shape), (net[1], (3, 4, 4)), (net[3], (3, 4, 4)), (net[5], (12,))):
        flow = dense_matrix(layer, at).square() @ flow
    measured = log_path_norm(net, shape)
    assert measured.lower <= math.log(float(flow.sum())) / 2 <= measured.upper


def test_depth_neither_overflows_nor_vanishes() -> None:
    for scale in (1e-10, 1e10):
        net = nn.Sequential(*[nn.Linear(2, 2, bias=False) for _ in range(200)])
        for layer in net:
            layer.weight.data.fill_(scale)
        truth = 201 * math.log(2) + 200 * math.log(torch.tensor(scale).item())
        assert log_path_norm(net, (2,), power=1.0).midpoint == pytest.approx(truth, rel=1e-12)


def test_closed_paths_and_refusals() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight.data.zero_()
    assert log_path_norm(net, (2,)).upper == -math.inf
    with pytest.raises(UnsupportedModule):
        log_path_norm(nn.Sequential(nn.Linear(2, 2), nn.GELU()), (2,))
    with pytest.raises(UnsupportedModule):
        log_path_norm(nn.Sequential(nn.MaxPool1d(2)), (1, 4))
    with pytest.raises(InvalidInput):
        log_path_norm(net, (2,), power=0.0)
