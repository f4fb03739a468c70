"""Implicit bias: least-norm interpolation, the largest margin and its rate, kernel against rich, and the tracker."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.implicit_bias import BiasTracker, tangent_kernel
from nonvacuous.optimization.interpolation import LeastSquares
from nonvacuous.optimization.max_margin import direction_of_descent, largest_margin
from nonvacuous.optimization.rich_and_lazy import diagonal_flow, diagonal_limit, least_l1
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.training import train


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_descent_from_zero_reaches_the_least_norm_interpolant() -> None:
    X, y = gaussian(6, 20), gaussian(6, 1, 1).squeeze(1)
    problem = LeastSquares.of(X, y)
    step = problem.step_limit() / 2
    w, plain = torch.zeros(20, dtype=torch.float64), torch.zeros(20, dtype=torch.float64)
    for _ in range(50):
        plain = plain - step * X.T @ (X @ plain - y)
    assert torch.allclose(problem.after(w, step, 50), plain, rtol=1e-9, atol=1e-12)
    least = torch.linalg.pinv(X) @ y
    rate = float((1 - step * problem.singular**2).abs().max())
    assert float((problem.after(w, step, 200) - least).norm()) <= rate**200 * float(least.norm()) * (1 + 1e-6) + 1e-12
    assert torch.allclose(problem.minimum_norm(), least)
    # from elsewhere it does not: the part of the start that no example sees stays
    start = gaussian(20, 1, 2).squeeze(1)
    end = problem.after(start, step, 5000)
    assert float((X @ end - y).norm()) < 1e-8 and float((end - least).norm()) > 1
    assert torch.allclose(end, problem.limit(start))
    with pytest.raises(InvalidInput, match=f"{problem.step_limit():.6g}"):
        problem.after(w, 2 * problem.step_limit(), 1)


def separable(seed: int) -> tuple[Tensor, Tensor]:
    X = gaussian(30, 5, seed)
    return X, torch.sign(X @ gaussian(5, 1, seed + 100).squeeze(1))


@pytest.mark.parametrize("seed", range(4))
def test_the_largest_margin_is_exact_and_is_the_svm(seed: int) -> None:
    from sklearn.svm import SVC

    X, y = separable(seed)
    found = largest_margin(X, y)
    assert found.margin <= found.upper * (1 + 1e-12) and found.upper <= found.margin * (1 + 1e-9)
    doubled = torch.cat([X, -X]).numpy()  # symmetric data have no bias
    svm = SVC(kernel="linear", C=1e9, tol=1e-8).fit(doubled, torch.cat([y, -y]).numpy())
    direction = svm.coef_[0] / np.linalg.norm(svm.coef_[0])
    assert float(found.direction @ torch.from_numpy(direction)) == pytest.approx(1.0, abs=1e-4)
    w = gaussian(200, 5, 7)
    assert float(((w / w.norm(dim=1, keepdim=True)) @ (X * y[:, None]).T).amin(1).max()) <= found.margin


@pytest.mark.parametrize("seed", range(3))
def test_the_direction_converges_like_one_over_log_t(seed: int) -> None:
    X, y = separable(seed)
    found = largest_margin(X, y)
    flow = direction_of_descent(X, y, start=3 * gaussian(5, 1, seed + 50).squeeze(1), until=1e60)
    gaps, logs = flow.gaps(found), np.log(flow.times)
    late = flow.times > 1e10
    scaled = (gaps * logs)[late]
    assert gaps[-1] < 0.5 * gaps[flow.times < 1e10].max()
    assert scaled.max() < 2.5 * scaled.min()  # gap · log t levels off: neither faster nor slower
    assert flow.norms[-1] == pytest.approx(logs[-1] / found.margin, rel=0.3)
    assert flow.margins[-1] <= found.upper and flow.margins[-1] > 0.9 * found.margin


def test_without_separability_there_is_no_margin_and_the_norm_stays() -> None:
    X, y = gaussian(40, 2), torch.sign(gaussian(40, 1, 9).squeeze(1))
    with pytest.raises(InvalidInput, match="separates"):
        largest_margin(X, y)
    flow = direction_of_descent(X, y, until=1e12)
    assert flow.norms[-1] == pytest.approx(flow.norms[len(flow.norms) // 2], rel=1e-4)
    with pytest.raises(InvalidInput, match="−1 and 1"):
        largest_margin(X, (y > 0).double())


def sparse() -> tuple[Tensor, Tensor]:
    beta = torch.zeros(30, dtype=torch.float64)
    beta[:2] = 1.0
    X = gaussian(12, 30)
    return X, X @ beta


@pytest.mark.parametrize("alpha", [3.0, 0.3, 0.03])
def test_the_flow_ends_where_the_theorem_says(alpha: float) -> None:
    X, y = sparse()
    limit = diagonal_limit(X, y, alpha)
    assert float((X @ limit - y).norm()) < 1e-9
    assert torch.allclose(diagonal_flow(X, y, alpha, until=2000.0), limit, atol=1e-6)


def test_small_starts_are_rich_and_large_ones_lazy() -> None:
    X, y = sparse()
    rich, lazy = diagonal_limit(X, y, 1e-6), diagonal_limit(X, y, 10.0)
    assert float(rich.abs().sum()) == pytest.approx(float(least_l1(X, y).abs().sum()), rel=0.03)
    assert float(lazy.norm()) == pytest.approx(float((torch.linalg.pinv(X) @ y).norm()), rel=1e-3)
    assert float(lazy.abs().sum()) > 1.4 * float(rich.abs().sum()) and float(rich.norm()) > 1.1 * float(lazy.norm())
    with pytest.raises(InvalidInput, match="independent"):
        diagonal_limit(torch.cat([X, X]), torch.cat([y, y]), 1.0)


def test_the_tangent_kernel_is_the_gram_of_the_gradients() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    x = torch.randn(4, 3)
    rows = []
    for example in x:
        for k in range(2):
            grads = torch.autograd.grad(net(example[None])[0, k], list(net.parameters()))
            rows.append(torch.cat([g.flatten() for g in grads]))
    J = torch.stack(rows).double()
    assert torch.allclose(tangent_kernel(net, x), J @ J.T, rtol=1e-4, atol=1e-5)


def test_a_run_is_tracked_and_a_large_output_scale_is_lazier() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    labels = (x[:, 0] * x[:, 1] > 0).long()

    class Scaled(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.net, self.scale = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)), scale

        def forward(self, inputs: Tensor) -> Tensor:
            return self.scale * self.net(inputs)

    moved = {}
    for scale in (1.0, 30.0):
        net = Scaled(scale)
        tracker = BiasTracker(net, x, labels)
        train(
            net,
            as_sample((x, labels)),
            epochs=20,
            learning_rate=0.3 / scale**2,
            optimizer="sgd",
            batch_size=16,
            progress=False,
            after_epoch=tracker,
        )
        assert [record.epoch for record in tracker.records] == list(range(21))
        last = tracker.records[-1]
        logits = net(x).detach()
        margin = (logits.gather(1, labels[:, None]) - logits.gather(1, 1 - labels[:, None])).min()
        assert last.margin == pytest.approx(float(margin), rel=1e-4)
        assert last.normalised == pytest.approx(last.margin / last.norm**2)
        assert tracker.records[0].weights == 0.0 == tracker.records[0].kernel
        moved[scale] = (last.weights, last.kernel)
    assert moved[30.0][0] < moved[1.0][0] / 3 and moved[30.0][1] < moved[1.0][1] / 2


def test_a_tracker_needs_something_to_track() -> None:
    with pytest.raises(InvalidInput, match="labels"):
        BiasTracker(nn.Linear(2, 2), torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))
    with pytest.raises(InvalidInput, match="parameter"):
        BiasTracker(nn.Linear(2, 2).requires_grad_(False), torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
