"""An existing network, unmodified, certified through a surrogate and unlabelled data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import nextafter
from typing import ClassVar

import torch
from torch import Tensor, nn

from nonvacuous.bounds.disagreement import SURROGATE_CERTIFIED, UNLABELLED_UNSEEN, DisagreementBound
from nonvacuous.bounds.heldout import BinomialTailBound
from nonvacuous.core.bound import Predictor
from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import InvalidEvidence, InvalidInput
from nonvacuous.learning.holdout import declared_split
from nonvacuous.learning.in_memory import answers, held
from nonvacuous.learning.method import Certified, Factory, Method, Number, Task, TrainingRecord
from nonvacuous.learning.plain import plainly_trained
from nonvacuous.runtime.data import as_sample, example_digests, overlap
from nonvacuous.runtime.samples import Sample
from nonvacuous.runtime.weights import weights_digest


class MeanNetwork(nn.Module):
    """The mean of several networks' class probabilities; with ``mirrored``, of each on the input and on its mirror image (last axis)."""

    def __init__(self, members: list[nn.Module], mirrored: bool) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.mirrored = mirrored

    def forward(self, x: Tensor) -> Tensor:
        views = (x, x.flip(-1)) if self.mirrored else (x,)
        return torch.stack([member(view).softmax(1) for member in self.members for view in views]).mean(0)


