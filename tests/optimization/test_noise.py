"""Gradient noise against every example's own gradient, and stationary variances against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.noise import ExampleLosses, NoiseCovariance, example_losses, gradient_noise
from nonvacuous.optimization.sde import sde_path, sgd_path, stationary_variance


def network(n: int = 40) -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (n,), generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()
    return model, x, y


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Oracle: one backward pass an example, ``[n, P]``."""
    rows = []
    for i in range(len(x)):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        rows.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
    return torch.stack(rows)


def covariance(g: Tensor) -> Tensor:
    centred = g - g.mean(0)
    return centred.T @ centred / len(g)


def test_moments_are_those_of_the_examples_gradients() -> None:
    model, x, y = network()
    noise = gradient_noise(example_losses(model, nn.functional.cross_entropy, x, y))
    g = gradients(model, x, y)
    trace, norm = float(covariance(g).trace()), float(g.mean(0).square().sum())
    assert noise.trace.midpoint == pytest.approx(trace)
    assert noise.squared_norm.midpoint == pytest.approx(norm, rel=1e-6)
    assert trace / norm in noise.scale
    assert noise.relative_noise(4) * 4 == pytest.approx(noise.scale.midpoint)
    assert noise.efficiency(1) > 0.5 > noise.efficiency(10 * math.ceil(noise.scale.upper))


def test_the_noise_of_a_batch_is_the_scale_over_its_size() -> None:
    model, x, y = network()
    noise, g = gradient_noise(example_losses(model, nn.functional.cross_entropy, x, y)), gradients(*network())
    rows = torch.randint(40, (20_000, 8), generator=torch.Generator().manual_seed(2))
    measured = (g[rows].mean(1) - g.mean(0)).square().sum(1).mean() / g.mean(0).square().sum()
    assert float(measured) == pytest.approx(noise.scale.midpoint / 8, rel=0.05)


def test_copies_of_the_data_leave_the_scale_alone() -> None:
    model, x, y = network()
    once = gradient_noise(example_losses(model, nn.functional.cross_entropy, x, y))
    twice = gradient_noise(example_losses(model, nn.functional.cross_entropy, torch.cat([x, x]), torch.cat([y, y])))
    assert twice.scale.midpoint == pytest.approx(once.scale.midpoint, rel=1e-3)


def test_the_interval_of_the_scale_covers() -> None:
    """θ = 0 in ½(θ − x)², x ~ N(1, 2²): g_i = −x_i, so the scale of the population is 4."""
    hits = []
    for seed in range(60):
        x = 1 + 2 * torch.randn(400, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        hits.append(4.0 in gradient_noise(quadratic(x)).scale)
    assert sum(hits) / len(hits) > 0.78


def test_the_covariance_is_the_dense_one() -> None:
    model, x, y = network()
    operator = NoiseCovariance(example_losses(model, nn.functional.cross_entropy, x, y))
    dense = covariance(gradients(model, x, y))
    torch.testing.assert_close(operator @ torch.eye(len(dense), dtype=torch.float64), dense, atol=1e-12, rtol=1e-9)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([operator.draw(generator) for _ in range(400)])
    assert float((drawn.T @ drawn / 400 - dense).norm() / dense.norm()) < 0.25


def quadratic(x: Tensor, curvature: float = 1.0) -> ExampleLosses:
    """h(θ − x_i)²/2: gradient noise of variance h² var(x)."""
    start = torch.zeros(1, dtype=torch.float64)
    return ExampleLosses(lambda p, rows: curvature * (p[0] - x[rows]) ** 2 / 2, start, len(x))


def centred(n: int = 50) -> Tensor:
    x = torch.randn(n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (x - x.mean()) / x.std(correction=0)


def spread(path: Tensor) -> float:
    return float(path[len(path) // 10 :].square().mean())


@pytest.mark.slow
@pytest.mark.parametrize(("step", "batch"), [(0.1, 1), (0.1, 5), (0.5, 1)])
def test_sgd_and_the_equation_reach_their_stationary_variances(step: float, batch: int) -> None:
    losses = quadratic(centred(), 2.0)
    expected = stationary_variance(2.0, 4.0, step / 2, batch)
    sgd = spread(sgd_path(losses, step=step / 2, steps=8000, batch=batch))
    sde = spread(sde_path(losses, step=step / 2, steps=4000, batch=batch, substeps=3))
    assert sgd == pytest.approx(expected.sgd, rel=0.2)
    assert sde == pytest.approx(expected.sde, rel=0.25)


@pytest.mark.slow
def test_reshuffling_has_less_variance_than_drawing_with_replacement() -> None:
    losses = quadratic(centred())
    drawn = spread(sgd_path(losses, step=0.05, steps=5000))
    passes = spread(sgd_path(losses, step=0.05, steps=5000, reshuffled=True))
    assert passes < 0.7 * drawn


def test_formulas_agree_to_first_order_and_differ_by_their_factor() -> None:
    small, large = stationary_variance(2.0, 3.0, 1e-6), stationary_variance(2.0, 3.0, 0.5)
    assert small.sgd == pytest.approx(small.sde, rel=1e-5)
    assert large.sgd / large.sde == pytest.approx(2 / (2 - 0.5 * 2.0))
    assert stationary_variance(2.0, 3.0, 0.5, 4).sgd == pytest.approx(large.sgd / 4)


def test_paths_start_at_the_start_and_repeat_with_their_seed() -> None:
    losses = quadratic(centred())
    for path in (sgd_path, sde_path):
        first = path(losses, step=0.1, steps=6, every=3, seed=5)
        assert first.shape == (3, 1)
        assert torch.equal(first[0], losses.start)
        assert torch.equal(first, path(losses, step=0.1, steps=6, every=3, seed=5))
        assert not torch.equal(first, path(losses, step=0.1, steps=6, every=3, seed=6))


def test_bad_input() -> None:
    model, x, y = network()
    ce = nn.functional.cross_entropy
    with pytest.raises(InvalidInput, match="as many targets"):
        example_losses(model, ce, x, y[:-1])
    with pytest.raises(InvalidInput, match="not finite"):
        example_losses(model, ce, x * math.nan, y)
    with pytest.raises(InvalidInput, match="training mode"):
        example_losses(nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3)).double(), ce, x, y)
    with pytest.raises(InvalidInput, match="no trainable"):
        example_losses(nn.Sequential(nn.Flatten()), ce, x, y)
    losses = example_losses(model, ce, x, y)
    with pytest.raises(InvalidInput, match="covariance takes"):
        NoiseCovariance(losses) @ torch.zeros(3, dtype=torch.float64)
    with pytest.raises(InvalidInput, match="a batch of 1 to 40"):
        sgd_path(losses, step=0.1, steps=1, batch=41)
    with pytest.raises(InvalidInput, match="positive step"):
        sde_path(losses, step=0.0, steps=1)
    with pytest.raises(InvalidInput, match="diverges"):
        stationary_variance(2.0, 1.0, 1.0)
    with pytest.raises(InvalidInput, match="exactly 0"):
        gradient_noise(quadratic(torch.tensor([1.0, -1.0], dtype=torch.float64)))
