"""NNGP and NTK of fully connected networks beside neural-tangents: ``python benchmarks/bench_kernels.py [PYTHON] [--figure FILE.png]``.

The peer imports only with an old jax, so it runs in an environment of its own: the interpreter PYTHON, or one that is made for this run in
a temporary folder (``jax==0.4.30 neural-tangents==0.6.5``). Where that fails, ours is set against the peer's times in STORED, and the
line says so. Both sides are processes pinned to one core, BLAS and XLA with one thread, alternated; the peer compiled, first calls not
counted. Best of the rounds, wall time and (processor time): on a busy machine only the latter compares. Errors: the largest difference from
our float64 kernels over their largest entry. Peak memory: growth of the resident set during the first case's calls. The floor: half of
the matrix product, arc cosines and square roots of half of the pairs in every layer, and writing both results, at the speed each has in
the same run.
"""

from __future__ import annotations

import argparse
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

Case = tuple[str, int, int, float]  # activation, samples, depth, deviation of the biases
CASES: list[Case] = [("relu", 2000, 5, 0.0), ("relu", 2000, 5, 0.1), ("erf", 2000, 5, 0.1), ("gelu", 2000, 5, 0.1)]
GROWTH: list[Case] = [
    *(("relu", n, 5, 0.0) for n in (500, 1000, 2000, 4000)),
    *(("relu", 2000, depth, 0.0) for depth in (1, 3, 10, 20)),
]
FEATURES, ROUNDS = 784, 7
STORED = {"relu 2000 5 0.0": 0.62}  # seconds, another run on one 2.5 GHz core


def sample(n: int) -> np.ndarray:
    """``[n, 784]`` of noise."""
    return np.random.default_rng(0).normal(size=(n, FEATURES)).astype(np.float32)


def ours(case: Case) -> Callable[..., Any]:
    """A call that returns both kernels."""
    import torch

    from nonvacuous.kernels.recursion import nngp_ntk

    torch.set_num_threads(1)
    activation, n, depth, bias = case
    x = torch.from_numpy(sample(n))
    return lambda double=False: [
        k.numpy() for k in nngp_ntk(x.double() if double else x, depth=depth, activation=activation, bias_std=bias)
    ]


def peers(case: Case) -> Callable[..., Any]:
    """The same with neural-tangents, compiled."""
    import jax
    from neural_tangents import stax

    activation, n, depth, bias = case
    phi = {"relu": stax.Relu, "erf": stax.Erf, "gelu": stax.Gelu}[activation]
    layers = [stax.Dense(1, W_std=2**0.5, b_std=bias)]
    for _ in range(depth):
        layers += [phi(), stax.Dense(1, W_std=2**0.5, b_std=bias)]
    compiled = jax.jit(stax.serial(*layers)[2], static_argnums=2)
    x = sample(n)
    return lambda: [np.asarray(k) for k in compiled(x, None, ("nngp", "ntk"))]


def serve(side: str) -> None:
    """A process that answers each line, a case, with wall seconds, processor seconds, peak MiB and a file with the kernels."""
    calls: dict[str, Callable[..., Any]] = {}
    for line in sys.stdin:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if fresh := line not in calls:
            calls[line] = (ours if side == "ours" else peers)(tuple(json.loads(line)))
            calls[line]()
        wall, processor = time.perf_counter(), time.process_time()
        kernels = calls[line]()
        spent = [time.perf_counter() - wall, time.process_time() - processor]
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        name = ""
        if fresh:
            exact = calls[line](True) if side == "ours" else []
            with tempfile.NamedTemporaryFile(suffix=".npz", delete=False) as file:
                np.savez(file, *kernels, *exact)
            name = file.name
        print("ANSWER", json.dumps([*spent, peak, name]), flush=True)


class Process:
    """One side, pinned to a core; best times, the first call's peak and kernels, by case."""

    def __init__(self, python: str, side: str, core: int) -> None:
        one = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        flags = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1", "JAX_PLATFORMS": "cpu"}
        self.wall, self.processor, self.peak, self.kernels = {}, {}, {}, {}
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

    def __call__(self, case: Case) -> None:
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("ANSWER"):
                wall, processor, peak, name = json.loads(line.removeprefix("ANSWER"))
                self.wall[case] = min(wall, self.wall.get(case, wall))
                self.processor[case] = min(processor, self.processor.get(case, processor))
                if name:
                    with np.load(name) as stored:
                        self.peak[case], self.kernels[case] = peak, [stored[key] for key in stored.files]
                    Path(name).unlink()
                return
        raise SystemExit("a side of the benchmark ended early: run it with --serve by hand to see why")


