"""One network drawn from a PAC-Bayes posterior, certified with its draw paid for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from nonvacuous.bounds.disintegrated import FRESH_DRAW, DisintegratedBound
from nonvacuous.core.bound import DATA_FREE_PRIOR, Predictor
from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.learning.gaussian_head import Draw
from nonvacuous.learning.gaussian_training import Featured, featured
from nonvacuous.learning.linear_head import DrawnLinear
from nonvacuous.learning.method import Certified, Factory, Number, Task
from nonvacuous.learning.pac_bayes import PRIOR_NOTE, PacBayes, posterior_sizes


@dataclass(frozen=True)
class Disintegrated(PacBayes):
    """A single network with fixed weights, drawn once from the posterior that :class:`PacBayes` trains.

    look: which draw this is. The first costs 6/π² of δ, the k-th 6/(π²k²); who draws again because the first disappointed must count up.
    The stream of the draw is independent of training. Source: Rivasplata et al. 2020 (NeurIPS), Theorem 1(i).
    """

    look: int = 1

    word: ClassVar[str] = "disintegrated"

    def certified(self, task: Task) -> Certified:
        """The network drawn."""
        begun = time.perf_counter()
        gibbs, data = self._fitted(task)
        model = DrawnLinear(gibbs.features, gibbs.head)
        draw = self._draw(model, task)
        model.weights.copy_(draw.weights)
        bound = DisintegratedBound()
        certificate = self.issued(
            task,
            bound,
            bound.evidence(**self._counted(model, draw, data)),
            model=model,
            sample=task.train,
            predictor=Predictor.DRAWN,
            notes={
                DATA_FREE_PRIOR.name: PRIOR_NOTE,
                FRESH_DRAW.name: f"Draw number {self.look}, from a stream of the seed that training does not read.",
            },
            measurement=posterior_sizes(task, gibbs.head),
        )
        return Certified(model, certificate, self._record(begun, task))

    def evidence(self, certificate: Certificate, model: nn.Module, task: Task) -> Mapping[str, Number]:
        """The draw made again from the saved posterior and compared with the saved weights; then its errors and density ratio."""
        if not isinstance(model, DrawnLinear) or model.head.scale != self.scale:
            raise InvalidEvidence(f"a {self.word} certificate speaks of the method's own drawn network")
        draw = self._draw(model, task)
        if not torch.allclose(draw.weights, model.weights, rtol=1e-9, atol=1e-9 * self.scale):
            raise InvalidEvidence("the saved network is not the one that the seed draws from the saved posterior")
        return self._counted(model, draw, featured(model.features, task.train, task))

    def skeleton(self, factory: Factory, certificate: Certificate) -> nn.Module:
        """The drawn network's shape, weights to be read."""
        return DrawnLinear(*self._empty(certificate))

    def _draw(self, model: DrawnLinear, task: Task) -> Draw:
        return model.head.draw(task.generator(f"drawn network {self.look}"))

    @torch.no_grad()
    def _counted(self, model: DrawnLinear, draw: Draw, data: Featured) -> dict[str, Number]:
        errors = 0
        for part, targets in zip(data.features.split(2048), data.targets.split(2048), strict=True):
            logits = part.double() @ model.weights
            own = logits.gather(1, targets[:, None])
            rival = logits.scatter(1, targets[:, None], -torch.inf).amax(1)
            errors += int((own.squeeze(1) - rival <= model.head.least_lead(part)).sum())
        risk = errors / len(data.targets)
        price = Measured(self.price_nats, self.price_nats, Kind.EXACT)
        return {
            "risk": Measured(risk, min(1.0, risk * (1 + 1e-15)), Kind.EXACT),
            "log_ratio_nats": draw.log_ratio + price,
            "looks": self.look,
            "n": len(data.targets),
        }
