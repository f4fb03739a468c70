"""Smooth invertible maps as compositions of near-identity maps."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nonvacuous.approximation.near_identity import factors
from nonvacuous.approximation.near_identity_maps import NearIdentities, ball, jacobians, newton_inverse, scales, spread
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind

CENTRE = [0.2, -0.1]


def twist(x: Tensor) -> Tensor:
    u = x[:, 0] + 0.5 * x[:, 1].sin() + 0.1
    v = x[:, 1] + 0.6 * u.tanh()
    return torch.stack([1.5 * u - v, u + 2 * v], 1)


def untwist(y: Tensor) -> Tensor:
    u, v = (2 * y[:, 0] + y[:, 1]) / 4, (1.5 * y[:, 1] - y[:, 0]) / 4
    b = v - 0.6 * u.tanh()
    return torch.stack([u - 0.1 - 0.5 * b.sin(), b], 1)


def wave(x: Tensor) -> Tensor:
    """α = ½, ‖h⁻¹‖_L = 2, Dh(0) = 3/2."""
    return x + 0.5 * x.sin()


def bend(x: Tensor) -> Tensor:
    """Dh(0) = Id, three dimensions, volume-preserving."""
    a, b, c = x.unbind(1)
    return torch.stack([a, b + a**2, c + 0.5 * b * a], 1)


def network(h: Callable[[Tensor], Tensor], m: int, centre: list[float], **more: object) -> NearIdentities:
    module = spread(h, m, centre, **more).module  # type: ignore[arg-type]
    assert isinstance(module, NearIdentities)
    return module


@pytest.mark.parametrize("inverse", [untwist, None], ids=["given", "by Newton"])
@pytest.mark.parametrize("m", [2, 3, 7, 40])
def test_the_composition_is_the_map_and_has_m_layers(inverse: Callable[[Tensor], Tensor] | None, m: int) -> None:
    built = spread(twist, m, CENTRE, radius=1.5, inverse=inverse)
    assert isinstance(built.module, NearIdentities) and len(built.module.layers) == m
    assert built.error.kind is Kind.INDICATOR and built.error.upper < 1e-11
    x = ball(torch.tensor(CENTRE, dtype=torch.float64), 1.5, 500, seed=9)  # other points than those measured
    with torch.no_grad():
        assert float((built.module(x) - twist(x)).abs().max()) < 1e-11
    assert len(built.module.seminorms()) == m
    assert built.cost.macs == 4 * (m // 2)


@pytest.mark.parametrize(("h", "centre"), [(twist, CENTRE), (bend, [0.0] * 3), (wave, [0.4])])
def test_seminorms_are_of_order_log_m_over_m(h: Callable[[Tensor], Tensor], centre: list[float]) -> None:
    geometric, uniform = [], []
    for m in (16, 64, 256):
        geometric.append(float(network(h, m, centre).seminorms(64).max()) * m / math.log(m))
        uniform.append(float(network(h, m, centre, schedule="uniform").seminorms(64).max()) * m)
    assert max(geometric) <= 1.6 * geometric[0] and max(uniform) <= 1.3 * uniform[0]


def test_the_geometric_schedule_pays_the_logarithm_and_the_uniform_one_does_not() -> None:
    ratio = []
    for m in (32, 256, 2048):
        slow, fast = scales(m).diff().max(), scales(m, "uniform").diff().max()
        ratio.append(float(slow / fast) / math.log(m))
    assert all(0.4 < r < 1.0 for r in ratio)
    assert torch.equal(scales(1), torch.ones(1, dtype=torch.float64))
    for schedule in ("geometric", "uniform"):
        grid = scales(50, schedule)
        assert float(grid[-1]) == 1.0 and float(grid[0]) > 0 and bool((grid.diff() > 0).all())


@pytest.mark.parametrize("schedule", ["geometric", "uniform"])
def test_measured_seminorms_and_differences_stay_below_what_is_proved(schedule: str) -> None:
    module = network(wave, 24, [0.0], radius=2.0, schedule=schedule)
    ceilings = module.ceilings(smoothness=0.5, inverse_lipschitz=2.0)
    assert len(ceilings) == 24
    assert bool((module.seminorms() <= ceilings + 1e-12).all())
    x = ball(torch.zeros(1, dtype=torch.float64), 2.0, 200, seed=4)
    with torch.no_grad():
        for layer, ceiling in zip(module.layers, ceilings, strict=True):
            y = layer(x)
            moved, apart = ((y - x)[1:] - (y - x)[:-1]).abs(), (x[1:] - x[:-1]).abs()
            assert bool((moved <= float(ceiling) * apart + 1e-12).all())
            x = y


def test_seminorms_are_those_of_the_layers_themselves() -> None:
    module = network(twist, 6, CENTRE, inverse=untwist)
    x = ball(torch.zeros(2, dtype=torch.float64), 1.0, 256, seed=0)
    for layer, said in zip(module.layers, module.seminorms(), strict=True):
        slopes = jacobians(layer, x) - torch.eye(2, dtype=torch.float64)
        assert float(torch.linalg.matrix_norm(slopes, 2).max()) == pytest.approx(float(said), rel=1e-6)
        with torch.no_grad():
            x = layer(x)


def test_a_linear_map_costs_its_factors_only() -> None:
    A = torch.tensor([[0.0, -2.0], [1.0, 0.5]], dtype=torch.float64)
    built = spread(lambda x: x @ A.T, 10, [1.0, 1.0], inverse=lambda y: torch.linalg.solve(A, y.T).T)
    assert isinstance(built.module, NearIdentities)
    seminorms = built.module.seminorms()
    assert float(seminorms[:5].max()) < 1e-12
    assert float(seminorms[5:].max()) == pytest.approx(max(float(torch.linalg.matrix_norm(F, 2)) for F in factors(A, 5)))


def test_newton_finds_what_is_far_from_where_it_starts() -> None:
    y = torch.linspace(-400, 400, 101, dtype=torch.float64)[:, None]
    x = newton_inverse(lambda x: x + 0.99 * x.sin())(y)
    assert float((x + 0.99 * x.sin() - y).abs().max()) < 1e-9
    y = 5 * ball(torch.zeros(2, dtype=torch.float64), 3.0, 100, seed=1)
    assert float((newton_inverse(twist)(y) - untwist(y)).abs().max()) < 1e-9


def test_newton_says_where_there_is_no_inverse() -> None:
    with pytest.raises(InvalidInput, match="no x with h"):
        newton_inverse(torch.tanh)(torch.tensor([[2.0]], dtype=torch.float64))
    with pytest.raises(InvalidInput, match="singular Jacobian"):
        newton_inverse(torch.square)(
            torch.tensor([[0.0], [-1.0]], dtype=torch.float64) * 0 - 1 + torch.tensor([[1.0], [1.0]]) - 1
        )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"h": lambda x: -x, "centre": [0.0]}, "positive orientation"),
        ({"h": lambda x: x**3, "centre": [0.0]}, "det Dh = 0 at the centre"),
        ({"h": lambda x: torch.sin(3 * x), "centre": [0.0]}, "not a diffeomorphism.*smaller radius"),
        ({"h": wave, "inverse": lambda y: y, "centre": [0.3]}, "does not undo h"),
        ({"h": lambda x: x[:, 0], "centre": [0.0, 0.0]}, r"made \(256,\)"),
        ({"h": lambda x: x.log(), "centre": [0.5]}, "not finite at"),
        ({"h": lambda x: wave(x).detach(), "centre": [0.3]}, "cannot be differentiated"),
        ({"h": wave, "centre": [float("nan")]}, "centre is a finite point"),
        ({"h": wave, "centre": [0.0], "radius": 0.0}, "radius"),
        ({"h": wave, "centre": [0.0], "schedule": "harmonic"}, "schedules are"),
        ({"h": wave, "centre": [0.0], "m": 0}, "m counts layers"),
        ({"h": wave, "centre": [0.0], "m": 1}, "at least 2"),
    ],
)
def test_what_the_theorem_does_not_cover_is_refused(arguments: dict, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        spread(**{"m": 8, **arguments})


def test_one_layer_is_enough_where_the_linear_part_is_the_identity() -> None:
    built = spread(bend, 1, [0.0] * 3)
    assert isinstance(built.module, NearIdentities) and len(built.module.layers) == 1 and built.error.upper < 1e-14
