"""Gauss–Newton steps against the dense formula, and fits."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.oracles.curvature import flat, jacobian
from torch import nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.gauss_newton import gauss_newton_step, levenberg_marquardt


def case(dtype=torch.float64, width=4, n=30):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2)).to(dtype)
    x = torch.randn(n, 3, dtype=dtype)
    y = torch.stack([x.sin().sum(1), x.prod(1)], 1)
    return model, [(x[:20], y[:20]), (x[20:], y[20:])]


def dense_step(model, batches, damping):
    J = torch.cat([jacobian(model, x) for x, _ in batches]).flatten(0, 1).double()
    r = torch.cat([model(x).detach() - y for x, y in batches]).flatten().double()
    if damping == 0:
        return -torch.linalg.pinv(J) @ r
    return -torch.linalg.solve(J.mT @ J + damping * torch.eye(J.shape[1], dtype=J.dtype), J.mT @ r)


@pytest.mark.parametrize(("damping", "memory"), [(0.0, 2**30), (1e-2, 2**30), (1.0, 2**30), (100.0, 2**30), (1.0, 5_000)])
@pytest.mark.parametrize("width", [4, 16])  # fewer and more weights than equations
def test_the_step_is_the_dense_one(damping, width, memory):
    model, batches = case(width=width)
    before = flat(model)
    step = gauss_newton_step(model, batches, damping, memory=memory, tolerance=1e-10)
    expected = dense_step(model, batches, damping)
    assert float((step.direction - expected).norm() / expected.norm()) < 1e-6
    assert torch.equal(flat(model), before)
    assert step.residual < 1e-8
    r = torch.cat([model(x).detach() - y for x, y in batches])
    assert step.value == pytest.approx(0.5 * r.square().sum().item())


def test_float32_says_how_far_it_came():
    model, batches = case(torch.float32)
    step = gauss_newton_step(model, batches, 1e-2)
    expected = dense_step(model, batches, 1e-2)
    assert step.converged and float((step.direction - expected).norm() / expected.norm()) < 1e-2
    rough = gauss_newton_step(model, batches, 1e-2, most=2)
    assert not rough.converged and rough.residual > 1e-3 and rough.iterations == 2


def test_one_undamped_step_solves_a_linear_model():
    torch.manual_seed(1)
    x, y = torch.randn(20, 3, dtype=torch.float64), torch.randn(20, 1, dtype=torch.float64)
    model = nn.Linear(3, 1).double()
    step = gauss_newton_step(model, [(x, y)])
    found = flat(model) + step.direction
    design = torch.cat([x, torch.ones(20, 1, dtype=x.dtype)], 1)
    assert torch.allclose(found[:, None], torch.linalg.lstsq(design, y).solution, atol=1e-9)
    least = 0.5 * (design @ found[:, None] - y).square().sum().item()
    assert step.value - step.decrease == pytest.approx(least)
    with torch.no_grad():
        model.weight.copy_(found[:3][None]), model.bias.copy_(found[3:])
    assert gauss_newton_step(model, [(x, y)]).decrease == pytest.approx(0.0, abs=1e-12)


def test_a_realisable_fit_beats_gradient_descent_and_adam_by_far():
    teacher, batches = case(width=4)
    batches = [(x, teacher(x).detach()) for x, _ in batches]
    student = copy.deepcopy(teacher)
    torch.manual_seed(3)
    with torch.no_grad():
        for p in student.parameters():
            p.add_(0.3 * torch.randn_like(p))
    other = copy.deepcopy(student)
    fit = levenberg_marquardt(student, batches, 20)
    assert fit.values[-1] < 1e-6 * fit.values[0]
    assert all(a >= b for a, b in zip(fit.values, fit.values[1:], strict=False))
    optimizer = torch.optim.Adam(other.parameters(), 1e-2)
    for _ in range(20 + 2 * sum(fit.iterations)):  # as many gradients as products by J and its transpose
        optimizer.zero_grad()
        loss = 0.5 * sum((other(x) - y).square().sum() for x, y in batches)
        loss.backward()
        optimizer.step()
    assert loss.item() > 1e3 * fit.values[-1]


def test_refusals():
    model, batches = case()
    with pytest.raises(InvalidInput, match="at least 0"):
        gauss_newton_step(model, batches, -1.0)
    with pytest.raises(InvalidInput, match="positive"):
        levenberg_marquardt(model, batches, damping=0.0)
    with pytest.raises(InvalidInput, match="same shape"):
        gauss_newton_step(model, [(x, y[:, :1]) for x, y in batches])
    with pytest.raises(InvalidInput, match="one-pass"):
        gauss_newton_step(model, iter(batches))
    with pytest.raises(InvalidInput, match="finite"):
        gauss_newton_step(model, [(x, y * float("inf")) for x, y in batches])
