"""What a method of self-certified learning is given, what it hands back, and what it must be able to do again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from math import inf, log, nextafter
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from nonvacuous.bounds.pac_bayes import SeegerBound
from nonvacuous.core.bound import Bound, Hypothesis, Predictor
from nonvacuous.core.certificate import Assumption, Certificate
from nonvacuous.core.errors import InvalidEvidence, InvalidInput, UnsupportedModule
from nonvacuous.core.measured import Measured
from nonvacuous.runtime.data import Sample, sample_digest
from nonvacuous.runtime.models import initialise
from nonvacuous.runtime.seeds import stream_seed
from nonvacuous.runtime.tasks import Progress
from nonvacuous.runtime.weights import weights_digest

Factory = Callable[[], nn.Module]
Number = Measured | float | tuple[float, ...]

RUN_ONCE = Hypothesis(
    "run_once",
    "Network, settings and seed of this run were chosen before the sample was seen: it was not repeated with others until the "
    "certificate looked better.",
)


@dataclass(frozen=True)
class Task:
    """What a method is given.

    factory: makes a fresh network; use `network`, which seeds it. train: the whole sample, split by the method if it needs splits.
    delta: the whole failure probability the method may spend. seed: all randomness comes from streams of it (`stream`).
    progress: names tasks and counts steps. folder: where unfinished work is kept (None: nowhere); what lies there is gone on with.
    model: an existing network, for methods that certify one. unlabelled, source: further samples, for methods that use them.
    """

    factory: Factory | None
    train: Sample
    delta: float = 0.05
    seed: int = 0
    device: str = "cpu"
    progress: Progress = field(default_factory=Progress)
    folder: Path | None = None
    model: nn.Module | None = None
    unlabelled: Sample | None = None
    source: Sample | None = None

    def stream(self, purpose: str) -> int:
        """An independent 63-bit seed for ``purpose``."""
        return stream_seed(self.seed, purpose)

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator at the start of the stream of ``purpose``."""
        return torch.Generator().manual_seed(self.stream(purpose))

    def network(self, purpose: str = "initial weights") -> nn.Module:
        """A fresh network whose weights are drawn from the stream of ``purpose``: the same one at every call."""
        if self.factory is None:
            raise InvalidInput("this method trains a network of its own: name one (--model SPEC, factory=…)")
        return initialise(self.factory, self.stream(purpose))

    def checkpoint(self, name: str) -> Path | None:
        """Where unfinished work called ``name`` is kept, in a folder that exists; None where nothing is kept."""
        if self.folder is None:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{name}.safetensors"

    def part(self, name: str, delta: float) -> Task:
        """The same task for one of several methods: a share of δ and a folder of its own."""
        return replace(self, delta=delta, folder=None if self.folder is None else self.folder / name)


@dataclass(frozen=True)
class TrainingRecord:
    """What a run cost.

    seconds: wall time, evaluation of the certificate included. examples: examples that gradients were taken on, all passes together.
    epochs: passes over its training part. tried: what was tried on the way, one plain sentence each. plain_seconds: time of
    training the same network plainly on the whole sample on the same machine, where it is known.
    """

    seconds: float
    examples: int
    epochs: int
    tried: tuple[str, ...] = ()
    plain_seconds: float | None = None

    @property
    def multiple(self) -> float | None:
        """Cost as a multiple of plain training; None where that was not timed."""
        return self.seconds / self.plain_seconds if self.plain_seconds else None


@dataclass(frozen=True)
class Certified:
    """A model with its guarantee.

    model: the very predictor that is certified. certificate: what is promised of it. record: what it cost. comparator: what a
    hold-out certificate of the same sample promises, a statement of its own at its own δ. others: certified beside it, from the
    same δ, so that all hold at once.
    """

    model: nn.Module
    certificate: Certificate
    record: TrainingRecord
    comparator: Certified | None = None
    others: tuple[Certified, ...] = ()


