"""Kernels of fully connected networks: against a plain recursion, closed forms, finite networks, and at inputs that lose digits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.activations import NoClosedForm, dual
from nonvacuous.kernels.arcsine import arcsine_coefficients
from nonvacuous.kernels.dense_tiles import ErfTiles
from nonvacuous.kernels.recursion import diagonal, nngp_ntk, unit_deviations

ROOT2 = math.sqrt(2)


def plain(x1: Tensor, x2: Tensor, depth: int, activation: str, w: float, b: float) -> tuple[Tensor, Tensor]:
    """The recursion as it is printed, whole matrices at once, float64."""
    phi, d = dual(activation), x1.shape[1]
    k, one, two = (w * w * part / d + b * b for part in (x1 @ x2.T, x1.square().sum(1), x2.square().sum(1)))
    t = k
    for _ in range(depth):
        value, slope = phi.moments(one[:, None], k, two[None])
        k, one, two = (w * w * part + b * b for part in (value, phi.diagonal(one).value, phi.diagonal(two).value))
        t = k + w * w * slope * t
    return k, t


def sample(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "abs", "erf", "gelu", "sin", "identity"])
@pytest.mark.parametrize(("w", "b"), [(ROOT2, 0.0), (1.3, 0.4)])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 2e-8), (torch.float32, 1e-6)])
def test_tiles_equal_the_plain_recursion(activation: str, w: float, b: float, dtype: torch.dtype, most: float) -> None:
    x, y = sample(300, 20), sample(70, 20, 1)
    x[5], x[11], x[12], x[50] = x[9], -x[4], 2.5 * x[1], 0.0  # identical, antipodal, parallel, zero
    x[13] = x[2] + 1e-4 * y[0]
    for depth in (0, 1, 3):
        for other in (None, y):
            found = nngp_ntk(
                x.to(dtype),
                None if other is None else other.to(dtype),
                depth=depth,
                activation=activation,
                weight_std=w,
                bias_std=b,
            )
            for got, want in zip(found, plain(x, x if other is None else other, depth, activation, w, b), strict=True):
                assert got.dtype == dtype
                assert (got.double() - want).abs().max() <= most * want.abs().max()
                assert other is not None or torch.equal(got, got.T)


@pytest.mark.parametrize("bias", [0.0, 0.1])
def test_erf_of_almost_orthogonal_samples_by_polynomials(bias: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """All correlations small: float32 tiles take the polynomial, and lose nothing."""
    x = sample(150, 900)
    closed: list[Tensor] = []
    monkeypatch.setattr(ErfTiles, "_closed", lambda self, double, *rest: closed.append(double))
    for other in (None, sample(40, 900, 1)):
        found = nngp_ntk(x.float(), None if other is None else other.float(), depth=4, activation="erf", bias_std=bias)
        exact = plain(x, x if other is None else other, 4, "erf", ROOT2, bias)
        for got, want in zip(found, exact, strict=True):
            assert (got.double() - want).abs().max() < 1e-6 * want.abs().max()
    assert not closed
    x[3] = x[7]
    nngp_ntk(x.float(), depth=1, activation="erf")
    assert closed


@pytest.mark.parametrize("most", [0.01, 0.2, 0.3, 0.5])
def test_the_short_arcsine(most: float) -> None:
    c = torch.linspace(-most, most, 401, dtype=torch.float64)
    a = arcsine_coefficients(most)
    assert a is not None and arcsine_coefficients(0.6) is None
    values = sum(part * c ** (2 * j + 1) for j, part in enumerate(a))
    assert ((values - c.asin()).abs() <= 2.0**-26 * c.abs() + 1e-15).all()


@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_float32_keeps_six_digits_where_arccos_does_not(bias: float) -> None:
    """Most pairs nearly parallel: a plain float32 recursion is off by 1e-4 and more."""
    x = sample(200, 50).mul(1e-3).add(1.0).float()
    exact, found = (nngp_ntk(part, depth=4, bias_std=bias) for part in (x.double(), x))
    for got, want in zip(found, exact, strict=True):
        assert (got.double() - want).abs().max() < 1e-6 * want.abs().max()


@pytest.mark.parametrize("depth", [20, 60])
def test_depth_does_not_eat_float32(depth: int) -> None:
    x = sample(80, 30)
    for got, want in zip(nngp_ntk(x.float(), depth=depth), nngp_ntk(x, depth=depth), strict=True):
        assert (got.double() - want).abs().max() < 2e-5 * want.abs().max()


@given(angle=st.floats(0, math.pi), one=st.floats(0.1, 10), two=st.floats(0.1, 10))
@settings(max_examples=40, deadline=None)
def test_one_hidden_layer_is_the_arccosine_kernel(angle: float, one: float, two: float) -> None:
    """Cho and Saul 2009: J_1(θ) = sin θ + (π − θ) cos θ and J_0(θ) = π − θ."""
    x = torch.tensor([[one, 0.0]], dtype=torch.float64)
    y = two * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    kernel = nngp_ntk(x, y, depth=1, weight_std=1.0)
    nngp = one * two / 2 * (math.sin(angle) + (math.pi - angle) * math.cos(angle)) / (2 * math.pi)
    tangent = nngp + one * two / 2 * math.cos(angle) * (math.pi - angle) / (2 * math.pi)
    assert abs(float(kernel.nngp) - nngp) < 1e-8 * one * two and abs(float(kernel.ntk) - tangent) < 1e-7 * one * two


def test_gradients_of_a_linear_network() -> None:
    """Depth L without activation: Θ = (L + 1) x·x'/d."""
    x = sample(6, 5)
    kernel = nngp_ntk(x, depth=3, activation="identity", weight_std=1.0)
    torch.testing.assert_close(kernel.ntk, 4 * x @ x.T / 5)


