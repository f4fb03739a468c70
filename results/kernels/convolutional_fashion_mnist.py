"""Kernel regression on Fashion-MNIST with three tangent kernels, three hidden layers each; writes convolutional_fashion_mnist.csv.

Run: ``python results/kernels/convolutional_fashion_mnist.py results/kernels/convolutional_fashion_mnist.csv``

Pictures averaged to 14×14; the first n training pictures, the first test pictures; ridge 1e-4 of the mean diagonal, not tuned. Each
kernel is computed once, for the largest n; the smaller n use its corner. kernel_seconds: processor time of that (empty: not measured).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nonvacuous.kernels.convolution import image_kernel
from nonvacuous.kernels.layers import Conv, Dense, Flatten, GlobalAvgPool, Layer, Nonlinearity
from nonvacuous.kernels.recursion import nngp_ntk
from nonvacuous.runtime.sources import load

BODY: list[Layer] = [Conv((3, 3), padding=(1, 1), bias_std=0.1), Nonlinearity("relu")] * 3
#: name → largest n, test pictures
SIZES = {"dense": (2048, 1000), "flattened": (1024, 500), "pooled": (128, 120)}
KERNELS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "dense": lambda a, b: nngp_ntk(a.flatten(1), None if b is None else b.flatten(1), depth=3, bias_std=0.1).ntk,
    "flattened": lambda a, b: image_kernel([*BODY, Flatten(), Dense()], a, b).ntk,
    "pooled": lambda a, b: image_kernel([*BODY, GlobalAvgPool(), Dense()], a, b).ntk,
}


def pictures(part: str, n: int) -> tuple[Tensor, Tensor]:
    """The first n, ``[n, 1, 14, 14]``, with about mean 0 and deviation 1; and their labels."""
    batch = next(load("fashion-mnist", part).batches(n))
    return (torch.nn.functional.avg_pool2d(batch.inputs, 2) - 0.286) / 0.32, batch.targets


def main(out: Path) -> None:
    """A line a kernel and n."""
    torch.set_num_threads(1)
    lines = ["kernel,n,test_pictures,accuracy,kernel_seconds"]
    for name, (most, tested) in SIZES.items():
        (x, y), (new, labels) = pictures("train", most), pictures("test", tested)
        begun = time.process_time()
        gram, cross = KERNELS[name](x, None).double(), KERNELS[name](new, x).double()
        seconds = time.process_time() - begun
        goal = torch.nn.functional.one_hot(y, 10).double() - 0.1
        n = 64
        while n <= most:
            ridge = 1e-4 * gram.diagonal().mean() * torch.eye(n, dtype=torch.float64)
            fit = torch.cholesky_solve(goal[:n], torch.linalg.cholesky(gram[:n, :n] + ridge))
            right = float(((cross[:, :n] @ fit).argmax(1) == labels).double().mean())
            lines.append(f"{name},{n},{tested},{right:.4f},{f'{seconds:.2f}' if n == most else ''}")
            n *= 2
        out.write_text("\n".join(lines) + "\n")
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
