"""The mean-field view: the energy identity, the equations of motion and their time scale, the law of the gap."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.mean_field import MeanField, Particles, drawn, gap_constant, ridge_unit
from nonvacuous.kernels.rates import fitted_rate


def problem(seed, N=60, d=3, n=7, dtype=torch.float64, activation=torch.tanh, weighted=True):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(N, d, generator=g, dtype=dtype)
    weights = torch.rand(N, generator=g, dtype=dtype)
    field = MeanField(x, x[:, 0].sin() + x[:, 1], ridge_unit(activation), weights / weights.sum() if weighted else None)
    return field, Particles(torch.randn(n, generator=g, dtype=dtype), torch.randn(n, d + 1, generator=g, dtype=dtype))


def slow_energy(field, particles):
    """The slide's double sum, pair by pair and example by example."""
    c, y = particles
    n, total = len(c), 0.0
    phi = [[float(field.unit(x[None], z[None])) for z in y] for x in field.inputs]
    mu, f = field.measure.tolist(), field.targets.tolist()
    total += 0.5 * sum(m * v * v for m, v in zip(mu, f, strict=True))
    for i in range(n):
        total -= float(c[i]) / n * sum(m * v * p[i] for m, v, p in zip(mu, f, phi, strict=True))
        for j in range(n):
            pair = sum(m * p[i] * p[j] for m, p in zip(mu, phi, strict=True))
            total += float(c[i] * c[j]) * pair / (2 * n * n)
    return total


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 9), st.booleans(), st.sampled_from([torch.tanh, torch.relu]))
def test_the_energy_is_the_loss_to_rounding(seed, n, weighted, activation):
    field, particles = problem(seed, n=n, weighted=weighted, activation=activation)
    loss = float(field.loss(particles))
    scale = float(field.constant()) + loss
    assert abs(float(field.energy(particles)) - loss) <= 1e-14 * scale
    assert abs(slow_energy(field, particles) - loss) <= 1e-13 * scale


def test_the_identity_in_single_precision_and_over_several_chunks():
    field, particles = problem(3, N=5000, n=40, dtype=torch.float32)
    assert float(field.energy(particles)) == pytest.approx(float(field.loss(particles)), rel=2e-5)


def test_the_identity_needs_both_halves():
    field, particles = problem(0)
    c, y = particles
    without_half = field.constant() - c @ field.potential(y) / len(c) + c @ field.interaction(y, y) @ c / len(c) ** 2
    assert abs(float(without_half - field.loss(particles))) > 1e-3


@pytest.mark.parametrize("activation", [torch.tanh, torch.relu])
def test_the_velocity_is_minus_n_times_the_gradient(activation):
    field, particles = problem(1, n=11, activation=activation)
    velocity, slope = field.velocity(particles), field.network_gradient(particles)
    for v, s in zip(velocity, slope, strict=True):
        torch.testing.assert_close(v, -11 * s, rtol=1e-12, atol=1e-13)


def test_hundreds_of_steps_of_the_network_are_the_motion_of_the_particles():
    field, start = problem(2, n=9)
    eta, steps = 0.9, 300
    network = particles = start
    for _ in range(steps):
        network = Particles(*(p - eta * s for p, s in zip(network, field.network_gradient(network), strict=True)))
        particles = Particles(*(p + eta / 9 * v for p, v in zip(particles, field.velocity(particles), strict=True)))
    torch.testing.assert_close(network.positions, particles.positions, rtol=0, atol=1e-10)
    torch.testing.assert_close(network.charges, particles.charges, rtol=0, atol=1e-10)
    moved = field.moved(start, time=steps * eta / 9, step=eta / 9)
    torch.testing.assert_close(moved.charges, network.charges, rtol=0, atol=1e-10)
    assert float(field.loss(network)) < 0.5 * float(field.loss(start))


def test_another_time_scale_does_not_fit():
    field, start = problem(2, n=9)
    network = start
    for _ in range(50):
        network = Particles(*(p - 0.9 * s for p, s in zip(network, field.network_gradient(network), strict=True)))
    wrong = field.moved(start, time=50 * 0.9, step=0.9)  # forgets the n
    assert float((wrong.charges - network.charges).abs().max()) > 0.1


def test_the_gap_is_exactly_g_over_n():
    """All 5² ordered draws of two from a population of five, enumerated."""
    field, population = problem(4, n=5)
    losses = []
    for i in range(5):
        for j in range(5):
            rows = torch.tensor([i, j])
            losses.append(float(field.loss(Particles(population.charges[rows], population.positions[rows]))))
    mean = sum(losses) / len(losses)
    assert mean == pytest.approx(float(field.loss(population) + gap_constant(field, population) / 2), rel=1e-13)


def test_loss_gap_falls_as_1_over_n_and_function_error_as_its_root():
    field, population = problem(5, N=200, n=4000)
    f_nu = field.outputs(population)
    field = MeanField(field.inputs, f_nu, field.unit, field.weights)  # the law's own function is the target: its loss is 0
    generator = torch.Generator().manual_seed(0)
    gaps, errors, sizes = [], [], [10, 30, 100, 300, 1000]
    for n in sizes:
        several = [drawn(population, n, generator) for _ in range(150)]
        gaps.append(torch.stack([field.loss(p) for p in several]))
        errors.append(torch.stack([(field.measure * (field.outputs(p) - f_nu).square()).sum().sqrt() for p in several]))
    gap = fitted_rate(sizes, gaps)
    error = fitted_rate(sizes, errors)
    assert -1.0 in gap.slope and gap.slope.width < 0.3
    assert -0.5 in error.slope and error.slope.width < 0.1
    assert -1.0 not in error.slope
    g = float(gap_constant(field, population))
    for n, mean, spread in zip(gap.sizes, gap.means, gap.errors, strict=True):
        assert abs(mean - g / n) < 4 * spread


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": torch.zeros(3)},
        {"inputs": torch.zeros(0, 2), "targets": torch.zeros(0)},
        {"targets": torch.zeros(4)},
        {"targets": torch.tensor([1.0, math.nan, 0.0])},
        {"inputs": torch.full((3, 2), math.inf)},
        {"targets": torch.zeros(3, dtype=torch.float64)},
        {"weights": torch.tensor([0.5, 0.6, 0.1])},
        {"weights": torch.tensor([1.5, -0.5, 0.0])},
        {"inputs": torch.zeros(3, 2, dtype=torch.long)},
    ],
)
def test_bad_problems_are_refused(change):
    with pytest.raises(InvalidInput):
        MeanField(**{"inputs": torch.zeros(3, 2), "targets": torch.zeros(3), "unit": ridge_unit(torch.relu)} | change)


def test_bad_particles_are_refused():
    field, particles = problem(0)
    for bad in (
        Particles(particles.charges[:3], particles.positions),
        Particles(particles.charges * math.nan, particles.positions),
        Particles(particles.charges, particles.positions[:, :2]),
        Particles(particles.charges[:0], particles.positions[:0]),
    ):
        with pytest.raises(InvalidInput):
            field.loss(bad)
    with pytest.raises(InvalidInput):
        drawn(particles, 0, torch.Generator())
    with pytest.raises(InvalidInput):
        field.moved(particles, time=1.0, step=0.0)
    with pytest.raises(InvalidInput, match="shorter"):
        field.moved(Particles(particles.charges * 100, particles.positions), time=3e4, step=100.0)
