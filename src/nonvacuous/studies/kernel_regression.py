"""Row K2 on real images: regression with the kernel of an infinitely wide network, its accuracy, its intervals and its cost.

Run ``python -m nonvacuous.studies.kernel_regression --train 10000 --out results/kernels/regression.csv``. The first n training images
are fitted, the next 2,000 choose the ridge and 1,000 more calibrate the intervals; the test sample is looked at once, at the end. With
``--directory`` the Gram matrix lies on disk and conjugate gradients solve.
"""

from __future__ import annotations

import argparse
import csv
import resource
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.block_gram import KernelFunction
from nonvacuous.kernels.gaussian_process import Coverage, by_validation, conformal_factor, coverage, process
from nonvacuous.kernels.recursion import nngp_ntk
from nonvacuous.kernels.regression import Direct, Iterative, fitted, one_hot_targets
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.tasks import Progress, progress_bar

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Tried on the validation images, as fractions of the mean of K's diagonal."""

VALIDATION, CALIBRATION, LEVEL = 2000, 1000, 0.9


@dataclass(frozen=True)
class Row:
    """One run. ridge: λ over the mean of K's diagonal; residual: true, relative; seconds: wall; peak_gib: of the whole process;
    model_coverage, conformal_coverage: of all ten outputs at once at 90 %, on test images.
    """

    data: str
    n: int
    kernel: str
    depth: int
    ridge: float
    method: str
    residual: float
    iterations: int
    gram_seconds: float
    solve_seconds: float
    predict_seconds: float
    tested: int
    accuracy: float
    model_coverage: str
    conformal_coverage: str
    peak_gib: float
    command: str


def images(data: str, part: str, n: int, skip: int = 0) -> tuple[Tensor, Tensor]:
    """Images ``skip … skip + n − 1``, flattened and scaled to norm √d, float32, and their labels."""
    sample = load(data, part)  # type: ignore[arg-type]
    if skip + n > sample.n:
        raise InvalidInput(f"{data} ({part}) has {sample.n} examples; {skip + n} were asked for")
    order = torch.arange(skip, skip + n)
    batches = list(sample.batches(4096, order))
    x = torch.cat([torch.as_tensor(b.inputs).flatten(1) for b in batches])
    return x * (x.shape[1] ** 0.5 / x.norm(dim=1, keepdim=True)), torch.cat([b.targets for b in batches])


def kernel_function(name: str, depth: int, bias_std: float = 0.1) -> KernelFunction:
    """``"ntk"`` or ``"nngp"`` of a fully connected ReLU network with that many hidden layers."""
    if name not in ("ntk", "nngp"):
        raise InvalidInput(f"kernel {name!r}: ntk or nngp")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        whole = nngp_ntk(a, b, depth=depth, activation="relu", weight_std=2**0.5, bias_std=bias_std)
        return whole.ntk if name == "ntk" else whole.nngp

    return kernel


