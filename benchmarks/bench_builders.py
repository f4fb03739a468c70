"""Time of the builders and of the networks they build, each the best of several runs on one thread.

Bumps: 10⁵ of them built, and 10⁶ points evaluated, beside the same network as Linear, ReLU, Linear on a hundredth of the points.
Limit: 2 s for building and evaluating together.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

import torch

from nonvacuous.approximation import bumps, memorize, sobolev

LIMIT = 2.0
RUNS = 3


def best(work: Callable[[], object]) -> float:
    """Least wall time of `RUNS` runs."""
    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def main() -> int:
    """Print a line a case; 1 if the limit is exceeded."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1_000_000, 1, dtype=torch.float64, generator=generator)
    built = bumps.approximate(torch.sin, (0.0, 1.0), 5e-6, lipschitz=1.0)
    build = best(lambda: bumps.approximate(torch.sin, (0.0, 1.0), 5e-6, lipschitz=1.0))
    run = best(lambda: built.module(x))
    plain = built.module.plain()
    slow = best(lambda: [plain(part) for part in x[:200].split(20)]) * 5000
    over = build + run > LIMIT
    print(
        f"{len(built.module.knots) // 2 - 1:,} bumps: built and certified in {build:.3f} s, 10⁶ points in {run:.3f} s", end=""
    )
    print(f"  limit {LIMIT} s{': EXCEEDED' if over else ''}; as dense layers {slow:,.0f} s (from 200 points)")

    box = [(0.0, 1.0)] * 3
    grid = bumps.approximate(lambda p: torch.sin(3 * p.sum(-1)), box, 0.05)
    points = torch.rand(1_000_000, 3, dtype=torch.float64, generator=generator)
    seconds = best(lambda: bumps.approximate(lambda p: torch.sin(3 * p.sum(-1)), box, 0.05))
    print(
        f"{grid.module.heights.numel():,} spikes in 3-D: built in {seconds:.3f} s, 10⁶ points in {best(lambda: grid.module(points)):.3f} s"
    )

    images = torch.rand(10_000, 784, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 10, (10_000,), generator=generator).double()
    seconds = best(lambda: memorize.memorize(images, labels))
    print(f"10,000 points of 784 numbers memorised in {seconds:.3f} s")

    derivative = sobolev.derivatives_of(lambda p: torch.sin(p.sum(1)))
    seconds = best(lambda: sobolev.approximate(derivative, 3, 3, 0.02))
    print(f"Yarotsky's network for n = d = 3, ε = 0.02 in {seconds:.3f} s")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:,.0f} MB")
    return int(over)


if __name__ == "__main__":
    sys.exit(main())
