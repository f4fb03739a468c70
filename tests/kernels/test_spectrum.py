"""Spectrum, alignment and laziness: against definitions, closed forms and descent itself."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tests.oracles.tangent import jacobian
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.alignment import alignment, centred, centred_alignment, label_alignment, label_energy, targets_of
from nonvacuous.kernels.empirical import OutputTrace, empirical_ntk
from nonvacuous.kernels.laziness import lazy_distance
from nonvacuous.kernels.recursion import nngp_ntk
from nonvacuous.kernels.spectrum import (
    TangentOperator,
    effective_dimension,
    eigenpairs,
    halving_steps,
    leading_eigenpairs,
    matrix_of,
    participation,
    residual_factors,
)
from nonvacuous.measures.linearisation import pulled, pushed


def network(width: int = 16, outputs: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, outputs)).double()


def sample(n: int = 9, d: int = 5) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


class Custom(torch.autograd.Function):
    """A square whose forward derivative torch does not know."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        return 2 * ctx.saved_tensors[0] * g


class Squares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Custom.apply(x)


@pytest.mark.parametrize("middle", [nn.Tanh(), Squares()], ids=["forward mode", "twice backward"])
def test_products_with_the_jacobian(middle: nn.Module) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), middle, nn.Linear(4, 3)).double()
    net[0].bias.requires_grad_(False)
    x = sample()
    J = jacobian(net, x)
    moving = {n: torch.randn_like(p) for n, p in net.named_parameters() if p.requires_grad}
    flat = torch.cat([t.flatten() for t in moving.values()])
    assert torch.allclose(pushed(net, x, moving), J @ flat)
    v = torch.randn(9, 3, dtype=torch.float64)
    assert torch.allclose(torch.cat([g.flatten() for g in pulled(net, x, v).values()]), torch.einsum("nkp,nk->p", J, v))


def test_the_operator_is_the_kernel_and_lanczos_finds_its_largest() -> None:
    net, x = network(), sample(20)
    K = matrix_of(empirical_ntk(net, x))
    operator = TangentOperator(net, x, batch=7)
    v = torch.randn(60, dtype=torch.float64)
    assert torch.allclose(torch.as_tensor(operator @ v.numpy()), K @ v)
    found, exact = leading_eigenpairs(operator, 5), eigenpairs(empirical_ntk(net, x))
    assert torch.allclose(found.values, exact.values[:5], rtol=1e-6) and not found.whole and exact.whole
    assert torch.allclose((found.vectors.mT @ exact.vectors[:, :5]).abs(), torch.eye(5, dtype=torch.float64), atol=1e-4)
    for count in (0, 60):
        with pytest.raises(InvalidInput, match="ask for 1 to 59"):
            leading_eigenpairs(operator, count)
    with pytest.raises(InvalidInput, match="Call model"):
        TangentOperator(nn.BatchNorm1d(5), x)


