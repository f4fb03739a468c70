"""Kernel regression on Fashion-MNIST with three tangent kernels, three hidden layers each; writes convolutional_fashion_mnist.csv.

Run: ``python results/kernels/convolutional_fashion_mnist.py results/kernels/convolutional_fashion_mnist.csv [FOLDER]``

Pictures averaged to 14×14; the first n training pictures, the first test pictures; ridge 1e-4 of the mean diagonal, not tuned. Each
kernel is computed once, for the largest n, by stripes of 32 rows that are kept in FOLDER, so that an interrupted run goes on; the
smaller n use its corner. kernel_seconds: processor time of that on one core, the sum over the stripes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nonvacuous.kernels.convolution import image_kernel
from nonvacuous.kernels.layers import Conv, Dense, Flatten, GlobalAvgPool, Layer, Nonlinearity
from nonvacuous.kernels.recursion import nngp_ntk
from nonvacuous.runtime.factories import replacement
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.tasks import progress_bar

BODY: list[Layer] = [Conv((3, 3), padding=(1, 1), bias_std=0.1), Nonlinearity("relu")] * 3
#: name → largest n, test pictures
SIZES = {"dense": (2048, 1000), "flattened": (1024, 500), "pooled": (512, 500)}
ROWS = 32
KERNELS: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "dense": lambda a, b: nngp_ntk(a.flatten(1), None if b is None else b.flatten(1), depth=3, bias_std=0.1).ntk,
    "flattened": lambda a, b: image_kernel([*BODY, Flatten(), Dense()], a, b).ntk,
    "pooled": lambda a, b: image_kernel([*BODY, GlobalAvgPool(), Dense()], a, b).ntk,
}


def pictures(part: str, n: int) -> tuple[Tensor, Tensor]:
    """The first n, ``[n, 1, 14, 14]``, with about mean 0 and deviation 1; and their labels."""
    batch = next(load("fashion-mnist", part).batches(n))
    return (torch.nn.functional.avg_pool2d(batch.inputs, 2) - 0.286) / 0.32, batch.targets


def stripe(name: str, rows: Tensor, columns: Tensor) -> Tensor:
    """The kernel of rows and columns; where columns end in the rows themselves, that block is symmetric and half of it computed."""
    own = len(columns) - len(rows)
    if own < 0 or not torch.equal(columns[own:], rows):
        return KERNELS[name](rows, columns)
    parts = [KERNELS[name](rows, columns[:own])] if own else []
    return torch.cat([*parts, KERNELS[name](rows, None)], 1)


def kernel(name: str, x: Tensor, new: Tensor, folder: Path) -> tuple[Tensor, Tensor, float]:
    """Of the training pictures, of the test pictures with them, and the processor seconds; float64."""
    gram, cross = (torch.zeros(len(part), len(x), dtype=torch.float64) for part in (x, new))
    spent = 0.0
    with progress_bar(True) as progress, progress.task(f"{name} kernel", len(x) + len(new)) as advance:
        for which, pictures_, out in (("gram", x, gram), ("cross", new, cross)):
            for start in range(0, len(pictures_), ROWS):
                rows = pictures_[start : start + ROWS]
                end = start + len(rows) if which == "gram" else len(x)
                file = folder / f"{name}-{which}-{start:05d}-{end:05d}.npz"
                if not file.is_file():
                    begun = time.process_time()
                    values = stripe(name, rows, x[:end])
                    with replacement(file) as temporary, temporary.open("wb") as stream:
                        np.savez(stream, values=values.numpy(), seconds=time.process_time() - begun)
                with np.load(file) as kept:
                    out[start : start + len(rows), :end] = torch.from_numpy(kept["values"])
                    spent += float(kept["seconds"])
                advance(len(rows))
    return gram.tril() + gram.tril(-1).T, cross, spent


def main(out: Path, folder: Path) -> None:
    """A line a kernel and n."""
    torch.set_num_threads(1)
    lines = ["kernel,n,test_pictures,accuracy,kernel_seconds"]
    for name, (most, tested) in SIZES.items():
        (x, y), (new, labels) = pictures("train", most), pictures("test", tested)
        gram, cross, seconds = kernel(name, x, new, folder)
        goal = torch.nn.functional.one_hot(y, 10).double() - 0.1
        n = 64
        while n <= most:
            ridge = 1e-4 * gram.diagonal().mean() * torch.eye(n, dtype=torch.float64)
            fit = torch.cholesky_solve(goal[:n], torch.linalg.cholesky(gram[:n, :n] + ridge))
            right = float(((cross[:, :n] @ fit).argmax(1) == labels).double().mean())
            lines.append(f"{name},{n},{tested},{right:.4f},{f'{seconds:.1f}' if n == most else ''}")
            n *= 2
    out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary_folder:
        kept_in = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(temporary_folder)
        kept_in.mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]), kept_in)