@dataclass(frozen=True)
class Surrogate(Method):
    """R(h) ≤ certificate(s) + P(h ≠ s): s is a mean of fresh networks, certified on labels it never read, h is left as it is.

    The surrogate is trained on a part of the labelled sample, certified by the exact binomial limit on the other ``fraction`` of it, and
    compared with the network on ``unlabelled`` inputs that neither has seen. The network itself may have been trained on the whole
    labelled sample: no label is held out from it. The mean of several networks lies nearer to one more of their kind than they do to one
    another.

    members: networks in the surrogate; epochs, learning_rate, batch_size: of each, by the plain loop. mirrored: train on mirror images too
    (last axis) and average over both. share: the part of δ for the surrogate's certificate. The task's factory makes its networks.
    """

    members: int = 3
    fraction: float = 0.2
    epochs: int = 5
    learning_rate: float = 1e-3
    batch_size: int = 128
    mirrored: bool = False
    share: float = 0.5

    word: ClassVar[str] = "surrogate"

    def certified(self, task: Task) -> Certified:
        """The task's own network with its certificate; the surrogate with its own, from the same δ, is the first of ``others``."""
        begun = time.perf_counter()
        network, unlabelled = self._given(task)
        left = task.delta * (1 - self.share)
        split = declared_split(task, self.fraction)
        surrogate, record = self._trained(task, split.kept)
        part = replace(task, delta=nextafter(task.delta - left, 0))
        first = self._surrogate_certificate(part, surrogate, split.held_out)
        apart = self._apart(network, surrogate, task)
        evidence = DisagreementBound.Evidence(surrogate_value=first.value, disagreements=apart, n=unlabelled.n)
        certificate = self.issued(
            task,
            DisagreementBound(),
            evidence,
            model=network,
            sample=unlabelled,
            predictor=Predictor.DETERMINISTIC,
            notes={
                SURROGATE_CERTIFIED.name: f"Its certificate, {first.digest[:23]}…, is issued beside this one, at δ = {first.delta:g}.",
                UNLABELLED_UNSEEN.name: "Unlabelled inputs that are in the training sample too (compared by content) count as "
                "disagreements. That the network has not met them elsewhere is for a person to argue.",
            },
            measurement={"labels": "of the unlabelled sample are not read"},
            measurement_delta=part.delta,
            digests={"surrogate": weights_digest(surrogate)},
        )
        others = (Certified(surrogate, first, record),)
        return Certified(network, certificate, replace(record, seconds=time.perf_counter() - begun), others=others)

    def evidence(self, certificate: Certificate, model: nn.Module, task: Task) -> Mapping[str, Number]:
        """Trains the surrogate again from its seed, counts its errors on its part of the labels, and compares it with the network."""
        if certificate.bound != DisagreementBound.name:
            surrogate, _ = self._trained(task, declared_split(task, self.fraction).kept)
            return self._errors(task, surrogate, declared_split(task, self.fraction).held_out)
        if task.unlabelled is None:
            raise InvalidEvidence("the unlabelled sample is needed to compare network and surrogate again: pass --unlabelled")
        split = declared_split(task, self.fraction)
        surrogate, _ = self._trained(task, split.kept)
        bound, counted = BinomialTailBound(), self._errors(task, surrogate, split.held_out)
        value = bound.solve(bound.Evidence(**counted), certificate.measurement_delta)
        apart = self._apart(model, surrogate, task)
        return {"surrogate_value": value, "disagreements": apart, "n": task.unlabelled.n}

    def skeleton(self, factory: Factory, certificate: Certificate) -> nn.Module:
        """The network itself, or the surrogate where the certificate is the surrogate's own."""
        if certificate.bound == DisagreementBound.name:
            return factory()
        return MeanNetwork([factory() for _ in range(self.members)], self.mirrored)

    def unsuited(self, task: Task) -> str:
        """It needs a network to certify, and unlabelled data."""
        if task.model is None:
            return "there is no existing network to certify"
        return "there are no unlabelled data" if task.unlabelled is None else ""

    def _given(self, task: Task) -> tuple[nn.Module, Sample]:
        if task.model is None:
            raise InvalidInput("this method certifies a network that exists: give its weights (--weights FILE, model=…)")
        if task.unlabelled is None:
            raise InvalidInput(
                "this method compares on unlabelled inputs that the network never saw: give them (--unlabelled DATA)"
            )
        if task.train.classes is None:
            raise InvalidInput("two networks agree or differ on classes: this method takes classification only")
        if not 0 < self.share < 1:
            raise InvalidInput(
                f"share = {self.share!r}: the surrogate's part of δ lies strictly between 0 and 1; 0.5 is usual"
            )
        return task.model, task.unlabelled

    def _trained(self, task: Task, sample: Sample) -> tuple[MeanNetwork, TrainingRecord]:
        if self.mirrored:
            inputs, targets = held(sample)
            both = (torch.cat([inputs, inputs.flip(-1)]).contiguous(), torch.cat([targets, targets]))
            sample = as_sample(both, name=sample.name, classes=sample.classes)
        members, seconds, seen = [], 0.0, 0
        for i in range(self.members):
            own = replace(task, seed=task.stream(f"surrogate {i}"))
            trained = plainly_trained(
                own,
                sample,
                purpose=f"surrogate-{i}",
                epochs=self.epochs,
                learning_rate=self.learning_rate,
                batch_size=self.batch_size,
            )
            members.append(trained.model)
            seconds, seen = seconds + trained.record.seconds, seen + trained.record.examples
        return MeanNetwork(members, self.mirrored).eval(), TrainingRecord(seconds, seen, self.epochs * self.members)

    def _surrogate_certificate(self, task: Task, surrogate: nn.Module, sample: Sample) -> Certificate:
        bound = BinomialTailBound()
        return self.issued(
            task,
            bound,
            bound.Evidence(**self._errors(task, surrogate, sample)),
            model=surrogate,
            sample=sample,
            predictor=Predictor.DETERMINISTIC,
        )

    @staticmethod
    def _errors(task: Task, surrogate: nn.Module, sample: Sample) -> dict[str, int]:
        inputs, targets = held(sample, task.device)
        return {"errors": int((answers(surrogate, inputs).argmax(1) != targets).sum()), "n": sample.n}

    @staticmethod
    def _apart(network: nn.Module, surrogate: nn.Module, task: Task) -> int:
        """Unlabelled inputs answered differently; one that is in the training sample as well counts as such, whatever the answers."""
        assert task.unlabelled is not None
        inputs = held(task.unlabelled, task.device).inputs
        apart = (answers(network, inputs).argmax(1) != answers(surrogate, inputs).argmax(1)).cpu()
        apart[torch.from_numpy(overlap(example_digests(task.train), example_digests(task.unlabelled)))] = True
        return int(apart.sum())
