"""Landscapes and trajectories at the sizes they are made for, on one thread.

Run: ``python benchmarks/bench_optimization.py``. Beside the reduced forms: plain gradient descent on all n examples with autograd, for
as many steps as fit in a second, scaled to the same number.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from nonvacuous.optimization.deep_linear import chain
from nonvacuous.optimization.du_hu import WideLinear
from nonvacuous.optimization.minima import analyse_deep_linear
from nonvacuous.optimization.zero_asymmetric import descend, step_limit


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one run."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def plain(problem: WideLinear, X: torch.Tensor, Y: torch.Tensor, step: float) -> float:
    """Seconds a step of gradient descent on the examples themselves."""
    weights = list(problem.start(0))
    weights[0] = weights[0] @ problem.basis.T
    begun, steps = time.perf_counter(), 0
    while steps < 1 or time.perf_counter() - begun < 1:
        weights = [W.detach().requires_grad_() for W in weights]
        loss = 0.5 * ((problem.scale * chain(weights) @ X - Y) ** 2).sum()
        slopes = torch.autograd.grad(loss, weights)
        weights = [W - step * slope for W, slope in zip(weights, slopes, strict=True)]
        steps += 1
    return (time.perf_counter() - begun) / steps


def main() -> None:
    """Print a line a case."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(10, 10_000, dtype=torch.float64, generator=generator)
    Y = torch.randn(3, 10, dtype=torch.float64, generator=generator) @ X
    for depth in (2, 3):
        problem = WideLinear.of(X, Y, 4096, depth)
        step = problem.step_limit()
        ours = seconds(lambda p=problem, s=step: p.descend(s, 50))  # type: ignore[misc]
        theirs = 50 * plain(problem, X, Y, step)
        print(f"n = 10,000, width 4096, {depth} layers, 50 steps: {ours:.2f} s; on the examples {theirs:.1f} s")
    Phi = torch.randn(4096, 4096, dtype=torch.float64, generator=generator) / 4096
    print(
        f"zero-asymmetric, width 4096, 8 layers, 1000 steps: {seconds(lambda: descend(Phi, 8, step_limit(Phi, 8), 1000)):.1f} s"
    )
    for widths in ([10], [10] * 3, [10] * 5):
        Z = torch.randn(10, 60, dtype=torch.float64, generator=generator)
        T = torch.randn(10, 10, dtype=torch.float64, generator=generator) @ Z
        T = T + torch.randn(10, 60, dtype=torch.float64, generator=generator)
        spent = seconds(lambda w=widths, z=Z, t=T: analyse_deep_linear(z, t, w))  # type: ignore[misc]
        print(f"every index set and 8 searches, hidden widths {widths}: {spent:.1f} s")


if __name__ == "__main__":
    main()
