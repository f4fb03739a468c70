"""PAC-Bayes on all the data: fixed features, a Gaussian linear head in the features' eigenbasis, and the exact Gibbs risk."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from nonvacuous.bounds.pac_bayes import SeegerBound
from nonvacuous.core.bound import DATA_FREE_PRIOR, Predictor
from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import InvalidEvidence, InvalidInput
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.learning.features import Features, features_for
from nonvacuous.learning.gaussian_head import GaussianHead
from nonvacuous.learning.gaussian_training import Featured, featured, fit, gibbs_risk
from nonvacuous.learning.linear_head import GibbsLinear
from nonvacuous.learning.method import (
    Certified,
    Factory,
    Method,
    Number,
    Task,
    TrainingRecord,
    choice_nats,
    unsuited_to_seeger,
)
from nonvacuous.learning.objectives import OBJECTIVES

SCALES = tuple(2.0 ** (j / 2) for j in range(-4, 14))
"""Prior deviations among which one may be chosen by looking at results: their number is paid for."""

PRIOR_NOTE = (
    "Features and prior deviation are constants of the program; the number of alternatives they were chosen among is paid for."
)


@dataclass(frozen=True)
class PacBayes(Method):
    """The Gibbs classifier over a linear head on fixed features, certified on all the data it was trained on (Seeger's bound).

    The network is the method's own (the task's factory is not used). scale: prior deviation of every weight, one of `SCALES`.
    directions: in which the posterior differs from the prior, at most. mirrored: pictures may be mirrored (garments, not digits).
    objective: inverted-kl, quadratic, lambda or classic. epochs (None: about 1,800 steps, 15 at least), learning_rate, batch_size: of
    Adam. alternatives: how many sets of these settings the prior may have been chosen among by looking at results on this sample, the
    logarithm of which is paid.

    Logits of a Gaussian head are independent Gaussians, so the Gibbs risk is a one-dimensional integral, bounded without a Monte-Carlo
    term. Source: Langford and Seeger 2001; Dziugaite and Roy 2017 (UAI); Pérez-Ortiz et al. 2021 (JMLR 22).
    """

    scale: float = 8.0
    directions: int = 1200
    mirrored: bool = False
    objective: str = "inverted-kl"
    epochs: int | None = None
    learning_rate: float = 0.03
    batch_size: int = 1000
    alternatives: int = 1024

    word: ClassVar[str] = "pac-bayes"

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            near = min(SCALES, key=lambda s: abs(s - self.scale))
            raise InvalidInput(f"scale = {self.scale!r} is not on the grid that is paid for; the nearest on it is {near!r}")
        if self.objective not in OBJECTIVES:
            raise InvalidInput(f"no objective is called {self.objective!r}. Possible: {', '.join(OBJECTIVES)}")
        if min(self.directions, self.batch_size, self.alternatives, self.epochs or 1) < 1 or not self.learning_rate > 0:
            raise InvalidInput(
                "directions, batch_size, alternatives and epochs are at least 1, and the learning rate is positive"
            )

    def unsuited(self, task: Task) -> str:
        """Samples without classes, with named inputs, or too small for the theorem."""
        return unsuited_to_seeger(task, task.train.n)

    @property
    def price_nats(self) -> float:
        """What the choice of a prior costs, rounded up."""
        return choice_nats(len(SCALES) * self.alternatives)

    def certified(self, task: Task) -> Certified:
        """The stochastic classifier; every call of it draws a fresh network an example."""
        begun = time.perf_counter()
        model, data = self._fitted(task)
        bound = SeegerBound()
        certificate = self.issued(
            task,
            bound,
            bound.evidence(**self._measured(model.head, data)),
            model=model,
            sample=task.train,
            predictor=Predictor.GIBBS,
            notes={DATA_FREE_PRIOR.name: PRIOR_NOTE},
            measurement=posterior_sizes(task, model.head),
        )
        return Certified(model, certificate, self._record(begun, task))

    def evidence(self, certificate: Certificate, model: nn.Module, task: Task) -> Mapping[str, Number]:
        """Divergence and Gibbs risk of the saved posterior, on features computed again."""
        if not isinstance(model, GibbsLinear) or model.head.scale != self.scale:
            raise InvalidEvidence(f"a {self.word} certificate speaks of the method's own stochastic classifier")
        return self._measured(model.head, featured(model.features, task.train, task))

    def skeleton(self, factory: Factory, certificate: Certificate) -> nn.Module:
        """The stochastic classifier's shape, weights to be read."""
        return GibbsLinear(*self._empty(certificate))

    # -- shared with the network that is drawn once ------------------------------------------------------------------

    def _fitted(self, task: Task) -> tuple[GibbsLinear, Featured]:
        if reason := self.unsuited(task):
            raise InvalidInput(f"{self.word} cannot be applied: {reason}. Use the method holdout")
        shape, classes = task.train.input_shape, task.train.classes
        features = features_for(tuple(shape), self.mirrored)  # type: ignore[arg-type]
        head = GaussianHead(features.size, min(self.directions, features.size), int(classes or 2), self.scale)
        data = featured(features, task.train, task)
        how = {"objective": OBJECTIVES[self.objective], "rate": self.learning_rate, "batch": self.batch_size}
        fit(head, data, task, epochs=self._passes(task), **how)  # type: ignore[arg-type]
        return GibbsLinear(features, head), data

    def _passes(self, task: Task) -> int:
        return self.epochs or max(15, min(200, round(1800 / math.ceil(task.train.n / self.batch_size))))

    def _record(self, begun: float, task: Task) -> TrainingRecord:
        passes = self._passes(task)
        return TrainingRecord(time.perf_counter() - begun, passes * task.train.n, passes)

    def _empty(self, certificate: Certificate) -> tuple[Features, GaussianHead]:
        try:
            sizes = certificate.measurement
            features = features_for(tuple(sizes["input_shape"]), self.mirrored)
            return features, GaussianHead(features.size, int(sizes["directions"]), int(sizes["classes"]), self.scale)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidEvidence(f"the certificate does not record the sizes of its posterior ({error})") from error

    def _measured(self, head: GaussianHead, data: Featured) -> dict[str, Number]:
        """The evidence of Seeger's bound."""
        divergence = head.kl_nats() + Measured(self.price_nats, self.price_nats, Kind.EXACT)
        return {
            "gibbs_risk": gibbs_risk(head.law, head.least_lead, data),
            "kl_nats": divergence,
            "n": len(data.targets),
        }


def posterior_sizes(task: Task, head: GaussianHead) -> dict[str, object]:
    """What a certificate records so that the posterior's shape can be made again."""
    return {
        "input_shape": list(task.train.input_shape),
        "directions": head.mean.shape[0],
        "classes": head.mean.shape[1],
    }
