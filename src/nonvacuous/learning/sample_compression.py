"""Pick-to-Learn: a deterministic network, trained on the few examples it picks and certified on all of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nonvacuous.bounds.sample_compression import PREFERENCE, PickToLearnBound
from nonvacuous.core.bound import Predictor
from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import InvalidEvidence, InvalidInput
from nonvacuous.learning.holdout import declared_split
from nonvacuous.learning.in_memory import Held, answers, held, mirrored_some
from nonvacuous.learning.method import Certified, Method, Number, Task, TrainingRecord, without_batch_statistics
from nonvacuous.learning.plain import plainly_trained
from nonvacuous.runtime.checkpoints import copied
from nonvacuous.runtime.factories import replacement
from nonvacuous.runtime.samples import Sample
from nonvacuous.runtime.weights import weights_digest


@dataclass
class Picking:
    """Where a run stands: rounds done, the examples picked in their order, and the best stop so far."""

    model: nn.Module
    picked: Tensor
    sizes: list[int] = field(default_factory=list)
    best: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    seen: int = 0


@dataclass(frozen=True)
class SampleCompression(Method):
    """Pick-to-Learn (Paccagnan, Campi and Garatti 2023) in rounds, stopped where its certificate is best.

    T starts as ``start`` examples drawn by lot. A round trains the network on T (``epochs`` passes, from where it stands) and adds to T
    examples that it gets wrong, drawn by lot among these: ``growth`` times \\|T\\|, at least ``least``. What is certified after a round is
    \\|T\\| plus the examples outside T that are still wrong; the best of ``rounds`` stopping times is handed back and paid for.

    prior_fraction: a part of the sample to train the starting network on by the plain loop, for ``prior_epochs``; T then starts empty and
    picks from the rest, which is the certificate's sample. mirrored: flip the last axis of half the inputs in training (pictures).
    alternatives: settings, this one among them, of which the best may be kept: all their stopping times are paid for.

    The set is picked by whole-round rules that depend on nothing but T, so the learner has the preference the theorem asks for. Level two
    replays the rounds, and they must give the saved weights bit by bit: give it the same machine and number of threads.
    """

    start: int = 1000
    growth: float = 0.25
    least: int = 64
    rounds: int = 10
    epochs: int = 10
    learning_rate: float = 1e-3
    batch_size: int = 64
    prior_fraction: float = 0.0
    prior_epochs: int = 10
    mirrored: bool = False
    alternatives: int = 1

    word: ClassVar[str] = "sample-compression"

    def certified(self, task: Task) -> Certified:
        """The network of the best stop, with its certificate."""
        begun = time.perf_counter()
        sample, first, spent = self._start(task)
        n = sample.n
        if n <= self._first or n < 30:
            raise InvalidInput(
                f"{n} examples to pick from are too few for a start of {self._first}: give a smaller start, or "
                f"{max(30, 4 * self._first)} examples"
            )
        *_, run = self._rounds(task, held(sample, task.device), first, self.rounds)
        run.model.load_state_dict(run.best_state)
        evidence = PickToLearnBound.Evidence(compression_size=run.sizes[run.best], stops=self.rounds * self.alternatives, n=n)
        certificate = self.issued(
            task,
            PickToLearnBound(),
            evidence,
            model=run.model,
            sample=sample,
            predictor=Predictor.DETERMINISTIC,
            notes={PREFERENCE.name: "By construction of the rounds; docs/proofs/sample_compression.md has the proof."},
            measurement={"stop": run.best, "picked": self._size_at(run.best, n), "sizes": run.sizes},
        )
        tried = (f"{len(run.sizes)} stopping times; compression sizes {', '.join(map(str, run.sizes))}",)
        return Certified(
            run.model,
            certificate,
            TrainingRecord(time.perf_counter() - begun, run.seen + spent, self.epochs * self.rounds, tried),
        )

    def evidence(self, certificate: Certificate, model: nn.Module, task: Task) -> Mapping[str, Number]:
        """Replays the rounds up to the recorded stop; the weights must be those of the saved network."""
        stop = certificate.measurement.get("stop")
        if not isinstance(stop, int) or not 0 <= stop < self.rounds:
            raise InvalidEvidence("the certificate does not record at which of its rounds it stopped")
        task = Task(task.factory or (lambda: model), task.train, task.delta, task.seed, task.device, task.progress)
        sample, first, _ = self._start(task)
        *_, run = self._rounds(task, held(sample, task.device), first, stop + 1)
        if len(run.sizes) <= stop or weights_digest(run.model) != weights_digest(model):
            raise InvalidEvidence(
                "the rounds, run again, end in another network than the saved one. Other hardware or another number of threads can do "
                "that: verify where the certificate was made"
            )
        return {"compression_size": run.sizes[stop], "stops": self.rounds * self.alternatives, "n": sample.n}

    def unsuited(self, task: Task) -> str:
        """Classes only, and more examples than it starts from."""
        if task.train.classes is None:
            return "it certifies the 0–1 loss of classifiers"
        return f"it starts from {self._first} examples, and there are {task.train.n}" if task.train.n <= self._first else ""

    def _start(self, task: Task) -> tuple[Sample, nn.Module, int]:
        """The sample to pick from, the network before the first round, and the examples it was trained on."""
        if task.train.classes is None:
            raise InvalidInput("Pick-to-Learn certifies the 0–1 loss: give a sample with classes, or use holdout")
        if self.prior_fraction == 0:
            model = task.network()
            without_batch_statistics(model, "its statistics would depend on the order of passes over the picked examples")
            return task.train, model, 0
        split = declared_split(task, 1 - self.prior_fraction)
        trained = plainly_trained(
            task, split.kept, purpose="prior", epochs=self.prior_epochs, learning_rate=self.learning_rate
        )
        return split.held_out, trained.model, trained.record.examples

    @property
    def _first(self) -> int:
        return 0 if self.prior_fraction else self.start

    def _size_at(self, stop: int, n: int) -> int:
        """|T| after ``stop`` rounds of picking, if enough was wrong."""
        size = self._first
        for _ in range(stop):
            size = min(n, size + max(self.least, int(self.growth * size)))
        return size

    def _rounds(self, task: Task, data: Held, model: nn.Module, rounds: int) -> Iterator[Picking]:
        """The run after each round; goes on with what lies in the task's folder."""
        n = len(data.targets)
        lot = torch.randperm(n, generator=task.generator("tags"))
        tag = torch.empty_like(lot)
        tag[lot] = torch.arange(n)
        model.to(task.device)
        run = Picking(model, lot[: self._first])
        file = task.checkpoint("picking")
        if file is not None and file.exists():
            _restore(run, file, {**self.settings, "seed": task.seed, "n": n})
            yield run
        with task.progress.task("picking and training", rounds) as advance:
            advance(len(run.sizes))
            while len(run.sizes) < rounds:
                if len(run.picked):
                    run.seen += self._train(run, data, task)
                wrong = answers(model, data.inputs).argmax(1).cpu() != data.targets.cpu()
                wrong[run.picked] = False
                left = wrong.nonzero().squeeze(1)
                run.sizes.append(len(run.picked) + len(left))
                if len(run.sizes) == 1 or run.sizes[-1] < run.sizes[run.best]:
                    run.best, run.best_state = len(run.sizes) - 1, copied(model)
                count = max(self.least, int(self.growth * len(run.picked)))
                run.picked = torch.cat([run.picked, left[tag[left].argsort()][:count]])
                if file is not None:
                    _save(run, file, {**self.settings, "seed": task.seed, "n": n})
                advance(1)
                yield run
                if not len(left):
                    return

    def _train(self, run: Picking, data: Held, task: Task) -> int:
        """Passes over the picked examples; the number of examples seen. Depends on them, the network and the round's stream alone."""
        generator = task.generator(f"round {len(run.sizes)}")
        optimizer = torch.optim.AdamW(run.model.parameters(), lr=self.learning_rate, weight_decay=1e-3)
        size = len(run.picked)
        batches = [
            part
            for _ in range(self.epochs)
            for part in torch.randperm(size, generator=generator).split(min(self.batch_size, size))
        ]
        run.model.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(task.stream(f"dropout {len(run.sizes)}"))
            for step, rows in enumerate(batches):
                optimizer.param_groups[0]["lr"] = self.learning_rate * min(1.0, 2.05 - 2 * step / len(batches))
                chosen = run.picked[rows]
                inputs = mirrored_some(data.inputs[chosen], generator) if self.mirrored else data.inputs[chosen]
                optimizer.zero_grad(set_to_none=True)
                cross_entropy(run.model(inputs), data.targets[chosen]).backward()
                optimizer.step()
        run.model.eval()
        return self.epochs * size


def _save(run: Picking, file: Path, facts: dict[str, Any]) -> None:
    tensors = {f"model/{k}": v.contiguous() for k, v in copied(run.model).items()}
    tensors |= {f"best/{k}": v.contiguous() for k, v in run.best_state.items()} | {"picked": run.picked}
    state = {"sizes": run.sizes, "best": run.best, "seen": run.seen, "facts": facts}
    with replacement(file) as temporary:
        save_file(tensors, temporary, {"picking": json.dumps(state)})


def _restore(run: Picking, file: Path, facts: dict[str, Any]) -> None:
    with safe_open(file, framework="pt") as opened:
        state = json.loads((opened.metadata() or {}).get("picking", "{}"))
        if state.get("facts") != json.loads(json.dumps(facts)):
            raise InvalidInput(f"{file} belongs to another run. Resume with the same settings, seed and data, or remove it")
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
    run.model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
    run.best_state = {k.removeprefix("best/"): v for k, v in tensors.items() if k.startswith("best/")}
    run.picked, run.sizes, run.best, run.seen = tensors["picked"], state["sizes"], state["best"], state["seen"]
