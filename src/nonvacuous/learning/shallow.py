"""A deterministic network with one hidden layer, trained on its own bound (Biggs and Guedj 2022, with the corrected factor)."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nonvacuous.bounds.shallow import ERF_NETWORK, SKEW, ShallowBound
from nonvacuous.core.bound import DATA_FREE_PRIOR, Predictor
from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.learning.holdout import declared_split
from nonvacuous.learning.in_memory import Held, held
from nonvacuous.learning.method import Certified, Factory, Method, Number, Task, TrainingRecord
from nonvacuous.learning.shallow_network import ErfNetwork
from nonvacuous.numerics.interval import iv
from nonvacuous.numerics.tails import kl_inverse_upper
from nonvacuous.runtime.samples import Sample

KAPPA = SKEW[0] / SKEW[1]
ROUNDING = 1 + 1e-9
"""Norms are summed in float64: a relative error far below this."""


class Weights(NamedTuple):
    """Both layers of a network, as they were at one moment."""

    hidden: Tensor
    output: Tensor


@dataclass(frozen=True)
class Shallow(Method):
    """V erf(W x̂), trained by descent on the quadratic PAC-Bayes bound of its random version, and certified as the fixed network it is.

    The network is the method's own (the task's factory is not used). W starts at Gaussians of standard deviation ``scale``, V at 0; that is
    the prior's centre with ``prior_fraction`` 0. Otherwise that part of the sample trains the centre first, for ``prior_epochs``, without a
    penalty, and the rest is the bound's sample. draws: random networks drawn for every example to measure the Gibbs risk; the part
    ``draw_share`` of δ pays for it. alternatives: widths, scales and prior trainings, these among them, of which the best may be kept:
    the prior is their even mixture, which adds ln(alternatives) to the divergence, and each has its share of the draws' δ.
    """

    width: int = 1000
    scale: float = 1.0
    epochs: int = 10
    learning_rate: float = 2e-3
    batch_size: int = 500
    prior_fraction: float = 0.0
    prior_epochs: int = 10
    draws: int = 10
    draw_share: float = 0.1
    alternatives: int = 1

    word: ClassVar[str] = "shallow"

    def certified(self, task: Task) -> Certified:
        """The trained network with its certificate."""
        begun = time.perf_counter()
        sample, model, centre, seen = self._prior(task)
        data = held(sample, task.device)
        self._train(model, data, task, "posterior", self.epochs, centre, len(data.targets))
        measured = self._measured(model, centre, data, task, self._draw_delta(task.delta))
        bound = ShallowBound()
        note = (
            f"W₀ from the seed, V₀ = 0{'' if not self.prior_fraction else ', then trained on the other part of the sample'}."
        )
        certificate = self.issued(
            task,
            bound,
            bound.evidence(**measured),
            model=model,
            sample=sample,
            predictor=Predictor.DETERMINISTIC,
            notes={DATA_FREE_PRIOR.name: note, ERF_NETWORK.name: "The method's own network."},
            measurement={"input_size": model.hidden.shape[1], "classes": model.output.shape[0]},
            measurement_delta=self._draw_delta(task.delta),
        )
        examples = seen + self.epochs * sample.n
        return Certified(model, certificate, TrainingRecord(time.perf_counter() - begun, examples, self.epochs))

    def evidence(self, certificate: Certificate, model: nn.Module, task: Task) -> Mapping[str, Number]:
        """The prior from the seed (and its split) again, then risk and divergence of the saved network."""
        if not isinstance(model, ErfNetwork):
            raise InvalidInput("a shallow certificate speaks of the method's own network; load that one")
        sample, _, centre, _ = self._prior(task)
        return self._measured(model, centre, held(sample, task.device), task, certificate.measurement_delta)

    def skeleton(self, factory: Factory, certificate: Certificate) -> nn.Module:
        """The method's own network, of the recorded size."""
        size = certificate.measurement
        return ErfNetwork(size["input_size"], self.width, size["classes"])

    def unsuited(self, task: Task) -> str:
        """Classes only."""
        return "it certifies the 0–1 loss of classifiers" if task.train.classes is None else ""

    def _draw_delta(self, delta: float) -> float:
        return delta * self.draw_share

    def _prior(self, task: Task) -> tuple[Sample, ErfNetwork, Weights, int]:
        """The bound's sample, the network at the prior's centre, the centre, and the examples it was trained on."""
        classes, shape = task.train.classes, task.train.input_shape
        if classes is None or isinstance(shape, dict):
            raise InvalidInput("the shallow network classifies inputs of one tensor an example: use holdout for other data")
        if task.train.n < 8:
            raise InvalidInput(
                f"{task.train.n} examples are too few: the theorem needs 8, and a useful certificate some hundreds"
            )
        model = ErfNetwork(prod(shape), self.width, classes).to(task.device)
        with torch.no_grad():
            start = torch.empty_like(model.hidden, device="cpu").normal_(std=self.scale, generator=task.generator("prior"))
            model.hidden.copy_(start)
        sample, seen = task.train, 0
        if self.prior_fraction:
            split = declared_split(task, 1 - self.prior_fraction)
            sample, seen = split.held_out, self.prior_epochs * split.kept.n
            self._train(model, held(split.kept, task.device), task, "prior", self.prior_epochs, _weights(model), None)
        return sample, model, _weights(model), seen

    def _train(
        self, model: ErfNetwork, data: Held, task: Task, purpose: str, epochs: int, centre: Weights, n: int | None
    ) -> None:
        """Descent on (√(r + κ) + √κ)², r the blurred network's cross-entropy scaled to its 0–1 loss; on the entropy for ``n`` None."""
        generator = torch.Generator(device=task.device).manual_seed(task.stream(purpose))
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
        size = len(data.targets)
        order = torch.Generator().manual_seed(task.stream(f"order of {purpose}"))
        steps, step, ratio = epochs * math.ceil(size / self.batch_size), 0, 0.0
        with task.progress.task(f"training ({purpose})", steps) as advance:
            for _ in range(epochs):
                for rows in torch.randperm(size, generator=order).split(self.batch_size):
                    optimizer.param_groups[0]["lr"] = self.learning_rate * (0.505 + 0.495 * math.cos(math.pi * step / steps))
                    logits, targets = model.blurred(data.inputs[rows], generator), data.targets[rows]
                    objective = cross_entropy(logits, targets)
                    if n is not None:
                        now = float((logits.argmax(1) != targets).float().mean()) / max(float(objective.detach()), 1e-9)
                        ratio = now if step == 0 else 0.98 * ratio + 0.02 * now
                        price = model.divergence(*centre) + math.log(2 * math.sqrt(n) / task.delta)
                        kappa = (price / (2 * n)).float()
                        objective = ((objective * ratio + kappa).sqrt() + kappa.sqrt()) ** 2
                    objective = objective * (2 * KAPPA * model.noise_ratio()).exp()  # near 1/(½ − κρ), and finite everywhere
                    optimizer.zero_grad(set_to_none=True)
                    objective.backward()
                    optimizer.step()
                    step += 1
                    advance(1)

    @torch.no_grad()
    def _measured(self, model: ErfNetwork, centre: Weights, data: Held, task: Task, delta: float) -> dict[str, Measured | int]:
        """Gibbs risk from above (one draw an example and pass; Chernoff for independent losses), divergence, noise ratio, n."""
        n, wrong = len(data.targets), 0
        generator = torch.Generator(device=task.device).manual_seed(task.stream("draws"))
        with task.progress.task("drawing networks", self.draws) as advance:
            for _ in range(self.draws):
                for rows in torch.arange(n).split(2000):
                    wrong += int((model.drawn(data.inputs[rows], generator).argmax(1) != data.targets[rows]).sum())
                advance(1)
        total = n * self.draws
        risk = kl_inverse_upper(iv.mpf(wrong) / total, -iv.log(iv.mpf(delta) / self.alternatives) / total)
        kl, ratio = float(model.divergence(*centre)) + math.log(self.alternatives), float(model.noise_ratio())
        return {
            "gibbs_risk": Measured(0.0, risk, Kind.CONFIDENCE, delta),
            "kl_nats": Measured(kl / ROUNDING, kl * ROUNDING, Kind.EXACT),
            "noise_ratio": Measured(ratio / ROUNDING, ratio * ROUNDING, Kind.EXACT),
            "n": n,
        }


def _weights(model: ErfNetwork) -> Weights:
    return Weights(model.hidden.detach().clone(), model.output.detach().clone())
