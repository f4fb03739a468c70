"""Level two of verification: measure a certificate's evidence again, from the model and the data."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import nn

from nonvacuous.auditing.run import drawn_trials, observed
from nonvacuous.core.bound import Bound, Direction, Predictor, Sample
from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import InvalidEvidence, MissingInput
from nonvacuous.core.quantities import is_number
from nonvacuous.measures import posterior
from nonvacuous.measures.losses import named
from nonvacuous.measures.predictor import as_predictor
from nonvacuous.measures.subject import Subject, Trials, exact, measures
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.tasks import progress_bar
from nonvacuous.runtime.weights import weights_digest

FLOAT_TOLERANCE = 1e-6
"""Relative difference allowed between two measurements of a real number (other thread counts sum in another order)."""


STEP = 1.01e-4
"""Difference allowed between two measurements of one loss in a list: they are rounded up to steps of 1e-4."""

MOST_TRIAL_EXAMPLES = 2**27


def _input_range(certificate: Certificate) -> tuple[float, float] | None:
    """The range of inputs that the certificate was told, which its hypotheses name; nobody can measure it."""
    given = certificate.measurement.get("input_range")
    if given is None:
        return None
    if not (isinstance(given, tuple) and len(given) == 2 and all(map(is_number, given))):
        raise InvalidEvidence(f"the certificate's input_range is not two numbers: {given!r:.60}")
    return float(given[0]), float(given[1])


class Remeasuring:
    """A model and its samples, applied once for each loss the certificates name."""

    def __init__(
        self,
        model: Any,
        *,
        train: Any = None,
        test: Any = None,
        initial: nn.Module | None = None,
        batch_size: int = 256,
        device: str = "cpu",
        progress: bool = False,
    ) -> None:
        self.predictor = as_predictor(model, device)
        self.train, self.test, self.initial = train, test, initial
        self.batch_size, self.progress = batch_size, progress
        self._subjects: dict[str, Subject] = {}
        self._last: tuple[object, Trials] | None = None

    @cached_property
    def weights(self) -> str | None:
        """Digest of the model's weights."""
        return weights_digest(self.predictor.module) if self.predictor.module is not None else None

    def differences(self, certificate: Certificate) -> list[str]:
        """What the certificate states and a new measurement contradicts, one sentence each; empty if all is confirmed.

        Raises :class:`InvalidInput` if a sample the certificate speaks of was not given, :class:`InvalidEvidence` for
        a certificate that does not say how it was measured.
        """
        stated = certificate.digests.get("weights")
        if stated is not None and stated != self.weights:
            return ["the weights are not those the certificate speaks of (their SHA-256 differs)"]
        bound = certificate.theorem()
        subject = self._subject(certificate, bound)
        seen = subject.observed(bound.sample)
        if certificate.digests.get("sample") != seen.fingerprint.digest:
            which = "held-out" if bound.sample is Sample.HELD_OUT else "training"
            return [f"the {which} sample is not the one the certificate speaks of (its SHA-256 differs)"]
        subject = replace(
            subject,
            initial=self._reference(certificate),
            margin=certificate.evidence.get("margin"),
            input_range=_input_range(certificate),
        )
        if certificate.predictor == "gibbs":
            subject = self._with_trials(subject, certificate)
        return [
            sentence
            for field, direction in bound.directions().items()
            if direction is not Direction.FREE
            for sentence in self._field(subject, certificate, bound, field, direction)
        ]

    def _subject(self, certificate: Certificate, bound: Bound) -> Subject:
        held_out = bound.sample is Sample.HELD_OUT
        needed = {"test": self.test} if held_out else {"train": self.train}
        if "train" in certificate.digests:
            needed["train"] = self.train
        for name, given in needed.items():
            if given is None:
                raise MissingInput(
                    f"{certificate.bound} speaks of the {'held-out' if name == 'test' else 'training'} sample: give it (--{name}) to "
                    "measure the evidence again"
                )
        if certificate.loss not in self._subjects:
            loss = named(certificate.loss)
            train = as_sample(self.train if self.train is not None else self.test, "train", regression=loss.regression)
            test = None if self.test is None else as_sample(self.test, "test", regression=loss.regression)
            with progress_bar(self.progress) as bar:
                if self.train is None:  # only held-out certificates are asked for: nothing to read twice
                    seen = observed(self.predictor, (train, None), loss, self.batch_size, True, bar)
                    subject = Subject(self.predictor, loss, train, train, seen[0], seen[0], self.initial)
                else:
                    seen = observed(self.predictor, (train, test), loss, self.batch_size, True, bar)
                    subject = Subject(self.predictor, loss, train, test, *seen, self.initial)
            self._subjects[certificate.loss] = subject
        return self._subjects[certificate.loss]

    def _reference(self, certificate: Certificate) -> nn.Module | None:
        """The initial weights if the certificate measured from them, else None for zero."""
        if certificate.measurement.get("reference") != "initial weights":
            return None
        if self.initial is None:
            raise MissingInput(
                f"{certificate.bound} measured distances from the initial weights: give them (--initial-weights) to confirm it"
            )
        return self.initial

    def _with_trials(self, subject: Subject, certificate: Certificate) -> Subject:
        """The subject with the certificate's own posterior and its own stream of draws."""
        how = certificate.measurement
        posterior.check_sampleable(subject.module, subject.initial)
        try:
            gaussian = posterior.rebuilt(subject.module, subject.initial, how["posterior_std"], how["prior_index"])
            count, size, stream = int(how["trials"]), int(how["trial_examples"]), int(how["trial_seed"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InvalidEvidence(f"the certificate does not say how its Gibbs risk was measured ({error})") from error
        if not (count > 0 and size > 0 and count * size <= MOST_TRIAL_EXAMPLES and 0 <= stream < 2**63):
            raise InvalidEvidence(f"{count} trials of {size} examples with seed {stream} are not what an audit makes")
        return replace(subject, trials=self._trials(subject, gaussian, count, size, stream))

    def _trials(self, subject: Subject, gaussian: posterior.GaussianPosterior, count: int, size: int, stream: int) -> Trials:
        """Trials are drawn once for all certificates that share them."""
        key = (subject.loss.name, gaussian.blocks, count, size, stream)
        if self._last is None or self._last[0] != key:
            with progress_bar(self.progress) as bar, bar.task("drawing networks from the posterior", count * size) as advance:
                drawn = drawn_trials(subject, gaussian, count, size, stream, advance)
            self._last = (key, Trials(gaussian, drawn.means, size, stream))
        return self._last[1]

    @staticmethod
    def _field(subject: Subject, certificate: Certificate, bound: Bound, field: str, direction: Direction) -> list[str]:
        predictor = Predictor[certificate.predictor.upper()]
        measuring = measures().get((field, bound.sample, predictor))
        if measuring is None:
            return [f"no measure of {field} is known here, so it cannot be confirmed"]
        number = measuring(subject, certificate.measurement_delta)
        stated = certificate.evidence[field]
        if isinstance(number, tuple):
            same = len(number) == len(stated) and all(abs(a - b) <= STEP for a, b in zip(number, stated, strict=True))
            return [] if same else [f"{field} are not those measured now"]
        measured = exact(number)
        now = measured.lower if direction is Direction.DOWN else measured.upper
        slack = 0.0 if float(now).is_integer() else FLOAT_TOLERANCE * max(abs(now), FLOAT_TOLERANCE)
        if direction is Direction.EXACT:
            flattering = abs(stated - now) > slack
        else:
            flattering = stated > now + slack if direction is Direction.DOWN else stated < now - slack
        shown = int(now) if float(now).is_integer() else now
        return [f"{field} is {shown!r} when measured now, the certificate states {stated!r}"] if flattering else []
