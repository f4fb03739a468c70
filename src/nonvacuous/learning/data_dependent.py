"""PAC-Bayes with a prior trained on a part of the sample: a network learns there, and the other part moves and certifies its last layer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from nonvacuous.bounds.pac_bayes import SeegerBound
from nonvacuous.core.bound import DATA_FREE_PRIOR, Predictor
from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import InvalidEvidence, InvalidInput
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.learning.augmented import trained_with_augmentation
from nonvacuous.learning.gaussian_head import GaussianHead
from nonvacuous.learning.gaussian_training import Featured, featured, fit, gibbs_risk
from nonvacuous.learning.holdout import HoldOut, check_fraction, declared_split
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
from nonvacuous.learning.plain import default_epochs
from nonvacuous.learning.trained_features import GibbsOnNetwork, TrainedFeatures
from nonvacuous.runtime.data import Split
from nonvacuous.runtime.weights import weights_digest

SCALES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Prior deviations, in units of the last layer's root-mean-square weight. If the best of them is taken, their number is paid for."""
PURPOSE, RATE, BATCH = "prior", 0.03, 1000


@dataclass(frozen=True)
class DataDependent(Method):
    """The Gibbs classifier of a network's last layer: prior around the layer trained on one part, Seeger's bound on the other.

    The parts are made by content hash before anything is trained. The network (the task's, any that ends with ``nn.Linear``) reads the
    prior part only, so for the other, of n examples, its last layer's inputs are fixed features and N(W, σ₀²I) around its last layer's
    weights W is a prior fixed beforehand; the posterior descends on the bound, for every σ₀ of `SCALES` or for the one that is given.

    prior_fraction: the part the network is trained on. epochs (None: about 2,000 steps), learning_rate, batch_size, mirrored, shift, half:
    of that training (see :func:`nonvacuous.learning.augmented.trained_with_augmentation`). posterior_epochs: passes for each σ₀.
    scale: σ₀, one of `SCALES`, settled beforehand and so for nothing (None: the best of them, paid for). alternatives: how many sets of
    settings may have been tried on this bound part; the logarithm is paid.

    Source: Ambroladze, Parrado-Hernández and Shawe-Taylor 2006 (NIPS 19); Pérez-Ortiz et al. 2021 (JMLR 22).
    """

    prior_fraction: float = 0.8
    epochs: int | None = None
    learning_rate: float = 3e-3
    batch_size: int = 128
    mirrored: bool = False
    shift: int = 0
    half: bool = False
    posterior_epochs: int = 30
    alternatives: int = 16
    scale: float | None = None

    word: ClassVar[str] = "data-dependent"

    def __post_init__(self) -> None:
        check_fraction(1 - self.prior_fraction)
        if min(self.batch_size, self.posterior_epochs, self.alternatives, self.epochs or 1) < 1 or self.shift < 0:
            raise InvalidInput("epochs, batch_size, posterior_epochs and alternatives are at least 1, and shift at least 0")
        if self.scale is not None and self.scale not in SCALES:
            raise InvalidInput(f"scale = {self.scale!r} is none of the prior deviations {', '.join(map(str, SCALES))}")

    def unsuited(self, task: Task) -> str:
        """Samples without classes, with named inputs, or too small for the theorem."""
        return unsuited_to_seeger(task, task.train.n * (1 - self.prior_fraction) / 2)  # a split by lot may give half of that

    @property
    def scales(self) -> tuple[float, ...]:
        """The prior deviations that are tried."""
        return SCALES if self.scale is None else (self.scale,)

    @property
    def price_nats(self) -> float:
        """What the choice of σ₀ and of the settings costs, rounded up."""
        return choice_nats(len(self.scales) * self.alternatives)

    def certified(self, task: Task) -> Certified:
        """The stochastic classifier; beside it the hold-out certificate of the prior's own network on the same split."""
        begun = time.perf_counter()
        if reason := self.unsuited(task):
            raise InvalidInput(f"{self.word} cannot be applied: {reason}. Use the method holdout")
        split = declared_split(task, 1 - self.prior_fraction)
        network = self.prior_network(task, split)
        features = TrainedFeatures(network)
        data = featured(features, split.held_out, task)
        bound = SeegerBound()
        found = []
        for scale in self.scales:
            model = self._fitted(features, data, scale, task)
            evidence = bound.evidence(**self._measured(model, data))
            found.append((bound.solve(evidence, task.delta), scale, model, evidence))
        _, scale, model, evidence = min(found, key=lambda one: one[:2])
        certificate = self.issued(
            task,
            bound,
            evidence,
            model=model,
            sample=split.held_out,
            predictor=Predictor.GIBBS,
            notes={DATA_FREE_PRIOR.name: self._note(split)},
            measurement={"scale": scale, "prior_examples": split.kept.n},
            digests={"prior": weights_digest(network)},
        )
        passes = self._epochs(split)
        tried = len(self.scales)
        examples = passes * split.kept.n + tried * self.posterior_epochs * split.held_out.n
        note = (f"{tried} prior deviations, paid for",) if tried > 1 else ()
        record = TrainingRecord(time.perf_counter() - begun, examples, passes, note)
        return Certified(model, certificate, record, comparator=self._beside(task, network, split, record))

    def prior_network(self, task: Task, split: Split | None = None) -> nn.Module:
        """The network that the prior part alone has trained; on one machine, with the same number of threads, always the same bits."""
        split = declared_split(task, 1 - self.prior_fraction) if split is None else split
        return trained_with_augmentation(
            task,
            split.kept,
            purpose=PURPOSE,
            epochs=self._epochs(split),
            rate=self.learning_rate,
            batch=self.batch_size,
            mirrored=self.mirrored,
            shift=self.shift,
            half=self.half,
        ).cpu()

    def evidence(self, certificate: Certificate, model: nn.Module, task: Task) -> Mapping[str, Number]:
        """Divergence and Gibbs risk of the saved posterior on the other part, split off again.

        The prior's network is the saved one, whose digest the certificate records: that it read the prior part only is an assumption here,
        which training it again (`prior_network`) would confirm.
        """
        if not isinstance(model, GibbsOnNetwork) or model.head.scale != self._scale(certificate):
            raise InvalidEvidence(f"a {self.word} certificate speaks of the method's own stochastic classifier")
        if weights_digest(model.features.network) != certificate.digests.get("prior"):
            raise InvalidEvidence("the prior's network is not the one the certificate records (its SHA-256 differs)")
        split = declared_split(task, 1 - self.prior_fraction)
        return self._measured(model, featured(model.features, split.held_out, task))

    def skeleton(self, factory: Factory, certificate: Certificate) -> nn.Module:
        """The stochastic classifier's shape, weights to be read."""
        features = TrainedFeatures(factory())
        return GibbsOnNetwork(features, _head(features, self._scale(certificate)))

    def _scale(self, certificate: Certificate) -> float:
        scale = certificate.measurement.get("scale")
        if scale not in self.scales:
            raise InvalidEvidence(f"the prior's deviation {scale!r:.40} is not one of those that are paid for")
        return float(scale)

    def _epochs(self, split: Split) -> int:
        return self.epochs or default_epochs(split.kept.n, self.batch_size)

    def _note(self, split: Split) -> str:
        return (
            f"The bound counts the {split.held_out.n:,} examples of the bound part alone. The prior's network read the other "
            f"{split.kept.n:,} only: that is for a person to argue, or to confirm by training it again from the seed. Prior deviations and "
            "settings are paid for."
        )

    def _fitted(self, features: TrainedFeatures, data: Featured, scale: float, task: Task) -> GibbsOnNetwork:
        head = _head(features, scale)
        fit(
            head,
            data,
            task,
            objective=OBJECTIVES["inverted-kl"],
            epochs=self.posterior_epochs,
            rate=RATE,
            batch=BATCH,
            centre=features.own_logits(data.features).float(),
            name=f"posterior-{scale:g}",
        )
        return GibbsOnNetwork(features, head)

    def _measured(self, model: GibbsOnNetwork, data: Featured) -> dict[str, Number]:
        """The evidence of Seeger's bound."""
        return {
            "gibbs_risk": gibbs_risk(model.law, model.least_lead, data),
            "kl_nats": model.head.kl_nats() + Measured(self.price_nats, self.price_nats, Kind.EXACT),
            "n": len(data.targets),
        }

    def _beside(self, task: Task, network: nn.Module, split: Split, record: TrainingRecord) -> Certified:
        plain = HoldOut(1 - self.prior_fraction, self._epochs(split), self.learning_rate, self.batch_size, "adamw")
        how = {"trained_by": self.word, "augmentation": {"mirrored": self.mirrored, "shift": self.shift, "half": self.half}}
        examples = self._epochs(split) * split.kept.n
        return Certified(network, plain.promised(task, network, split, **how), replace(record, examples=examples, tried=()))


@torch.no_grad()
def _head(features: TrainedFeatures, scale: float) -> GaussianHead:
    return GaussianHead(features.size, features.size, features.classes, scale)
