"""Depth 2 against depth 3: explicit depth-3 networks, and lower bounds for depth 2 that real depth-2 networks obey."""

from __future__ import annotations

import itertools
import math
from itertools import pairwise

import pytest
import torch
from scipy.special import eval_gegenbauer, gamma, jv
from torch import nn

from nonvacuous.approximation import inner_products as inner
from nonvacuous.approximation import radial
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind


def daniely(d):
    return lambda t: torch.sin(math.pi * d**3 * t)


@pytest.mark.parametrize("d", [2, 3, 5])
def test_the_depth_three_network_for_inner_products(d):
    lipschitz = math.pi * d**3
    built = inner.inner_product_network(daniely(d), d, 0.2, lipschitz=lipschitz)
    x = inner.spheres(20_000, d, torch.Generator().manual_seed(0))
    x[0, d:], x[1, d:] = x[0, :d], -x[1, :d]  # ⟨x, x'⟩ = ± 1
    with torch.no_grad():
        off = float((built.module(x) - daniely(d)((x[:, :d] * x[:, d:]).sum(1))).abs().max())
    assert off <= built.error.upper <= 0.2
    assert built.error.kind is Kind.EXACT
    width = max(d * len(built.module.square.knots), len(built.module.profile.knots))
    assert width <= 4 * d * math.sqrt(d * lipschitz / 0.2) + 5 * lipschitz / 0.2 + 40  # polynomial, as derived


def test_its_width_is_polynomial_and_the_depth_two_width_is_not():
    """Daniely's sin(πd³t), error ½ for depth 2 in the mean square, ¼ for depth 3 everywhere; neurons of norm 1."""
    widths = {}
    for d in (4, 6, 8, 10):
        built = inner.inner_product_network(daniely(d), d, 0.25, lipschitz=math.pi * d**3)
        three = d * len(built.module.square.knots) + len(built.module.profile.knots)
        two = inner.depth_two_width(daniely(d), d, 0.5, 1.0, degree=150, nodes=10 * d**3)
        widths[d] = (two, three)
    growth_two = math.log(widths[10][0] / widths[4][0]) / math.log(10 / 4)
    growth_three = math.log(widths[10][1] / widths[4][1]) / math.log(10 / 4)
    assert growth_three < 3.5  # a power of d: L = πd³
    assert growth_two > 10  # 2^Ω(d log d)
    assert widths[10][0] > widths[10][1]


@pytest.mark.parametrize("d", [3, 4, 5, 8, 9])
def test_tails_against_gegenbauers_closed_form(d):
    """cos(ct) and sin(ct) have Bessel coefficients (the plane wave expansion)."""
    c, alpha = 7.0, (d - 2) / 2
    tails = inner.harmonic_tails(lambda t: torch.sin(c * t), d, 30)
    coefficient = []
    for n in range(30):
        if n % 2 == 0:
            coefficient.append(0.0)
            continue
        size = abs(2 * gamma(alpha) * (n + alpha) * (2 / c) ** alpha * jv(n + alpha, c)) / 2 * 2  # of C_n^alpha in e^{ict}
        norm = eval_gegenbauer(n, alpha, 1.0) / math.sqrt(inner.harmonic_dimension(d, n))  # ‖C_n‖ = C_n(1)/√N
        coefficient.append(size / 2 * norm * 1.0)
    # e^{ict} = Γ(α)(2/c)^α Σ iⁿ (n + α) J_{n+α}(c) C_n^α(t)
    squares = torch.tensor(coefficient, dtype=torch.float64).square()
    left = (tails[:-1].square() - tails[1:].square()).clamp_min(0)
    assert torch.allclose(left, squares, rtol=1e-8, atol=1e-13)


def test_harmonic_dimensions():
    assert [round(inner.harmonic_dimension(2, n)) for n in range(4)] == [1, 2, 2, 2]
    assert [round(inner.harmonic_dimension(4, n)) for n in range(5)] == [(n + 1) ** 2 for n in range(5)]


