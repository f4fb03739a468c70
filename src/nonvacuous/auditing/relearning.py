"""Level two for certificates of self-certified learning: their own method measures the evidence again from the saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from nonvacuous.core.bound import Direction
from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import InvalidEvidence, InvalidInput
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.learning.files import home, index, restored, weights_file
from nonvacuous.learning.method import Factory, Number, Task
from nonvacuous.learning.methods import method_of
from nonvacuous.runtime.data import as_sample, sample_digest
from nonvacuous.runtime.models import SHORTHANDS, load_model
from nonvacuous.runtime.tasks import progress_bar
from nonvacuous.runtime.weights import weights_digest

FLOAT_TOLERANCE = 1e-6
"""Relative difference allowed between two measurements of a real number (other thread counts sum in another order)."""


class Relearning:
    """The data of a run, to measure its certificates again.

    factory: makes the network; where it is absent, ``certify.json`` may name a built-in one. A network that a file names as
    pkg.module:factory is never imported on the file's word.
    """

    def __init__(
        self,
        train: Any,
        *,
        factory: Factory | None = None,
        model: nn.Module | None = None,
        unlabelled: Any = None,
        source: Any = None,
        device: str = "cpu",
        progress: bool = False,
    ) -> None:
        self.train = as_sample(train, "train")
        self.unlabelled = None if unlabelled is None else as_sample(unlabelled, "test", name="the unlabelled sample")
        self.source = None if source is None else as_sample(source, "train", name="the source sample")
        self.factory, self.model, self.device, self.progress = factory, model, device, progress
        self._digest: str | None = None

    def differences(self, certificate: Certificate, file: Path | None) -> list[str]:
        """What the certificate states and a new measurement contradicts, one sentence each; empty if all is confirmed.

        Raises :class:`InvalidInput` if the network or data it needs were not given.
        """
        method = method_of(certificate)
        if method is None:
            raise InvalidEvidence("the certificate does not name the method that issued it")
        if self._digest is None:
            self._digest = sample_digest(self.train)
        if certificate.digests.get("train") != self._digest:
            return ["the training sample is not the one the certificate speaks of (its SHA-256 differs)"]
        if certificate.seed is None:
            raise InvalidEvidence("the certificate does not record its seed")
        factory = self._factory(file)
        model = self._model(certificate, file, factory)
        if weights_digest(model) != certificate.digests.get("weights"):
            return ["the weights are not those the certificate speaks of (their SHA-256 differs)"]
        with progress_bar(self.progress) as bar:
            task = Task(
                factory,
                self.train,
                delta=certificate.delta,
                seed=certificate.seed,
                device=self.device,
                progress=bar,
                model=model,
                unlabelled=self.unlabelled,
                source=self.source,
            )
            measured = method.evidence(certificate, model, task)
        return [
            sentence
            for field, direction in certificate.theorem().directions().items()
            if field in measured or direction is not Direction.FREE
            for sentence in _difference(field, direction, certificate.evidence[field], measured.get(field))
        ]

    def _factory(self, file: Path | None) -> Factory | None:
        if self.factory is not None or file is None or (folder := home(file)) is None:
            return self.factory
        spec = index(folder).get("model")
        if spec is None:
            return None
        if not isinstance(spec, str) or not spec.startswith(SHORTHANDS):
            raise InvalidInput(
                f"{folder / 'certify.json'} names the network {spec!r:.80}, which is not built in and not imported on the word of a file. "
                "Read that code, then name it yourself: --model SPEC (factory=…)"
            )
        return lambda: load_model(spec)

    def _model(self, certificate: Certificate, file: Path | None, factory: Factory | None) -> nn.Module:
        if self.model is not None:
            return self.model
        if file is None or factory is None:
            raise InvalidInput(
                f"{certificate.bound}: to measure the evidence again, give the certified model itself (model=…), or the folder of its run "
                "and its network (--model SPEC, factory=…)"
            )
        return restored(certificate, weights_file(file), factory)


def _difference(field: str, direction: Direction, stated: Any, now: Number | None) -> list[str]:
    """A sentence if the certificate's number flatters its predictor beside the one measured now."""
    if now is None:
        return [f"its method did not measure {field} again, so it cannot be confirmed"]
    if isinstance(now, tuple):
        return [] if tuple(now) == tuple(stated) else [f"{field} are not those measured now"]
    measured = now if isinstance(now, Measured) else Measured(float(now), float(now), Kind.EXACT)
    if measured.kind is Kind.INDICATOR:
        return [f"{field} can only be guessed now, so it cannot be confirmed"]
    end = measured.lower if direction is Direction.DOWN else measured.upper
    slack = 0.0 if float(end).is_integer() else FLOAT_TOLERANCE * max(abs(end), FLOAT_TOLERANCE)
    if direction in (Direction.EXACT, Direction.FREE):
        flattering = abs(stated - end) > slack
    else:
        flattering = stated > end + slack if direction is Direction.DOWN else stated < end - slack
    shown = int(end) if float(end).is_integer() else end
    return [f"{field} is {shown!r} when measured now, the certificate states {stated!r}"] if flattering else []
