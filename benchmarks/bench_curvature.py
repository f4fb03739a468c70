"""Curvature beside curvlinops (with scipy's eigsh), hessian-eigenthings and pyhessian, in one run, alternating, one core.

``OMP_NUM_THREADS=1 python benchmarks/bench_curvature.py [rounds] [file.csv]`` prints, for the five largest Hessian eigenvalues of a
784-600-300-10 network trained on 2,000 pictures of Fashion-MNIST: CPU seconds (best of the rounds), products, and the largest relative
residual ‖Hv − θv‖/θ as *verified* with a product of the exact mean loss. Every peer gets the loosest setting that was found to reach a
verified residual of 1e-3 (hessian-eigenthings the fewest steps, pyhessian and eigsh the largest tolerance), at no charge for the search;
their defaults are shown, too. Then one product of this network and of a convnet with batch normalisation beside the floor of its matrix
products; then where a peer's operator is wrong: an uneven last batch, batch normalisation in training mode. A file gets the table.

The peers are no dependencies: make an environment with torch and ``pip install --no-deps curvlinops-for-pytorch hessian-eigenthings
pyhessian einops einconv opt_einsum linear_operator jaxtyping wadler_lindig``; the lines of those that are missing are left out.
"""

from __future__ import annotations

import copy
import csv
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nonvacuous.operators import curvature
from nonvacuous.operators.lanczos import top_eigenpairs

K, TOLERANCE = 5, 1e-3


@dataclass(frozen=True)
class Answer:
    """Eigenvalues [k], eigenvectors [P, k], products spent (0: unknown)."""

    values: Tensor
    vectors: Tensor
    products: int


