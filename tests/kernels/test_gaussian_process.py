"""Gaussian-process prediction against dense formulas; likelihood; calibration by coverage."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import multivariate_normal, norm

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.gaussian_process import (
    Prediction,
    by_validation,
    conformal_factor,
    coverage,
    posterior,
    prior_variance,
    standardised,
)
from nonvacuous.kernels.regression import Iterative, fitted


def gaussian(a, b):
    return torch.exp(-torch.cdist(a, b).square() / 2)


def process_sample(n, noise, seed, outputs=1, amplitude=1.0):
    """Inputs, and observations of a function drawn from the prior itself."""
    g = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(n, 2, generator=g, dtype=torch.float64)
    K = amplitude * (gaussian(x, x) + noise * torch.eye(n).double())
    return x, torch.linalg.cholesky(K + 1e-10 * torch.eye(n).double()) @ torch.randn(
        n, outputs, generator=g, dtype=torch.float64
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mean_and_variance_are_the_closed_forms(dtype):
    x, y = process_sample(120, 0.1, 0)
    new = 4 * torch.rand(30, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    process = posterior(gaussian, x.to(dtype), y, ridge=0.1)
    A = gaussian(x, x) + 0.1 * torch.eye(120).double()
    cross = gaussian(new, x)
    amplitude = float(y.T @ torch.linalg.solve(A, y)) / 120
    variance = amplitude * (1 - (cross * torch.linalg.solve(A, cross.T).T).sum(1))
    prediction = process.predicted(new.to(dtype))
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(prediction.mean.double(), cross @ torch.linalg.solve(A, y), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(prediction.variance, variance, rtol=100 * tolerance, atol=tolerance)
    assert process.amplitude == pytest.approx(amplitude, rel=1e-4)
    assert prediction.noise == pytest.approx(0.1 * amplitude, rel=1e-4)


def test_the_likelihood_is_the_density_and_its_best_ridge_beats_its_neighbours():
    x, y = process_sample(150, 0.2, 1, outputs=2, amplitude=3.0)
    best = posterior(gaussian, x, y)

    def density(ridge, amplitude):
        A = amplitude * (gaussian(x, x) + ridge * torch.eye(150).double())
        return sum(multivariate_normal.logpdf(column.numpy(), cov=A.numpy()) for column in y.T)

    ridge = best.regression.ridge
    assert best.log_likelihood == pytest.approx(density(ridge, best.amplitude), rel=1e-9)
    for other in (ridge / 2, ridge * 2):
        assert posterior(gaussian, x, y, ridge=other).log_likelihood < best.log_likelihood
    for amplitude in (best.amplitude / 1.3, best.amplitude * 1.3):
        assert density(ridge, amplitude) < best.log_likelihood
    assert 0.1 < ridge < 0.4 and 1.5 < best.amplitude < 6


def test_ridges_at_which_the_gram_matrix_is_singular_are_passed_over():
    x, y = process_sample(80, 0.1, 2)
    x, y = torch.cat([x, x]).float(), torch.cat([y, y + 0.3])
    flat = lambda a, b: gaussian(a, b) + 1e6  # noqa: E731  rounding swallows small ridges
    process = posterior(flat, x, y)
    assert math.isfinite(process.log_likelihood) and process.regression.ridge > 0


def test_intervals_of_the_true_model_cover_and_those_of_a_wrong_noise_do_not():
    inside, wrong = [], []
    for seed in range(8):
        x, y = process_sample(400, 0.1, seed)
        process = posterior(gaussian, x[:200], y[:200])
        prediction = process.predicted(x[200:])
        inside.append(coverage(prediction, y[200:], 0.9).fraction.midpoint)
        wrong.append(
            coverage(Prediction(prediction.mean, prediction.variance, 0.2 * process.noise), y[200:], 0.9).fraction.midpoint
        )
    assert abs(sum(inside) / 8 - 0.9) < 0.025
    assert sum(wrong) / 8 < 0.75


def test_conformal_intervals_cover_whatever_the_model():
    """Heavy-tailed noise, a wrong kernel: average coverage over draws is at least the level, and not much more."""
    inside = 0.0
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        x = torch.rand(260, 1, generator=g, dtype=torch.float64)
        y = (20 * x).sin() + 0.3 * torch.randn(260, 1, generator=g, dtype=torch.float64) / torch.rand(
            260, 1, generator=g
        ).double()
        process = posterior(gaussian, x[:60], y[:60], ridge=0.3)
        factor = conformal_factor(process.predicted(x[60:160]), y[60:160], 0.8)
        inside += float((standardised(process.predicted(x[160:]), y[160:]).abs() <= factor).double().mean())
    assert 0.775 < inside / 40 < 0.845


def test_conformal_rank():
    prediction = Prediction(torch.zeros(9, 1), torch.ones(9).double(), 0.0)
    assert conformal_factor(prediction, torch.arange(1.0, 10), 0.9) == 9.0
    assert conformal_factor(prediction, torch.arange(1.0, 10), 0.75) == 8.0
    with pytest.raises(InvalidInput, match="19 or more"):
        conformal_factor(prediction, torch.arange(1.0, 10), 0.95)


def test_coverage_counts_all_outputs_at_once():
    prediction = Prediction(torch.zeros(100, 2), torch.ones(100).double(), 0.0)
    y = torch.zeros(100, 2)
    y[:7, 1] = 50.0
    found = coverage(prediction, y, 0.9)
    assert 0.93 in found.fraction and found.fraction.width < 0.15
    assert found.width == pytest.approx(2 * norm.ppf(0.975))
    assert coverage(prediction, y[7:].repeat(2, 1)[:100], 0.9).fraction.upper == 1.0


def test_validation_picks_the_ridge_of_least_error():
    x, y = process_sample(300, 0.1, 3)
    chosen = by_validation(fitted(gaussian, x[:200], y[:200], ridge=1.0), x[200:], y[200:], [1e-6, 1e-3, 0.1, 10.0])
    errors = [
        float((fitted(gaussian, x[:200], y[:200], ridge=r).predicted(x[200:]) - y[200:]).square().mean())
        for r in chosen.ridges
    ]
    assert chosen.errors == pytest.approx(errors, rel=1e-6)
    assert chosen.regression.ridge == chosen.ridges[errors.index(min(errors))]


def test_prior_variance_is_the_diagonal():
    x = torch.randn(150, 3, dtype=torch.float64)
    torch.testing.assert_close(prior_variance(lambda a, b: (1 + a @ b.T) ** 2, x), ((1 + x @ x.T) ** 2).diagonal())


def test_iterative_processes_have_variances_but_no_likelihood():
    x, y = process_sample(200, 0.1, 4)
    direct = posterior(gaussian, x, y, ridge=0.1)
    iterative = posterior(gaussian, x, y, ridge=0.1, solver=Iterative(rank=50, tolerance=1e-8))
    assert math.isnan(iterative.log_likelihood) and iterative.amplitude == pytest.approx(direct.amplitude, rel=1e-5)
    new = x[:20] + 0.1
    torch.testing.assert_close(iterative.predicted(new).variance, direct.predicted(new).variance, rtol=1e-2, atol=1e-4)
    with pytest.raises(InvalidInput, match="ridge="):
        posterior(gaussian, x, y, solver=Iterative())


def test_bad_input_is_refused():
    prediction = Prediction(torch.zeros(4, 1), torch.zeros(4).double(), 0.0)
    with pytest.raises(InvalidInput, match="certain"):
        standardised(prediction, torch.zeros(4))
    with pytest.raises(InvalidInput):
        standardised(prediction, torch.zeros(5))
    for level in (0.0, 1.0, math.nan):
        with pytest.raises(InvalidInput):
            coverage(prediction, torch.zeros(4), level)
        with pytest.raises(InvalidInput):
            conformal_factor(prediction, torch.zeros(4), level)
    x, y = process_sample(10, 0.1, 0)
    with pytest.raises(InvalidInput, match="ridge to try"):
        by_validation(fitted(gaussian, x, y, ridge=1.0), x, y, [])
