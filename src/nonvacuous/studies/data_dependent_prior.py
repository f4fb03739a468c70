"""Fashion-MNIST with a prior trained on a part of the sample: the Gibbs certificate, and the hold-out one of the same split.

Run ``python -m nonvacuous.studies.data_dependent_prior --out DIR``. It writes what `nonvacuous verify DIR --train fashion-mnist` measures
again, and with ``--replay`` trains the prior's network a second time and compares its digest.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nonvacuous.learning.data_dependent import DataDependent
from nonvacuous.learning.files import save
from nonvacuous.learning.method import Task
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.tasks import progress_bar
from nonvacuous.runtime.weights import weights_digest
from nonvacuous.studies.certificates_table import tested

#: Two sets of settings have been tried on this sample: before these, 7 epochs on 80 % and five prior deviations.
SETTINGS = DataDependent(
    prior_fraction=0.6, epochs=16, mirrored=True, shift=1, half=True, scale=1 / 16, posterior_epochs=10, alternatives=2
)
NETWORK = "nonvacuous.studies.data_dependent_prior:network"


def network() -> nn.Sequential:
    """For 28 x 28 grey pictures and 10 classes: 3 x 3 convolutions of 32, 64 and 128 channels with batch norm, each halved; linear.

    Out of training the linear layer reads the mean over a picture and its mirror image.
    """
    body = nn.Sequential(*_layer(1, 32), *_layer(32, 64), *_layer(64, 128), nn.Flatten())
    return nn.Sequential(BothWays(body), nn.Linear(1152, 10))


class BothWays(nn.Module):
    """Features [b, p] of pictures [b, c, h, w]; out of training, the mean of those of the picture and of its mirror image."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(x)
        return features if self.training else torch.lerp(features, self.body(x.flip(-1)), 0.5)


def _layer(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="A prior trained on 80 % of Fashion-MNIST, a certificate from the rest")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the result; unfinished work is kept in DIR/unfinished"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", action="store_true", help="train the prior's network again and compare it bit by bit")
    chosen = parser.parse_args(arguments)
    with progress_bar(True) as bar:
        task = Task(network, load("fashion-mnist", "train"), 0.05, chosen.seed, folder=chosen.out / "unfinished", progress=bar)
        result = SETTINGS.certified(task)
        facts = {"model": NETWORK, "train": "fashion-mnist", "method": SETTINGS.word, "settings": SETTINGS.settings}
        save(result, chosen.out, facts={**facts, "delta": task.delta, "seed": task.seed})
        if chosen.replay:
            again = Task(network, task.train, task.delta, task.seed, progress=bar)
            same = weights_digest(SETTINGS.prior_network(again)) == result.certificate.digests["prior"]
            print("the prior's network, trained again: " + ("the same bits" if same else "OTHER weights"))
    test = load("fashion-mnist", "test")
    evidence, beside = result.certificate.evidence, result.comparator
    print(
        f"Gibbs risk ≤ {result.certificate.value:.3%} (measured {evidence['gibbs_risk']:.3%}, KL with its price {evidence['kl_nats']:.2f} "
        f"nats, n = {evidence['n']:,}; on the test sample {tested(result, test, chosen.seed, passes=1):.2%}), {result.record.seconds:.0f} s"
    )
    if beside is not None:
        counted = beside.certificate.evidence
        print(
            f"hold-out of the prior's network: risk ≤ {beside.certificate.value:.3%} ({counted['errors']:,} errors of {counted['n']:,}; "
            f"on the test sample {tested(beside, test, chosen.seed):.2%})"
        )


if __name__ == "__main__":
    main()
