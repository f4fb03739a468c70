"""One neuron a layer: the error in the mean, on steps of every kind."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nonvacuous.approximation.one_neuron import one_neuron_resnet
from nonvacuous.core.errors import InvalidInput


def mean_distance(module, edges, heights, eps_width, points=40_001):
    """∫ |h − network|, cell by cell, with most points where the ramps are."""
    total = worst_inside = 0.0
    for a, b, h in zip(edges, edges[1:], heights, strict=False):
        ramp = min(eps_width, (b - a) / 4)
        x = torch.cat([torch.linspace(a, a + ramp, points), torch.linspace(b - ramp, b, points)]).double()
        x = torch.cat([x, torch.linspace(a + ramp, b - ramp, 1001).double()]).sort().values
        with torch.no_grad():
            off = (module(x[:, None]) - h).abs()
        total += float(torch.trapezoid(off, x))
        worst_inside = max(worst_inside, float(off[(x > a + 1.01 * ramp) & (x < b - 1.01 * ramp)].max()))
    return total, worst_inside


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.floats(0.2, 2.0), st.floats(-5, 5)), min_size=1, max_size=8),
    st.sampled_from([-100.0, -1.0, 0.0, 3.0]),
    st.sampled_from([0.5, 0.05]),
)
def test_the_error_in_the_mean_is_certified(cells, start, eps):
    edges, heights = [start], []
    for width, height in cells:
        edges.append(edges[-1] + width)
        heights.append(height)
    spread = max(heights) - min(heights)
    assume(spread == 0 or spread > 1e-3)
    built = one_neuron_resnet(edges, heights, eps)
    distance, inside = mean_distance(built.module, edges, heights, 2 * eps / (16 * len(heights) * (spread or 1.0)))
    assert distance <= built.error.upper <= eps
    assert inside <= 1e-9 * (spread + 1)
    blocks = 5 * len(heights) - 1
    assert built.cost.parameters == 3 * blocks + 1
    assert built.module.inner.shape == (blocks,)


def test_the_sup_error_does_not_vanish():
    """Why the theorem speaks of the mean: at a jump some point is off by half of it, for any continuous network."""
    built = one_neuron_resnet([0.0, 1.0, 2.0], [0.0, 1.0], 0.01)
    x = torch.linspace(0.99, 1.01, 200_001, dtype=torch.float64)
    off = (built.module(x) - (x >= 1).double()).detach().abs()
    assert float(off.max()) >= 0.5


def test_every_hidden_layer_has_one_neuron():
    """The blocks, written out as Linear(1, 1), ReLU, Linear(1, 1) with skip connections, are the module."""
    built = one_neuron_resnet([0.0, 1.0, 2.5, 3.0], [1.0, -1.0, 0.5], 0.1)
    x = torch.linspace(0, 3, 1001, dtype=torch.float64)
    z = x
    for u, b, v in zip(built.module.inner, built.module.bias, built.module.outer, strict=True):
        z = z + v * torch.relu(u * z + b)
    assert torch.equal(z + built.module.shift, built.module(x))


@pytest.mark.parametrize(
    ("edges", "heights", "eps", "message"),
    [
        ([0.0, 1.0], [1.0], 0.0, "positive"),
        ([0.0, 1.0, 0.5], [1.0, 2.0], 0.1, "edges increase"),
        ([0.0, 1.0], [1.0, 2.0], 0.1, "one edge more"),
        ([0.0, math.inf], [1.0], 0.1, "finite"),
        ([0.0, 1.0], [math.nan], 0.1, "finite"),
        ([0.0, 1.0, 2.0], [0.0, 1.0], 1e-9, "cannot place"),
        ([float(i) for i in range(66)], [0.0] * 65, 0.1, "64 cells"),
        ([1e9, 1e9 + 1, 1e9 + 2], [0.0, 1.0], 0.1, "cannot place"),
    ],
)
def test_bad_input_is_refused(edges, heights, eps, message):
    with pytest.raises(InvalidInput, match=message):
        one_neuron_resnet(edges, heights, eps)
