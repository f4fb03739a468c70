"""The sawtooth, exactly; and what shallow networks pay for it, against trained and constructed ones."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nonvacuous.approximation.circuit import Circuit
from nonvacuous.approximation.depth import (
    Composition,
    Sawtooth,
    alternating_points,
    crossings,
    least_width,
    mean_error_floor,
    misclassified_floor,
    most_pieces,
    telgarsky_width,
)
from nonvacuous.approximation.hinges import HingeSum
from nonvacuous.core.errors import InvalidInput


def tri(x: Fraction) -> Fraction:
    """The slide's tri, in fractions."""
    return max(Fraction(0), max(Fraction(0), 2 * x) - max(Fraction(0), 4 * x - 2))


@given(st.integers(1, 52), st.floats(0.0, 1.0))
def test_the_sawtooth_is_exact_at_every_float_of_the_unit_interval(k, x):
    exact = Fraction(x)
    for _ in range(k):
        exact = tri(exact)
    assert Fraction(Sawtooth(k)(torch.tensor(x, dtype=torch.float64)).item()) == exact


@pytest.mark.parametrize("k", range(1, 13))
def test_a_layer_more_doubles_the_teeth(k):
    x = torch.arange(2 ** (k + 1) + 1, dtype=torch.float64) / 2 ** (k + 1)
    y = Sawtooth(k)(x)
    assert y[::2].tolist() == [float(j % 2) for j in range(2**k + 1)]
    assert set(y[1::2].tolist()) == {0.5}
    assert int((y == 1).sum()) == Sawtooth(k).teeth == 2 ** (k - 1)
    assert crossings(y, 0.5) == 2 * Sawtooth(k).teeth
    plain = Sawtooth(k).plain()
    assert torch.equal(plain(x[:, None])[:, 0], y)
    assert sum(layer.out_features for layer in plain if isinstance(layer, nn.Linear)) - 1 == 2 * k


def test_outside_the_interval_and_other_shapes():
    x = torch.tensor([[-3.0, 1.25], [2.0, 0.5]])
    assert torch.equal(Sawtooth(2)(x), torch.zeros(2, 2))
    assert Sawtooth(1)(x).tolist() == [[0.0, -0.5], [-2.0, 1.0]]
    for k in (0, 53):
        with pytest.raises(InvalidInput):
            Sawtooth(k)


@given(st.integers(1, 6), st.integers(1, 6))
def test_sawtooths_compose(j, k):
    x = torch.arange(2**13 + 1, dtype=torch.float64) / 2**13
    assert torch.equal(Composition(Sawtooth(j), Sawtooth(k))(x), Sawtooth(j + k)(x))


@pytest.mark.parametrize("widths", [[5], [3, 4], [6, 6, 6]])
def test_no_network_has_more_pieces(widths):
    """Slopes counted on a fine line through random networks, in any input dimension."""
    most = 0
    for seed in range(20):
        torch.manual_seed(seed)
        sizes = [2, *widths]
        layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        net = nn.Sequential(*layers, nn.Linear(sizes[-1], 1)).double()
        t = torch.linspace(-20, 20, 40_001, dtype=torch.float64)
        with torch.no_grad():
            slope = net(torch.stack([t, 0.3 - t], 1))[:, 0].diff() / t.diff()
        changes = (slope.diff().abs() > 1e-6).nonzero()[:, 0]
        most = max(most, 1 + int((changes.diff() > 1).sum()) + (len(changes) > 0))
    assert widths[0] < most <= most_pieces(widths)


def test_the_bound_on_pieces_is_attained():
    assert crossings(Sawtooth(6)(torch.linspace(0, 1, 1025)), 0.5) == 64 <= most_pieces([2] * 6)
    knots = torch.arange(7, dtype=torch.float64)
    zigzag = HingeSum(knots, torch.tensor([2.0, -4, 4, -4, 4, -4, 4]), offset=-0.5)  # 7 units, 8 pieces, one flat
    assert crossings(zigzag(torch.linspace(-1, 7, 1601, dtype=torch.float64)), 0.0) == 7


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_the_least_width_is_sharp_up_to_one_unit(k):
    """The sawtooth is a sum of 2^k hinges, and the bound asks for 2^k − 1."""
    knots = torch.arange(2**k, dtype=torch.float64) / 2**k
    weight = torch.tensor([2.0**k] + [2.0 ** (k + 1) * (-1) ** j for j in range(1, 2**k)], dtype=torch.float64)
    x = torch.arange(2 ** (k + 2) + 1, dtype=torch.float64) / 2 ** (k + 2)
    assert torch.equal(HingeSum(knots, weight)(x).detach(), Sawtooth(k)(x))
    assert least_width(k) == 2**k - 1