def run(
    data: str,
    n: int,
    *,
    name: str = "ntk",
    depth: int = 3,
    solver: Direct | Iterative | None = None,
    ridge: float | None = None,
    tested: int = 10_000,
    covered: int = 10_000,
    budget: int = 4 * 2**30,
    bar: Progress | None = None,
    command: str = "",
) -> Row:
    """Fit, choose, calibrate, test. ridge: as a fraction of the diagonal's mean; None: chosen on the validation images.

    covered: test images on which intervals are checked, 0 for none (a variance costs a solve where K is not factored).
    """
    x, labels = images(data, "train", n)
    classes = load(data, "train").classes or 10
    kernel = kernel_function(name, depth)
    scale = float(kernel(x[:64], x[:64]).diagonal().mean())
    share = ridge
    regression = fitted(
        kernel,
        x,
        one_hot_targets(labels, classes),
        ridge=scale * (RIDGES[2] if share is None else share),
        solver=solver,
        budget=budget,
        progress=bar,
    )
    gram_seconds, solve_seconds = regression.solved.gram_seconds, regression.solved.solve_seconds
    if share is None:
        if regression.factor is None:
            raise InvalidInput("conjugate gradients do not try several ridges: give --ridge, as chosen on fewer images")
        held, theirs = images(data, "train", VALIDATION, n)
        chosen = by_validation(regression, held, one_hot_targets(theirs, classes), [scale * r for r in RIDGES])
        regression = chosen.regression
        share = regression.ridge / scale
    new, truth = images(data, "test", tested)
    begun = time.perf_counter()
    means = regression.predicted(new, bar)
    seconds = time.perf_counter() - begun
    own, made = "", ""
    if covered:
        gaussian = process(regression)
        points, answers = images(data, "train", min(CALIBRATION, covered), n + VALIDATION)
        factor = conformal_factor(gaussian.predicted(points, bar), one_hot_targets(answers, classes), LEVEL)
        seen = gaussian.predicted(new[:covered], bar)
        goal = one_hot_targets(truth[:covered], classes)
        own, made = _words(coverage(seen, goal, LEVEL)), _words(coverage(seen, goal, LEVEL, factor))
    return Row(
        data,
        n,
        name,
        depth,
        share,
        regression.solved.method,
        regression.solved.residual,
        regression.solved.iterations,
        gram_seconds,
        solve_seconds,
        seconds,
        tested,
        float((means.argmax(1) == truth).float().mean()),
        own,
        made,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        command,
    )


def _words(found: Coverage) -> str:
    return f"{found.fraction.lower:.4f} to {found.fraction.upper:.4f}"


def append(row: Row, file: Path) -> None:
    """Add a line to a table; its heading is written where it is new."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if new:
            writer.writerow([f.name for f in fields(row)])
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in asdict(row).values()])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Regression with the kernel of an infinitely wide network")
    parser.add_argument("--data", default="fashion-mnist", help="a data set of images with labels")
    parser.add_argument("--train", type=int, default=10_000, help="images fitted")
    parser.add_argument("--test", type=int, default=10_000, help="images tested")
    parser.add_argument("--covered", type=int, default=10_000, help="test images whose intervals are checked")
    parser.add_argument("--kernel", default="ntk", choices=("ntk", "nngp"))
    parser.add_argument("--depth", type=int, default=3, help="hidden layers")
    parser.add_argument(
        "--ridge", type=float, help="as a fraction of the kernel's mean diagonal; by default chosen by validation"
    )
    parser.add_argument("--directory", type=Path, help="keep the Gram matrix here and solve by conjugate gradients")
    parser.add_argument("--rank", type=int, default=500, help="of the preconditioner")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="of the true residual")
    parser.add_argument("--budget", type=float, default=4.0, help="GiB for the Gram matrix in memory")
    parser.add_argument("--out", type=Path, required=True, help="table to which a line is added")
    chosen = parser.parse_args(arguments)
    solver = None
    if chosen.directory is not None:
        label = f"{chosen.kernel} relu depth {chosen.depth} weight_std √2 bias_std 0.1"
        solver = Iterative(rank=chosen.rank, tolerance=chosen.tolerance, directory=chosen.directory, name=label)
    words = sys.argv[1:] if arguments is None else arguments
    with progress_bar(sys.stderr.isatty()) as bar:
        row = run(
            chosen.data,
            chosen.train,
            name=chosen.kernel,
            depth=chosen.depth,
            solver=solver,
            ridge=chosen.ridge,
            tested=chosen.test,
            covered=chosen.covered,
            budget=int(chosen.budget * 2**30),
            bar=bar,
            command="python -m nonvacuous.studies.kernel_regression " + shlex.join(words),
        )
    append(row, chosen.out)
    print(
        f"n = {row.n}: {row.accuracy:.2%} of {row.tested} right; {row.method}; residual {row.residual:.1e}, {row.iterations} passes;"
        f" Gram {row.gram_seconds:.0f} s, solved in {row.solve_seconds:.0f} s, predicted in {row.predict_seconds:.0f} s; 90 % intervals"
        f" cover {row.model_coverage or 'unknown'} (model), {row.conformal_coverage or 'unknown'} (conformal); peak"
        f" {row.peak_gib:.2f} GiB"
    )


if __name__ == "__main__":
    main()
