"""Predicted envelopes against measured curves: Du–Hu, zero-asymmetric starts, constant tangent kernels, iteration counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization import du_hu, iterations, tangent_rate, zero_asymmetric
from nonvacuous.optimization.deep_linear import Moments, chain, gradient
from nonvacuous.optimization.du_hu import WideLinear
from nonvacuous.optimization.hypotheses import Standing


def regression(n: int = 50, d: int = 4, k: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(d, n, dtype=torch.float64, generator=generator)
    return X, torch.randn(k, d, dtype=torch.float64, generator=generator) @ X + 0.1 * torch.randn(
        k, n, dtype=torch.float64, generator=generator
    )


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_du_hu_descent_is_plain_gradient_descent(depth: int) -> None:
    X, Y = regression()
    problem = WideLinear.of(X, Y, 24, depth)
    step = problem.step_limit()
    losses = problem.descend(step, 30, seed=1)
    weights = list(problem.start(1))
    weights[0] = weights[0] @ problem.basis.T
    for loss in losses:
        weights = [W.detach().requires_grad_() for W in weights]
        value = 0.5 * ((problem.scale * chain(weights) @ X - Y) ** 2).sum()
        assert loss == pytest.approx(float(value.detach()), rel=1e-9)
        weights = [W - step * g for W, g in zip(weights, torch.autograd.grad(value, weights), strict=True)]


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_du_hu_envelope_lies_above_the_curve_of_a_wide_network(depth: int) -> None:
    problem = WideLinear.of(*regression(), 256, depth)
    step = problem.step_limit()
    losses = problem.descend(step, 150)
    bound = du_hu.envelope(problem, step, losses[0])
    assert bound.violations(losses) == []
    assert losses[-1] - problem.floor < 0.01 * (losses[0] - problem.floor)
    assert not bound.promised  # C is not stated
    assert [c.standing for c in bound.conditions] == [Standing.UNKNOWN, Standing.MET]


def test_a_narrow_deep_network_breaks_the_du_hu_envelope() -> None:
    problem = WideLinear.of(*regression(), 2, 12)
    step = problem.step_limit()
    losses = problem.descend(step, 200)
    assert du_hu.envelope(problem, step, losses[0]).violations(losses)


def test_inputs_of_low_rank_are_reduced() -> None:
    X, Y = regression()
    problem = WideLinear.of(torch.cat([X, X]), Y, 16, 2)
    assert len(problem.reduced.gram) == 4
    assert problem.floor == pytest.approx(WideLinear.of(X, Y, 16, 2).floor, rel=1e-9)


def test_above_the_step_limit_the_limit_is_said() -> None:
    problem = WideLinear.of(*regression(), 16, 3)
    with pytest.raises(InvalidInput, match=f"{problem.step_limit():.6g}"):
        problem.descend(2 * problem.step_limit(), 10)
    with pytest.raises(InvalidInput, match=f"{zero_asymmetric.step_limit([[1.0]], 3):.6g}"):
        zero_asymmetric.descend([[1.0]], 3, 1.0, 10)
    assert du_hu.envelope(problem, 2 * problem.step_limit(), 1.0).conditions[1].standing is Standing.FAILED


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_zero_asymmetric_closed_form_is_gradient_descent(depth: int) -> None:
    phi = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(*[nn.Linear(3, 3, bias=False) for _ in range(depth)]).double()
    zero_asymmetric.zero_asymmetric_(net)
    weights = tuple(layer.weight.detach() for layer in net)  # type: ignore[union-attr]
    moments = Moments(torch.eye(3, dtype=torch.float64), phi, float((phi**2).sum()), 3)
    step = 0.01
    for loss in zero_asymmetric.descend(phi, depth, step, 50, checked=False):
        assert float(loss) == pytest.approx(float(moments.loss(chain(weights))), rel=1e-9, abs=1e-12)
        weights = tuple(W - step * g for W, g in zip(weights, gradient(weights, moments), strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["random", "minus identity", "singular", "large"])
@pytest.mark.parametrize("depth", [2, 4, 8])
def test_the_zero_asymmetric_envelope_is_a_promise(target: str, depth: int) -> None:
    generator = torch.Generator().manual_seed(1)
    phi = {
        "random": torch.randn(4, 4, dtype=torch.float64, generator=generator) / 4,
        "minus identity": -torch.eye(2, dtype=torch.float64),
        "singular": torch.diag(torch.tensor([1.0, 0.0, -0.5], dtype=torch.float64)),
        "large": 3 * torch.eye(2, dtype=torch.float64),
    }[target]
    step = zero_asymmetric.step_limit(phi, depth)
    bound = zero_asymmetric.envelope(phi, depth, step)
    assert bound.promised
    losses = zero_asymmetric.descend(phi, depth, step, 3000).tolist()
    assert bound.violations(losses) == [] and losses[-1] < losses[0]


def test_far_above_its_step_limit_zero_asymmetric_descent_leaves_the_envelope() -> None:
    step = 0.5
    bound = zero_asymmetric.envelope(-torch.eye(1), 10, step)
    assert not bound.promised
    losses = zero_asymmetric.descend(-torch.eye(1), 10, step, 100, checked=False).tolist()
    assert bound.violations([loss if math.isfinite(loss) else math.inf for loss in losses])


def test_on_minus_one_the_identity_sticks_and_xavier_is_exponentially_slow() -> None:
    stays = zero_asymmetric.scalar_descent(torch.ones(4), -1.0, 1e-2, 20_000, 5000)
    assert float(stays.min()) >= 0.5 and float(stays[-1]) == pytest.approx(0.5, abs=1e-3)
    generator = torch.Generator().manual_seed(0)
    left = []
    for depth in (5, 10, 20):
        starts = torch.randn(100, depth, dtype=torch.float64, generator=generator)
        ends = zero_asymmetric.scalar_descent(starts, -1.0, 1e-2, 2000, 2000)[:, -1]
        left.append(float(ends.nanmedian()))
        same = zero_asymmetric.scalar_descent(torch.tensor([1.0] * (depth - 1) + [0.0]), -1.0, 1e-2, 2000, 2000)
        assert float(same[-1]) < 1e-6  # the zero-asymmetric start arrives
    assert left[0] < 1e-3 and left[2] > 0.4


def test_the_linearised_network_follows_its_kernel() -> None:
    generator = torch.Generator().manual_seed(0)
    J = torch.randn(5, 30, dtype=torch.float64, generator=generator)
    kernel, r = J @ J.T, torch.randn(5, dtype=torch.float64, generator=generator)
    step = 1 / float(torch.linalg.eigvalsh(kernel)[-1])
    losses = tangent_rate.linearised(kernel, r, step, 40)
    weights = torch.zeros(30, dtype=torch.float64)
    for loss in losses:
        miss = J @ weights + r
        assert float(loss) == pytest.approx(0.5 * float(miss @ miss), rel=1e-9)
        weights = weights - step * J.T @ miss
    exact = tangent_rate.linearised_envelope(kernel, float(losses[0]), step)
    theirs = tangent_rate.envelope(kernel, float(losses[0]), step)
    assert exact.violations(losses.tolist()) == [] == theirs.violations(losses.tolist())
    assert exact.factor < theirs.factor and not theirs.promised
    with pytest.raises(InvalidInput, match="diverges"):
        tangent_rate.linearised(kernel, r, 2.1 * step, 3)
    with pytest.raises(InvalidInput, match="symmetric"):
        tangent_rate.envelope(J[:, :5], 1.0, step)


def test_a_singular_kernel_promises_nothing() -> None:
    flat = tangent_rate.envelope(torch.ones(3, 3, dtype=torch.float64), 1.0, 0.1)
    assert flat.conditions[0].standing is Standing.FAILED
    losses = tangent_rate.linearised(torch.ones(3, 3), torch.tensor([1.0, -1.0, 0.0]), 0.1, 50)
    assert float(losses[-1]) == pytest.approx(1.0)  # parallel inputs: no descent


def resisting_convex(n: int, radius: float) -> tuple[float, float]:
    """Least value the subgradient method finds in n evaluations of the lower bound's function (L = 1), and the least value."""
    cap = radius * (1 + 1 / math.sqrt(n + 1))
    x, best = np.zeros(n + 1), math.inf
    for _ in range(n):
        top = x.max()
        best = min(best, max(top, np.linalg.norm(x) - cap))
        slope = np.eye(n + 1)[int(np.argmax(x >= top))] if top >= np.linalg.norm(x) - cap else x / np.linalg.norm(x)
        x = x - radius / math.sqrt(n) * slope
    return best, -radius / math.sqrt(n + 1)