def data(n: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Ten Gaussian clusters in a low-dimensional space, so that a trained network has outliers in its spectrum."""
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(0, 10, (n,), generator=generator)
    centres, mix = torch.randn(10, 20, generator=generator), torch.randn(20, math.prod(shape), generator=generator) / 20**0.5
    x = (centres[y] + 0.7 * torch.randn(n, 20, generator=generator)) @ mix
    return (x + 0.3 * torch.randn(x.shape, generator=generator)).reshape(n, *shape), y


def pictures(n: int) -> tuple[Tensor, Tensor]:
    """The first n of Fashion-MNIST, or clusters where it is missing."""
    from nonvacuous.core.errors import InvalidInput
    from nonvacuous.runtime.sources import load

    try:
        batch = next(iter(load("fashion-mnist", "train").batches(n)))
    except InvalidInput:
        return data(n, (784,))
    return batch[0].flatten(1).float(), batch[1]


def trained(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> nn.Module:
    """A few steps of Adam."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for step in range(steps):
        rows = torch.arange(step * 128, step * 128 + 128) % len(x)
        optimizer.zero_grad()
        cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.eval()


def residual(operator: Any, answer: Answer) -> float:
    """Largest ‖H v − θ v‖ / θ, with unit v."""
    vectors = answer.vectors / answer.vectors.norm(dim=0)
    images = operator @ vectors.to(operator.dtype)
    return float(((images - vectors * answer.values).norm(dim=0) / answer.values).max())


def alternated(jobs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[Any, float]]:
    """Value and best CPU time of each job, one round after the other."""
    best: dict[str, tuple[Any, float]] = {}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.process_time()
            value = job()
            took = time.process_time() - start
            best[name] = value, min(took, best.get(name, (None, math.inf))[1])
    return best


def eigenthings(model: nn.Module, batches: list, steps: int | None) -> Answer | None:
    try:
        from hessian_eigenthings import HessianOperator, lanczos, supervised_loss
    except ImportError:
        return None
    operator = HessianOperator(model, batches, supervised_loss(cross_entropy))
    found = lanczos(operator, k=K, max_iter=steps, which="LA", seed=0, reorthogonalize=True)
    return Answer(found.eigenvalues, found.eigenvectors.mT, found.iterations)


def scipy_on_curvlinops(model: nn.Module, batches: list, tolerance: float = TOLERANCE) -> Answer | None:
    try:
        from curvlinops import HessianLinearOperator
    except ImportError:
        return None
    from scipy.sparse.linalg import LinearOperator, eigsh

    parameters = [p for p in model.parameters() if p.requires_grad]
    operator = HessianLinearOperator(model, nn.CrossEntropyLoss(), parameters, batches, check_deterministic=False).to_scipy()
    count = 0

    def product(v: Any) -> Any:
        nonlocal count
        count += 1
        return operator @ v.astype("float32")

    counted = LinearOperator(operator.shape, product, dtype="float32")
    values, vectors = eigsh(counted, K, which="LA", tol=tolerance)
    return Answer(torch.tensor(values.copy()), torch.tensor(vectors.copy()), count)


def power_of_pyhessian(model: nn.Module, batches: list, tolerance: float = TOLERANCE) -> Answer | None:
    try:
        from pyhessian import hessian
    except ImportError:
        return None
    found = hessian(copy.deepcopy(model), nn.CrossEntropyLoss(), data=batches[0], cuda=False)
    values, vectors = found.eigenvalues(maxIter=1000, tol=tolerance, top_n=K)
    return Answer(torch.tensor(values), torch.stack([torch.cat([p.flatten() for p in v]) for v in vectors], 1), 0)


def ours(model: nn.Module, batches: list, checks: int | None = None) -> Answer:
    found = top_eigenpairs(curvature.hessian(model, cross_entropy, batches), K, tolerance=TOLERANCE, checks=checks)
    assert bool(found.converged.all())
    return Answer(found.values, found.vectors, found.products)


def loosest(run: Callable[[Any], Answer | None], settings: Iterable[Any], exact: Any) -> Any:
    """The first setting whose answer is verified; None where there is no peer or none does."""
    for setting in settings:
        answer = run(setting)
        if answer is None:
            return None
        if residual(exact, answer) <= TOLERANCE:
            return setting
    return None


def largest_eigenvalues(rounds: int, file: Path | None) -> None:
    x, y = pictures(2000)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(784, 600), nn.ReLU(), nn.Linear(600, 300), nn.ReLU(), nn.Linear(300, 10))
    model, batches = trained(net, x, y, 200), [(x, y)]
    exact = curvature.hessian(model, cross_entropy, batches)
    steps = loosest(lambda n: eigenthings(model, batches, n), range(9, 40), exact)
    change = loosest(lambda t: power_of_pyhessian(model, batches, t), (1e-3, 1e-4, 1e-5, 1e-6, 1e-7), exact)
    loose = loosest(lambda t: scipy_on_curvlinops(model, batches, t), (0.3, 1e-1, 1e-2, 1e-3), exact)
    jobs: dict[str, Callable[[], Answer | None]] = {
        "ours": lambda: ours(model, batches),
        "ours, no check for copies": lambda: ours(model, batches, checks=0),
        f"curvlinops + eigsh, tolerance {loose}": lambda: scipy_on_curvlinops(model, batches, loose),
        f"hessian-eigenthings told {steps} steps": lambda: eigenthings(model, batches, steps),
        f"pyhessian, tolerance {change}": lambda: power_of_pyhessian(model, batches, change),
        "curvlinops + eigsh, tolerance as ours": lambda: scipy_on_curvlinops(model, batches),
        "hessian-eigenthings, default": lambda: eigenthings(model, batches, None),
        "pyhessian, default tolerance": lambda: power_of_pyhessian(model, batches),
    }
    found = alternated({name: job for name, job in jobs.items() if "None" not in name}, rounds)
    own = found["ours"][1]
    rows = []
    for name, (answer, seconds) in found.items():
        if answer is not None:
            order = answer.values.argsort(descending=True)
            answer = Answer(answer.values[order], answer.vectors[:, order], answer.products)
            values = " ".join(f"{value:.4f}" for value in answer.values.tolist())
            rows.append(
                [
                    name,
                    f"{seconds:.2f}",
                    f"{seconds / own:.2f}",
                    answer.products or "",
                    f"{residual(exact, answer):.1e}",
                    values,
                ]
            )
    title = f"five largest Hessian eigenvalues, {exact.shape[0]:,} parameters, 2,000 examples, {rounds} rounds, one core"
    print(title)
    for name, seconds, ratio, spent, rest, values in rows:
        print(f"  {name:40s} {seconds:>6s} s {ratio:>6s} x {spent!s:>4s} products  residual {rest}  {values}")
    if file is not None:
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["method", "cpu_seconds", "times_ours", "products", "verified_residual", "eigenvalues"])
            writer.writerows(rows)


