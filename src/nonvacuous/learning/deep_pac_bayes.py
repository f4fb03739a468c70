"""PAC-Bayes by backprop for a whole fully connected network: every weight is Gaussian around its random start.

The prior is N(W⁰, σ²I) around the network's own random initial weights, σ one of a grid for each layer, paid for.  The posterior starts
from plain training, shrunk and widened along each direction of the layers' Kronecker eigenbases by their curvature (where a weight hardly
matters it keeps the prior's mean and deviation), and then descends on the bound itself, in the directions that matter.

Source: Dziugaite and Roy 2017 (UAI), random prior and descent on the bound; Pérez-Ortiz et al. 2021 (JMLR 22), one draw an example;
García-Pérez et al. 2026 (UAI), descent on the inverted kl.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nonvacuous.bounds.pac_bayes import SeegerBound
from nonvacuous.core.bound import DATA_FREE_PRIOR, Predictor
from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import InvalidEvidence, InvalidInput
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.learning import ties
from nonvacuous.learning.curvature_basis import KroneckerBasis, kronecker_bases
from nonvacuous.learning.leading_block import LeadingBlocks
from nonvacuous.learning.method import Certified, Factory, Method, Number, Task, TrainingRecord, unsuited_to_seeger
from nonvacuous.learning.objectives import budget_nats, inverted_kl
from nonvacuous.learning.plain import plainly_trained
from nonvacuous.learning.stochastic import StochasticLinear, StochasticNetwork, chain, matrices
from nonvacuous.numerics.interval import iv
from nonvacuous.numerics.tails import kl_inverse_upper
from nonvacuous.runtime.checkpoints import Checkpoint
from nonvacuous.runtime.models import initialise
from nonvacuous.runtime.samples import Sample

CURVATURE_EXAMPLES = 20_000
MOST_TRIALS = 1_000_000


@dataclass(frozen=True)
class DeepPacBayes(Method):
    """The Gibbs classifier over a fully connected network, certified on all the data it was trained on (Seeger's bound).

    plain_epochs: plain training the posterior starts from. epochs: descent on the bound. learning_rate: of the means (Adam, falling to
    zero along a half cosine); the deviations' is ten times that. rotated: posterior diagonal in the Kronecker eigenbases (False: in the
    weights themselves). draws: passes of the certificate's Monte-Carlo estimate (None: a million trials). measuring: the part of δ
    that pays for it.
    """

    plain_epochs: int = 2
    epochs: int = 40
    learning_rate: float = 2e-3
    batch_size: int = 256
    rotated: bool = True
    draws: int | None = None
    measuring: float = 0.1

    word: ClassVar[str] = "pac-bayes-deep"

    def __post_init__(self) -> None:
        if not 0 < self.measuring < 1:
            raise InvalidInput(
                f"measuring = {self.measuring!r}: the part of δ for the Monte-Carlo estimate lies between 0 and 1"
            )
        if self.epochs < 1 or self.plain_epochs < 0 or self.batch_size < 1 or not 0 < self.learning_rate < math.inf:
            raise InvalidInput("epochs ≥ 1, plain_epochs ≥ 0, batch_size ≥ 1 and a positive learning rate, please")
        if self.draws is not None and self.draws < 1:
            raise InvalidInput(f"draws = {self.draws}: at least one pass is needed to estimate the Gibbs risk")

    def unsuited(self, task: Task) -> str:
        """A network that is no chain of linear layers, or a sample without classes."""
        return unsuited_to_seeger(task, task.train.n)

    def certified(self, task: Task) -> Certified:
        """The stochastic network; every call of it draws a fresh network an example."""
        if reason := self.unsuited(task):
            raise InvalidInput(f"{self.word} cannot be applied: {reason}. Use the method holdout")
        begun = time.perf_counter()
        initial = task.network()
        chain(initial)  # an unsupported network is refused before anything is trained
        plain, record = plainly_trained(
            task,
            task.train,
            purpose="posterior's start",
            epochs=self.plain_epochs,
            batch_size=self.batch_size,
        )
        per_epoch = record.seconds / max(1, self.plain_epochs)
        network, training = self._start(task, initial, plain)
        self._descend(task, training)
        training.written_into(network)
        indices = training.indices()
        bound = SeegerBound()
        evidence = bound.evidence(**self._measured(task, network, indices))
        certificate = self.issued(
            task,
            bound,
            evidence,
            model=network,
            sample=task.train,
            predictor=Predictor.GIBBS,
            notes={
                DATA_FREE_PRIOR.name: "The prior's means are the network's random initial weights, drawn from the run's seed."
            },
            measurement={"prior_index": list(indices), "trials": self._passes(task.train) * task.train.n},
            measurement_delta=self.measuring * task.delta,
        )
        passes = self.plain_epochs + self.epochs
        spent = TrainingRecord(
            time.perf_counter() - begun,
            passes * task.train.n,
            passes,
            plain_seconds=per_epoch * self.plain_epochs if self.plain_epochs else None,
        )
        return Certified(network, certificate, spent)

    def evidence(self, certificate: Certificate, model: nn.Module, task: Task) -> Mapping[str, Number]:
        """The divergence from the prior drawn again from the seed, and the Gibbs risk by the same stream of draws."""
        indices = certificate.measurement.get("prior_index")
        if not isinstance(model, StochasticNetwork):
            raise InvalidEvidence(f"a {self.word} certificate speaks of a stochastic network, not of {type(model).__name__}")
        if not isinstance(indices, list | tuple) or not all(type(j) is int and abs(j) < 2000 for j in indices):
            raise InvalidEvidence("the certificate does not state its prior's indices")
        if len(indices) != len(list(model.gaussian())):
            raise InvalidEvidence(f"{len(indices)} prior indices for {len(list(model.gaussian()))} Gaussian layers")
        for layer, start in zip(model.gaussian(), matrices(task.network()), strict=True):
            layer.set_prior(start)
        return self._measured(task, model, tuple(indices))

    def skeleton(self, factory: Factory, certificate: Certificate) -> nn.Module:
        """The stochastic network's shape, weights to be read."""
        network = initialise(factory, 0)
        flat = matrices(network)
        bases = [(torch.eye(w.shape[1]), torch.eye(w.shape[0])) if self.rotated else (None, None) for w in flat]
        return _assembled(network, [StochasticLinear(w, w, 1.0, *b) for w, b in zip(flat, bases, strict=True)])

    def _passes(self, sample: Sample) -> int:
        return self.draws or max(1, MOST_TRIALS // sample.n)

    def _measured(self, task: Task, network: StochasticNetwork, indices: tuple[int, ...]) -> dict[str, Number]:
        """The evidence of Seeger's bound."""
        passes = self._passes(task.train)
        errors = _errors(task, network.to(task.device), passes)
        trials = passes * task.train.n
        share = self.measuring * task.delta
        limit = kl_inverse_upper(errors / trials, -iv.log(share) / trials)
        return {
            "gibbs_risk": Measured(0.0, limit, Kind.CONFIDENCE, share),
            "kl_nats": network.cpu().kl_nats(indices),
            "n": task.train.n,
        }

    def _start(self, task: Task, initial: nn.Module, trained: nn.Module) -> tuple[StochasticNetwork, LeadingBlocks]:
        """Plain training seen through a quadratic approximation with the prior: means shrunk, deviations widened.

        The network to be, and what is trained of it.
        """
        n, device = task.train.n, torch.device(task.device)
        bases = kronecker_bases(chain(trained), _inputs(task, min(n, CURVATURE_EXAMPLES)), task.generator("curvature labels"))
        layers, felt = [], []
        for start, end, basis in zip(matrices(initial), matrices(trained), bases, strict=True):
            prior_variance = 1 / start.shape[1]
            curvature = basis.curvature() if self.rotated else torch.full_like(start, float(basis.curvature().mean()))
            std = (1 / prior_variance + n * curvature).rsqrt()
            layer = StochasticLinear(start, start, std, *_bases(basis, self.rotated))
            with torch.no_grad():
                moved = layer.rotated(end - start) * (1 - std.square() / prior_variance)
                layer.rotated_mean.add_(moved)
            layers.append(layer)
            felt.append(n * prior_variance * curvature)
        network = _assembled(initial, layers).to(device)
        return network, LeadingBlocks(network, felt).to(device)

    def _descend(self, task: Task, network: LeadingBlocks) -> None:
        """Adam on the inverted kl itself, with cross-entropy rescaled to the running 0–1 loss as its empirical risk."""
        sample, n = task.train, task.train.n
        blocks = network.blocks()
        groups = [
            {"params": [block.moved for block in blocks], "scale": 1.0},
            {"params": [number for block in blocks for number in (block.log_ratio, block.log_scale)], "scale": 10.0},
        ]
        stepper = torch.optim.Adam(groups, lr=self.learning_rate)
        file = task.checkpoint("posterior")
        store = Checkpoint(file) if file else None
        facts = self._resumed(task, store, network, stepper)
        steps = math.ceil(n / self.batch_size)
        cross, wrong = facts["running"]
        with task.progress.task("training the posterior", self.epochs * steps) as advance:
            advance(facts["epoch"] * steps)
            for epoch in range(facts["epoch"], self.epochs):
                order = torch.randperm(n, generator=task.generator(f"order {epoch}"))
                noise = torch.Generator(device=task.device).manual_seed(task.stream(f"noise {epoch}"))
                for step, batch in enumerate(sample.batches(self.batch_size, order)):
                    for group in stepper.param_groups:
                        done = (epoch * steps + step) / (self.epochs * steps)
                        group["lr"] = group["scale"] * self.learning_rate * (1 + math.cos(math.pi * done)) / 2
                    batch = batch.to(task.device)
                    outputs = network(batch.inputs, noise)
                    loss = cross_entropy(outputs, batch.targets)
                    cross = 0.98 * cross + 0.02 * loss.item()
                    wrong = 0.98 * wrong + 0.02 * (outputs.argmax(1) != batch.targets).float().mean().item()
                    objective = inverted_kl(loss * (wrong / max(cross, 1e-12)), budget_nats(network.kl_nats(), n, task.delta))
                    if not math.isfinite(objective.item()):
                        raise InvalidInput(
                            f"the bound became {objective.item()} at epoch {epoch + 1}: lower the learning rate "
                            f"(it is {self.learning_rate:g}) and check the scale of the inputs"
                        )
                    stepper.zero_grad(set_to_none=True)
                    objective.backward()
                    stepper.step()
                    advance(1)
                if store:
                    store.write(network, stepper, facts | {"epoch": epoch + 1, "running": [cross, wrong]})

    def _resumed(self, task: Task, store: Checkpoint | None, network: nn.Module, stepper: torch.optim.Adam) -> dict[str, Any]:
        """Where the descent stands: at its start, or at its checkpoint's last whole epoch."""
        facts: dict[str, Any] = {"settings": str(self.settings), "seed": task.seed, "n": task.train.n}
        if store is None or not store.path.exists():
            return facts | {"epoch": 0, "running": [0.0, 0.0]}
        saved = store.facts()
        if any(saved.get(key) != value for key, value in facts.items()):
            raise InvalidInput(f"{store.path} belongs to another run. Choose another folder, or remove it")
        store.restore(network, stepper)
        return saved


def _bases(basis: KroneckerBasis, rotated: bool) -> tuple[Tensor | None, Tensor | None]:
    return (basis.basis_in, basis.basis_out) if rotated else (None, None)


def _assembled(model: nn.Module, layers: list[StochasticLinear]) -> StochasticNetwork:
    """The model's chain with its linear layers replaced, in order."""
    rest = iter(layers)
    return StochasticNetwork([next(rest) if isinstance(part, nn.Linear) else part for part in chain(model)])


def _inputs(task: Task, count: int) -> Iterator[Tensor]:
    for batch in task.train.batches(1000, torch.arange(count)):
        inputs = batch.to(task.device).inputs
        if not isinstance(inputs, Tensor):
            raise InvalidInput("this method takes one input tensor an example, not several by name")
        yield inputs


def _errors(task: Task, network: StochasticNetwork, passes: int) -> int:
    """Errors of one fresh network an example, in ``passes`` passes over the sample; near ties count as errors."""
    generator = torch.Generator(device=task.device).manual_seed(task.stream("gibbs trials"))
    errors = 0
    with torch.no_grad(), task.progress.task("drawing a network an example", passes * task.train.n) as advance:
        for batch in task.train.batches(2048):
            batch = batch.to(task.device)
            assert isinstance(batch.inputs, Tensor)
            for outputs in network.draws(batch.inputs, passes, generator):
                errors += ties.errors(outputs, batch.targets)
                advance(len(outputs))
    return errors
