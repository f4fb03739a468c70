"""NNGP and NTK of fully connected networks beside neural-tangents: ``python benchmarks/bench_kernels.py [PYTHON]``.

PYTHON: an interpreter that imports the peer (``jax==0.4.30 neural-tangents==0.6.5``); without it one is made for this run. Both sides are
processes pinned to one core, BLAS and XLA with one thread, alternated; the peer compiled, first calls not timed. Best of the rounds,
wall time and (processor time): on a busy machine only the latter compares. Errors: the largest difference from our float64 kernels over
their largest entry. Peak memory: growth of the resident set during the first. The floor: half of the matrix product, the activation's
transcendental functions of half of the pairs in every layer, and writing both results, at the speed each has in the same run.

``--part comparison|growth`` runs one part; ``--out FILE`` keeps the numbers in a table (results/kernels/speed.csv is one, and the gallery
draws it).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from _peer_process import Case, Prepared, Process, alternated, asked, kept, least_seconds, peer_python, report, serve

CASES: list[Case] = [  # "dense", activation, samples, depth, deviation of the biases
    ("dense", "relu", 2000, 5, 0.0),
    ("dense", "relu", 2000, 5, 0.1),
    ("dense", "erf", 2000, 5, 0.1),
    ("dense", "gelu", 2000, 5, 0.1),
]
GROWTH: list[Case] = [
    *(("dense", "relu", n, 5, 0.0) for n in (500, 1000, 4000)),
    *(("dense", "relu", 2000, depth, 0.0) for depth in (1, 3, 10, 20)),
]
PARTS = {"comparison": (CASES, 15), "growth": (GROWTH, 3)}
FEATURES = 784


def sample(n: int) -> np.ndarray:
    """``[n, 784]`` of noise."""
    return np.random.default_rng(0).normal(size=(n, FEATURES)).astype(np.float32)


def ours(case: Case) -> Prepared:
    """Of both kernels."""
    import torch

    from nonvacuous.kernels.recursion import nngp_ntk

    torch.set_num_threads(1)
    _, activation, n, depth, bias = case
    x = torch.from_numpy(sample(n))

    def call(x: torch.Tensor = x) -> list[np.ndarray]:
        return [k.numpy() for k in nngp_ntk(x, depth=depth, activation=activation, bias_std=bias)]

    return Prepared(call, lambda: call(x.double()))


def peers(case: Case) -> Prepared:
    """The same with neural-tangents, compiled."""
    import jax
    from neural_tangents import stax

    _, activation, _, depth, bias = case
    phi = {"relu": stax.Relu, "erf": stax.Erf, "gelu": stax.Gelu}[activation]
    layers = [stax.Dense(1, W_std=2**0.5, b_std=bias)]
    for _ in range(depth):
        layers += [phi(), stax.Dense(1, W_std=2**0.5, b_std=bias)]
    kernel, x = stax.serial(*layers)[2], sample(case[2])
    compiled = jax.jit(lambda x: tuple(kernel(x, None, ("nngp", "ntk")))).lower(x).compile()
    return Prepared(lambda: [np.asarray(k) for k in compiled(x)])


def floor_parts(case: Case) -> list[float]:
    """Half a product; the activation's functions; filling two results."""
    import torch

    torch.set_num_threads(1)
    _, activation, n, depth, _ = case
    x, tile = torch.from_numpy(sample(n)), torch.rand(2**15)
    product, out = torch.empty(n, n), torch.empty_like(tile)
    turn: Callable[..., Any] = torch.acos if activation == "relu" else lambda t, out: torch.atan2(t, t, out=out)
    each = sum(least_seconds(lambda f=f: [f(tile, out=out) for _ in range(20)]) / 20 for f in (turn, torch.sqrt)) / len(tile)
    return [
        least_seconds(lambda: torch.mm(x, x.T, out=product)) / 2,
        each * depth * n * (n + 1) / 2,
        2 * least_seconds(lambda: torch.zeros(n, n)),
    ]


def main() -> None:
    options = asked(__doc__, list(PARTS))
    if options.serve:
        return serve({"ours": ours, "peer": peers}, options.serve)
    rows = []
    with peer_python(options.python) as python:
        us, peer = Process(sys.executable, "ours"), Process(python, "peer") if python else None
        for part in [options.part] if options.part else PARTS:
            for case in PARTS[part][0]:
                alternated([us, peer] if peer else [us], case, PARTS[part][1])
                parts = floor_parts(case)
                rows.append(report(case, us, peer, sum(parts)))
                print(
                    f"    floor: product {parts[0]:.3f} + transcendental functions {parts[1]:.3f} + writing {parts[2]:.3f} s"
                )
                kept(options.out, rows)


if __name__ == "__main__":
    main()
