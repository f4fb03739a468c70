"""Norms of convolutional chains, never written out, against the matrices that the networks are."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.measures.norm_quantities import chain_of


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(12, 3)

    def forward(self, x):
        return self.head(F.max_pool2d(F.relu(self.conv(x)), 2).flatten(1))


NETS = {
    "plain": (nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(60, 4)), (2, 4, 5)),
    "stride, groups, dilation": (
        nn.Sequential(
            nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2),
            nn.BatchNorm2d(6),
            nn.LeakyReLU(2.0),
            nn.Conv2d(6, 3, (1, 2), bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(36, 2),
        ),
        (4, 7, 7),
    ),
    "pooling": (
        nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.BatchNorm2d(4), nn.AvgPool2d(2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(4, 3),
        ),
        (1, 9, 9),
    ),
    "one dimension, circular": (
        nn.Sequential(nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.Flatten(), nn.Linear(15, 3)), (2, 5)
    ),
    "three dimensions": (nn.Sequential(nn.Conv3d(1, 2, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)), (1, 4, 4, 5)),
    "no bias": (nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3, bias=False)), (2, 4, 4)),
    "batch norm after the activation": (
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.BatchNorm2d(3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3, 3)), (2, 5, 5)
    ),
    "batch norm before a convolution with borders": (
        nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)), (2, 4, 4)
    ),
    "functional": (Functional(), (2, 4, 4)),
}  # fmt: skip


@pytest.fixture(params=NETS, ids=str)
def net(request):
    torch.manual_seed(1)
    model, shape = NETS[request.param]
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            for tensor in (part.running_mean, part.weight.data, part.bias.data):
                tensor.normal_()
            part.running_var.uniform_(0.2, 3.0)
    return model.double().eval(), shape


def test_norms_are_those_of_the_matrices(net):
    chain = chain_of(*net)
    for number, layer in enumerate(chain.layers):
        matrix = layer.matrix
        assert matrix.shape == (layer.map.rows, layer.map.columns)
        size, top = float(matrix.norm()), float(torch.linalg.matrix_norm(matrix, 2))
        assert size * (1 - 1e-12) <= layer.frobenius <= size * (1 + 1e-8)
        assert top * (1 - 1e-12) <= layer.spectral <= top * (1 + 1e-6)
        last = number == chain.depth - 1
        rows = matrix if last or not chain.biased else matrix[:-1]
        units = float(rows.norm(dim=1).sum())
        assert units * (1 - 1e-12) <= chain.distances()[number] <= units * (1 + 1e-8)
        assert layer.largest_row_sum >= float(matrix.abs().sum(1).max()) * (1 - 1e-12)
    assert chain.widest == max(max(layer.matrix.shape) for layer in chain.layers)
    ranks = [(float(m.matrix.norm()) / float(torch.linalg.matrix_norm(m.matrix, 2))) ** 2 for m in chain.layers]
    assert chain.stable_rank_sum == pytest.approx(sum(ranks), rel=1e-5)


def test_the_chain_is_the_network(net):
    """The layers with the activations between them give the very scores."""
    model, shape = net
    chain = chain_of(model, shape)
    x = torch.randn(5, *shape, dtype=torch.float64)
    scores = model(x).detach()
    expected = scores[:, 1:] - scores[:, :1] if scores.shape[1] == 2 else scores
    parts = [m for m in model.modules() if isinstance(m, nn.ReLU | nn.LeakyReLU | nn.MaxPool2d)] or [
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    value = torch.cat([x.flatten(1), torch.ones(5, 1, dtype=torch.float64)], 1) if chain.biased else x.flatten(1)
    groups = _between(parts, model)
    for number, layer in enumerate(chain.layers):
        value = value @ layer.matrix.mT
        if number < chain.depth - 1:
            inner = layer.map.linear if chain.biased else layer.map
            image = value[:, : inner.rows].reshape(5, *inner.shape_out)
            for part in groups[number]:
                image = part(image)
            value = torch.cat([image.flatten(1), value[:, inner.rows :]], 1)
    assert torch.allclose(value, expected, rtol=1e-9, atol=1e-9)


def _between(parts, model):
    """Activations that follow each other without a layer between act together."""
    order = list(model) if isinstance(model, nn.Sequential) else [nn.Conv2d(1, 1, 1), *parts, nn.Linear(1, 1)]
    groups, open_ = [], False
    for part in order:
        if isinstance(part, nn.ReLU | nn.LeakyReLU | nn.MaxPool2d):
            if not open_:
                groups.append([])
            groups[-1].append(part)
            open_ = True
        elif not isinstance(part, nn.Flatten | nn.Dropout):
            open_ = False
    return groups


def test_overlapping_windows_count_and_row_products_are_refused():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(18, 3))
    chain = chain_of(net, (1, 9, 9))
    assert chain.constants == pytest.approx((2.0,))  # a pixel lies in up to four windows
    assert chain.log_spectral_product_nats >= math.log(2)
    for theorem in ("log_frobenius_product_nats", "matrices"):
        with pytest.raises(UnsupportedModule, match="max pooling"):
            getattr(chain, theorem)


def test_distances_from_the_initial_network():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))
    second = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))
    one, other = chain_of(first, (2, 4, 4)), chain_of(second, (2, 4, 4))
    for got, a, b in zip(one.distances(other), one.layers, other.layers, strict=True):
        expected = float((a.matrix - b.matrix).norm(dim=1).sum())
        assert expected * (1 - 1e-12) <= got <= expected * (1 + 1e-8)
    assert max(one.distances(one)) < 1e-9
    with pytest.raises(InvalidInput, match="layers"):
        one.distances(chain_of(nn.Sequential(nn.Flatten(), nn.Linear(32, 3)), (2, 4, 4)))


def test_other_activations_only_where_asked_for():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 3))
    with pytest.raises(UnsupportedModule, match="homogeneous"):
        chain_of(net, (1, 4, 4))
    chain = chain_of(net, (1, 4, 4), homogeneous=False)
    assert not chain.homogeneous and len(chain.distances()) == 3 and all(s > 0 for s in chain.spectral_norms)
    with pytest.raises(UnsupportedModule, match="homogeneous"):
        _ = chain.log_spectral_product_nats
    with pytest.raises(UnsupportedModule, match="vanish"):
        chain_of(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid(), nn.Linear(2, 2)), (2,), homogeneous=False)


def test_a_network_that_asks_for_its_input_s_shape_is_read_too():
    """torch.fx cannot follow the question; torch.export can, and shows functions in place of layers."""

    class Asking(Functional):
        def forward(self, x):
            if x.shape[-1] != 4:
                raise ValueError("4 × 4 images only")
            return super().forward(x)

    torch.manual_seed(0)
    asking, plain = Asking(), Functional()
    plain.load_state_dict(asking.state_dict())
    got, expected = chain_of(asking, (2, 4, 4)), chain_of(plain, (2, 4, 4))
    assert got.spectral_norms == pytest.approx(expected.spectral_norms)
    assert (got.depth, got.widest, got.constants) == (expected.depth, expected.widest, expected.constants)


def test_parameters_count_a_kernel_once():
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)
    ).eval()
    assert chain_of(net, (2, 8, 8)).parameters == 2 * 3 * 9 + 3 + 3 * 4 + 4 + 1


def test_upper_ends_hold_where_nothing_is_written_out():
    """Larger than any matrix is formed for: every random quotient lies below, and the bracket is narrow."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10),
    ).eval()  # fmt: skip
    chain = chain_of(net, (3, 32, 32))
    assert chain.widest == 16 * 1024 + 1
    for layer in chain.layers:
        vector = torch.randn(1, layer.map.columns, dtype=torch.float64)
        for _ in range(30):
            image = layer.map.apply(vector.reshape(1, *layer.map.shape_in)).flatten()
            quotient = float(image.norm() / vector.norm())
            vector = layer.map.adjoint(image.reshape(1, *layer.map.shape_out)).flatten().unsqueeze(0)
        assert quotient <= layer.spectral <= 1.02 * quotient
    assert math.isfinite(chain.log_frobenius_product_nats)
    for above, below in itertools.pairwise([chain.log_frobenius_product_nats, chain.log_spectral_product_nats]):
        assert above > below
