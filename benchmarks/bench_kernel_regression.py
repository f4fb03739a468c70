"""Kernel regression and Gaussian-process prediction beside scikit-learn on the same Gram matrix, alternated in one run on one core.

``python benchmarks/bench_kernel_regression.py [--n 4000] [--outputs 10]`` prints seconds and peak memory (of a process each, above that of
one that only holds the Gram matrix and the targets) for: a factorisation and the coefficients; means and variances at 500 points. The
floor is n³/3 multiply-adds for the factor at the speed of a matrix product measured here, and n² numbers of memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nonvacuous.kernels.cholesky import Cholesky

POINTS = 500


def problem(n: int, outputs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """K + cross block of a Gaussian kernel, targets, prior variances."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n + POINTS, 10, generator=g, dtype=dtype)
    K = torch.exp(-torch.cdist(x[:n], x[:n]).square() / 20)
    return (
        K,
        torch.exp(-torch.cdist(x[n:], x[:n]).square() / 20),
        torch.randn(n, outputs, generator=g, dtype=dtype),
        torch.ones(POINTS),
    )


def ours(K: Tensor, cross: Tensor, y: Tensor, ridge: float, *, variances: bool) -> tuple[Tensor, Tensor | None]:
    """Means, and variances where asked."""
    factor = Cholesky(K, ridge)
    mean = cross.double() @ factor.solved(y.double())
    return mean, 1 - factor.half_solved(cross.T.contiguous()).double().square().sum(0) if variances else None


def ridge_peer(K: Tensor, cross: Tensor, y: Tensor, ridge: float) -> Tensor:
    """sklearn.kernel_ridge.KernelRidge(kernel="precomputed")."""
    from sklearn.kernel_ridge import KernelRidge

    model = KernelRidge(alpha=ridge, kernel="precomputed").fit(K.numpy(), y.numpy())
    return torch.from_numpy(model.predict(cross.numpy()))


def process_peer(x: Tensor, new: Tensor, y: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """sklearn.gaussian_process.GaussianProcessRegressor with a fixed Gaussian kernel: it has no precomputed one, so it forms K itself."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF

    model = GaussianProcessRegressor(RBF(10**0.5, "fixed"), alpha=ridge, optimizer=None).fit(x.numpy(), y.numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean, deviation = model.predict(new.numpy(), return_std=True)
    deviation = torch.from_numpy(deviation)
    return torch.from_numpy(mean), (deviation[:, 0] if deviation.ndim == 2 else deviation).square()


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one run."""
    gc.collect()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def peak(which: str, n: int, outputs: int, dtype: str) -> float:
    """Peak resident MiB of a process that does this and nothing else."""
    command = [sys.executable, __file__, "--n", str(n), "--outputs", str(outputs), "--only", which, "--dtype", dtype]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(found.stdout)["peak"])


def alone(which: str, n: int, outputs: int, dtype: torch.dtype) -> None:
    """One way in this process, its peak memory on stdout."""
    K, cross, y, _ = problem(n, outputs, dtype)
    import sklearn.kernel_ridge  # noqa: F401  (loaded by all, so that it counts for none)

    if which == "ours":
        ours(K, cross, y, 0.1, variances=False)
    elif which == "peer":
        ridge_peer(K, cross, y, 0.1)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would remember the parent's peak
    print(json.dumps({"peak": int(status.split("VmHWM:")[1].split()[0]) / 1024}))


def main() -> None:
    """Print a line a comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--outputs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("nothing", "ours", "peer"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    n, outputs, dtype = options.n, options.outputs, getattr(torch, options.dtype)
    if options.only:
        alone(options.only, n, outputs, dtype)
        return
    for kind in (torch.float32, torch.float64):
        K, cross, y, _ = problem(n, outputs, kind)
        truth = cross.double() @ torch.linalg.solve(K.double() + 0.1 * torch.eye(n).double(), y.double())
        mine, theirs, error = [], [], [0.0, 0.0]
        for _ in range(options.repeats):
            copy = K.clone()
            mine.append(seconds(lambda c=copy, x=cross, t=y: ours(c, x, t, 0.1, variances=False)))  # type: ignore[misc]
            theirs.append(seconds(lambda k=K, x=cross, t=y: ridge_peer(k, x, t, 0.1)))  # type: ignore[misc]
        error[0] = float((ours(K.clone(), cross, y, 0.1, variances=False)[0] - truth).abs().max())
        error[1] = float((ridge_peer(K, cross, y, 0.1).double() - truth).abs().max())
        begun = time.perf_counter()
        _ = K @ K[:, :512]
        speed = 2 * n * n * 512 / (time.perf_counter() - begun)
        floor = n**3 / 3 / speed
        name = str(kind).removeprefix("torch.")
        print(
            f"ridge regression, {name}, n = {n}: {min(mine):.2f} s, error {error[0]:.1e}; scikit-learn {min(theirs):.2f} s, error"
            f" {error[1]:.1e}; ratio {min(theirs) / min(mine):.2f}; floor {floor:.2f} s"
        )
        idle, own, other = (peak(which, n, outputs, name) for which in ("nothing", "ours", "peer"))
        gram = n * n * K.element_size() / 2**20
        print(f"  memory beside the Gram matrix ({gram:.0f} MiB): {own - idle:.0f} MiB; scikit-learn {other - idle:.0f} MiB")
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n + POINTS, 10, generator=g, dtype=torch.float64)
    y = torch.randn(n, outputs, generator=g, dtype=torch.float64)

    def whole() -> tuple[Tensor, Tensor | None]:
        K = torch.exp(-torch.cdist(x[:n], x[:n]).square() / 20)
        return ours(K, torch.exp(-torch.cdist(x[n:], x[:n]).square() / 20), y, 0.1, variances=True)

    mine, theirs = [], []
    for _ in range(options.repeats):
        mine.append(seconds(whole))
        theirs.append(seconds(lambda: process_peer(x[:n], x[n:], y, 0.1)))
    (mean, variance), (their_mean, their_variance) = whole(), process_peer(x[:n], x[n:], y, 0.1)
    assert variance is not None
    print(
        f"Gaussian process, float64, with {POINTS} variances: {min(mine):.2f} s; scikit-learn {min(theirs):.2f} s; ratio"
        f" {min(theirs) / min(mine):.2f}; means differ by {float((mean - their_mean).abs().max()):.1e}, variances by"
        f" {float((variance - their_variance).abs().max()):.1e}"
    )


if __name__ == "__main__":
    main()
