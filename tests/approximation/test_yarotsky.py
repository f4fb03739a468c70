"""Yarotsky's networks: exact squaring error, products, the theorem's error, and its sizes by regression."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nonvacuous.approximation import sobolev
from nonvacuous.approximation.circuit import Circuit
from nonvacuous.approximation.sobolev import approximate, cells_and_fineness, derivatives_of, network_size
from nonvacuous.approximation.yarotsky import LocalPolynomials, Polynomial, Product, Squaring, multi_indices, parent
from nonvacuous.core.errors import InvalidInput


@pytest.mark.parametrize("m", range(1, 13))
def test_the_squaring_error_is_exactly_two_to_the_minus_2m_minus_2(m):
    x = torch.arange(2 ** (m + 1) + 1, dtype=torch.float64) / 2 ** (m + 1)
    off = Squaring(m)(x) - x * x
    assert torch.equal(off[::2], torch.zeros_like(off[::2]))
    assert torch.equal(off[1::2], torch.full_like(off[1::2], 2.0 ** (-2 * m - 2)))
    assert Squaring(m).bound == 2.0 ** (-2 * m - 2)
    between = torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(m))
    off = Squaring(m)(between) - between * between
    assert float(off.min()) >= -(2**-52)
    assert float(off.max()) <= 2.0 ** (-2 * m - 2)


@given(st.integers(1, 20), st.fractions(0, 1, max_denominator=2**26))
def test_squaring_is_the_interpolant(m, x):
    """In fractions: between neighbours i/2^m the network is the chord of the parabola."""
    at = Fraction(math.floor(x * 2**26), 2**26)
    left = Fraction(math.floor(at * 2**m), 2**m)
    right = left + Fraction(1, 2**m)
    chord = left**2 + (at - left) * (left + right)
    value = Fraction(Squaring(m)(torch.tensor(float(at), dtype=torch.float64)).item())
    assert abs(value - chord) <= Fraction(1, 2**52)


@given(st.integers(1, 26), st.floats(-1, 1), st.floats(-1, 1))
def test_products(m, a, b):
    product = Product(m)
    one, other = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    value = product(one, other).item()
    assert abs(value - a * b) <= product.bound + 2**-51
    assert abs(value) <= 1
    assert product(one, torch.zeros_like(one)).item() == 0 == product(torch.zeros_like(one), other).item()


def test_the_product_bound_is_attained():
    product = Product(3)
    grid = torch.linspace(-1, 1, 2**6 + 1, dtype=torch.float64)
    off = product(grid[:, None], grid) - grid[:, None] * grid
    assert float(off.abs().max()) == product.bound


def test_yarotskys_printed_product_has_the_wrong_factor():
    """(M²/8)(f(|x+y|/2M) − f(|x|/2M) − f(|y|/2M)) at x = y = M = 1 is 1/16; with 2M² it is the product."""
    three = Squaring(10)(torch.tensor([1.0, 0.5, 0.5], dtype=torch.float64))
    difference = float(three[0] - three[1] - three[2])
    assert difference / 8 == 1 / 16
    assert 2 * difference == 1.0


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=7), st.integers(1, 20), st.floats(-1, 1))
def test_polynomials(coefficients, m, x):
    net = Polynomial(coefficients, m)
    exact = sum(Fraction(c) * Fraction(x) ** k for k, c in enumerate(coefficients))
    value = Fraction(net(torch.tensor(x, dtype=torch.float64)).item())
    assert abs(value - exact) <= Fraction(net.bound)


def test_a_product_of_units_is_the_product():
    for m in (1, 5):
        circuit = Circuit(2)
        net = circuit.network(Product(m).on(circuit, *circuit.inputs))
        x = torch.rand(300, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(m)) * 2 - 1
        assert torch.allclose(net(x), Product(m)(x[:, 0], x[:, 1]), rtol=0, atol=1e-14)
        assert net.depth == m + 3  # abs, m teeth, a unit for the value, the output
        assert net.units == 4 + 4 * m + 1


def sine(x):
    return torch.sin(x.sum(1))


TARGETS = {
    "sine": (sine, 1.0),
    "exponential": (lambda x: torch.exp(-x.sum(1)), 1.0),
    "wave": (lambda x: torch.cos(5 * x[:, 0]) * torch.exp(-x.square().sum(1)), 300.0),
    "constant": (lambda x: 0 * x[:, 0] + 0.5, 1.0),
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    ("n", "d", "eps"),
    [(1, 1, 0.01), (2, 1, 1e-3), (3, 1, 1e-5), (1, 2, 0.1), (2, 2, 0.02), (3, 2, 2e-3), (2, 3, 0.15), (3, 3, 0.05)],
)
def test_the_error_is_within_eps_and_certified(name, n, d, eps):
    f, norm = TARGETS[name]
    built = approximate(derivatives_of(f), n, d, eps * norm, norm=norm)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(20_000 // 4 ** (d - 1), d, dtype=torch.float64, generator=generator)
    x = torch.cat([x, x[:500].round(), (x[:500] * built.module.cells).round() / built.module.cells])
    with torch.no_grad():
        off = float((built.module(x) - f(x)).abs().max())
    assert off <= built.error.upper <= eps * norm
    assert built.error.lower <= off * 1.5 + 1e-9


def test_the_taylor_estimate_is_nearly_attained():
    """n = 1: a triangle wave of slope 1 in step with the cells is off by nearly 2/(3N)."""
    cells, _ = cells_and_fineness(1, 1, 0.01, 1.0)

    def derivative(x, alpha):
        t = x[:, 0] * cells
        distance = (t - t.round()).abs() / cells
        return distance if alpha == (0,) else ((t - t.floor()) < 0.5).double() * 2 - 1

    built = approximate(derivative, 1, 1, 0.01)
    assert built.error.lower >= 0.7 * built.error.upper


@pytest.mark.parametrize(("n", "d", "cells", "m"), [(1, 1, 3, 2), (3, 1, 2, 3), (2, 2, 2, 2), (1, 3, 1, 2), (2, 3, 1, 1)])
def test_the_fast_forward_is_the_network_unit_by_unit(n, d, cells, m):
    generator = torch.Generator().manual_seed(n)
    indices = multi_indices(d, n)
    coefficients = torch.randn((cells + 1) ** d, len(indices), dtype=torch.float64, generator=generator)
    module = LocalPolynomials(coefficients, cells, indices, m)
    x = torch.cat([torch.rand(200, d, dtype=torch.float64, generator=generator), torch.eye(d).double()])
    plain = module.circuit()
    assert torch.allclose(module(x), plain(x), rtol=0, atol=1e-12)
    size = network_size(n, d, cells, m)
    assert (size.depth, size.units) == (plain.depth, plain.units)
    accidents = size.weights - plain.weights  # biases that are 0 at vertices with a coordinate 0
    assert 0 <= accidents <= 4 * d * (cells + 1) ** d


@pytest.mark.parametrize(("n", "d"), list(itertools.product((1, 2, 3), (1, 2, 3))))
def test_sizes_grow_as_the_theorem_says(n, d):
    """Weights against ε: slope d/n after the factor ln(1/ε) + 1; depth against ln(1/ε): linear, slope 1/(2 ln 2) a product."""
    eps = np.array([2.0**-j for j in range(14, 43, 2)])
    plans = [cells_and_fineness(n, d, e, 1.0) for e in eps]
    sizes = [network_size(n, d, cells, m) for cells, m in plans]
    logs = np.log(1 / eps)
    slope = np.polyfit(logs, [math.log(s.weights) for s in sizes] - np.log(logs + 1) * (n * d > 1), 1)[0]
    assert slope == pytest.approx(d / n, abs=0.12 * d / n)
    depths = np.array([s.depth for s in sizes])
    if n == d == 1:
        assert set(depths) == {3}  # no products at all
        return
    rate, start = np.polyfit(logs, depths, 1)
    products = d + n - 2  # in a chain, each m + O(1) deep
    assert np.abs(depths - rate * logs - start).max() <= 1.5 * products
    assert 0.2 * products <= rate <= products / (2 * math.log(2)) * 1.15
    assert (depths <= 6 * products * (logs + 1)).all()


def test_indices_and_parents():
    indices = multi_indices(3, 3)
    assert len(indices) == math.comb(5, 3) and indices[0] == (0, 0, 0)
    for number, alpha in enumerate(indices[1:], 1):
        before, k = parent(alpha)
        assert indices.index(before) < number and before[k] == alpha[k] - 1


def test_derivatives_by_autograd():
    x = torch.rand(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    derivative = derivatives_of(lambda x: torch.exp(x[:, 0]) * x[:, 1] ** 2)
    assert torch.allclose(derivative(x, (2, 1)), torch.exp(x[:, 0]) * 2 * x[:, 1])
    assert torch.equal(derivative(x, (0, 3)), torch.zeros(20).double())
    assert torch.equal(derivatives_of(lambda x: x[:, 0])(x, (0, 1)), torch.zeros(20).double())


def test_bad_input_is_refused():
    fine = derivatives_of(sine)
    with pytest.raises(InvalidInput, match=r"derivative of order \(0, 2\) is -1\.\d* at"):
        approximate(derivatives_of(lambda x: torch.sin(2 * x[:, 1]) / 2), 2, 2, 0.1)
    with pytest.raises(InvalidInput, match="not those of one function"):
        approximate(lambda x, alpha: fine(x, alpha) * (1 if alpha == (0,) else -1), 3, 1, 1e-3)
    with pytest.raises(InvalidInput, match="1 … 3"):
        approximate(fine, 4, 1, 0.1)
    with pytest.raises(InvalidInput, match="1 … 3"):
        approximate(fine, 2, 5, 0.1)
    with pytest.raises(InvalidInput, match="positive"):
        approximate(fine, 2, 2, 0.0)
    with pytest.raises(InvalidInput, match="below what float64"):
        approximate(fine, 3, 1, 1e-14)
    with pytest.raises(InvalidInput, match="coefficients, more than"):
        approximate(fine, 1, 3, 1e-3)
    with pytest.raises(InvalidInput, match="norm"):
        approximate(fine, 1, 1, 0.1, norm=0.0)
    with pytest.raises(InvalidInput, match=r"-inf at 0\.0"):
        approximate(derivatives_of(lambda x: torch.log(x[:, 0])), 1, 1, 1e8, norm=1e9)
    with pytest.raises(InvalidInput):
        Squaring(0)
    with pytest.raises(InvalidInput):
        Polynomial([], 3)
    assert sobolev.MOST_SMOOTHNESS == 3
