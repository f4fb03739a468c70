"""Architectures against what is known of them at initialisation, the nonzero spectrum against the dense matrix, and the table."""

import csv
import math

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from nonvacuous.core.errors import InvalidInput
from nonvacuous.operators.curvature import ggn
from nonvacuous.optimization.conditioning import spectrum_ratio
from nonvacuous.optimization.conditioning_gram import gram_spectrum
from nonvacuous.studies.conditioning_by_architecture import (
    Architecture,
    StandardisedLinear,
    initialised,
    layer_gradients,
    main,
    measure,
    network,
    table,
)


def data(n=12, inputs=6, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, inputs, generator=generator).double(), torch.arange(n) % classes


@pytest.mark.parametrize("kind", Architecture)
def test_the_spectrum_from_outputs_is_that_of_the_dense_matrix(kind):
    x, y = data()
    net = initialised(kind, x, 3, 3, width=5)
    whole = torch.linalg.eigvalsh(ggn(net, cross_entropy, [(x, y)]).dense())
    found = gram_spectrum(net, cross_entropy, (x, y))
    assert len(found) == min(36, len(whole))
    assert torch.allclose(found, whole[-len(found) :], atol=1e-10 * float(whole[-1]))


def test_the_spectrum_of_fewer_parameters_than_outputs():
    net, x = nn.Linear(2, 1).double(), torch.randn(9, 2, generator=torch.Generator().manual_seed(0)).double()
    design = torch.cat([x, torch.ones(9, 1).double()], 1)
    found = gram_spectrum(net, mse_loss, (x, torch.zeros(9, 1).double()))
    assert torch.allclose(found, torch.linalg.eigvalsh(2 * design.T @ design / 9))


def test_the_ratio_is_that_of_the_eigenvalues_that_softmax_leaves():
    x, y = data()
    row = measure(Architecture.RESIDUAL, 3, x, y, width=8)
    whole = torch.linalg.eigvalsh(ggn(initialised(Architecture.RESIDUAL, x, 3, 3, width=8), cross_entropy, [(x, y)]).dense())
    assert row.ratio == pytest.approx(spectrum_ratio(whole[-24:], 0.5), rel=1e-6)
    assert row.top == pytest.approx(float(whole[-1]))


def test_gradient_norms_are_those_of_the_first_and_the_last_layer():
    x, y = data()
    net = initialised(Architecture.PLAIN, x, 3, 4, width=8)
    found = layer_gradients(net, x, y)
    cross_entropy(net(x), y).backward()
    first, last = net[1], net[-1]
    assert len(found) == 5
    assert found[0] == pytest.approx(math.hypot(float(first.weight.grad.norm()), float(first.bias.grad.norm())))
    assert found[-1] == pytest.approx(math.hypot(float(last.weight.grad.norm()), float(last.bias.grad.norm())))


@pytest.mark.parametrize("kind", Architecture)
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_every_kind_has_as_many_dense_layers_as_its_depth_and_one(kind, depth):
    net = network(kind, 6, 8, 3, depth)
    assert sum(isinstance(part, nn.Linear) for part in net.modules()) == depth + 1
    assert net(torch.randn(4, 6)).shape == (4, 3)


def test_plain_gradients_vanish_with_depth_and_the_others_do_not():
    x, y = data(16, 10)
    rows = {}
    for kind in Architecture:
        for depth in (10, 40):
            found = layer_gradients(initialised(kind, x, 3, depth), x, y)
            rows[kind, depth] = found[0] / found[-1]
    assert rows[Architecture.PLAIN, 10] < 0.01 and rows[Architecture.PLAIN, 40] < 1e-10
    assert all(rows[kind, 40] > 0.01 for kind in Architecture if kind is not Architecture.PLAIN)


def growth(kind):
    """The factor by which the squared gradient of one example grows a layer on the way back, over layers 2 … 11: geometric mean."""
    x, y = data(1, 10)
    found = []
    for seed in range(10):
        net = initialised(kind, x, 3, 12, width=100, seed=seed)
        second, eleventh = torch.autograd.grad(cross_entropy(net(x), y), [net[3].bias, net[21].bias])
        found.append(2 * math.log(float(second.norm() / eleventh.norm())) / 9)
    return sum(found) / len(found)


def test_the_plain_network_shrinks_the_squared_gradient_by_six_a_layer():
    assert growth(Architecture.PLAIN) == pytest.approx(-math.log(6), abs=0.1)


def test_without_skips_standardised_weights_let_squared_gradients_grow_by_pi_over_pi_less_one():
    assert growth(Architecture.WEIGHT_STANDARDISED) == pytest.approx(math.log(math.pi / (math.pi - 1)), abs=0.1)


def test_weight_norm_starts_with_outputs_of_mean_zero_and_variance_one():
    x, _ = data(50, 6)
    net = initialised(Architecture.WEIGHT_NORM, x, 3, 3, width=8)
    h = x
    for part in net[:-1]:
        h = part(h)
        if isinstance(part, nn.Linear):
            alive = h.std(0, correction=0) > 1e-9
            assert torch.allclose(h.mean(0), torch.zeros(8).double(), atol=1e-9)
            assert torch.allclose(h.std(0, correction=0)[alive], torch.ones(int(alive.sum())).double())


def test_standardised_rows():
    torch.manual_seed(0)
    layer = StandardisedLinear(50, 4).double()
    weight = layer(torch.eye(50).double()).T
    assert torch.allclose(weight.mean(1), torch.zeros(4).double(), atol=1e-12)
    assert torch.allclose(50 * weight.var(1, correction=0), torch.full((4,), 2 / (1 - 1 / math.pi)).double(), rtol=1e-6)


def test_the_command_writes_one_row_a_network(tmp_path):
    out = tmp_path / "rows.csv"
    arguments = ["--out", str(out), "--examples", "8", "--width", "6", "--seeds", "1", "--depth", "2", "--depth", "3"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 14
    assert {row["architecture"] for row in rows} == {kind.value for kind in Architecture}
    assert all(float(row["first"]) > 0 and float(row["ratio"]) >= 1 for row in rows)


def test_rows_are_the_same_again():
    x, y = data()
    assert table([Architecture.BATCH_NORM], [2], x, y, width=5) == table([Architecture.BATCH_NORM], [2], x, y, width=5)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: network(Architecture.PLAIN, 6, 8, 3, 0),
        lambda: network(Architecture.PLAIN, 6, 8, 1, 2),
        lambda: measure(Architecture.PLAIN, 2, data()[0], data()[1][:3]),
        lambda: measure(Architecture.PLAIN, 2, data()[0], data()[1].double()),
        lambda: measure(Architecture.PLAIN, 2, data()[0] * math.nan, data()[1]),
        lambda: measure(Architecture.PLAIN, 2, *data(), share=2.0),
        lambda: table([], [2], *data()),
        lambda: gram_spectrum(nn.Linear(6, 3).double(), cross_entropy, data(), most=5),
        lambda: gram_spectrum(nn.Linear(6, 3).double(), lambda out, y: -out.square().mean(), data()),
    ],
)
def test_bad_input(wrong):
    with pytest.raises(InvalidInput):
        wrong()
