"""Convolutional NNGP and NTK beside neural-tangents: ``python benchmarks/bench_convolutional_kernels.py [PYTHON]``.

The peer imports only with an old jax, so it runs in an environment of its own: the interpreter PYTHON, or one that is made for this run
in a temporary folder (``jax==0.4.30 neural-tangents==0.6.5``). Both sides are processes pinned to one core, BLAS and XLA with one
thread, alternated; of each the best of the rounds (the peer compiled, its first call not counted). Errors are the largest differences
from our float64 kernel, relative to its largest entry. Peak memory: growth of the process's resident set during the calls.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

#: name → last layer, pixels a side, images, convolutions; both sides read it
CASES = {
    "3 convolutions, global pooling, 14×14, N = 30": ("pool", 14, 30, 3),
    "3 convolutions, global pooling, 14×14, N = 10": ("pool", 14, 10, 3),
    "3 convolutions, flattened, 28×28, N = 100": ("flatten", 28, 100, 3),
}
GROWTH = [
    ("pool", side, n, depth)
    for side, n, depth in [(14, 10, 3), (14, 20, 3), (14, 40, 3), (14, 20, 1), (14, 20, 6), (7, 20, 3), (28, 20, 3)]
]
ROUNDS = 3


def pictures(side: int, n: int) -> np.ndarray:
    """``[n, 1, side, side]`` of noise."""
    return np.random.default_rng(0).normal(size=(n, 1, side, side)).astype(np.float32)


def ours(case: tuple[str, int, int, int]) -> Callable[[], Any]:
    """A call that returns both kernels."""
    import torch

    from nonvacuous.kernels.convolution import image_kernel
    from nonvacuous.kernels.layers import Conv, Dense, Flatten, GlobalAvgPool, Layer, Nonlinearity

    torch.set_num_threads(1)
    end, side, n, depth = case
    body: list[Layer] = [Conv((3, 3), padding=(1, 1)), Nonlinearity("relu")] * depth
    layers = [*body, GlobalAvgPool() if end == "pool" else Flatten(), Dense()]
    x = torch.from_numpy(pictures(side, n))
    return lambda double=False: [k.numpy() for k in image_kernel(layers, x.double() if double else x)]


def peers(case: tuple[str, int, int, int]) -> Callable[[], Any]:
    """The same with neural-tangents, compiled."""
    import jax
    from neural_tangents import stax

    end, side, n, depth = case
    body = [stax.Conv(1, (3, 3), padding="SAME", W_std=2**0.5), stax.Relu()] * depth
    last = stax.GlobalAvgPool() if end == "pool" else stax.Flatten()
    compiled = jax.jit(stax.serial(*body, last, stax.Dense(1, W_std=2**0.5))[2], static_argnums=2)
    x = pictures(side, n).transpose(0, 2, 3, 1)
    return lambda: [np.asarray(k) for k in compiled(x, None, ("nngp", "ntk"))]


def serve(side: str) -> None:
    """A process that answers each line, a case, with seconds, peak MiB and, once, the kernels."""
    calls: dict[str, Callable[..., Any]] = {}
    for line in sys.stdin:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if line not in calls:
            calls[line] = (ours if side == "ours" else peers)(tuple(json.loads(line)))
            calls[line]()
        begun = time.perf_counter()
        kernels = calls[line]()
        seconds = time.perf_counter() - begun
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        exact = calls[line](True) if side == "ours" else kernels
        with tempfile.NamedTemporaryFile(suffix=".npz", delete=False) as file:
            np.savez(file, *kernels, *exact)
        print("ANSWER", json.dumps([seconds, peak, file.name]), flush=True)


class Process:
    """One side, pinned to a core."""

    def __init__(self, python: str, side: str, core: int) -> None:
        one = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        flags = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1", "JAX_PLATFORMS": "cpu"}
        self._process = subprocess.Popen(
            [python, __file__, "--serve", side],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **one, **flags},
        )
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self._process.pid, {core})

    def __call__(self, case: tuple[str, int, int, int]) -> tuple[float, float, list[np.ndarray]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("ANSWER"):
                seconds, peak, name = json.loads(line.removeprefix("ANSWER"))
                with np.load(name) as stored:
                    arrays = [stored[key] for key in stored.files]
                Path(name).unlink()
                return seconds, peak, arrays
        raise SystemExit("a side of the benchmark ended early: run it with --serve by hand to see why")


def floor_seconds(case: tuple[str, int, int, int]) -> float:
    """The arc cosines and square roots alone, at the speed they have here on numbers that stay in cache."""
    import torch

    torch.set_num_threads(1)
    x, out = torch.rand(2**14), torch.empty(2**14)
    each = []
    for operation in (torch.acos, torch.sqrt):
        times = []
        for _ in range(50):
            begun = time.perf_counter()
            operation(x, out=out)
            times.append(time.perf_counter() - begun)
        each.append(min(times) / len(x))
    end, side, n, depth = case
    numbers = n * (n + 1) / 2 * depth * (side**4 if end == "pool" else side**2)
    return sum(each) * numbers


def errors(arrays: list[np.ndarray], exact: list[np.ndarray]) -> str:
    """Of nngp and ntk."""
    return ", ".join(f"{np.abs(k - e).max() / np.abs(e).max():.0e}" for k, e in zip(arrays[:2], exact, strict=True))


def compared(python: str) -> None:
    """Both sides, alternated."""
    core = sorted(os.sched_getaffinity(0))[0] if hasattr(os, "sched_getaffinity") else 0
    for name, case in CASES.items():
        mine, theirs = Process(sys.executable, "ours", core), Process(python, "peers", core)
        rounds = [(mine(case), theirs(case)) for _ in range(ROUNDS)]
        (s1, m1), (s2, m2) = [(min(r[k][0] for r in rounds), max(r[k][1] for r in rounds)) for k in (0, 1)]
        exact, low = rounds[0][0][2][2:], floor_seconds(case)
        print(
            f"{name}: ours {s1:.3f} s, peak +{m1:.0f} MiB, errors {errors(rounds[0][0][2], exact)}; neural-tangents {s2:.2f} s, "
            f"+{m2:.0f} MiB, errors {errors(rounds[0][1][2], exact)}; {s2 / s1:.1f} × faster, {m2 / max(m1, 1):.0f} × less memory; "
            f"floor (arccos and root) {low:.3f} s, we are at {s1 / low:.1f} × of it",
            flush=True,
        )


def growth() -> None:
    """Our cost in images, depth and pixels."""
    for case in GROWTH:
        call = ours(case)
        call()
        begun = time.perf_counter()
        call()
        seconds = time.perf_counter() - begun
        _, side, n, depth = case
        pairs = n * (n + 1) / 2 * side**4 * depth
        print(
            f"N = {n}, depth {depth}, {side}×{side}, pooled: {seconds:.3f} s, {seconds / pairs * 1e9:.1f} ns a pixel pair and layer",
            flush=True,
        )


def main() -> None:
    """With the peer's environment made where none is given."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
        return
    growth()
    with tempfile.TemporaryDirectory() as folder:
        python = sys.argv[1] if len(sys.argv) > 1 else f"{folder}/peer/bin/python"
        if len(sys.argv) == 1:
            subprocess.run([sys.executable, "-m", "venv", f"{folder}/peer"], check=True)
            wanted = ["jax==0.4.30", "jaxlib==0.4.30", "neural-tangents==0.6.5"]
            subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
        compared(python)


if __name__ == "__main__":
    main()