def trained(sizes, x, y, steps, seed, rate=5e-3):
    torch.manual_seed(seed)
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())][:-1]
    net = nn.Sequential(*layers).double()
    optimizer = torch.optim.Adam(net.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (net(x)[:, 0] - y).square().mean().backward()
        optimizer.step()
        schedule.step()
    return net


def rms(net, x, y):
    with torch.no_grad():
        return float((net(x)[:, 0] - y).square().mean().sqrt())


@pytest.mark.parametrize("width", [5, 40])
def test_trained_depth_two_networks_obey_the_inner_product_bound(width):
    d = 6
    g = lambda t: torch.sin(8 * t)  # noqa: E731
    generator = torch.Generator().manual_seed(1)
    x = inner.spheres(4000, d, generator)
    y = g((x[:, :d] * x[:, d:]).sum(1))
    net = trained([2 * d, width, 1], x[:1000], y[:1000], 150, 0)
    total = float(inner.relu_norm(net[0].weight.detach(), net[0].bias.detach(), net[2].weight.detach()[0]).sum())
    bound = inner.depth_two_distance(g, d, total)
    assert bound.kind is Kind.INDICATOR
    assert 0 < bound.lower <= rms(net, x, y) * 1.05  # 5 % for the sample of 4000
    assert rms(net, x, y) <= bound.upper


def test_the_inner_product_bound_on_the_best_network_of_its_kind():
    """Gradient ascent on ⟨F, G⟩/‖F‖ for one neuron never beats 1/√N times the tail."""
    d, g = 5, lambda t: t**3 - 3 * t / (5 + 2)  # of degree 3 alone (d = 5: harmonic)
    tails = inner.harmonic_tails(g, d, 6)
    assert tails[3].item() == pytest.approx(tails[0].item(), rel=1e-9) and tails[4] < 1e-7
    x = inner.spheres(60_000, d, torch.Generator().manual_seed(0))
    y = g((x[:, :d] * x[:, d:]).sum(1))
    best = 0.0
    for seed in range(20):
        w = torch.randn(2 * d + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        neuron = (x @ w[:-1] + 0.3 * w[-1]).relu()
        best = max(best, abs(float((neuron * y).mean())) / float(neuron.square().mean().sqrt()))
    assert best <= tails[0].item() / math.sqrt(inner.harmonic_dimension(d, 3)) + 3 * tails[0].item() / math.sqrt(60_000)


def test_relu_norms_are_bounds():
    generator = torch.Generator().manual_seed(0)
    x = inner.spheres(50_000, 4, generator)
    weight, bias, outer = (torch.randn(*s, dtype=torch.float64, generator=generator) for s in ((20, 8), (20,), (20,)))
    true = ((x @ weight.T + bias).relu() * outer).square().mean(0).sqrt()
    assert (true <= inner.relu_norm(weight, bias, outer) * 1.02).all()


@pytest.mark.parametrize("d", [2, 5, 10])
def test_the_depth_three_network_for_radial_functions(d):
    g, shell = radial.wave(d, 2.0), (1.5 * math.sqrt(d), 2.5 * math.sqrt(d))
    built = radial.radial_network(g, d, shell, 0.1, lipschitz=radial.wave_lipschitz(d, 2.0))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, d, dtype=torch.float64, generator=generator)
    x = x / x.norm(dim=1, keepdim=True) * torch.rand(20_000, 1, dtype=torch.float64, generator=generator) * 4 * math.sqrt(d)
    x = torch.cat([x, 100 * x[:100], torch.zeros(1, d).double(), 50 * torch.eye(d).double()])  # everywhere in R^d
    with torch.no_grad():
        off = float((built.module(x) - g(x.norm(dim=1))).abs().max())
    assert off <= built.error.upper <= 0.1


@pytest.mark.parametrize("d", [3, 6])
def test_the_transform_keeps_the_norm(d):
    g, shell = radial.wave(d, 4.0), (1.5 * math.sqrt(d), 2.5 * math.sqrt(d))
    radius = radial.unit_ball_radius(d)
    _, mass = radial.radial_masses(g, d, shell, 12 * radius)
    r = torch.linspace(*shell, 20_001, dtype=torch.float64)
    density = torch.from_numpy(jv(d / 2, (2 * math.pi * radius * r).numpy())) ** 2 / r
    sphere = 2 * math.pi ** (d / 2) / gamma(d / 2)
    norm = float(torch.trapezoid(g(r).square() * density, r)) * sphere * radius**d
    assert float(mass.sum()) == pytest.approx(norm, rel=1e-3)


def test_covered_share_by_sampling():
    points = torch.randn(200_000, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sine = 1 - (points[:, 0] / points.norm(dim=1)) ** 2
    radius = radial.unit_ball_radius(6)
    share = float(radial.covered_share(6, torch.tensor([1.5 * radius])))
    assert share == pytest.approx(float((sine <= 1.5**-2).double().mean()), abs=4e-3)


def test_depth_two_needs_exponentially_many_neurons_for_the_wave():
    """At d = 12, ten thousand neurons of any kind leave 0.9 of the norm; depth 3 does it with a few thousand units."""
    d = 12
    g, shell = radial.wave(d, 4.0), (1.5 * math.sqrt(d), 2.5 * math.sqrt(d))
    bound = radial.depth_two_distance(g, d, shell, 10_000)
    assert bound.lower >= 0.9 * bound.upper > 0
    wider = [radial.depth_two_distance(g, d, shell, k).lower for k in (1, 10**3, 10**6, 10**9)]
    assert wider == sorted(wider, reverse=True) and wider[-1] < 0.1 * wider[0]
    built = radial.radial_network(g, d, shell, 0.05, lipschitz=radial.wave_lipschitz(d, 4.0))
    units = d * len(built.module.square.knots) + len(built.module.profile.knots)
    assert units < 15_000
    assert built.error.upper <= 0.05 < bound.lower


def test_the_radial_bound_holds_for_a_fitted_network():
    """Depth 2, width k, output weights by least squares in L²(μ) over random inner ones: never below the bound."""
    d, width = 3, 30
    g, shell = radial.wave(d, 3.0), (1.5 * math.sqrt(d), 2.5 * math.sqrt(d))
    generator = torch.Generator().manual_seed(0)
    radius = radial.unit_ball_radius(d)
    r = torch.linspace(0.02, 60.0, 60_000, dtype=torch.float64)  # the tail beyond carries more of f, none of g
    density = torch.from_numpy(jv(d / 2, (2 * math.pi * radius * r).numpy())) ** 2 / r
    mass = float(torch.trapezoid(density, r)) * 2 * math.pi ** (d / 2) / gamma(d / 2) * radius**d
    draw = torch.multinomial(density, 40_000, replacement=True, generator=generator)
    direction = torch.randn(40_000, d, dtype=torch.float64, generator=generator)
    x = direction / direction.norm(dim=1, keepdim=True) * r[draw][:, None]
    w = torch.randn(d, width, dtype=torch.float64, generator=generator)
    features = torch.sigmoid(x @ w + 3 * torch.randn(width, dtype=torch.float64, generator=generator))
    y = g(x.norm(dim=1))
    fit = torch.linalg.lstsq(features, y[:, None]).solution
    distance = math.sqrt(float((features @ fit - y[:, None]).square().mean()) * mass)
    bound = radial.depth_two_distance(g, d, shell, width)
    assert bound.lower <= distance * 1.03
    assert distance <= bound.upper * 1.03


def race(target, draw, inputs, seed, steps):
    """Root mean square errors of depth 2 (width 164 at 6 inputs) and depth 3 (32, 32): equal parameters, steps and fresh data."""
    wide = round(((inputs + 1) * 32 + 33 * 32 + 32) / (inputs + 2))
    errors = []
    for sizes in ([inputs, wide, 1], [inputs, 32, 32, 1]):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())][:-1]
        net = nn.Sequential(*layers)
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            x = draw(256, generator)
            optimizer.zero_grad()
            (net(x.float())[:, 0] - target(x).float()).square().mean().backward()
            optimizer.step()
            schedule.step()
        x = draw(8000, torch.Generator().manual_seed(99))
        errors.append(rms(net, x.float(), target(x)))
    return errors


