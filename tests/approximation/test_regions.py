from __future__ import annotations

import itertools
from math import comb, exp, log

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.oracles.regions import breakpoints, patterns_by_enumeration
from torch import nn

from nonvacuous.approximation.regions import (
    folding_network,
    hanin_rolnick_size,
    log_montufar_lower,
    log_montufar_upper,
    log_serra_upper,
    segment_regions,
    slice_regions,
    total_regions,
)
from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.core.measured import Kind

UNIT_SQUARE = [(0, 0), (1, 0), (1, 1), (0, 1)]


def mlp(*widths: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    steps: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        steps += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*steps[:-1])


def plane(d: int, seed: int = 0, size: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(d, generator=g), size * torch.randn(d, generator=g), size * torch.randn(d, generator=g)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("widths", [(1, 5, 4, 1), (2, 4, 4, 1), (2, 3, 3, 2, 2), (3, 4, 3, 1)])
def test_total_equals_brute_force(widths, seed):
    network = mlp(*widths, seed=seed)
    assert total_regions(network, widths[0]).patterns == patterns_by_enumeration(network, widths[0])


@pytest.mark.parametrize("d, n", [(1, 7), (2, 6), (2, 9), (3, 6)])
def test_hyperplanes_in_general_position(d, n):
    assert total_regions(mlp(d, n, 1, seed=d + n), d).patterns == sum(comb(n, j) for j in range(d + 1))


@pytest.mark.parametrize("seed", range(5))
def test_segment_equals_exact_fractions(seed):
    network = mlp(1, 7, 6, 5, 2, seed=seed)
    found = segment_regions(network, torch.zeros(1), torch.ones(1))
    exact = [float(b) for b in breakpoints(network)]
    assert found.pieces == len(exact) + 1
    changed = np.flatnonzero(np.diff(found.piece)) + 1
    assert found.corners[changed, :, 0].min(1) == pytest.approx(exact, abs=1e-9)


def test_a_large_slice_meets_all_regions_of_the_plane():
    network = mlp(2, 6, 5, 2, seed=3)
    everything = total_regions(network, 2)
    e = torch.eye(2) * 1e4
    assert slice_regions(network, torch.zeros(2), e[0], e[1]).patterns == everything.patterns


@pytest.mark.parametrize("seed", range(3))
def test_cells_tile_the_square_and_carry_the_network(seed):
    network = mlp(12, 16, 16, 3, seed=seed)
    o, u, v = plane(12, seed)
    found = slice_regions(network, o, u, v, [(-1, -2), (3, -2), (3, 1), (-1, 1)])
    area = 0.0
    for corners, count, outputs in zip(found.corners, found.count, found.outputs, strict=True):
        c = corners[:count]
        area += 0.5 * abs(np.dot(c[:, 0], np.roll(c[:, 1], -1)) - np.dot(c[:, 1], np.roll(c[:, 0], -1)))
        s, t = c.mean(0)
        there = network((o + s * u + t * v)[None]).detach().numpy()[0]
        assert there == pytest.approx(s * outputs[0] + t * outputs[1] + outputs[2], abs=1e-4)
    assert area == pytest.approx(12.0, rel=1e-9)


def test_memory_changes_nothing():
    from nonvacuous.approximation import regions

    network = mlp(10, 24, 24, 24, 2)
    o, u, v = plane(10, size=2.0)
    whole = slice_regions(network, o, u, v)
    small = regions.Subdivision
    try:
        regions.Subdivision = lambda module: small(module, memory=200_000)  # type: ignore[assignment,misc]
        parts = slice_regions(network, o, u, v)
    finally:
        regions.Subdivision = small  # type: ignore[misc]
    assert (whole.patterns, whole.pieces) == (parts.patterns, parts.pieces)


class Residual(nn.Module):
    """Everything a small image network may hold: convolution, batch-norm, skip, pools, functional ReLU, leaky ReLU."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.second, self.pool = nn.Conv2d(3, 3, 3, padding=1), pool
        self.leaky, self.head = nn.LeakyReLU(0.2), nn.Linear(3 * 3 * 3, 4)
        self.norm.running_mean += torch.randn(3)
        self.norm.running_var *= 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.norm(self.first(x)))
        h = self.leaky(h + self.second(h) * 0.5 - 0.1)
        h = self.pool(h)
        return self.head(h.view(h.size(0), -1))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2)], ids=["max", "mean"])
def test_convolution_skip_and_pool(pool):
    torch.manual_seed(0)
    network = Residual(pool).eval()
    o, u, v = (0.5 * torch.randn(1, 6, 6) for _ in range(3))
    found = slice_regions(network, o, u, v)
    assert found.pieces <= found.patterns
    grid = np.random.default_rng(0).uniform(-1, 1, (4000, 2))
    x = torch.from_numpy(grid).float()
    values = network(o + x[:, 0, None, None, None] * u + x[:, 1, None, None, None] * v).detach().numpy()
    hit = _cell_of(found, grid)
    point = np.concatenate([grid, np.ones((len(grid), 1))], 1)
    assert np.einsum("nk,nko->no", point, found.outputs[hit]) == pytest.approx(values, abs=1e-4)
    gradients = {tuple(np.round(found.outputs[i].reshape(-1), 6)) for i in hit}
    assert len(gradients) <= found.pieces


def _cell_of(found, points: np.ndarray) -> np.ndarray:
    """The cell each point lies in, by orientation tests."""
    hit = np.full(len(points), -1)
    for i, (corners, count) in enumerate(zip(found.corners, found.count, strict=True)):
        c = corners[:count]
        edge = np.roll(c, -1, axis=0) - c
        offset = points[:, None] - c
        side = edge[None, :, 0] * offset[:, :, 1] - edge[None, :, 1] * offset[:, :, 0]
        hit[(side >= -1e-12).all(1) | (side <= 1e-12).all(1)] = i
    assert (hit >= 0).all()
    return hit


@pytest.mark.parametrize("inputs, widths", [(1, [3, 4, 5]), (2, [4, 5]), (2, [4, 4, 4]), (2, [5, 7, 3])])
def test_folding_meets_montufars_number(inputs, widths):
    network = folding_network(inputs, widths)
    promised = round(exp(log_montufar_lower(inputs, widths)))
    if inputs == 1:
        assert segment_regions(network, torch.zeros(1), torch.ones(1)).patterns == promised
    else:
        e = torch.eye(2)
        assert slice_regions(network, torch.zeros(2), e[0], e[1], UNIT_SQUARE).patterns == promised


def test_random_networks_have_far_fewer_regions_than_folding_ones():
    e = torch.eye(2)
    folded = slice_regions(folding_network(2, [8, 8, 8]), torch.zeros(2), e[0], e[1], UNIT_SQUARE).patterns
    far = [(-1e4, -1e4), (1e4, -1e4), (1e4, 1e4), (-1e4, 1e4)]  # so far out that next to nothing is missed
    chance = [slice_regions(mlp(2, 8, 8, 8, 1, seed=s), torch.zeros(2), e[0], e[1], far).patterns for s in range(8)]
    assert max(chance) < folded / 5


@pytest.mark.parametrize("seed", range(2))
def test_bounds_hold_and_are_ordered(seed):
    widths = [7, 6, 5]
    found = total_regions(mlp(2, *widths, 1, seed=seed), 2).patterns
    serra, montufar = log_serra_upper(2, widths), log_montufar_upper(2, widths)
    assert log(found) <= serra <= montufar + 1e-12
    assert log_montufar_lower(2, widths) <= serra


def test_bounds_by_hand():
    assert exp(log_montufar_upper(1, [3, 3])) == pytest.approx(16)
    assert exp(log_serra_upper(1, [3, 3])) == pytest.approx(16)  # (1 + 3)², a fold in both layers
    assert exp(log_serra_upper(3, [2, 4])) == pytest.approx(1 * 11 + 2 * 5 + 1 * 1)  # Σⱼ C(2, j) Σ_{i ≤ 2 − j} C(4, i)
    size = hanin_rolnick_size(2, 100)
    assert size.kind is Kind.INDICATOR and size.upper == pytest.approx(5000)
    assert log_montufar_upper(50, [1000] * 50) < 1e6  # no overflow


def test_bad_input():
    network = mlp(2, 3, 1)
    with pytest.raises(InvalidInput, match="two different ends"):
        segment_regions(network, torch.zeros(2), torch.zeros(2))
    with pytest.raises(InvalidInput, match="independent"):
        slice_regions(network, torch.zeros(2), torch.ones(2), 2 * torch.ones(2))
    with pytest.raises(InvalidInput, match="convex"):
        slice_regions(network, torch.zeros(2), *torch.eye(2), [(0, 0), (1, 1), (1, 0), (0, 1)])
    with pytest.raises(InvalidInput, match="NaN"):
        segment_regions(network, torch.full((2,), torch.nan), torch.ones(2))
    with pytest.raises(UnsupportedModule, match="Tanh"):
        total_regions(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), 2)
    with pytest.raises(InvalidInput, match="at least as wide"):
        folding_network(3, [2, 4])
