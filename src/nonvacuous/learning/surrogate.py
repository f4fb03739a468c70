"""An existing network, unmodified, certified through a surrogate and unlabelled data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from nonvacuous.bounds.disagreement import SURROGATE_FIXED, UNLABELLED_UNSEEN, JointDisagreementBound
from nonvacuous.bounds.heldout import BinomialTailBound
from nonvacuous.core.bound import Predictor
from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import InvalidEvidence, InvalidInput
from nonvacuous.learning.augmented import trained_with_augmentation
from nonvacuous.learning.holdout import check_fraction, declared_split
from nonvacuous.learning.in_memory import answers, held
from nonvacuous.learning.method import Certified, Factory, Method, Number, Task, TrainingRecord
from nonvacuous.learning.plain import default_epochs
from nonvacuous.runtime.data import example_digests, overlap
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
    """R(h) ≤ R(s) + P(h ≠ s): s is a mean of fresh networks, tested on labels it never read, h is left as it is.

    The surrogate is trained on a part of the labelled sample; its errors are counted on the other ``fraction`` of it, and its
    disagreements with the network on ``unlabelled`` inputs that neither has seen. Both counts are tested at once
    (:class:`~nonvacuous.bounds.disagreement.JointDisagreementBound`). The network itself may have been trained on the whole
    labelled sample: no label is held out from it. The mean of several networks lies nearer to one more of their kind than they do to one
    another.

    members: networks in the surrogate, which the task's factory makes; epochs (None: about 2,000 steps), learning_rate, batch_size, shift,
    half: of each (see :func:`nonvacuous.learning.augmented.trained_with_augmentation`). mirrored: train on mirror images too (last axis)
    and average over both. alternatives: surrogates that may have been tried on this sample, this one among them: all are paid for.
    """

    members: int = 3
    fraction: float = 0.2
    epochs: int | None = None
    learning_rate: float = 3e-3
    batch_size: int = 128
    mirrored: bool = False
    shift: int = 0
    half: bool = False
    alternatives: int = 1

    word: ClassVar[str] = "surrogate"

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        if min(self.members, self.batch_size, self.alternatives, self.epochs or 1) < 1 or self.shift < 0:
            raise InvalidInput("members, epochs, batch_size and alternatives are at least 1, and shift at least 0")

    def certified(self, task: Task) -> Certified:
        """The task's own network with its certificate; the surrogate's hold-out certificate, a statement of its own, beside it."""
        begun = time.perf_counter()
        network, unlabelled = self._given(task)
        split = declared_split(task, self.fraction)
        surrogate = self.trained(task, split.kept)
        bound = JointDisagreementBound()
        certificate = self.issued(
            task,
            bound,
            bound.Evidence(**self._both(task, network, surrogate, split.held_out)),
            model=network,
            sample=unlabelled,
            predictor=Predictor.DETERMINISTIC,
            notes={
                SURROGATE_FIXED.name: f"It was trained on {split.kept.n:,} other examples, chosen by content hash before any training; "
                f"{self.alternatives} such surrogates are paid for.",
                UNLABELLED_UNSEEN.name: "Unlabelled inputs that are in the training sample too (compared by content) count as "
                "disagreements. That the network has not met them elsewhere is for a person to argue.",
            },
            measurement={"labels": "of the unlabelled sample are not read"},
            digests={"surrogate": weights_digest(surrogate)},
        )
        passes = self._passes(split.kept) * self.members
        record = TrainingRecord(time.perf_counter() - begun, passes * split.kept.n, passes)
        own = BinomialTailBound()
        beside = self.issued(
            task,
            own,
            own.Evidence(**self._errors(task, surrogate, split.held_out)),
            model=surrogate,
            sample=split.held_out,
            predictor=Predictor.DETERMINISTIC,
        )
        return Certified(network, certificate, record, comparator=Certified(surrogate, beside, record))

    def evidence(self, certificate: Certificate, model: nn.Module, task: Task) -> Mapping[str, Number]:
        """Trains the surrogate again from its seed, counts its errors on its part of the labels, and compares it with the network."""
        split = declared_split(task, self.fraction)
        if certificate.bound != JointDisagreementBound.name:
            return self._errors(task, self.trained(task, split.kept), split.held_out)
        if task.unlabelled is None:
            raise InvalidEvidence("the unlabelled sample is needed to compare network and surrogate again: pass --unlabelled")
        surrogate = self.trained(task, split.kept)
        if weights_digest(surrogate) != certificate.digests.get("surrogate"):
            raise InvalidEvidence(
                "the surrogate, trained again, is another one. Other hardware or another number of threads can do that: verify where the "
                "certificate was made"
            )
        return self._both(task, model, surrogate, split.held_out)

    def skeleton(self, factory: Factory, certificate: Certificate) -> nn.Module:
        """The network itself, or the surrogate where the certificate is the surrogate's own."""
        if certificate.bound == JointDisagreementBound.name:
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
        return task.model, task.unlabelled

    def trained(self, task: Task, sample: Sample) -> MeanNetwork:
        """The surrogate, trained on ``sample``: one member after the other, each from a stream of its own."""
        members: list[nn.Module] = []
        for i in range(self.members):
            own = replace(task, seed=task.stream(f"surrogate {i}"))
            trained = trained_with_augmentation(
                own,
                sample,
                purpose=f"surrogate-{i}",
                epochs=self._passes(sample),
                rate=self.learning_rate,
                batch=self.batch_size,
                mirrored=self.mirrored,
                shift=self.shift,
                half=self.half,
            )
            members.append(trained)
        return MeanNetwork(members, self.mirrored).eval()

    def _passes(self, sample: Sample) -> int:
        return self.epochs or default_epochs(sample.n, self.batch_size)

    def _both(self, task: Task, network: nn.Module, surrogate: nn.Module, held_out: Sample) -> dict[str, int]:
        """The evidence of the joint bound."""
        counted, unlabelled = self._errors(task, surrogate, held_out), task.unlabelled
        assert unlabelled is not None
        return {
            "surrogate_errors": counted["errors"],
            "labelled": counted["n"],
            "disagreements": self._apart(network, surrogate, task),
            "n": unlabelled.n,
            "alternatives": self.alternatives,
        }

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
