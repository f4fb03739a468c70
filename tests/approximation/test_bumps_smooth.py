"""C¹ approximation: value and derivatives within eps everywhere; a ReLU network cannot do it."""

from __future__ import annotations

import itertools

import pytest
import torch

from nonvacuous.approximation.bumps import approximate
from nonvacuous.approximation.smooth import QuadraticSpline, approximate_with_derivative, approximate_with_gradient
from nonvacuous.core.errors import InvalidInput


@pytest.mark.parametrize(
    ("f", "df", "domain", "bend", "eps"),
    [
        (torch.sin, torch.cos, (0.0, 3.0), 1.0, 0.01),
        (lambda x: x**2, lambda x: 2 * x, (-4.0, 1.0), 2.0, 0.1),
        (lambda x: x * x.abs(), lambda x: 2 * x.abs(), (-1.0, 1.0), 2.0, 0.05),
        (lambda x: 0 * x + 7, lambda x: 0 * x, (0.0, 1.0), 0.1, 0.1),
    ],
)
def test_softplus_is_close_in_value_and_derivative(f, df, domain, bend, eps):
    built = approximate_with_derivative(f, df, domain, eps, derivative_lipschitz=bend)
    x = torch.linspace(*domain, 20_001, dtype=torch.float64).requires_grad_()
    y = built.module(x[:, None])
    (slope,) = torch.autograd.grad(y.sum(), x)
    off = max(float((y - f(x)).detach().abs().max()), float((slope - df(x)).detach().abs().max()))
    assert built.error.lower - 1e-9 <= off <= built.error.upper <= eps
    assert torch.allclose(built.module.derivative(x), slope, rtol=0, atol=1e-10)


def test_the_softplus_estimate_has_the_right_size():
    """A zigzag f' of the stated bend comes close to the bound: it is no gross overestimate."""
    eps = 0.05
    width = (
        2
        * approximate_with_derivative(torch.sin, torch.cos, (0.0, 1.0), eps, derivative_lipschitz=1.0).module.width.item()
        * 4
    )
    built = approximate_with_derivative(
        lambda x: ((x / width).floor() * width**2 / 4) + _bump(x % width, width),
        lambda x: width / 2 - (x % width - width / 2).abs(),
        (0.0, 1.0),
        eps,
        derivative_lipschitz=1.0,
    )
    x = torch.linspace(0.3, 0.7, 20_001, dtype=torch.float64)
    off = float((built.module.derivative(x) - (width / 2 - (x % width - width / 2).abs())).detach().abs().max())
    assert off >= 0.2 * built.error.upper


def _bump(x, width):
    """The integral of width/2 − |x − width/2| from 0."""
    return torch.where(x < width / 2, x**2 / 2, width * x - x**2 / 2 - width**2 / 4)


def test_a_relu_network_is_off_in_the_derivative():
    x = torch.linspace(0, 3, 2001, dtype=torch.float64).requires_grad_()
    relu = approximate(torch.sin, (0.0, 3.0), 0.001, lipschitz=1.0).module
    (slope,) = torch.autograd.grad(relu(x).sum(), x)
    assert float((slope - x.cos()).detach().abs().max()) > 0.9  # flat bumps: the derivative is 0 or huge


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_splines_are_close_in_value_and_gradient(dimension):
    box = [(-0.5, 1.0), (0.0, 0.7), (2.0, 3.1)][:dimension]
    eps = 0.2 * dimension

    def f(x):
        return torch.sin(2 * (x if dimension == 1 else x.sum(-1)))

    built = approximate_with_gradient(f, box, eps, gradient_lipschitz=4.0 * dimension)
    low, high = (torch.tensor(end, dtype=torch.float64) for end in zip(*box, strict=True))
    unit = torch.rand(50_000, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = (low + (high - low) * torch.cat([unit, unit.round()])).requires_grad_()
    y = built.module(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    true = f(x[:, 0] if dimension == 1 else x)
    (true_slope,) = torch.autograd.grad(true.sum(), x)
    off = max(float((y - true).detach().abs().max()), float((slope - true_slope).abs().max()))
    assert built.error.lower - 1e-9 <= off <= built.error.upper <= eps


@pytest.mark.parametrize("cells", [2, 3, 5])
def test_a_spline_is_a_relu_squared_network(cells):
    """Each basis function by relu²(± x − t), products by squares, as the docstring says."""

    def r2(z):
        return z.relu().square()

    def basis(u, i):  # on [0, cells], knots 0, 0, 0, 1, …, cells, cells, cells
        if i == 0:
            return r2(1 - u)
        if i == 1:
            return r2(2 - u) / 2 - 2 * r2(1 - u)
        if i >= cells:
            return basis(cells - u, cells + 1 - i)
        s = u - (i - 2)
        return (r2(s) - 3 * r2(s - 1) + 3 * r2(s - 2) - r2(s - 3)) / 2

    def product(p, q):
        return (r2(p + q) + r2(-p - q) - r2(p - q) - r2(q - p)) / 4

    generator = torch.Generator().manual_seed(cells)
    coefficients = torch.randn(cells + 2, cells + 2, dtype=torch.float64, generator=generator)
    module = QuadraticSpline(coefficients, torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    x = torch.rand(500, 2, dtype=torch.float64, generator=generator) * cells
    total = sum(
        coefficients[i, j] * product(basis(x[:, 0], i), basis(x[:, 1], j))
        for i, j in itertools.product(range(cells + 2), repeat=2)
    )
    assert torch.allclose(module(x), total, rtol=0, atol=1e-11)


def test_wrong_claims_are_refused():
    with pytest.raises(InvalidInput, match=r"not 0\.5-Lipschitz"):
        approximate_with_derivative(torch.sin, torch.cos, (0.0, 3.0), 0.05, derivative_lipschitz=0.5)
    with pytest.raises(InvalidInput, match="derivative is not the target's"):
        approximate_with_derivative(torch.sin, lambda x: 1.1 * torch.cos(x), (0.0, 3.0), 0.05, derivative_lipschitz=1.1)
    with pytest.raises(InvalidInput, match=r"gradient is not 1-Lipschitz.*along axis 1"):
        approximate_with_gradient(lambda x: 3 * x[:, 1] ** 2, [(0.0, 1.0)] * 2, 0.05, gradient_lipschitz=1.0)
    with pytest.raises(InvalidInput, match="softplus units"):
        approximate_with_derivative(torch.sin, torch.cos, (0.0, 3.0), 1e-7, derivative_lipschitz=1.0)
    with pytest.raises(InvalidInput, match="splines"):
        approximate_with_gradient(lambda x: x.sum(-1), [(0.0, 1.0)] * 3, 1e-3, gradient_lipschitz=1.0)
    with pytest.raises(InvalidInput, match="positive"):
        approximate_with_gradient(lambda x: x.sum(-1), [(0.0, 1.0)] * 3, 0.1, gradient_lipschitz=0.0)