def inner_sine(x):
    one, two = x.chunk(2, 1)
    return torch.sin(1.5 * math.pi * (one * two).sum(1))


def test_trained_depth_three_beats_depth_two_on_inner_products():
    two, three = race(inner_sine, lambda n, g: inner.spheres(n, 3, g), 6, seed=0, steps=700)
    assert three < 0.6 * two


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_trained_networks_agree_in_order(seed):
    two, three = race(inner_sine, lambda n, g: inner.spheres(n, 3, g), 6, seed, steps=3000)
    assert three < 0.3 * two

    def shell(n, g):
        x = torch.randn(n, 4, dtype=torch.float64, generator=g)
        return x / x.norm(dim=1, keepdim=True) * (1 + torch.rand(n, 1, dtype=torch.float64, generator=g))

    two, three = race(lambda x: torch.cos(4 * math.pi * x.norm(dim=1)), shell, 4, seed, steps=3000)
    assert three < 0.9 * two


def test_bad_input_is_refused():
    with pytest.raises(InvalidInput, match="d ≥ 2"):
        inner.inner_product_network(torch.sin, 1, 0.1, lipschitz=1.0)
    with pytest.raises(InvalidInput, match="positive"):
        inner.inner_product_network(torch.sin, 3, 0.1, lipschitz=0.0)
    with pytest.raises(InvalidInput, match="vanish at the ends"):
        radial.radial_network(torch.cos, 3, (1.0, 2.0), 0.1, lipschitz=1.0)
    with pytest.raises(InvalidInput, match="shell"):
        radial.radial_network(torch.cos, 3, (0.0, 2.0), 0.1, lipschitz=1.0)
    with pytest.raises(InvalidInput, match="width"):
        radial.depth_two_distance(torch.cos, 3, (1.0, 2.0), 0)