def test_the_predicted_speed_is_that_of_linear_regression() -> None:
    """A linear model is its own linearisation: every eigendirection's error shrinks by exactly 1 − ηλ a step."""
    net, x = nn.Linear(12, 1, bias=False).double(), sample(6, 12)
    y = torch.randn(6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    pairs = eigenpairs(empirical_ntk(net, x))
    step = 0.5 / float(pairs.values[0])
    before = pairs.vectors.mT @ (net(x) - y).detach()
    for _ in range(7):
        (slope,) = torch.autograd.grad(0.5 * (net(x) - y).square().sum(), [net.weight])
        with torch.no_grad():
            net.weight -= step * slope
    after = pairs.vectors.mT @ (net(x) - y).detach()
    factors = residual_factors(pairs.values, step)
    assert torch.allclose(after[:, 0], before[:, 0] * factors**7)
    assert torch.allclose(factors ** halving_steps(pairs.values, step), torch.full((6,), 0.5, dtype=torch.float64))
    assert halving_steps(torch.tensor([1.0, 0.0]), 0.1)[1] == math.inf
    with pytest.raises(InvalidInput, match="diverges"):
        residual_factors(pairs.values, 2.0 / float(pairs.values[0]))


def test_dimensions() -> None:
    assert effective_dimension(torch.ones(10), 1e-12) == pytest.approx(10)
    assert effective_dimension(torch.ones(10), 1.0) == pytest.approx(5)
    assert participation(torch.ones(10)) == pytest.approx(10) and participation(torch.tensor([3.0, 0.0])) == pytest.approx(1)
    with pytest.raises(InvalidInput, match="positive"):
        effective_dimension(torch.ones(2), 0.0)


def test_alignment() -> None:
    x = sample()
    K, L = x @ x.mT, (x[:, :2] @ x[:, :2].mT) + 3.0
    assert alignment(K, 5 * K) == pytest.approx(1) and alignment(K, L) == pytest.approx(alignment(L, K))
    H = torch.eye(9, dtype=torch.float64) - 1 / 9
    assert torch.allclose(centred(K), H @ K @ H)
    shifted = x + torch.ones(5, dtype=torch.float64) * 7
    assert centred_alignment(shifted @ shifted.mT, L) == pytest.approx(centred_alignment(K, L))
    q = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    assert centred_alignment(x @ q @ (x @ q).mT, L) == pytest.approx(centred_alignment(K, L))
    labels = torch.tensor([0, 1, 2] * 3)
    Y = torch.nn.functional.one_hot(labels, 3).double()
    assert label_alignment(Y @ Y.mT, labels) == pytest.approx(1) and label_alignment(K, labels) < 0.9
    for bad, said in ((K[:4], "is needed"), (torch.zeros(9, 9), "is 0")):
        with pytest.raises(InvalidInput, match=said):
            alignment(bad, K)
    with pytest.raises(InvalidInput, match="same sample"):
        alignment(K, torch.eye(3))
    with pytest.raises(InvalidInput, match="8 labels"):
        label_alignment(K, labels[:8])
    with pytest.raises(InvalidInput, match="labels go from 0 to 1"):
        targets_of(labels, 2)


def test_label_energy_is_a_distribution_over_the_eigenvectors() -> None:
    net, x = network(), sample()
    labels = torch.tensor([0, 1, 2] * 3)
    Y = targets_of(labels)
    small, large = eigenpairs(empirical_ntk(net, x, outputs=OutputTrace())), eigenpairs(empirical_ntk(net, x))
    for pairs in (small, large):
        energy = label_energy(pairs, Y)
        assert energy.shape == pairs.values.shape and float(energy.sum()) == pytest.approx(1) and bool((energy >= 0).all())
    residual = large.vectors[:, 4].reshape(9, 3)
    assert label_energy(large, residual)[4] == pytest.approx(1)
    with pytest.raises(InvalidInput, match="give as many"):
        label_energy(small, Y[:5])
    with pytest.raises(InvalidInput, match="all 0"):
        label_energy(small, 0 * Y)


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (torch.zeros(2, 3), "one sample"),
        (torch.tensor([[1.0, 2.0], [0.0, 1.0]]), "not symmetric"),
        (torch.full((2, 2), math.nan), "finite"),
    ],
)
def test_what_is_no_kernel_is_refused(kernel: Tensor, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        eigenpairs(kernel)


def descended(net: nn.Module, x: Tensor, y: Tensor, step: float, steps: int) -> nn.Module:
    for _ in range(steps):
        slopes = torch.autograd.grad(0.5 * (net(x) - y).square().sum(), list(net.parameters()))
        with torch.no_grad():
            for p, slope in zip(net.parameters(), slopes, strict=True):
                p -= step * slope
    return net


class Scaled(nn.Module):
    """Output scale α, which makes training lazier (Chizat, Oyallon and Bach)."""

    def __init__(self, net: nn.Module, scale: float) -> None:
        super().__init__()
        self.net, self.start, self.scale = net, [copy.deepcopy(net).requires_grad_(False)], scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (self.net(x) - self.start[0](x))


def test_a_larger_output_scale_is_lazier_in_every_measure() -> None:
    x = sample()
    y = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    found = []
    for scale in (0.5, 20.0):
        net = Scaled(network(), scale)
        start = copy.deepcopy(net)
        found.append(lazy_distance(start, descended(net, x, y, 0.02 / scale**2, 300), x))
    rich, lazy = found
    assert lazy.kernel_change < 0.1 * rich.kernel_change and lazy.weight_movement < 0.1 * rich.weight_movement
    assert rich.linearisation_error is not None and lazy.linearisation_error is not None
    assert lazy.linearisation_error < 0.1 * rich.linearisation_error and lazy.kernel_alignment > rich.kernel_alignment
    still = lazy_distance(network(), network(), x)
    assert (still.kernel_change, still.weight_movement, still.linearisation_error) == (0.0, 0.0, None)
    with pytest.raises(InvalidInput, match="deepcopy"):
        lazy_distance(start, start, x)
    with pytest.raises(InvalidInput, match="same architecture"):
        lazy_distance(network(8), network(), x)


def test_a_linear_model_has_no_linearisation_error() -> None:
    net, x = nn.Linear(5, 2).double(), sample()
    moved = copy.deepcopy(net)
    with torch.no_grad():
        moved.weight.mul_(3)
    found = lazy_distance(net, moved, x)
    assert found.kernel_change == 0 and found.linearisation_error == pytest.approx(0, abs=1e-12)


class Wide(nn.Module):
    """y = √2/√fan_in · Wx, twice with a ReLU between, W ~ N(0, 1): the tangent-kernel parametrisation."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False).double() for a, b in ((5, width), (width, width), (width, 1)))
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(torch.relu(x) if i else x) * math.sqrt(2 / layer.in_features)
        return x


def test_it_tends_to_the_kernel_of_infinite_width() -> None:
    """The deviation is of order width^(−1/2): sixteen times the width, about a quarter of it."""
    x = sample(6)
    limit = nngp_ntk(x, depth=2).ntk
    off = []
    for width in (32, 512):
        kernels = [empirical_ntk(Wide(width, seed), x)[:, :, 0, 0] for seed in range(6)]
        off.append(float(torch.stack([(K - limit).norm() / limit.norm() for K in kernels]).square().mean().sqrt()))
    assert off[1] < 0.2 and 2.2 < off[0] / off[1] < 7