@pytest.mark.parametrize("n", [1, 10, 100])
def test_the_convex_counts_meet_on_the_worst_function(n: int) -> None:
    found, least = resisting_convex(n, 2.0)
    gap = found - least
    assert 2.0 / math.sqrt(n + 1) <= gap * (1 + 1e-12) and gap <= 2.0 / math.sqrt(n) * (1 + 1e-12)
    assert iterations.convex_upper(1.0, 2.0, gap).evaluations.upper <= n + 1
    assert iterations.convex_lower(1.0, 2.0, gap * (1 - 1e-9)).evaluations.lower >= n - 1


def test_convexity_is_needed() -> None:
    """min(|x + 1|, |x − 2| − 1) is 1-Lipschitz; from a little left of 0 the subgradient method finds the shallow valley."""
    n, radius = 400, 2.1
    x, best = -0.1, math.inf
    for _ in range(n):
        shallow, deep = abs(x + 1), abs(x - 2) - 1
        best = min(best, shallow, deep)
        x -= radius / math.sqrt(n) * (math.copysign(1, x + 1) if shallow < deep else math.copysign(1, x - 2))
    assert best - -1 > 9 * radius / math.sqrt(n)


def test_no_number_of_queries_finds_a_stationary_point() -> None:
    rng = np.random.default_rng(0)
    queries = rng.uniform(-3, 3, 200).tolist()
    zigzag = iterations.resisting(queries, 2.0, 0.1)
    for q in queries:
        assert zigzag(q) == pytest.approx(0.0, abs=1e-12) and zigzag.slope(q) == 2.0
    grid = np.linspace(-4, 4, 20_001)
    values = np.array([zigzag(x) for x in grid])
    assert values.min() >= -0.1 - 1e-9 and np.abs(np.diff(values)).max() <= 2.0 * (grid[1] - grid[0]) * (1 + 1e-9)
    assert iterations.stationary_lower(2.0, 0.1).evaluations.upper == math.inf


