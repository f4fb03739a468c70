"""Networks trained on all labels of Fashion-MNIST, left as they are, certified through a surrogate and the unlabelled test pictures.

Run ``python -m nonvacuous.studies.unmodified_network --out DIR``. The test labels are read once, after the certificate is issued, to say
how far it lies above the network's error.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from nonvacuous.learning.augmented import trained_with_augmentation
from nonvacuous.learning.files import save
from nonvacuous.learning.method import Task
from nonvacuous.learning.plain import plainly_trained
from nonvacuous.learning.surrogate import Surrogate
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.tasks import progress_bar
from nonvacuous.studies.certificates_table import tested

SETTINGS = Surrogate(members=2, epochs=9, mirrored=True, shift=1, alternatives=8)
EPOCHS = 5
NETWORK = "nonvacuous.studies.unmodified_network:network"


def network() -> nn.Sequential:
    """For 28 x 28 grey pictures and 10 classes: 3 x 3 convolutions of 24, 48 and 96 channels with batch norm, each halved; linear."""
    return nn.Sequential(
        *_layer(1, 24),
        *_layer(24, 48),
        *_layer(48, 96),
        nn.Flatten(),
        nn.Linear(864, 10),
    )


def _layer(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]


def augmented_target(task: Task) -> nn.Module:
    """Trained on all labels with mirrored and shifted pictures."""
    own = replace(task, seed=task.stream("augmented target"))
    return trained_with_augmentation(
        own, task.train, purpose="augmented-target", epochs=EPOCHS, rate=3e-3, batch=128, mirrored=True, shift=1, half=False
    )


def plain_target(task: Task) -> nn.Module:
    """Trained on all labels by Adam, nothing added."""
    return plainly_trained(
        replace(task, seed=task.stream("plain target")), task.train, purpose="plain-target", epochs=EPOCHS
    ).model.eval()


TARGETS = {"augmented": augmented_target, "plain": plain_target}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="An unmodified network certified through a surrogate and unlabelled pictures")
    parser.add_argument(
        "--out", type=Path, required=True, help="one folder a network; unfinished work is kept in OUT/unfinished"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS), help="how the networks are trained"
    )
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    test = load("fashion-mnist", "test")
    with progress_bar(True) as bar:
        task = Task(network, load("fashion-mnist", "train"), 0.05, chosen.seed, folder=chosen.out / "unfinished", progress=bar)
        results = {}
        for name in chosen.targets:
            given = replace(task, model=TARGETS[name](task), unlabelled=test)
            results[name] = SETTINGS.certified(given)
            facts = {"model": NETWORK, "train": "fashion-mnist", "method": SETTINGS.word, "settings": SETTINGS.settings}
            save(results[name], chosen.out / name, facts={**facts, "delta": task.delta, "seed": task.seed})
    for name, done in results.items():
        counted, wrong = done.certificate.evidence, tested(done, test, chosen.seed)
        assert done.comparator is not None
        print(
            f"{name}: risk ≤ {done.certificate.value:.3%}, test error {wrong:.2%}, {100 * (done.certificate.value - wrong):.2f} points "
            f"above; surrogate {counted['surrogate_errors']:,} errors of {counted['labelled']:,} (test error "
            f"{tested(done.comparator, test, chosen.seed):.2%}), {counted['disagreements']:,} disagreements of {counted['n']:,}"
        )


if __name__ == "__main__":
    main()