def products(rounds: int) -> None:
    x, y = data(2000, (784,))
    mlp = nn.Sequential(nn.Linear(784, 600), nn.ReLU(), nn.Linear(600, 300), nn.ReLU(), nn.Linear(300, 10))
    one_product("one Hessian product, 784-600-300-10, 2,000 examples", trained(mlp, x, y, 20), [(x, y)], rounds, mlp_floor)
    x, y = data(500, (1, 28, 28))
    convnet = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(1024, 10),
    )
    one_product(
        "one Hessian product, convnet with batch norm, 500 examples", trained(convnet, x, y, 20), [(x, y)], rounds, None
    )


def mlp_floor() -> None:
    """The matrix products of the double backward pass: six a layer, two in the first, whose inputs have no derivative."""
    for n, inner, out, count in ((2000, 784, 600, 2), (2000, 600, 300, 6), (2000, 300, 10, 6)):
        a, b = FLOOR.setdefault((n, inner, out), (torch.randn(n, inner), torch.randn(inner, out)))
        for _ in range(count):
            a @ b


FLOOR: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}


def one_product(title: str, model: nn.Module, batches: list, rounds: int, floor: Callable[[], None] | None) -> None:
    kept, anew = (curvature.hessian(model, cross_entropy, batches, memory=memory) for memory in (2**32, 0))
    v = torch.randn(kept.shape[0], generator=torch.Generator().manual_seed(0))
    jobs: dict[str, Callable[[], Any]] = {"ours, graph kept": lambda: kept @ v, "ours, memory=0": lambda: anew @ v}
    try:
        from curvlinops import HessianLinearOperator

        parameters = list(model.parameters())
        theirs = HessianLinearOperator(model, nn.CrossEntropyLoss(), parameters, batches, check_deterministic=False)
        jobs["curvlinops"] = lambda: theirs @ v
    except ImportError:
        pass
    if floor is not None:
        jobs["floor: matrix products"] = floor
    found = alternated(jobs, 2 * rounds + 1)
    print(title)
    own = found["ours, graph kept"][1]
    for name, (_, seconds) in found.items():
        print(f"  {name:38s} {seconds:7.3f} s {seconds / own:6.2f} x")
    if "curvlinops" in found:
        print(f"  largest difference from curvlinops {float((found['curvlinops'][0] - kept @ v).abs().max()):.1e}")


def where_peers_are_wrong() -> None:
    x, y = data(600, (784,))
    torch.manual_seed(0)
    model = trained(nn.Sequential(nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10)), x, y, 40)
    order = y.argsort()
    uneven = [(x[order[:550]], y[order[:550]]), (x[order[550:]], y[order[550:]])]
    true = float(top_eigenpairs(curvature.hessian(model, cross_entropy, [(x, y)]), 1).values[0])
    own = float(top_eigenpairs(curvature.hessian(model, cross_entropy, uneven), 1).values[0])
    print(f"largest eigenvalue on batches of 550 and 50: ours {own:.5f}; one batch of 600 gives {true:.5f}")
    theirs = eigenthings(model, uneven, 40)
    if theirs is not None:
        value = float(theirs.values.max())
        print(f"  hessian-eigenthings {value:.5f}: off by {abs(value / true - 1):.0%}, as it averages the means of batches")
    net = nn.Sequential(nn.Linear(784, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 10)).train()
    before = net[1].running_mean.clone()
    operator = curvature.hessian(net, cross_entropy, uneven)
    _ = operator @ torch.ones(operator.shape[0])
    print(f"batch norm in training mode: ours leaves the running statistics alone: {torch.equal(before, net[1].running_mean)}")
    if eigenthings(net, uneven, 6) is not None:
        print(f"  hessian-eigenthings leaves them alone: {torch.equal(before, net[1].running_mean)}")
    try:
        from curvlinops import HessianLinearOperator
    except ImportError:
        return
    try:
        _ = HessianLinearOperator(net, nn.CrossEntropyLoss(), list(net.parameters()), uneven) @ torch.ones(operator.shape[0])
        print("  curvlinops computes it")
    except Exception as error:
        print(f"  curvlinops raises {type(error).__name__}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    largest_eigenvalues(count, Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    products(count)
    where_peers_are_wrong()
