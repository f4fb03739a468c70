"""Sharpness on quadratics in closed form, under reparameterisation, and against exhaustive search."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.optimization.sharpness import ball_sharpness, box_sharpness
from nonvacuous.optimization.sharpness_flatness import flatness_std
from nonvacuous.optimization.sharpness_invariant import fisher_rao_norm, relative_flatness
from nonvacuous.optimization.slices_objective import Objective, Statistics, objective
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.models import weights_digest


class Point(nn.Module):
    """Outputs its weights for every example, so that a loss of outputs is a function of weights."""

    def __init__(self, at: Tensor) -> None:
        super().__init__()
        self.at = nn.Parameter(at.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.at.expand(len(x), -1)


H = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, -0.5], [0.0, -0.5, 1.0]], dtype=torch.float64)
AT = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)


def quadratic(at: Tensor = AT, n: int = 8, scales: Tensor | None = None) -> Objective:
    """½ wᵀHw, times an example's own factor where ``scales`` are given."""

    def loss(answers: Tensor, targets: Tensor) -> Tensor:
        value = 0.5 * ((answers @ H) * answers).sum(1)
        return value if scales is None else value * scales[targets]

    return objective(Point(at), (torch.zeros(n, 1), torch.arange(n)), loss=loss)


def data(n: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 5, generator=generator), torch.randint(3, (n,), generator=generator)


def network(bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 7, bias=bias), nn.ReLU(), nn.Linear(7, 6, bias=bias), nn.ReLU(), nn.Linear(6, 3, bias=bias)
    ).double()


