"""Slopes on logarithmic axes: exact on exact laws, and intervals that cover."""

from __future__ import annotations

import math

import pytest
import torch

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.rates import fitted_rate


def test_the_interval_covers_the_slope():
    generator, inside = torch.Generator().manual_seed(0), 0
    for _ in range(300):
        sizes = [10, 20, 50, 100, 400]
        draws = [s**-0.7 * torch.rand(40, generator=generator, dtype=torch.float64) * 2 for s in sizes]
        inside += -0.7 in fitted_rate(sizes, draws).slope
    assert 0.92 <= inside / 300 <= 1.0


def test_a_power_law_is_recovered():
    rate = fitted_rate([2, 8, 32], [3 * s**0.25 * torch.ones(2, dtype=torch.float64) for s in (2, 8, 32)])
    assert rate.slope.midpoint == pytest.approx(0.25) and rate.at(16) == pytest.approx(6)


def test_a_law_that_is_no_power_widens_the_interval():
    draws = [math.exp(-s) * torch.tensor([0.999, 1.001], dtype=torch.float64) for s in (1, 2, 4)]
    assert fitted_rate([1, 2, 4], draws).slope.width > 0.5


@pytest.mark.parametrize(
    ("sizes", "draws"),
    [
        ([1], [torch.ones(3)]),
        ([1, 1], [torch.ones(3)] * 2),
        ([1, 2], [torch.ones(3), torch.ones(1)]),
        ([1, 2], [torch.ones(3), -torch.ones(3)]),
        ([1, 2], [torch.ones(3), torch.full((3,), math.nan)]),
        ([0, 2], [torch.ones(3)] * 2),
    ],
)
def test_bad_input_is_refused(sizes, draws):
    with pytest.raises(InvalidInput):
        fitted_rate(sizes, draws)