@given(st.integers(1, 40), st.integers(1, 6))
def test_the_least_width_is_least(k, layers):
    width = least_width(k, layers)
    assert (width + 1) ** layers >= 2**k or width == 1
    assert width == 1 or width**layers < 2**k


@pytest.mark.parametrize(("k", "layers"), [(8, 1), (12, 2), (15, 3), (20, 4)])
def test_telgarskys_theorem_as_printed_follows(k, layers):
    width = telgarsky_width(k, layers)
    assert width >= 1
    assert misclassified_floor(k, [width] * layers) >= 1 / 6


def shallow(width: int, seed: int, x: torch.Tensor, y: torch.Tensor, steps: int) -> nn.Module:
    """One hidden layer, kinks spread over the domain, trained with Adam on the squared loss."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, 1)).double()
    with torch.no_grad():
        net[0].bias.copy_(-net[0].weight[:, 0] * torch.rand(width))
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        (net(x[:, None])[:, 0] - y).square().mean().backward()
        optimizer.step()
    return net


@pytest.mark.parametrize("width", [2, 8, 24])
def test_trained_shallow_networks_obey_the_floors(width):
    k = 6
    x, y = alternating_points(k)
    fine = torch.linspace(0, 1, 2**14 + 1, dtype=torch.float64)
    for seed in range(2):
        net = shallow(width, seed, x, y, 300)
        with torch.no_grad():
            wrong = float(((net(x[:, None])[:, 0] >= 0.5) != (y == 1)).double().mean())
            distance = float(torch.trapezoid((net(fine[:, None])[:, 0] - Sawtooth(k)(fine)).abs(), fine))
            sup = float((net(fine[:, None])[:, 0] - Sawtooth(k)(fine)).abs().max())
        assert misclassified_floor(k, [width]) <= wrong
        assert mean_error_floor(k, [width]) <= distance
        assert width < least_width(k)
        assert sup >= 0.5
    assert float(((Sawtooth(k)(x) >= 0.5) != (y == 1)).double().mean()) == 0
    assert misclassified_floor(k, [8]) > 0.4


@pytest.mark.parametrize(("k", "cut"), [(5, 1), (5, 4), (7, 20)])
def test_the_floor_on_the_mean_error_against_the_best_of_a_kind(k, cut):
    """A sawtooth with a few of its teeth and ½ elsewhere is the natural competitor: above the floor, but not by an order."""
    x = torch.arange(2**14 + 1, dtype=torch.float64) / 2**14
    kept = Sawtooth(k)(x)
    width = 2 * cut + 1  # hinges for `cut` teeth and the flat rest
    competitor = torch.where(x < cut / 2 ** (k - 1), kept, 0.5)
    distance = float(torch.trapezoid((competitor - kept).abs(), x))
    floor = mean_error_floor(k, [width])
    assert floor <= distance
    assert floor == 0 or distance <= 8 * floor


def test_circuits_count_and_run():
    c = Circuit(2)
    x, y = c.inputs
    hinge = c.relu(x - 2 * y + 0.5)
    later = c.relu(3 - hinge + x)  # a connection across a layer
    net = c.network(hinge * 2.0 + later - y)
    points = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h = (points[:, 0] - 2 * points[:, 1] + 0.5).relu()
    wanted = 2 * h + (3 - h + points[:, 0]).relu() - points[:, 1]
    assert torch.allclose(net(points), wanted, rtol=0, atol=1e-14)
    assert (net.units, net.depth, net.weights, net.connections) == (2, 3, 9, 7)
    net(points).sum().backward()
    assert net.weight.grad is not None
    affine = Circuit(1)
    assert affine.network(affine.inputs[0] * 2.0 + 1).forward(torch.ones(3, 1).double()).tolist() == [3.0] * 3


@pytest.mark.parametrize(
    "bad", [lambda: most_pieces([0]), lambda: least_width(0), lambda: telgarsky_width(3, 0), lambda: Composition()]
)
def test_nonsense_is_refused(bad):
    with pytest.raises(InvalidInput):
        bad()


def test_the_slides_unit_count_is_the_right_order():
    assert [least_width(k) for k in range(1, 8)] == [2**k - 1 for k in range(1, 8)]
    assert math.log2(least_width(20, 4)) == pytest.approx(20 / 4, abs=0.1)
