"""Layer norms with biases appended, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
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


def test_other_networks_are_refused_by_name():
    for part in (nn.Tanh(), nn.PReLU(), nn.LayerNorm(4), nn.LSTM(4, 4), nn.Softmax(-1)):
        with pytest.raises(UnsupportedModule, match=type(part).__name__):
            chain_of(nn.Sequential(nn.Linear(4, 4), part), (2, 4))


def test_a_residual_block_is_named_as_such():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return x + self.inner(x).relu()

    with pytest.raises(UnsupportedModule, match="residual"):
        chain_of(nn.Sequential(nn.Linear(4, 4), Block(), nn.Linear(4, 3)), (4,))


def test_weights_with_nan_and_shapes_that_do_not_fit_are_invalid_input():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(InvalidInput, match=r"shape|input"):
        chain_of(net, (2, 9, 9))
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] = math.nan
    with pytest.raises(InvalidInput, match="NaN"):
        chain_of(net, (2, 4, 4))


def test_zero_weights_and_constant_batch_norm():
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        net[0].weight.zero_()
    chain = chain_of(net, (4,))
    assert chain.log_spectral_product_nats == -math.inf and chain.stable_rank_sum == math.inf
    flat = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, eps=0.0)).eval()
    flat[1].running_var.zero_()
    with pytest.raises(InvalidInput, match="zero variance"):
        chain_of(flat, (4,))
