"""Row K3: trained wide networks beside the tangent-kernel predictor, as the width grows, on real images.

Run ``python -m nonvacuous.studies.wide_networks --out results/kernels/wide_networks.csv``. Networks of L hidden ReLU layers of width m,
without biases, in the deck's scaling: f(x) = W^{L+1}√(c/m) σ(W^L √(c/m) σ(… σ(W¹x))), c = 2, all weights N(0, 1), inputs of norm 1. Full
gradient descent on ½Σ(f(x_i) − f_0(x_i) − y_i)² until the residual is small; f_0, the network at its start, is subtracted so that the
trained function starts at 0, where the theorem multiplies the output by a small κ instead. The predictor is k(x, X)K⁻¹y with the kernel of
infinite width.

Theorem 3.2 promises |f_nn − f_ntk| ≤ ε with probability 1 − δ once m ≥ poly(1/κ, L, 1/λ_0, n, log 1/δ), and does not state the polynomial:
no width is ever called enough. What is measured is the gap, its fall with m, and the part of it that is the random kernel at the start
(the gap to the predictor of that kernel, `own_gap`, is what training adds).

Source: Arora, Du, Hu, Li, Salakhutdinov and Wang 2019 ("On exact computation with an infinitely wide neural net"), Theorem 3.2.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.rates import Rate, fitted_rate
from nonvacuous.kernels.recursion import nngp_ntk
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.tasks import Progress, progress_bar

ABOVE_ONE = math.sqrt(2)


@dataclass(frozen=True, eq=False)
class Problem:
    """Two classes of images. inputs: of norm 1 ``[n, d]``; targets: ±1 ``[n]``; new: other images ``[m, d]``; all in coordinates of their
    own span, of which a network with Gaussian first-layer weights sees nothing else: the law of its training is the same.
    """

    inputs: Tensor
    targets: Tensor
    new: Tensor


def problem(data: str, n: int, m: int, classes: tuple[int, int], dtype: torch.dtype = torch.float32) -> Problem:
    """The first n training and m test images of two classes.

    Raises:
        InvalidInput: fewer images than asked for.
    """
    parts: list[Tensor] = []
    labels = torch.zeros(0)
    for part, count in (("train", n), ("test", m)):
        sample = load(data, part)  # type: ignore[arg-type]
        found, answers = [], []
        for batch in sample.batches(2048):
            keep = (batch.targets == classes[0]) | (batch.targets == classes[1])
            found.append(torch.as_tensor(batch.inputs)[keep].flatten(1).double())
            answers.append(batch.targets[keep])
            if sum(map(len, found)) >= count:
                break
        x = torch.cat(found)[:count]
        if len(x) < count or n < 2 or m < 1:
            raise InvalidInput(
                f"{data} ({part}) has {len(x)} images of classes {classes}; {count} were asked for (2 and 1 at least)"
            )
        parts.append(x / x.norm(dim=1, keepdim=True))
        labels = torch.cat(answers)[:count] if part == "train" else labels
    together = torch.cat(parts)
    basis = torch.linalg.svd(together, full_matrices=False).Vh
    reduced = (together @ basis.T).to(dtype)
    return Problem(reduced[:n], torch.where(labels == classes[1], 1.0, -1.0).to(dtype), reduced[n:])


def infinite(task: Problem, depth: int) -> tuple[Tensor, Tensor]:
    """K ``[n, n]`` and k(x, X) ``[m, n]`` of infinite width, float64."""
    d = task.inputs.shape[1]
    settings = {"depth": depth, "activation": "relu", "weight_std": ABOVE_ONE, "input_weight_std": math.sqrt(d)}
    x = task.inputs.double()
    K = nngp_ntk(x, **settings).ntk  # type: ignore[arg-type]
    return K, nngp_ntk(task.new.double(), x, **settings).ntk  # type: ignore[arg-type]


def weights(features: int, width: int, depth: int, seeds: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
    """Standard normal weights of a network a seed: ``[seeds, fan_in, fan_out]`` each."""
    sizes = [features, *[width] * depth, 1]
    return [
        torch.stack([torch.randn(a, b, generator=torch.Generator().manual_seed(1000 * s + i), dtype=dtype) for s in seeds])
        for i, (a, b) in enumerate(pairwise(sizes))
    ]


def answers(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
    """f(x) ``[seeds, n]``."""
    z = x.expand(len(parameters[0]), *x.shape)
    for i, W in enumerate(parameters):
        z = z @ W if i == 0 else (ABOVE_ONE / math.sqrt(W.shape[1])) * (z.relu() @ W)
    return z.squeeze(2)


def empirical(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
    """The tangent kernel of each network at these weights ``[seeds, n, n]``: layer by layer, (inputs' Gram) ∘ (gradients' Gram)."""
    z, met = x.expand(len(parameters[0]), *x.shape), []
    for i, W in enumerate(parameters):
        scale = 1.0 if i == 0 else ABOVE_ONE / math.sqrt(W.shape[1])
        seen = z if i == 0 else z.relu()
        met.append((seen * scale, z, scale))
        z = scale * (seen @ W)
    slope, total = torch.ones_like(z), torch.zeros(len(z), len(x), len(x), dtype=x.dtype)
    for i in reversed(range(len(parameters))):
        seen, before, scale = met[i]
        total += (seen @ seen.mT) * (slope @ slope.mT)
        slope = scale * (slope @ parameters[i].mT) * (before > 0)
    return total


@dataclass(frozen=True)
class Trained:
    """One trained network. residual: ‖f − f_0 − y‖/‖y‖ on the training images; gap: root mean square over new images of f_nn − f_ntk;
    largest: the largest; own_gap: the gap to the predictor of the network's own kernel at its start; size: of f_ntk.
    """

    width: int
    seed: int
    depth: int
    steps: int
    residual: float
    gap: float
    largest: float
    own_gap: float
    size: float


def trained(
    task: Problem, width: int, seeds: Sequence[int], *, depth: int = 2, tolerance: float = 0.01, most: int = 20_000
) -> list[Trained]:
    """Networks of one width, trained together, each as it would be alone: its own step size, and it stops where its residual is small.

    The predictors are taken at the same number of steps: k(x, X)K⁻¹(I − (I − ηK)^t)y, which is k(x, X)K⁻¹y up to the residual.

    Raises:
        InvalidInput: a residual that grows or is not small after ``most`` steps.
    """
    if width < 1 or depth < 1 or not seeds or not 0 < tolerance < 1:
        raise InvalidInput(
            f"width {width}, depth {depth}, {len(seeds)} seeds, tolerance {tolerance!r}: 1 or more, and in (0, 1)"
        )
    K, cross = infinite(task, depth)
    parameters = weights(task.inputs.shape[1], width, depth, seeds, task.inputs.dtype)
    everything = torch.cat([task.inputs, task.new])
    n = len(task.inputs)
    own = empirical(parameters, everything).double()
    largest = torch.linalg.eigvalsh(own[:, :n, :n])[:, -1]
    step = 1 / largest.clamp(min=float(torch.linalg.eigvalsh(K)[-1]))
    start = answers(parameters, everything)
    goal, size = task.targets + start[:, :n], float(task.targets.norm())
    for W in parameters:
        W.requires_grad_()
    steps = torch.zeros(len(seeds), dtype=torch.long)
    for count in range(most + 1):
        off = answers(parameters, task.inputs) - goal
        residual = off.detach().norm(dim=1) / size
        live = residual > tolerance
        if not bool(live.any()):
            break
        if count == most or not float(residual.max()) < 10:
            raise InvalidInput(
                f"width {width}: the residual is {float(residual.max()):.2g} after {count} steps. Give more steps, a wider network or"
                " fewer images"
            )
        slopes = torch.autograd.grad(0.5 * off.square().sum(), parameters)
        moves = (step * live).to(off.dtype)[:, None, None]
        with torch.no_grad():
            for W, slope in zip(parameters, slopes, strict=True):
                W.sub_(moves * slope)
        steps += live
    with torch.no_grad():
        change = (answers(parameters, everything) - start).double()
    y = task.targets.double()
    out = []
    for i, seed in enumerate(seeds):
        spent, pace = int(steps[i]), float(step[i])
        predictor = _at(K, cross, y, pace, spent)
        mine = _at(own[i, :n, :n], own[i, n:, :n], y, pace, spent)
        gap = change[i, n:] - predictor
        out.append(
            Trained(
                width,
                seed,
                depth,
                spent,
                float((change[i, :n] - y).norm() / y.norm()),
                float(gap.square().mean().sqrt()),
                float(gap.abs().max()),
                float((change[i, n:] - mine).square().mean().sqrt()),
                float(predictor.square().mean().sqrt()),
            )
        )
    return out


def _at(K: Tensor, cross: Tensor, y: Tensor, step: float, steps: int) -> Tensor:
    """Gradient descent on the linear model with kernel K, after so many steps: its answers at new inputs."""
    values, vectors = torch.linalg.eigh((K + K.T) / 2)
    values = values.clamp(min=0)
    grown = torch.where(
        values > 1e-12 * values[-1], -torch.expm1(steps * torch.log1p(-(step * values).clamp(max=1 - 1e-15))), 0.0
    )
    return cross @ (vectors @ (grown / values.clamp(min=1e-300) * (vectors.T @ y)))


class _Rates:
    """Slopes of the gaps in the width."""

    def __init__(self, runs: Sequence[Trained]) -> None:
        self.widths = sorted({r.width for r in runs})

        def rate(name: str) -> Rate:
            return fitted_rate(
                self.widths, [torch.tensor([getattr(r, name) for r in runs if r.width == w]) for w in self.widths]
            )

        self.gap, self.own_gap = rate("gap"), rate("own_gap")


def rates(runs: Sequence[Trained]) -> _Rates:
    """How ``gap`` and ``own_gap`` fall with the width, with intervals over the seeds; two widths and two seeds at least."""
    return _Rates(runs)


def read(file: Path) -> list[Trained]:
    """The rows of a table that `main` wrote."""
    kinds = {f.name: {"int": int, "float": float}[str(f.type)] for f in fields(Trained)}
    with file.open(newline="", encoding="utf-8") as stream:
        lines = [line for line in stream if not line.startswith("#")]
    try:
        return [Trained(**{k: kinds[k](v) for k, v in row.items()}) for row in csv.DictReader(lines)]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"{file} is not a table of trained networks ({error})") from error


def study(
    task: Problem,
    widths: Sequence[int],
    seeds: Sequence[int],
    *,
    depth: int,
    at_once: int = 5,
    done: Sequence[Trained] = (),
    keep: Callable[[list[Trained]], object] | None = None,
    bar: Progress | None = None,
) -> list[Trained]:
    """All widths and seeds, narrow ones first. done: runs that are there already; keep: called with each group of runs that is finished."""
    runs = list(done)
    there = {(r.width, r.seed, r.depth) for r in done}
    with (bar or Progress()).task("wide networks", sum(w**2 for w in widths) * len(seeds)) as advance:
        for width in widths:
            left = [s for s in seeds if (width, s, depth) not in there]
            advance(width**2 * (len(seeds) - len(left)))
            for first in range(0, len(left), at_once):
                group = trained(task, width, left[first : first + at_once], depth=depth)
                runs += group
                if keep is not None:
                    keep(group)
                advance(width**2 * len(group))
    return runs


class _Table:
    """A table that grows by whole groups of runs, and says by which command."""

    def __init__(self, file: Path, command: str) -> None:
        self.file, self.heading = file, f"# python -m nonvacuous.studies.wide_networks {command}"

    def begun(self) -> list[Trained]:
        """Runs of the same command that are there already; a table of another is refused."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if not self.file.exists():
            self.file.write_text(f"{self.heading}\n{','.join(f.name for f in fields(Trained))}\n", encoding="utf-8")
        with self.file.open(encoding="utf-8") as stream:
            if stream.readline().rstrip("\n") != self.heading:
                raise InvalidInput(f"{self.file} is the table of another command: give another file, or remove it")
        return read(self.file)

    def add(self, runs: Sequence[Trained]) -> None:
        """Append them."""
        with self.file.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, [f.name for f in fields(Trained)], lineterminator="\n")
            writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(run).items()} for run in runs)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Trained wide networks beside the tangent-kernel predictor")
    parser.add_argument("--data", default="fashion-mnist", help="a data set of images with labels")
    parser.add_argument("--classes", default="2,4", help="two of its classes")
    parser.add_argument("--train", type=int, default=32, help="training images")
    parser.add_argument("--test", type=int, default=32, help="new images")
    parser.add_argument("--depth", type=int, default=2, help="hidden layers")
    parser.add_argument("--widths", default="32,64,128,256,512,1024")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True, help="table; the same command goes on with it")
    chosen = parser.parse_args(arguments)
    one, other = (int(c) for c in chosen.classes.split(","))
    task = problem(chosen.data, chosen.train, chosen.test, (one, other))
    widths = [int(w) for w in chosen.widths.split(",")]
    table = _Table(chosen.out, " ".join(sys.argv[1:] if arguments is None else arguments))
    done = table.begun()
    with progress_bar(sys.stderr.isatty()) as bar:
        runs = study(task, widths, range(chosen.seeds), depth=chosen.depth, done=done, keep=table.add, bar=bar)
    found = rates(runs)
    print(
        f"|f_nn − f_ntk| ∝ width^{found.gap.slope}; to the predictor of the own kernel ∝ width^{found.own_gap.slope};"
        f" f_ntk is of size {runs[0].size:.3f}, the gap at width {found.widths[-1]} {found.gap.means[-1]:.4f}"
    )


if __name__ == "__main__":
    main()
