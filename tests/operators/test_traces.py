"""Trace, diagonal and spectral density against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.operators.test_lanczos import matrix, outliers

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.operators.spectral_density import condition_number, quantile_ratio, spectral_density
from nonvacuous.operators.traces import diagonal, trace


def decaying(n=120):
    return matrix([3.0 * 0.9**i - 0.2 for i in range(n)])


def test_trace_is_unbiased_with_honest_errors():
    A = decaying()
    true = float(A.diagonal().sum())
    found = [trace(A, 24, seed=seed) for seed in range(60)]
    values, errors = (np.array([getattr(t, name) for t in found]) for name in ("value", "error"))
    assert abs(values.mean() - true) < 4 * values.std() / 60**0.5
    assert 0.5 < errors.mean() / values.std() < 2
    assert sum(true in t.measured() for t in found) >= 48


def test_better_than_plain_sampling_at_equal_products():
    A = matrix([3.0 * 0.7**i for i in range(120)])
    values = np.array([trace(A, 24, seed=seed).value for seed in range(40)])
    drawn = torch.randn(40 * 24, 120, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = ((drawn @ A) * drawn).sum(1).reshape(40, 24).mean(1).numpy()
    assert values.std() < 0.1 * plain.std()


def test_what_the_products_span_is_exact():
    A = matrix([5.0, 4.0, -1.0, *[0.0] * 60])
    assert trace(A, 20).value == pytest.approx(8.0, abs=1e-9)
    assert torch.allclose(diagonal(A, 20).values, A.diagonal(), atol=1e-9)
    assert trace(A, 63).error == 0 and trace(A, 63).value == pytest.approx(8.0)
    assert torch.equal(diagonal(A, 100).values, A.diagonal())


def test_diagonal_is_unbiased_with_honest_errors():
    A = decaying()
    found = [diagonal(A, 24, seed=seed) for seed in range(60)]
    values = torch.stack([d.values for d in found])
    spread = values.std(0)
    assert float(((values.mean(0) - A.diagonal()) / (spread / 60**0.5)).abs().max()) < 5
    assert 0.5 < float(torch.stack([d.errors for d in found]).mean() / spread.mean()) < 2


def test_density_has_the_moments_of_the_matrix():
    A = outliers(0)
    density = spectral_density(A, 25, 20)
    assert float(A.trace()) in density.trace()
    assert float((A @ A).trace()) in density.integral(np.square)
    grid = density.grid(2000)
    band = density.density(grid)
    assert np.trapezoid(band.values, grid) == pytest.approx(1.0, abs=1e-3)
    assert (band.lower <= band.values).all() and (band.values <= band.upper).all()
    true = torch.linalg.eigvalsh(A).numpy()
    cumulative = density.cumulative(np.array([0.0, 1.0, 5.0]))
    exact = np.array([(true <= t).mean() for t in (0.0, 1.0, 5.0)])
    assert np.abs(cumulative.values - exact).max() < 0.05
    assert density.extent[1] == pytest.approx(true[-1], rel=1e-6)


def test_density_without_enough_room_is_exact():
    A = matrix([2.0, 1.0, 1.0, -1.0])
    density = spectral_density(A, 50, 300)
    share = density.cumulative(np.array([-0.5, 1.5])).values
    assert share == pytest.approx([0.25, 0.75], abs=0.06)
    assert density.products <= 4 * 300
    assert spectral_density(A, 5, 1).trace().upper == float("inf")


def test_condition_number_where_there_is_one():
    A = matrix(np.linspace(1.0, 50.0, 60).tolist())
    assert 50.0 in condition_number(A)
    for singular in (decaying(), matrix([1.0, 0.5, *[0.0] * 30])):
        with pytest.raises(InvalidInput, match="singular or indefinite"):
            condition_number(singular)
    ratio = quantile_ratio(Measured.indicator(50.0), spectral_density(A, 60, 5), 0.5)
    assert ratio.lower < 50 / 25.5 < ratio.upper
    with pytest.raises(InvalidInput, match="strictly between"):
        spectral_density(A, 3, 2).quantile_of_magnitudes(1.0)


def test_refusals():
    A = decaying(20)
    with pytest.raises(InvalidInput, match="too few"):
        trace(A, 2)
    with pytest.raises(InvalidInput, match="NaN"):
        diagonal(A * float("nan"), 8)
    with pytest.raises(InvalidInput, match="at least 1"):
        spectral_density(A, 0)
