"""Convolutional NNGP and NTK beside neural-tangents: ``python benchmarks/bench_convolutional_kernels.py [PYTHON]``.

PYTHON: an interpreter that imports the peer (``jax==0.4.30 neural-tangents==0.6.5``); without it one is made for this run. Both sides are
processes pinned to one core, BLAS and XLA with one thread, alternated; the peer compiled, first calls not timed. Best of the rounds,
wall time and (processor time). Errors: the largest difference from our float64 kernel over its largest entry. Peak memory: growth of
the resident set during the first call. The floor: arc cosine and square root of every pixel pair and layer of half of the image pairs, at
the speed they have in the same run.

A pooled kernel of 30 images of 14×14 takes the peer 20 s and more a call: it is called three times. ``--part comparison|growth|alone``
runs one part (alone: our growth where the peer would take minutes a call); ``--out FILE`` keeps the numbers in a table.
"""

from __future__ import annotations

import sys

import numpy as np
from _peer_process import Case, Prepared, Process, alternated, asked, kept, least_seconds, peer_python, report, serve

CASES: list[Case] = [  # last layer, pixels a side, images, convolutions
    ("pool", 14, 30, 3),
    ("flatten", 28, 100, 3),
]
GROWTH: list[Case] = [
    ("pool", 14, 10, 3),
    ("pool", 14, 20, 3),
    ("pool", 7, 20, 3),
    ("pool", 7, 40, 3),
    ("pool", 7, 20, 1),
    ("pool", 7, 20, 6),
]
ALONE: list[Case] = [("pool", 14, 60, 3), ("pool", 28, 10, 3), ("pool", 28, 20, 3)]
PARTS = {"comparison": (CASES, 2), "growth": (GROWTH, 2), "alone": (ALONE, 2)}


def pictures(side: int, n: int) -> np.ndarray:
    """``[n, 1, side, side]`` of noise."""
    return np.random.default_rng(0).normal(size=(n, 1, side, side)).astype(np.float32)


def ours(case: Case) -> Prepared:
    """Of both kernels."""
    import torch

    from nonvacuous.kernels.convolution import image_kernel
    from nonvacuous.kernels.layers import Conv, Dense, Flatten, GlobalAvgPool, Layer, Nonlinearity

    torch.set_num_threads(1)
    end, side, n, depth = case
    body: list[Layer] = [Conv((3, 3), padding=(1, 1)), Nonlinearity("relu")] * depth
    layers = [*body, GlobalAvgPool() if end == "pool" else Flatten(), Dense()]
    x = torch.from_numpy(pictures(side, n))

    def call(x: torch.Tensor = x) -> list[np.ndarray]:
        return [k.numpy() for k in image_kernel(layers, x)]

    return Prepared(call, lambda: call(x.double()))


def peers(case: Case) -> Prepared:
    """The same with neural-tangents, compiled."""
    import jax
    from neural_tangents import stax

    end, side, n, depth = case
    body = [stax.Conv(1, (3, 3), padding="SAME", W_std=2**0.5), stax.Relu()] * depth
    last = stax.GlobalAvgPool() if end == "pool" else stax.Flatten()
    kernel = stax.serial(*body, last, stax.Dense(1, W_std=2**0.5))[2]
    x = pictures(side, n).transpose(0, 2, 3, 1)
    compiled = jax.jit(lambda x: tuple(kernel(x, None, ("nngp", "ntk")))).lower(x).compile()
    return Prepared(lambda: [np.asarray(k) for k in compiled(x)])


def floor_seconds(case: Case) -> float:
    """Of the arc cosines and square roots."""
    import torch

    torch.set_num_threads(1)
    x, out = torch.rand(2**14), torch.empty(2**14)
    each = sum(least_seconds(lambda f=f: [f(x, out=out) for _ in range(20)]) / 20 for f in (torch.acos, torch.sqrt)) / len(x)
    end, side, n, depth = case
    return float(each * n * (n + 1) / 2 * depth * (side**4 if end == "pool" else side**2))


def main() -> None:
    options = asked(__doc__, list(PARTS))
    if options.serve:
        return serve({"ours": ours, "peer": peers}, options.serve)
    rows = []
    with peer_python(options.python) as python:
        for part in [options.part] if options.part else PARTS:
            for case in PARTS[part][0]:
                us = Process(sys.executable, "ours")
                peer = Process(python, "peer") if python and part != "alone" else None
                alternated([us, peer] if peer else [us], case, PARTS[part][1])
                rows.append(report(case, us, peer, floor_seconds(case)))
                kept(options.out, rows)
                for side in (us, peer):
                    if side is not None:
                        side.close()


if __name__ == "__main__":
    main()
