"""Regions of a 784-256-256-10 network in a plane: exact subdivision against brute force over a grid.

Run: ``python benchmarks/bench_regions.py``. No public counter of regions in a slice installs from the package index; the grid, which
evaluates every unit at every point and counts distinct patterns, is what is done otherwise. It never counts all of them.
"""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import torch
from torch import nn

from nonvacuous.approximation.regions import slice_regions


def grid_count(network: nn.Sequential, o: torch.Tensor, u: torch.Tensor, v: torch.Tensor, side: int) -> int:
    """Distinct activation patterns on a side × side grid, each hashed to 64 bits."""
    words = np.random.default_rng(0).integers(2**63, size=512, dtype=np.int64)
    names = []
    axis = torch.linspace(-1, 1, side)
    with torch.no_grad():
        for s in axis:
            x = o + s * u + axis[:, None] * v
            first = network[0](x)
            second = network[2](first.relu())
            on = torch.cat([first > 0, second > 0], 1).numpy()
            names.append(np.bitwise_xor.reduce(np.where(on, words, 0), axis=1))
    return len(np.unique(np.concatenate(names)))


def main() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    print(
        f"{'plane':>8} {'regions':>9} {'seconds':>8} {'regions/s':>10} {'peak MiB':>9}   grid 1000²: found, seconds, ratio of time"
    )
    for size in (1, 10, 40):
        generator = torch.Generator().manual_seed(1)
        u, v = torch.randn(2, 784, generator=generator) * size / 28
        o = 0.1 * torch.randn(784, generator=generator)
        start = time.perf_counter()
        found = slice_regions(network, o, u, v).patterns
        exact = time.perf_counter() - start
        tracemalloc.start()
        slice_regions(network, o, u, v)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        start = time.perf_counter()
        seen = grid_count(network, o, u, v, 1000)
        brute = time.perf_counter() - start
        print(
            f"{size:>8} {found:>9,} {exact:>8.2f} {found / exact:>10,.0f} {peak:>9.0f}   "
            f"{seen:>9,} ({seen / found:.0%}), {brute:.1f} s, {brute / exact:.1f} ×"
        )


if __name__ == "__main__":
    main()