def best(call: Callable[[], Any], repeats: int = 15) -> float:
    """Least processor seconds."""
    times = []
    for _ in range(repeats):
        begun = time.process_time()
        call()
        times.append(time.process_time() - begun)
    return min(times)


def floor_seconds(n: int, depth: int) -> list[float]:
    """Half a product; arc cosines and roots; filling two results."""
    import torch

    torch.set_num_threads(1)
    x, tile = torch.from_numpy(sample(n)), torch.rand(2**15)
    product, out = torch.empty(n, n), torch.empty_like(tile)
    each = sum(best(lambda f=f: [f(tile, out=out) for _ in range(20)]) / 20 for f in (torch.acos, torch.sqrt)) / len(tile)
    return [
        best(lambda: torch.mm(x, x.T, out=product)) / 2,
        each * depth * n * (n + 1) / 2,
        2 * best(lambda: torch.zeros(n, n)),
    ]


def environment(folder: str) -> str | None:
    """An interpreter that can import the peer, made in ``folder``."""
    try:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
        python = str(Path(folder) / "bin" / "python")
        wanted = ["jax==0.4.30", "jaxlib==0.4.30", "neural-tangents==0.6.5"]
        subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"the peer does not install here ({error}); its times are the stored ones")
        return None
    return python


def error(kernels: list[np.ndarray], exact: list[np.ndarray]) -> str:
    """Of nngp and ntk."""
    return " ".join(f"{np.abs(k - e).max() / np.abs(e).max():.0e}" for k, e in zip(kernels[:2], exact, strict=True))


def figure(path: str, us: Process, peer: Process | None) -> None:
    """Growth in samples and in depth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    drawing, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, cases, column, label in (
        (axes[0], GROWTH[:4], 1, "samples N, depth 5"),
        (axes[1], GROWTH[4:], 2, "depth, N = 2000"),
    ):
        for name, side in (("nonvacuous", us), ("neural-tangents", peer)):
            if side is not None:
                axis.loglog([c[column] for c in cases], [side.processor[c] for c in cases], "o-", label=name)
        axis.set(xlabel=label, ylabel="processor seconds, one core")
        axis.legend(frameon=False)
    drawing.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", nargs="?")
    parser.add_argument("--serve")
    parser.add_argument("--figure")
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve)
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    with tempfile.TemporaryDirectory() as folder:
        python = options.python or environment(folder)
        us, peer = Process(sys.executable, "ours", core), Process(python, "peer", core) if python else None
        for case in CASES:
            for _ in range(ROUNDS):
                for side in (us, peer) if peer else (us,):
                    side(case)
            name, exact = " ".join(map(str, case)), us.kernels[case][2:]
            line = f"{name:<18} ours {us.wall[case]:.3f} s ({us.processor[case]:.3f}), error {error(us.kernels[case], exact)}"
            if peer:
                line += (
                    f"; peer {peer.wall[case]:.3f} s ({peer.processor[case]:.3f}), error {error(peer.kernels[case], exact)}"
                )
                line += f"; ratio {peer.wall[case] / us.wall[case]:.1f} ({peer.processor[case] / us.processor[case]:.1f})"
                if case == CASES[0]:
                    line += f"; peak {us.peak[case]:.0f} against {peer.peak[case]:.0f} MiB, ratio {peer.peak[case] / us.peak[case]:.1f}"
            elif name in STORED:
                line += (
                    f"; stored time of the peer, another run: {STORED[name]:.2f} s, ratio {STORED[name] / us.wall[case]:.1f}"
                )
            print(line, flush=True)
        parts = floor_seconds(2000, 5)
        print(
            f"floor of {CASES[0]}: {sum(parts):.3f} s = product {parts[0]:.3f} + arc cosines and roots {parts[1]:.3f} "
            f"+ writing {parts[2]:.3f}; "
            f"ours is {us.processor[CASES[0]] / sum(parts):.2f} of it"
        )
        for case in GROWTH:
            for _ in range(3):
                for side in (us, peer) if peer else (us,):
                    side(case)
            told = f"; peer {peer.processor[case]:.3f}, ratio {peer.processor[case] / us.processor[case]:.1f}" if peer else ""
            print(f"{' '.join(map(str, case)):<18} processor seconds: ours {us.processor[case]:.3f}{told}", flush=True)
        if options.figure:
            figure(options.figure, us, peer)


if __name__ == "__main__":
    main()