def interpolated_descent(x: np.ndarray, radius: float, slope: float, rng: np.random.Generator) -> int:
    """Gradient evaluations until a convex combination of gradients of Σ|x_i|/√d within ``radius`` has norm ≤ ``slope``."""
    used, size = 0, math.sqrt(len(x))

    def f(at: np.ndarray) -> float:
        return float(np.abs(at).sum() / size)

    while True:
        g, used = np.sign(x) / size, used + 1
        inner = 0
        while np.linalg.norm(g) > slope and inner < 32 / slope**2:
            ahead = x - radius * g / np.linalg.norm(g)
            if f(ahead) < f(x) - radius * np.linalg.norm(g) / 2:
                break
            v = np.sign(x + rng.uniform() * (ahead - x)) / size
            used, inner = used + 1, inner + 1
            away = v - g
            g = g + np.clip(-(g @ away) / max(away @ away, 1e-300), 0, 1) * away
        if np.linalg.norm(g) <= slope:
            return used
        if inner < 32 / slope**2:
            x = ahead


def test_interpolated_descent_keeps_within_the_count() -> None:
    rng = np.random.default_rng(0)
    start = rng.uniform(0.2, 1.0, 10)
    used = [interpolated_descent(start, 0.1, 0.2, rng) for _ in range(20)]
    bound = iterations.goldstein_upper(1.0, float(start.sum() / math.sqrt(10)), 0.1, 0.2)
    assert 10 < np.mean(used) <= bound.evaluations.upper


@pytest.mark.parametrize("call", [lambda: iterations.convex_upper(0, 1, 1), lambda: iterations.stationary_lower(1, -1)])
def test_counts_refuse_what_is_not_positive(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidInput, match="positive"):
        call()


@pytest.mark.slow
def test_ten_thousand_examples_at_width_4096() -> None:
    X, Y = regression(10_000, 10, 3)
    problem = WideLinear.of(X, Y, 4096, 3)
    losses = problem.descend(problem.step_limit(), 20)
    assert du_hu.envelope(problem, problem.step_limit(), losses[0]).violations(losses) == []