class Method(ABC):
    """A way to train that ends in a certificate: a frozen dataclass whose fields are its settings, fixed before the data are seen.

    Settings are numbers, words, truth values, None, or tuples of these, so that a certificate can record them.
    """

    word: ClassVar[str]

    @abstractmethod
    def certified(self, task: Task) -> Certified:
        """Train, certify, and hand back the very predictor that is certified (use `issued` for the certificate).

        :raises InvalidInput: too few examples (the message says which n would do), or data the method cannot use.
        :raises UnsupportedModule: a network the method cannot sample or code; the message says what to use.
        """

    @abstractmethod
    def evidence(self, certificate: Certificate, model: nn.Module, task: Task) -> Mapping[str, Number]:
        """Level two: the certificate's evidence measured again from the saved ``model`` and the data, field by field.

        ``task`` has the sample as the user names it now, and the certificate's own seed and δ. Splits, priors and draws are made
        again from the seed; nothing the certificate states is trusted but its settings and its seed. Fields that are free
        parameters of the theorem may be left out.

        :raises InvalidEvidence: the certificate does not say how it was measured.
        """

    def skeleton(self, factory: Factory, certificate: Certificate) -> nn.Module:
        """The certified predictor before its weights are read from their file. Here: the network itself."""
        return factory()

    def unsuited(self, task: Task) -> str:
        """Why the method cannot be applied to this task, in a few words; empty if it can. Cheap: asked before any training."""
        return ""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by name, as a certificate records them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """The method with recorded settings; :class:`InvalidEvidence` for settings that it does not have."""
        try:
            return cls(**{name: _tupled(value) for name, value in settings.items()})
        except (TypeError, ValueError) as error:
            raise InvalidEvidence(f"these are no settings of the method {cls.word}: {error}") from error

    def issued(
        self,
        task: Task,
        bound: Bound,
        evidence: Any,
        *,
        model: nn.Module,
        sample: Sample,
        predictor: Predictor,
        loss: str = "zero_one",
        notes: Mapping[str, str] | None = None,
        further: Iterable[Hypothesis] = (),
        measurement: Mapping[str, Any] | None = None,
        measurement_delta: float = 0.0,
        digests: Mapping[str, str] | None = None,
    ) -> Certificate:
        """The certificate: the smallest value the bound proves from ``evidence`` at the task's δ.

        sample: the one whose size is n; its digest is recorded beside that of the whole training sample. model: whose weights are
        recorded. notes: what this run knows about a hypothesis, by its name. further: hypotheses beyond the bound's own and
        `RUN_ONCE`. measurement: what `evidence` needs besides method, settings and seed. measurement_delta: the part of δ that paid
        for measuring.
        """
        delta = task.delta if measurement_delta == 0 else nextafter(task.delta - measurement_delta, -inf)
        hypotheses = {h.name: h for h in (*bound.hypotheses, *further, RUN_ONCE)}
        own = sample_digest(sample)
        return Certificate(
            bound=bound.name,
            parameters=bound.parameters,
            evidence=evidence._asdict(),
            delta=task.delta,
            value=bound.solve(evidence, delta),
            loss=loss,
            predictor=predictor.name.lower(),
            hypotheses=tuple(
                Assumption(h.name, h.statement, h.checkable, (notes or {}).get(h.name, "")) for h in hypotheses.values()
            ),
            digests={
                "sample": own,
                "train": own if sample is task.train else sample_digest(task.train),
                "weights": weights_digest(model),
                **(digests or {}),
            },
            measurement={"method": self.word, "settings": self.settings, **(measurement or {})},
            measurement_delta=measurement_delta,
            seed=task.seed,
        )


def unsuited_to_seeger(task: Task, n: float) -> str:
    """Why Seeger's bound on the 0–1 loss cannot be had from ``n`` of the task's examples, each one tensor; empty if it can."""
    if task.train.classes is None:
        return "it certifies the 0–1 loss of a classifier"
    if isinstance(task.train.input_shape, dict):
        return "it takes one tensor an example"
    if n < SeegerBound.least_n:
        are = "are" if n == task.train.n else "leave"
        return (
            f"{task.train.n} examples {are} too few: the theorem takes {SeegerBound.least_n} examples, a useful value hundreds"
        )
    return ""


def choice_nats(alternatives: int) -> float:
    """What a choice among so many priors costs in a divergence: their logarithm, rounded up."""
    return nextafter(log(alternatives), inf)


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list | tuple) else value


def without_batch_statistics(model: nn.Module, why: str) -> None:
    """Raise :class:`UnsupportedModule` for a network with batch-norm; ``why`` says what the method does that it cannot bear."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise UnsupportedModule(
                f"{name or 'the network'} ({type(module).__name__}): {why}. Use GroupNorm or LayerNorm in its place, or the method "
                "holdout, which takes any network"
            )