def rescaled(model: nn.Module, alpha: float) -> nn.Module:
    """Dinh et al.: the same function with the first layer α times as large and the second 1/α."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight *= alpha
        if other[0].bias is not None:
            other[0].bias *= alpha
        other[2].weight /= alpha
    return other


def test_the_box_maximum_of_a_convex_loss_is_its_best_vertex() -> None:
    target, epsilon = quadratic(), 0.4
    found = box_sharpness(target, epsilon=epsilon, restarts=4)
    box = epsilon * (AT.abs() + 1)
    start = float(0.5 * AT @ H @ AT)
    best = max(float(0.5 * (w := AT + box * torch.tensor(s).double()) @ H @ w) for s in itertools.product((-1, 1), repeat=3))
    assert found.loss == pytest.approx(start) and found.rise == pytest.approx(best - start) and found.at_vertex == 1
    assert found.percent.lower == pytest.approx(100 * (best - start) / (1 + start)) and found.percent.upper == math.inf
    small = box_sharpness(target, epsilon=1e-6)
    assert small.rise == pytest.approx(float((AT.abs() + 1) @ (H @ AT).abs()) * 1e-6, rel=1e-4)  # first order


def test_the_ascent_in_the_box_of_a_network_beats_random_points_and_stays_inside() -> None:
    model = network()
    before = weights_digest(model.train())
    target = objective(model, data())
    found = box_sharpness(target, epsilon=0.02, steps=8)
    assert weights_digest(model) == before and model.training
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    generator, x_y = torch.Generator().manual_seed(1), data()
    for _ in range(60):
        z = 0.02 * (flat.abs() + 1) * (torch.randint(2, flat.shape, generator=generator) * 2 - 1)
        moved = copy.deepcopy(model)
        nn.utils.vector_to_parameters(flat + z, moved.parameters())
        rise = float(nn.functional.cross_entropy(moved(x_y[0].double()), x_y[1]).detach()) - found.loss
        assert rise < found.rise
    inside = box_sharpness(target, epsilon=0.02, steps=8, subspace=10)
    assert 0 < inside.rise < found.rise


def test_a_random_subspace_of_full_size_is_the_box_in_other_coordinates() -> None:
    found = box_sharpness(quadratic(), epsilon=1e-5, subspace=3, seed=4)
    generator = torch.Generator().manual_seed(4)
    basis = torch.randn(3, 3, generator=generator).double()
    basis = basis / basis.norm(dim=0)
    box = 1e-5 * (torch.linalg.solve(basis, AT).abs() + 1)
    assert found.rise == pytest.approx(float(box @ (basis.T @ H @ AT).abs()), rel=1e-3)


def test_sam_on_a_quadratic_is_its_closed_form() -> None:
    g, rho = H @ AT, 0.2
    found = ball_sharpness(quadratic(), rho=rho)
    assert found.rise.lower == pytest.approx(float(rho * g.norm() + 0.5 * rho**2 * (g @ H @ g) / (g @ g)))
    assert found.first_order == pytest.approx(float(rho * g.norm())) and found.std == 0
    t = AT.abs()
    e = rho * t**2 * g / (t * g).norm()
    adaptive = ball_sharpness(quadratic(), rho=rho, adaptive=True)
    assert adaptive.rise.lower == pytest.approx(float(g @ e + 0.5 * e @ H @ e))
    # At the bottom the first step does not know where to go; a tiny push finds the top eigenvector.
    top = float(torch.linalg.eigvalsh(H)[-1])
    off = AT * 1e-6
    climbed = ball_sharpness(quadratic(off), rho=rho, steps=60)
    assert climbed.rise.lower == pytest.approx(0.5 * rho**2 * top, rel=1e-3)
    assert ball_sharpness(quadratic(0 * AT), rho=rho).rise.lower == 0


def test_m_sharpness_is_the_mean_over_batches_of_their_own_maxima() -> None:
    scales = torch.tensor([1.0, 1.0, 5.0, 5.0, 2.0, 2.0, 9.0], dtype=torch.float64)
    found = ball_sharpness(quadratic(n=7, scales=scales), rho=0.1, examples=2)
    single = ball_sharpness(quadratic(), rho=0.1).rise.lower
    rises = torch.tensor([1.0, 5.0, 2.0]) * single  # the seventh example has no partner
    assert found.rise.lower == pytest.approx(float(rises.mean())) and found.std == pytest.approx(float(rises.std()) / 3**0.5)
    torch.manual_seed(0)
    target = objective(network(), data())
    assert ball_sharpness(target, examples=4).rise.lower > ball_sharpness(target).rise.lower  # m-sharpness is the larger


def test_the_noise_that_a_quadratic_bears_is_its_closed_form() -> None:
    sigma = math.sqrt(2 * 0.1 / float(H.trace()))
    found = flatness_std(quadratic(0 * AT), tolerance=0.1, draws=80)
    assert found.lower < sigma < found.upper and found.upper < 2 * found.lower
    scaled = flatness_std(quadratic(), tolerance=0.1, draws=80, adaptive=True)
    sigma = math.sqrt(2 * 0.1 / float((H.diagonal() * AT**2).sum()))
    assert scaled.lower < sigma < scaled.upper
    flat = objective(Point(AT), (torch.zeros(4, 1), torch.arange(4)), loss=lambda a, t: 0 * a.sum(1))
    assert flatness_std(flat, draws=2).upper == math.inf


def test_the_noise_that_the_error_bears() -> None:
    model, x = network(), data()[0].double()
    found = flatness_std(objective(model, (x, model(x).argmax(1))), tolerance=0.1, error=True, draws=20)
    for sigma, above in ((found.lower / 3, False), (found.upper * 3, True)):
        generator, wrong = torch.Generator().manual_seed(5), []
        flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        for _ in range(40):
            moved = copy.deepcopy(model)
            nn.utils.vector_to_parameters(flat + sigma * torch.randn(flat.shape, generator=generator), moved.parameters())
            wrong.append(float((moved(x).argmax(1) != model(x).argmax(1)).double().mean()))
        assert (sum(wrong) / 40 > 0.1) is above


@pytest.mark.parametrize("alpha", [0.1, 7.0])
def test_plain_sharpness_changes_under_reparameterisation_and_the_aware_ones_do_not(alpha: float) -> None:
    models = [network(), rescaled(network(), alpha)]
    x, y = data()
    assert torch.allclose(models[0](x.double()), models[1](x.double()))
    one, other = (objective(model, (x, y)) for model in models)

    def change(measure: object) -> float:
        a, b = (float(measure(o)) for o in (one, other))  # type: ignore[operator]
        return abs(math.log(b / a))

    assert change(lambda o: ball_sharpness(o).rise.lower) > 0.2
    assert change(lambda o: box_sharpness(o, restarts=0).rise) > 0.2
    assert change(lambda o: flatness_std(o, draws=5).midpoint) > 0.2
    assert change(lambda o: ball_sharpness(o, adaptive=True).rise.lower) < 1e-6
    assert change(lambda o: ball_sharpness(o, adaptive=True, examples=6, steps=3).rise.lower) < 1e-6
    assert change(lambda o: flatness_std(o, adaptive=True, draws=5).midpoint) < 1e-6
    assert change(lambda o: fisher_rao_norm(o).midpoint) < 1e-6
    assert change(lambda o: relative_flatness(o, probes=3).total.midpoint) < 1e-6


def test_the_fisher_rao_norm_is_that_of_per_example_gradients_and_of_the_homogeneous_form() -> None:
    x, y = data(20)
    for model in (network(), network(bias=False)):
        squares, outer = [], []
        for xi, yi in zip(x.double(), y, strict=True):
            out = model(xi[None])
            loss = nn.functional.cross_entropy(out, yi[None])
            grads = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            squares.append(float(sum((g * p).sum() for g, p in zip(grads, model.parameters(), strict=True)).detach()) ** 2)
            outer.append(9 * float((torch.autograd.grad(loss, out)[0] * out).sum().detach()) ** 2)
        found = fisher_rao_norm(objective(model, (x, y), batch_size=7)).midpoint
        assert found == pytest.approx((sum(squares) / 20) ** 0.5)
    assert found == pytest.approx((sum(outer) / 20) ** 0.5)  # no biases: L² times the derivative along the outputs


def test_relative_flatness_is_that_of_the_dense_hessian() -> None:
    model, (x, y) = network(), data(20)
    found = relative_flatness(objective(model, (x, y), batch_size=13), probes=400, seed=1)
    name, weight = "2.weight", model[2].weight.detach()

    def loss(w: Tensor) -> Tensor:
        return nn.functional.cross_entropy(torch.func.functional_call(model, {name: w}, (x.double(),)), y)

    blocks = torch.autograd.functional.hessian(loss, weight)  # [out, in, out, in]
    kappa = float(torch.einsum("sk,tk,sjtj->", weight, weight, blocks))
    assert abs(found.layers[name].midpoint - kappa) < 0.75 * found.layers[name].width  # three standard errors
    assert set(found.layers) == {"0.weight", "2.weight", "4.weight"}
    assert found.total.midpoint == pytest.approx(sum(k.midpoint for k in found.layers.values()))


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx: object, *g: Tensor) -> Tensor:
        return g[0]


class Opaque(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Square.apply(x)


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (InvalidInput, lambda o: box_sharpness(o, epsilon=0.0)),
        (InvalidInput, lambda o: box_sharpness(o, subspace=10**6)),
        (InvalidInput, lambda o: ball_sharpness(o, rho=math.nan)),
        (InvalidInput, lambda o: ball_sharpness(o, examples=10**6)),
        (InvalidInput, lambda o: flatness_std(o, draws=1)),
        (InvalidInput, lambda o: flatness_std(o, tolerance=0.0)),
        (InvalidInput, lambda o: flatness_std(quadratic(), error=True)),
        (InvalidInput, lambda o: flatness_std(quadratic(0 * AT), adaptive=True)),
        (InvalidInput, lambda o: relative_flatness(o, probes=1)),
        (InvalidInput, lambda o: relative_flatness(quadratic())),
        (InvalidInput, lambda o: box_sharpness(objective(o.model, data(), loss=lambda a, t: a[:, 0] / 0))),
        (InvalidInput, lambda o: box_sharpness(objective(o.model, data(), statistics=Statistics.RECALIBRATED))),
        (UnsupportedModule, lambda o: fisher_rao_norm(objective(nn.Sequential(nn.Linear(5, 3), Opaque()), data()))),
        (UnsupportedModule, lambda o: relative_flatness(objective(nn.Sequential(nn.Linear(5, 3), Opaque()), data()))),
        (InvalidInput, lambda o: fisher_rao_norm(objective(nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)), data()))),
    ],
)
def test_what_cannot_be_measured_is_refused(kind: type[Exception], call: object) -> None:
    with pytest.raises(kind):
        call(objective(network(), data()))  # type: ignore[operator]


def test_with_batch_norm_and_a_frozen_part_the_model_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).train()
    model[0].weight.requires_grad_(False)
    before = weights_digest(model)
    for statistics in Statistics:
        target = objective(model, data(), statistics=statistics)
        assert box_sharpness(target, steps=2).rise > 0 and ball_sharpness(target).rise.lower > 0
    assert weights_digest(model) == before and model.training
    assert (
        not model[0].weight.requires_grad and model[0].bias.requires_grad and all(p.grad is None for p in model.parameters())
    )
    assert as_sample(data()).n == 60