def test_the_scaling_with_c_sigma_is_that_of_arora_et_al() -> None:
    """Their (7)–(9): Σ_0 = x·x', Σ_h = c E[σσ], Σ'_h = c E[σ'σ'], Θ = Σ_h Σ_(h−1) Π_(h' ≥ h) Σ'_h', here for erf, whose c_σ is no 2."""
    x, layers = nn.functional.normalize(sample(5, 3)), 3
    c = 1 / float(dual("erf").diagonal(torch.ones(1, dtype=torch.float64)).value)
    sigma, slopes = [x @ x.T], []
    for _ in range(layers):
        k = sigma[-1]
        value, slope = dual("erf").moments(k.diagonal()[:, None], k, k.diagonal()[None])
        sigma.append(c * value)
        slopes.append(c * slope)
    slopes.append(torch.ones_like(k))
    theta = sum(sigma[h] * torch.stack(slopes[h:]).prod(0) for h in range(layers + 1))
    kernel = nngp_ntk(x, depth=layers, activation="erf", **unit_deviations("erf", 3)._asdict())
    torch.testing.assert_close(kernel.ntk, theta)
    torch.testing.assert_close(kernel.nngp.diagonal(), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
def test_positive_semidefinite_and_diagonal(activation: str) -> None:
    x = sample(120, 4).float()
    x[3] = x[7]
    with pytest.warns(NoClosedForm) if activation == "tanh" else torch.no_grad():
        kernel = nngp_ntk(x, depth=2, activation=activation, bias_std=0.1)
        ends = diagonal(x, depth=2, activation=activation, bias_std=0.1)
    for matrix, end in zip(kernel, ends, strict=True):
        values = torch.linalg.eigvalsh(matrix.double())
        assert values[0] > -1e-5 * values[-1]
        torch.testing.assert_close(matrix.diagonal(), end)


@pytest.mark.parametrize(("activation", "b"), [("relu", 0.0), ("erf", 0.3)])
def test_wide_networks_have_these_kernels(activation: str, b: float) -> None:
    """48 networks of width 1024: the mean of products of outputs, and of gradients, is within five standard errors of the limit."""
    x, width, w, phi = sample(3, 4, 5).float(), 1024, 1.4, dual(activation).module()
    generator = torch.Generator().manual_seed(1)
    outputs, tangents = [], []
    for _ in range(48):
        sizes = [(width, 4), (width, width), (16, width)]
        weights = [torch.randn(s, generator=generator, requires_grad=True) for s in sizes]
        biases = [torch.randn(s[0], generator=generator, requires_grad=True) for s in sizes]
        h = x
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            h = w / math.sqrt(weight.shape[1]) * h @ weight.T + b * bias
            h = phi(h) if i < 2 else h
        outputs.append(h.detach() @ h.detach().T / 16)
        rows = [
            torch.cat([g.ravel() for g in torch.autograd.grad(h[i, 0], [*weights, *biases], retain_graph=True)])
            for i in range(3)
        ]
        tangents.append(torch.stack(rows) @ torch.stack(rows).T)
    kernel = nngp_ntk(x, depth=2, activation=activation, weight_std=w, bias_std=b)
    for draws, limit in ((torch.stack(outputs), kernel.nngp), (torch.stack(tangents), kernel.ntk)):
        error = draws.std(0) / math.sqrt(len(draws))
        assert ((draws.mean(0) - limit).abs() <= 5 * error + 2e-3 * limit.abs().max()).all()
        assert error.max() < 0.08 * limit.abs().max()


def test_bad_input_is_named() -> None:
    x = torch.ones(3, 4)
    bad: list[tuple[dict[str, object], str]] = [
        ({"x1": torch.ones(3)}, "shape"),
        ({"x1": torch.ones(0, 4)}, "at least one sample"),
        ({"x1": x.half()}, "float32 or float64"),
        ({"x1": x * math.nan}, "NaN"),
        ({"x1": x, "x2": torch.ones(3, 5)}, "must agree"),
        ({"x1": x, "x2": x.double()}, "bring them together"),
        ({"x1": x, "depth": -1}, "hidden layers"),
        ({"x1": x, "activation": "rleu"}, "no activation 'rleu'"),
        ({"x1": x, "activation": lambda z: z.cumsum(0)}, "by itself"),
        ({"x1": x, "weight_std": 0.0}, "positive"),
        ({"x1": x, "bias_std": -1.0}, "0 or more"),
        ({"x1": x, "activation": "exp", "depth": 4}, "overflows"),
    ]
    for arguments, message in bad:
        with pytest.raises(InvalidInput, match=message):
            nngp_ntk(**{"depth": 1, **arguments})  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="block_gram"):
        nngp_ntk(torch.ones(2**21, 1), torch.ones(2**21, 1), depth=1)
