"""The curse of dimensionality from below, and compositional targets built within a proved error."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from nonvacuous.approximation.bumps import approximate
from nonvacuous.approximation.compositional_limits import (
    best_learning_rate,
    kolmogorov_widths,
    learning_error,
    matern,
    width_rate,
)
from nonvacuous.approximation.compositional_targets import Composed, approximate_composition, binary_tree, log_general_bumps
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind

# -- rates ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("s", "d"), [(0.5, 1), (1.0, 2), (2.0, 3), (3.0, 4)])
def test_widths_are_the_sorted_eigenvalues(s, d):
    squares = [sum(i * i for i in k) for k in itertools.product(range(-6, 7), repeat=d)]
    values = sorted(((1 + (2 * math.pi) ** 2 * q) ** (-s / 2) for q in squares if q <= 36), reverse=True)
    sizes = [0, 1, 2, 7, len(values) // 2, len(values) - 1]
    assert kolmogorov_widths(sizes, s, d) == pytest.approx([values[n] for n in sizes], rel=1e-12)


@pytest.mark.parametrize(("d", "volume"), [(1, 2.0), (2, math.pi), (3, 4 * math.pi / 3), (4, math.pi**2 / 2)])
def test_widths_approach_their_limit(d, volume):
    n, s = 200_000, 2.0
    limit = (2 * math.pi) ** -s * (n / volume) ** (-s / d)
    assert kolmogorov_widths([n], s, d)[0] == pytest.approx(limit, rel=0.02)


@pytest.mark.parametrize(("s", "d"), [(1, 1), (1, 3), (2, 2), (4, 4)])
def test_slopes_of_widths_hold_the_theorys(s, d):
    limit = width_rate(s, d, [1000, 10_000, 100_000])
    assert limit.expected == -s / d
    assert limit.slope.lower - 0.02 * s / d <= limit.expected <= limit.slope.upper + 0.02 * s / d
    assert limit.slope.width < 0.05 * s / d


def test_the_best_learner_of_the_ornstein_uhlenbeck_process_in_closed_form():
    """Between neighbours at distances u and v the variance left is 2 sinh u sinh v / sinh(u + v)."""
    points = torch.tensor([[0.0], [0.4], [1.0]], dtype=torch.float64)
    for x, u, v in ((0.1, 0.1, 0.3), (0.25, 0.25, 0.15), (0.9, 0.5, 0.1)):
        expected = 2 * math.sinh(u) * math.sinh(v) / math.sinh(u + v)
        assert learning_error(points, torch.tensor([[x]]).double(), 0.5) ** 2 == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("s", [0.5, 1.5, 2.5])
def test_no_learner_beats_it_on_drawn_targets(s):
    """4000 targets from the process: nearest neighbour, means, another kernel are worse; the best learner is as good as said."""
    generator = torch.Generator().manual_seed(0)
    points, tests = torch.rand(12, 2, generator=generator).double(), torch.rand(40, 2, generator=generator).double()
    everything = torch.cat([points, tests])
    covariance = matern(torch.cdist(everything, everything), s)
    noise = torch.randn(52, 4000, generator=generator, dtype=torch.float64)
    draws = torch.linalg.cholesky(covariance + 1e-12 * torch.eye(52)) @ noise
    seen, truth = draws[:12], draws[12:]
    least = learning_error(points, tests, s)
    weights = torch.linalg.solve(covariance[:12, :12], covariance[:12, 12:])
    assert float((weights.T @ seen - truth).square().mean().sqrt()) == pytest.approx(least, rel=0.03)
    nearest = torch.cdist(tests, points).argmin(1)
    rough = matern(torch.cdist(everything, everything), 0.5 if s > 1 else 2.5)
    other = torch.linalg.solve(rough[:12, :12], rough[:12, 12:])
    for guess in (seen[nearest], seen.mean(0).expand(40, -1), torch.zeros(40, 4000), other.T @ seen):
        assert float((guess - truth).square().mean().sqrt()) > least * 1.005


@pytest.mark.parametrize(
    ("s", "d", "sizes"), [(0.5, 1, (64, 128, 256, 512)), (0.5, 2, (64, 128, 256, 512)), (1.5, 3, (128, 256, 512))]
)
def test_slopes_of_the_best_learner_are_near_the_theorys(s, d, sizes):
    limit = best_learning_rate(s, d, sizes, seeds=4, tests=300)
    assert limit.slope.kind is Kind.INDICATOR
    assert limit.slope.lower - 0.06 * s / d <= limit.expected <= limit.slope.upper + 0.06 * s / d
    assert limit.slope.width < 0.4 * s / d
    assert all(a > b for a, b in itertools.pairwise(limit.errors))


def test_more_variables_learn_more_slowly():
    slopes = [best_learning_rate(0.5, d, (64, 256), seeds=3, tests=200).slope.midpoint for d in (1, 2, 4)]
    assert slopes == sorted(slopes)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: kolmogorov_widths([10], 0.0, 1), "smoothness is positive"),
        (lambda: kolmogorov_widths([-1], 1.0, 1), "from 0"),
        (lambda: kolmogorov_widths([10**9], 1.0, 3), "frequencies to count"),
        (lambda: matern(torch.ones(1), 1.0), "0.5, 1.5 or 2.5"),
        (lambda: learning_error(torch.zeros(2, 1), torch.zeros(1, 1), 1.5), "too close"),
        (lambda: learning_error(torch.zeros(2, 1), torch.zeros(1, 2), 1.5), "are needed"),
        (lambda: best_learning_rate(2.5, 1, (512, 1024), seeds=2), "lost in rounding|too close"),
        (lambda: best_learning_rate(0.5, 1, (64,)), "two sizes"),
        (lambda: width_rate(1.0, 1, (0, 5)), "positive"),
    ],
)
def test_what_cannot_be_measured_is_said(call, said):
    with pytest.raises(InvalidInput, match=said):
        call()


# -- compositions --------------------------------------------------------------------------------------------------------------


def sine(x):
    return torch.sin(x[:, 0] + 2 * x[:, 1])


def uneven() -> Composed:
    """Nodes of one, two and three parts at different depths; a variable twice."""
    left = Composed(lambda x: x[:, 0] * x[:, 1], (0, 3))
    right = Composed(torch.cos, (Composed(lambda x: x[:, 0] - x[:, 1], (1, 2)),))
    return Composed(lambda x: x[:, 0] * x[:, 1] + x[:, 2] ** 2, (left, right, 0))


def test_the_composition_itself():
    x = torch.rand(50, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v = x.numpy().T
    for _ in range(3):
        v = np.sin(v[0::2] + 2 * v[1::2])
    assert binary_tree(sine, 3)(x).numpy() == pytest.approx(v[0], rel=1e-14)
    assert binary_tree(sine, 3).variables == 8 and len(list(binary_tree(sine, 3).nodes())) == 7


@pytest.mark.parametrize(
    ("target", "domain", "eps"),
    [
        (binary_tree(sine, 2), [(-1.0, 1.0)] * 4, 0.8),
        (binary_tree(lambda x: (x[:, 0] - x[:, 1]).abs(), 3), [(0.0, 1.0)] * 8, 0.3),
        (uneven(), [(-1.0, 1.0), (0.0, 2.0), (-0.5, 0.5), (1.0, 2.0)], 0.9),
    ],
    ids=["sine", "abs", "uneven"],
)
def test_the_error_is_within_what_is_proved(target, domain, eps):
    built = approximate_composition(target, domain, eps)
    assert 0.5 * eps < built.error.upper <= eps and built.error.kind is Kind.EXACT
    low, high = torch.tensor(domain, dtype=torch.float64).T
    generator = torch.Generator().manual_seed(1)
    inside = low + (high - low) * torch.rand(20_000, len(domain), dtype=torch.float64, generator=generator)
    corners = torch.cartesian_prod(*[torch.tensor(ends, dtype=torch.float64) for ends in domain])
    for points in (inside, corners):
        with torch.no_grad():
            assert float((built.module(points) - target(points)).abs().max()) <= built.error.upper
    assert built.cost.parameters == sum(p.numel() for p in built.module.parameters())


def test_cost_is_that_of_the_plain_networks():
    built = approximate_composition(binary_tree(lambda x: (x[:, 0] + x[:, 1]) / 2 + 1, 2), [(0.0, 1.0)] * 4, 0.5)
    parts = (built.module, *built.module.below)
    plain = [part.own.plain() for part in parts]
    assert built.cost.macs == sum(network.connections for network in plain)
    x = torch.rand(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for part, network in zip(parts, plain, strict=True):
        with torch.no_grad():
            assert torch.allclose(network(x).reshape(-1), part.own(x), atol=1e-9)


def test_size_grows_like_eps_to_the_minus_two_and_not_minus_eight():
    tree = binary_tree(lambda x: torch.sin(x[:, 0] + x[:, 1]) / 2, 3)
    eps = [0.4, 0.2, 0.1, 0.05]
    sizes = [approximate_composition(tree, [(0.0, 1.0)] * 8, e).cost.macs for e in eps]
    assert -2.1 < np.polyfit(np.log(eps), np.log(sizes), 1)[0] < -1.4
    general = [log_general_bumps(8, 1.0, 1.0, e) for e in eps]
    assert np.polyfit(np.log(eps), general, 1)[0] == pytest.approx(-8)
    assert math.exp(general[-1]) > 1e6 * sizes[-1]


@pytest.mark.parametrize("d", [2, 3])
def test_the_general_count_is_that_of_the_builder(d):
    built = approximate(lambda x: x.sum(-1) / math.sqrt(d), [(0.0, 1.0)] * d, 0.01 if d == 2 else 0.03, lipschitz=1.0)
    count = math.exp(log_general_bumps(d, 1.0, 1.0, 0.01 if d == 2 else 0.03))
    assert count <= built.cost.parameters <= 1.3 * count


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: approximate_composition(binary_tree(sine, 2), [(0.0, 1.0)] * 3, 0.1), "names variable 3"),
        (lambda: approximate_composition(binary_tree(sine, 1), [(0.0, 1.0)] * 2, 0.0), "eps is a positive"),
        (lambda: approximate_composition(binary_tree(sine, 1, lipschitz=0.5), [(0.0, 1.0)] * 2, 0.1), "not 0.5-Lipschitz"),
        (lambda: approximate_composition(Composed(sine, (0, -1)), [(0.0, 1.0)] * 2, 0.1), "no variable -1"),
        (lambda: approximate_composition(Composed(sine, (0, 0, 0, 0)), [(0.0, 1.0)], 0.1), "one to three parts"),
        (lambda: approximate_composition(binary_tree(sine, 6), [(0.0, 1.0)] * 64, 1e-3), "10,000,000"),
        (lambda: approximate_composition(Composed(torch.log, (0,)), [(0.0, 1.0)], 0.1), "inf|unbounded"),
        (lambda: binary_tree(sine, 0), "depth of at least 1"),
        (lambda: log_general_bumps(3, 1.0, 1.0, 0.0), "> 0 are needed"),
    ],
)
def test_what_cannot_be_composed_is_said(call, said):
    with pytest.raises(InvalidInput, match=said):
        call()
