"""Layer norms with biases appended, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nonvacuous.core.errors import UnsupportedModule
from nonvacuous.measures.norm_quantities import chain_of


def test_by_hand():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).eval()
    net[2].running_mean.normal_()
    net[2].running_var.uniform_(0.5, 2.0)
    chain = chain_of(net, (2, 3))
    scale = (net[2].running_var.double() + net[2].eps).rsqrt()
    weight, bias = net[1].weight.double() * scale[:, None], (net[1].bias.double() - net[2].running_mean.double()) * scale
    first = torch.cat([torch.cat([weight, bias[:, None]], 1), torch.eye(7).double()[6:]])
    second = torch.cat([net[4].weight.double(), net[4].bias.double()[:, None]], 1)
    for got, expected in zip(chain.matrices, (first, second), strict=True):
        assert torch.allclose(got, expected.detach(), rtol=1e-12, atol=1e-14)
    assert (chain.depth, chain.widest, chain.biased) == (2, 7, True)
    log = math.log(float(first.norm() * second.norm()))
    assert log <= chain.log_frobenius_product_nats <= log + 1e-9
    norms = [float(torch.linalg.matrix_norm(m, 2)) for m in (first, second)]
    assert math.log(math.prod(norms)) <= chain.log_spectral_product_nats <= math.log(math.prod(norms)) + 1e-6
    assert chain.stable_rank_sum == pytest.approx(
        sum(float(m.norm()) ** 2 / s**2 for m, s in zip((first, second), norms, strict=True))
    )


def test_two_classes_are_one_row_and_no_bias_appends_nothing():
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.LeakyReLU(2.0), nn.Linear(3, 2, bias=False))
    chain = chain_of(net, (4,))
    assert [tuple(m.shape) for m in chain.matrices] == [(3, 4), (1, 3)] and chain.constants == (2.0,)


def test_other_networks_are_refused():
    for part in (nn.Tanh(), nn.MaxPool1d(2), nn.LayerNorm(4), nn.LSTM(4, 4)):
        with pytest.raises(UnsupportedModule):
            chain_of(nn.Sequential(nn.Linear(4, 4), part), (2, 4))
