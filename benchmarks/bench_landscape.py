"""Planes through a network's weights beside loss-landscapes and a plain loop, in one process, alternating, one core.

``python benchmarks/bench_landscape.py`` prints seconds of processor time (best of three) and ratios.  The peer is not a dependency: install
it with ``pip install --no-deps --target DIR loss-landscapes==3.0.6`` and set PYTHONPATH to DIR, or its lines are left out with a message.
The floor is the time of the network's multiply-accumulates at the rate that torch reaches here in a matrix product; where the first layer
is shared, ours may lie below it.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nonvacuous.operators.cost import cost
from nonvacuous.optimization.directions import filter_normalized, random_direction
from nonvacuous.optimization.slices_objective import objective
from nonvacuous.optimization.surfaces import axis, surface
from nonvacuous.runtime.models import convnet, initialise, mlp

CASES = {
    "mlp 784-512-512-10, 1000 examples, 9 x 9": (lambda: mlp(784, 512, 512, 10), (1, 28, 28), 1000, 9),
    "convnet 28x28x1, 300 examples, 9 x 9": (lambda: convnet(28, 28, 1, 10), (1, 28, 28), 300, 9),
    "mlp 64-32-10, 500 examples, 33 x 33": (lambda: mlp(64, 32, 10), (64,), 500, 33),
    "mlp 2-16-2, 60 examples, 25 x 25": (lambda: mlp(2, 16, 2), (2,), 60, 25),
    "small convnet 8x8x1, 200 examples, 21 x 21": (lambda: convnet(8, 8, 1, 10, scale=0.25), (1, 8, 8), 200, 21),
}


def loop(model: nn.Module, directions: list[Any], coordinates: Tensor, x: Tensor, y: Tensor) -> np.ndarray:
    """What one writes in ten minutes: set the weights, evaluate, next point."""
    moved = copy.deepcopy(model).eval()
    named = dict(moved.named_parameters())
    origin = {name: p.detach().clone() for name, p in named.items()}
    found = np.zeros((len(coordinates), len(coordinates)))
    with torch.no_grad():
        for i, a in enumerate(coordinates.tolist()):
            for j, b in enumerate(coordinates.tolist()):
                for name, p in named.items():
                    p.copy_(origin[name])
                    for c, d in ((a, directions[0]), (b, directions[1])):
                        if name in d.tensors:
                            p.add_(d.tensors[name], alpha=c)
                total = sum(
                    float(nn.functional.cross_entropy(moved(xb), yb, reduction="sum"))
                    for xb, yb in zip(x.split(512), y.split(512), strict=True)
                )
                found[i, j] = total / len(y)
    return found


def peer(model: nn.Module, points: int, x: Tensor, y: Tensor) -> Callable[[], Any] | None:
    """The same number of points by loss-landscapes, None where it is not installed."""
    if find_spec("loss_landscapes") is None:
        return None
    import loss_landscapes
    import loss_landscapes.metrics

    metric = loss_landscapes.metrics.Loss(nn.functional.cross_entropy, x, y)

    def draw() -> Any:
        with torch.no_grad():
            return loss_landscapes.random_plane(model, metric, 1, points, normalization="filter", deepcopy_model=True)

    return draw


def rate() -> float:
    """Multiply-accumulates a second of a 512 x 784 x 512 product."""
    a, b = torch.randn(512, 784), torch.randn(784, 512)
    best = math.inf
    for _ in range(20):
        begun = time.process_time()
        a @ b
        best = min(best, time.process_time() - begun)
    return 512 * 784 * 512 / best


def main() -> None:
    torch.set_num_threads(1)
    speed = rate()
    print(f"{2e-9 * speed:.1f} GFLOP/s in a matrix product")
    if find_spec("loss_landscapes") is None:
        print("loss_landscapes is not importable: pip install --no-deps --target DIR loss-landscapes==3.0.6; PYTHONPATH=DIR")
    for name, (make, shape, n, points) in CASES.items():
        model = initialise(make, 0)
        generator = torch.Generator().manual_seed(0)
        x, y = torch.randn(n, *shape, generator=generator), torch.randint(2, (n,), generator=generator)
        directions = [filter_normalized(model, random_direction(model, k)) for k in range(2)]
        axes = [axis(d, -0.5, 0.5, points) for d in directions]
        target = objective(model, (x, y))
        jobs: dict[str, Callable[[], Any]] = {
            "ours": lambda target=target, axes=axes: surface(target, axes, most_seconds=1e9),
            "ours, coarse to fine": lambda target=target, axes=axes: surface(target, axes, tolerance=0.01, most_seconds=1e9),
            "loop": lambda m=model, d=directions, a=axes, x=x, y=y: loop(m, d, a[0].coordinates, x, y),
        }
        theirs = peer(model, points, x, y)
        if theirs is not None:
            jobs["loss-landscapes"] = theirs
        best: dict[str, tuple[Any, float]] = {}
        for _ in range(3):
            for job, work in jobs.items():
                begun = time.process_time()
                value = work()
                best[job] = value, min(time.process_time() - begun, best.get(job, (None, math.inf))[1])
        full, quick, plain = (best[job][0] for job in ("ours", "ours, coarse to fine", "loop"))
        table = cost(model, x[:1])
        floor = table.macs * n * points**2 / speed
        print(f"\n{name}: floor {floor:.2f} s; way: {full.way.value}")
        print(f"  largest difference from the loop: {np.abs(full.loss / plain - 1).max():.1e} relative")
        print(
            f"  coarse to fine: {quick.evaluated.mean():.0%} of the points, off by at most {np.abs(quick.loss - full.loss).max():.4f} nats"
        )
        for job, (_, seconds) in best.items():
            print(f"  {job:<22} {seconds:8.2f} s, {seconds / best['ours'][1]:.2f} x ours")


if __name__ == "__main__":
    main()
