"""Certified norms of all convolutions of a ResNet-18-sized network at 32 × 32, beside power iteration and dense SVD, in one run.

``python benchmarks/bench_norms.py`` prints, a layer shape a line, seconds and the bracket's width; then totals, the ratio to
power iteration run until it is as close to the truth as our lower end (and which proves nothing), and peak memory above that of
an idle process, over the size of the weights.  ``--memory MiB`` allows the factorisations more.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Iterator

import torch
from torch import nn

from nonvacuous.core.measured import Measured
from nonvacuous.operators import norms
from nonvacuous.operators.linear_map import LinearMap


def convolutions() -> Iterator[tuple[nn.Conv2d, int]]:
    """The 20 convolutions of ResNet-18 as used on 32 × 32 images, freshly initialised, and their image sizes."""
    yield nn.Conv2d(3, 64, 3, 1, 1, bias=False), 32
    inner, size = 64, 32
    for outer, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for step in (stride, 1):
            yield nn.Conv2d(inner, outer, 3, step, 1, bias=False), size
            if step != 1 or inner != outer:
                yield nn.Conv2d(inner, outer, 1, step, bias=False), size
            size, inner = size // step, outer
            yield nn.Conv2d(outer, outer, 3, 1, 1, bias=False), size


def power_iteration(linear: LinearMap, target: float, most: int = 5000) -> float:
    """Seconds of plain power iteration, float32, until ‖Av‖ reaches the target."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(1, *linear.shape_in, generator=generator)
    start = time.perf_counter()
    for _ in range(most):
        image = linear.apply(vector / vector.norm())
        if float(image.norm()) >= target:
            break
        vector = linear.adjoint(image)
    return time.perf_counter() - start


def peak() -> float:
    """Peak resident memory so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", type=int, default=96, help="MiB for the factorisations")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:  # freed arrays go back to the system, so that the peak is of live ones
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)})
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    layers = list(convolutions())
    weights = sum(layer.weight.numel() for layer, _ in layers) * 4 / 2**20
    norms.spectral_norm(nn.Conv2d(2, 2, 3, padding=1), (2, 30, 30))  # libraries loaded, threads started
    idle, total, other, widest = peak(), 0.0, 0.0, 0.0
    results: list[tuple[LinearMap, Measured]] = []
    print(f"{'layer':<26} {'seconds':>8} {'lower':>8} {'upper':>8} {'width':>7}")
    for layer, size in layers:
        shape = (layer.in_channels, size, size)
        start = time.perf_counter()
        bracket = norms.spectral_norm(layer, shape, memory=options.memory * 2**20)
        seconds = time.perf_counter() - start
        width = bracket.upper / bracket.lower - 1
        total, widest = total + seconds, max(widest, width)
        results.append((norms.linear_map(layer, shape), bracket))
        name = f"{shape[0]}→{layer.out_channels} k{layer.kernel_size[0]} s{layer.stride[0]} {size}×{size}"
        print(f"{name:<26} {seconds:>8.2f} {bracket.lower:>8.4f} {bracket.upper:>8.4f} {width:>7.2%}")
    memory = peak() - idle
    for linear, bracket in results:
        other += power_iteration(linear, bracket.lower * (1 - 1e-6))
    print(f"all layers: {total:.1f} s, widest bracket {widest:.2%}")
    print(f"memory above idle: {memory:.0f} MiB = {memory / weights:.1f} × the weights ({weights:.0f} MiB)")
    print(f"power iteration to the same lower ends, proving nothing: {other:.1f} s, ratio {other / total:.2f}")
    for channels, size in ((8, 8), (16, 8), (16, 12)):
        layer, shape = nn.Conv2d(channels, channels, 3, padding=1), (channels, size, size)
        linear = norms.linear_map(layer, shape)
        start = time.perf_counter()
        truth = float(torch.linalg.matrix_norm(linear.dense(), 2))
        dense = time.perf_counter() - start
        start = time.perf_counter()
        bracket = norms.spectral_norm(layer, shape)
        ours = time.perf_counter() - start
        assert bracket.lower <= truth * (1 + 1e-12) and truth <= bracket.upper * (1 + 1e-12)
        print(f"dense SVD, {channels} channels {size}×{size}: {dense:.2f} s, ours {ours:.3f} s, ratio {dense / ours:.0f}")


if __name__ == "__main__":
    main()
