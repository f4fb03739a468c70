"""The landscape of deep linear networks: built and found critical points, their sorts, and the theorem's claims."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.optimization.deep_linear import Moments, chain, flat, gradient, hessian, shaped
from nonvacuous.optimization.descent import Problem, change, eigenvalue_near, second_derivative
from nonvacuous.optimization.hypotheses import Standing
from nonvacuous.optimization.minima import Landscape, Sort, Verdict, _claims, analyse_deep_linear


def data(d_x: int, d_y: int, n: int = 20, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(d_x, n, dtype=torch.float64, generator=generator)
    map_ = torch.randn(d_y, d_x, dtype=torch.float64, generator=generator)
    return X, map_ @ X + torch.randn(d_y, n, dtype=torch.float64, generator=generator)


def loss_of(X: Tensor, Y: Tensor, entries: Tensor, like: tuple[Tensor, ...]) -> Tensor:
    return 0.5 * ((chain(shaped(entries, like)) @ X - Y) ** 2).sum()


@pytest.mark.parametrize("widths", [[4], [2, 5], [3, 2, 4]])
def test_derivatives_are_those_of_autograd(widths: list[int]) -> None:
    X, Y = data(3, 2)
    sizes = [3, *widths, 2]
    weights = tuple(torch.randn(b, a, dtype=torch.float64) for a, b in pairwise(sizes))
    moments = Moments.of(X, Y)
    at = flat(weights)
    slope = torch.autograd.functional.jacobian(lambda v: loss_of(X, Y, v, weights), at)
    assert torch.allclose(flat(gradient(weights, moments)), slope, rtol=1e-9, atol=1e-9)
    curvature = torch.autograd.functional.hessian(lambda v: loss_of(X, Y, v, weights), at)
    assert torch.allclose(hessian(weights, moments.gram, moments.slope(chain(weights))), curvature, rtol=1e-9, atol=1e-9)
    direction = tuple(torch.randn_like(W) for W in weights)
    v = flat(direction)
    problem = Problem.of(X, Y)
    assert float(v @ curvature @ v / (v @ v)) == pytest.approx(second_derivative(weights, direction, problem).midpoint)
    moved = loss_of(X, Y, at + 0.3 * v, weights) - loss_of(X, Y, at, weights)
    assert float(moved) == pytest.approx(change(weights, direction, 0.3, problem).midpoint, rel=1e-9)
    near, _, values = eigenvalue_near(weights, problem)
    assert near.lower <= float(torch.linalg.eigvalsh(curvature)[0]) + 1e-9 * float(values[-1])
    assert near.width < 1e-6 * float(values[-1])


@pytest.fixture(scope="module")
def land() -> Landscape:
    return analyse_deep_linear(*data(4, 3), [3, 2, 4], starts=12)


def test_the_four_claims_hold(land: Landscape) -> None:
    assert [claim.verdict for claim in land.claims] == [Verdict.HELD] * 4
    assert all(condition.standing is Standing.MET for condition in land.conditions)


def test_every_point_is_critical_and_has_one_of_the_critical_values(land: Landscape) -> None:
    X, Y = data(4, 3)
    assert sum(point.chosen is None for point in land.points) >= 6  # searches that arrived
    for point in land.points:
        weights = tuple(W.clone().requires_grad_() for W in point.weights)
        loss = 0.5 * ((chain(weights) @ X - Y) ** 2).sum()
        slopes = torch.autograd.grad(loss, weights)
        assert max(float(slope.abs().max()) for slope in slopes) < 1e-8 * float((Y @ X.T).norm())
        assert min(abs(point.loss - value) for value in land.values) < 1e-7 * land.values[-1]


def test_the_optimum_is_reduced_rank_regression(land: Landscape) -> None:
    X, Y = data(4, 3)
    best = Y @ X.T @ torch.linalg.inv(X @ X.T)
    U, S, V = torch.linalg.svd(best @ X, full_matrices=False)
    cut = (U[:, :2] * S[:2]) @ V[:2]
    assert land.optimum == pytest.approx(float(0.5 * ((cut - Y) ** 2).sum()), rel=1e-10)
    assert land.values[0] == pytest.approx(land.optimum) and land.values[-1] == pytest.approx(float(0.5 * (Y**2).sum()))


def test_negative_curvature_is_enclosed(land: Landscape) -> None:
    X, Y = data(4, 3)
    for point in land.points:
        if point.sort is Sort.STRICT:
            H = torch.autograd.functional.hessian(
                lambda v, like=point.weights: loss_of(X, Y, v, like),  # type: ignore[misc]
                flat(point.weights),
            )
            least = float(torch.linalg.eigvalsh(H)[0])
            assert point.curvature is not None and point.curvature.upper < 0
            assert point.curvature.lower - 1e-6 <= least <= point.curvature.upper + 1e-6


def test_without_the_rank_condition_a_saddle_has_no_negative_curvature(land: Landscape) -> None:
    flat_ones = [point for point in land.points if point.sort is Sort.FLAT]
    assert flat_ones
    X, Y = data(4, 3)
    for point in flat_ones:
        assert point.inner_rank < land.rank and point.excess > 0
        H = torch.autograd.functional.hessian(
            lambda v, like=point.weights: loss_of(X, Y, v, like),  # type: ignore[misc]
            flat(point.weights),
        )
        assert float(torch.linalg.eigvalsh(H)[0]) > -1e-7
        assert point.drop is not None and point.drop.upper < 0 and point.order is not None and point.order > 2
        assert point.descent is not None
        entries, step = flat(point.weights), flat(point.descent)
        falls = [float(loss_of(X, Y, entries + t * step, point.weights)) - point.loss for t in (0.02, 0.04)]
        assert max(falls) < 0 and falls[1] / falls[0] == pytest.approx(2**point.order, rel=0.2)


def test_a_counter_example_would_be_called_one(land: Landscape) -> None:
    saddle = next(point for point in land.points if point.sort is Sort.FLAT)
    met = land.conditions
    pit = replace(saddle, sort=Sort.UNRESOLVED, curvature=Measured.exact(1.0))
    assert [c.verdict for c in _claims([pit], met, 2, 1, 1)][1:3] == [Verdict.VIOLATED] * 2
    unknown = replace(saddle, sort=Sort.UNRESOLVED, curvature=None)
    assert _claims([unknown], met, 2, 1, 1)[1].verdict is Verdict.OPEN
    full = replace(saddle, inner_rank=2)
    assert _claims([full], met, 2, 1, 1)[3].verdict is Verdict.VIOLATED


def test_one_hidden_layer_has_no_such_saddle() -> None:
    land = analyse_deep_linear(*data(4, 3), [2])
    assert land.count(Sort.FLAT) == 0 and land.claims[3].verdict is Verdict.HELD


@pytest.mark.parametrize("width", [1, 2, 6])
def test_widths_may_differ_from_the_data(width: int) -> None:
    land = analyse_deep_linear(*data(5, 2), [width, 3], starts=4)
    assert all(claim.verdict is Verdict.HELD for claim in land.claims)


def outside(case: str) -> tuple[Tensor, Tensor]:
    X, Y = data(4, 3)
    if case == "XXᵀ has full rank":
        X[3] = X[0]
    elif case == "Σ has distinct eigenvalues":
        X, Y = torch.eye(4, dtype=torch.float64), torch.eye(3, 4, dtype=torch.float64)
    elif case == "d_y ≤ d_x":
        X, Y = data(2, 3)
    else:
        Y[2] = Y[1]
    return X, Y


@pytest.mark.parametrize("name", ["XXᵀ has full rank", "Σ has distinct eigenvalues", "d_y ≤ d_x", "XYᵀ has full rank"])
def test_data_outside_the_hypotheses_are_said_to_be(name: str) -> None:
    land = analyse_deep_linear(*outside(name), [2, 2], starts=2)
    assert name in [c.name for c in land.conditions if c.standing is Standing.FAILED]
    assert all(claim.verdict is Verdict.OUTSIDE and name in claim.evidence for claim in land.claims)


def test_what_cannot_be_analysed_is_refused() -> None:
    X, Y = data(4, 3)
    with pytest.raises(InvalidInput, match="column is an example"):
        analyse_deep_linear(X.T, Y, [2])
    with pytest.raises(InvalidInput, match="widths"):
        analyse_deep_linear(X, Y, [])
    with pytest.raises(InvalidInput, match="finite"):
        analyse_deep_linear(X * float("nan"), Y, [2])


@pytest.mark.slow
def test_widths_of_ten_at_depth_five() -> None:
    land = analyse_deep_linear(*data(10, 10, 60), [10, 9, 10, 8, 10], starts=4)
    assert [claim.verdict for claim in land.claims] == [Verdict.HELD] * 4
