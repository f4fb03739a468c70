"""One complex neuron against real networks: both sides of the statement, exact, and trained networks between."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.lipschitz import global_upper
from nonvacuous.networks.complex_advantage import (
    arcs,
    modulus_error_floor,
    modulus_net,
    polygon_modulus,
    radial_error_floor,
    radial_net,
)


def _disk(rings: int = 40, turns: int = 3600) -> torch.Tensor:
    """Points ``[n, 2]`` of the unit disk, its circle among them."""
    r, t = torch.meshgrid(
        torch.linspace(0, 1, rings).double(), torch.arange(turns).double() * 2 * math.pi / turns, indexing="ij"
    )
    return torch.stack((r * t.cos(), r * t.sin()), -1).reshape(-1, 2)


def test_one_complex_neuron_is_the_modulus_exactly() -> None:
    z = _disk()
    assert torch.equal(modulus_net().double()(z)[:, 0], torch.complex(z[:, 0], z[:, 1]).abs())
    weights, x = [1 - 2j, 0.5j, 3.0], torch.randn(50, 6, dtype=torch.float64)
    expected = (torch.complex(x[:, :3], x[:, 3:]) @ torch.tensor(weights, dtype=torch.cdouble)).abs()
    assert torch.allclose(modulus_net(weights).double()(x)[:, 0], expected, rtol=1e-6)  # weights are float32 at first
    assert global_upper(modulus_net([3, 4j]), (4,)).upper == pytest.approx(5.0, rel=0.02)


@pytest.mark.parametrize("neurons", [3, 5, 9, 31])
def test_the_polygon_attains_its_error_and_no_less_than_the_floor(neurons) -> None:
    z = _disk(rings=3, turns=neurons * 200)
    error = float((polygon_modulus(neurons).double()(z)[:, 0] - z.norm(dim=1)).abs().max().detach())
    stated = math.tan(math.pi / (4 * neurons)) ** 2
    assert error == pytest.approx(stated, rel=1e-4, abs=1e-7)
    assert modulus_error_floor(neurons) <= stated <= 1.08 * modulus_error_floor(neurons)


@pytest.mark.parametrize("widths", [(2,), (6,), (3, 4), (2, 3, 2)])
def test_arcs_are_at_least_as_many_as_counted_and_no_network_beats_the_floor(widths) -> None:
    """Random and trained networks: pieces on the circle by their neurons' signs, errors on the disk."""
    turns = torch.arange(20000).double() * 2 * math.pi / 20000
    circle, disk = torch.stack((turns.cos(), turns.sin()), 1), _disk(12, 400)
    for seed in range(5):
        torch.manual_seed(seed)
        sizes, layers = (2, *widths), []
        for fan_in, fan_out in zip(sizes, widths, strict=False):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        net = nn.Sequential(*layers, nn.Linear(widths[-1], 1)).double()
        signs, x = [], circle
        for layer in net:
            x = layer(x)
            if isinstance(layer, nn.Linear):
                signs.append(x > 0)
        pattern = torch.cat(signs[:-1], 1)
        assert int((pattern != pattern.roll(1, 0)).any(1).sum()) <= arcs(*widths)
        adam = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(60):
            adam.zero_grad()
            (net(disk)[:, 0] - disk.norm(dim=1)).abs().max().backward()
            adam.step()
        assert float((net(disk)[:, 0] - disk.norm(dim=1)).abs().max().detach()) >= modulus_error_floor(*widths)


def test_radial_functions_are_exact_and_their_floor_is_the_modulus_one_for_the_modulus() -> None:
    knots, values = [0.0, 0.2, 0.35, 0.8], [1.0, -1.0, 2.0, 0.5]
    z = _disk()
    found = radial_net(knots, values).double()(z)[:, 0].detach().numpy()
    assert np.abs(found - np.interp(z.norm(dim=1).numpy(), knots, values)).max() < 1e-6
    for widths in [(4,), (7, 3)]:
        assert radial_error_floor(lambda r: r, *widths) == pytest.approx(modulus_error_floor(*widths), rel=1e-6)
    assert radial_error_floor(np.ones_like, 3) == 0.0


def test_floor_of_a_steep_ring_is_half_its_height_for_few_neurons_and_falls_for_many() -> None:
    ring = lambda r: np.interp(r, [0.85, 0.9, 0.95], [0.0, 1.0, 0.0])  # noqa: E731
    floors = [radial_error_floor(ring, n) for n in (2, 4, 16, 64)]
    assert floors[0] == pytest.approx(0.5, abs=0.01) and floors == sorted(floors, reverse=True) and floors[3] < 0.01


def test_training_finds_the_complex_neuron_and_not_a_real_network_below_the_floor() -> None:
    torch.manual_seed(1)
    disk, errors = _disk(12, 100).float(), {}
    real = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 1))
    neuron = modulus_net([0.3 - 0.2j])
    for name, net in {"real": real, "complex": neuron}.items():
        adam = torch.optim.Adam(net.parameters(), lr=0.03)
        for _ in range(300):
            adam.zero_grad()
            (net(disk)[:, 0] - disk.norm(dim=1)).square().mean().backward()
            adam.step()
        errors[name] = float((net(disk)[:, 0] - disk.norm(dim=1)).abs().max().detach())
    assert errors["complex"] < 1e-3 < modulus_error_floor(5) <= errors["real"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: arcs(), "hidden widths"),
        (lambda: modulus_error_floor(3, 0), "hidden widths"),
        (lambda: polygon_modulus(4), "odd"),
        (lambda: polygon_modulus(1), "odd"),
        (lambda: modulus_net([]), "weights"),
        (lambda: modulus_net([math.inf]), "finite"),
        (lambda: modulus_net()(torch.zeros(2, 2, dtype=torch.cfloat)), "2c"),
        (lambda: radial_net([0.5], [1.0]), "knots"),
        (lambda: radial_net([0.5, 0.5], [1.0, 2.0]), "knots"),
        (lambda: radial_net([-0.5, 0.5], [1.0, 2.0]), "knots"),
        (lambda: radial_net([0.5, 1.0], [1.0, math.nan]), "knots"),
        (lambda: radial_error_floor(lambda r: r, 3, radii=1), "radii"),
        (lambda: radial_error_floor(lambda r: 1.0, 3), "one finite number"),
        (lambda: radial_error_floor(lambda r: r * math.nan, 3), "one finite number"),
    ],
)
def test_bad_input(wrong, says) -> None:
    with pytest.raises(InvalidInput, match=says):
        wrong()
