"""Dziugaite and Roy's experiment (row G11): a fully connected network on two classes, its random start as prior, a bound below one.

Run ``python -m nonvacuous.studies.dziugaite_roy --out DIR``. Classes 0–4 of Fashion-MNIST against 5–9, as the paper had the digits; the
paper's T-600² network, 784-600-600-2, or another of the same kind. Random labels must give nothing.

Source: Dziugaite and Roy 2017 (UAI), table 1: risk ≤ .16 for 784-600-1 and .22 for T-600² on two-class MNIST; random labels above 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from nonvacuous.learning.deep_pac_bayes import DeepPacBayes
from nonvacuous.learning.in_memory import held
from nonvacuous.learning.method import Certified, Factory, Task
from nonvacuous.runtime.data import Sample, as_sample
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.tasks import progress_bar
from nonvacuous.studies.certificates_table import tested


def two_classes(sample: Sample) -> Sample:
    """The sample with label 1 for the upper half of the classes and 0 for the lower."""
    inputs, targets = held(sample)
    half = (sample.classes or 2) // 2
    return as_sample((inputs, (targets >= half).long()), classes=2)


def with_random_labels(sample: Sample, seed: int) -> Sample:
    """The same inputs with labels that a fair coin gives."""
    inputs, targets = held(sample)
    return as_sample((inputs, torch.randint(2, targets.shape, generator=torch.Generator().manual_seed(seed))), classes=2)


def network(inputs: int, widths: Sequence[int]) -> Factory:
    """A factory of fully connected ReLU networks with two outputs."""

    def built() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in zip((inputs, *widths), widths, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], 2))

    return built


def experiment(
    sample: Sample, widths: Sequence[int], method: DeepPacBayes, *, seed: int, folder: Path | None, shown: bool
) -> Certified:
    """Train and certify on a two-class sample."""
    inputs = next(iter(sample.batches(1))).inputs
    with progress_bar(shown) as bar:
        task = Task(network(torch.as_tensor(inputs).numel(), widths), sample, seed=seed, folder=folder, progress=bar)
        return method.certified(task)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Dziugaite and Roy's experiment on two-class Fashion-MNIST")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the certificate; unfinished work is kept in DIR/unfinished"
    )
    parser.add_argument("--data", default="fashion-mnist", help="a data set of at least two classes")
    parser.add_argument("--widths", default="600,600", help="hidden widths")
    parser.add_argument("--epochs", type=int, default=DeepPacBayes.epochs, help="descent on the bound")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--random-labels", action="store_true", help="labels by a fair coin, for comparison")
    chosen = parser.parse_args(arguments)
    train, test = (two_classes(load(chosen.data, part)) for part in ("train", "test"))
    if chosen.random_labels:
        train = with_random_labels(train, chosen.seed)
    widths = [int(width) for width in chosen.widths.split(",")]
    name = "random-labels" if chosen.random_labels else "dziugaite-roy"
    result = experiment(
        train,
        widths,
        DeepPacBayes(epochs=chosen.epochs),
        seed=chosen.seed,
        folder=chosen.out / "unfinished" / name,
        shown=True,
    )
    chosen.out.mkdir(parents=True, exist_ok=True)
    result.certificate.save(chosen.out / f"{name}.json")
    told = f"risk ≤ {result.certificate.value:.2%}; Gibbs training risk ≤ {result.certificate.evidence['gibbs_risk']:.2%}, "
    told += f"KL {result.certificate.evidence['kl_nats']:.0f} nats"
    if not chosen.random_labels:
        told += f"; on the test sample {tested(result, test, chosen.seed, passes=1):.2%}"
    print(f"{told}; {result.record.seconds:.0f} s, {result.record.multiple or 0:.1f} × plain training")


if __name__ == "__main__":
    main()
