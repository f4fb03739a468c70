"""Compression: a network that is few bits, on a real stream, and Occam's bound for the network the stream decodes to."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from nonvacuous.bounds.code_length import OccamBinomialBound
from nonvacuous.core.bound import DATA_FREE_CODE, Predictor
from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import InvalidEvidence, InvalidInput
from nonvacuous.learning import ties
from nonvacuous.learning.coding import BitStream, DamagedStream
from nonvacuous.learning.compression_stream import Coded, Message, network_of, read, set_weights, start_of, written
from nonvacuous.learning.compression_training import CodeTraining, Settings
from nonvacuous.learning.method import (
    Certified,
    Factory,
    Method,
    Number,
    Task,
    TrainingRecord,
    without_batch_statistics,
)
from nonvacuous.measures.state import check_registered
from nonvacuous.runtime.weights import weights_digest

BATCH = 256
CHANCE = 0.5
SHORTEST = 50
"""Bits of about the shortest message: header, offsets, and all coordinates 0."""


OFFSET_STEPS = (2, 3, 4, 5, 6)
"""Offsets are tried in steps of the outputs' deviation over 2 to the power of these."""

STEPS = 1500

LARGE = 20_000
"""Examples from which the price of the code is charged in full from the first step."""


@dataclass(frozen=True)
class Compression(Method):
    """Weights θ₀ + s · P · q with q small integers, most of them 0, trained for the length of their code.

    dimension: number of random directions P; levels: q lies in −levels … levels; epochs (None: at least 12, and about 1,500 steps),
    learning_rate, batch_size: of the training; active: share of q that is not 0 at first; price: weight of the code's length in
    the objective (1: as in the quadratic bound); rise: part of the training over which that weight rises from 0 (None: half of it for fewer
    than `LARGE` examples, where knowing nothing is a trap at the full price; 0 for more, which leaves a shorter code). alternatives: the
    networks and settings among which these were chosen by looking at results on this sample, log2 of which is paid, so that a search
    beforehand is honest; alternative: which it is.

    The whole network is coded but for what its factory makes before the data: initial weights from the seed, and buffers. Batch-norm
    is refused, because its buffers are read off the data. Leading layers of a Sequential without weights are applied once, before
    training.
    """

    dimension: int = 4096
    levels: int = 1
    epochs: int | None = None
    learning_rate: float = 0.15
    batch_size: int = 500
    active: float = 0.1
    price: float = 1.6
    rise: float | None = None
    alternatives: int = 1
    alternative: int = 0

    word: ClassVar[str] = "compression"

    def certified(self, task: Task) -> Certified:
        """The decoded network with its certificate."""
        begun = time.perf_counter()
        self._check(task)
        network = self.start(task)
        untouched = copy.deepcopy(network)
        start_digests = self.start_digests(network, task)
        inputs, targets = self._front_outputs(network, task)
        body, outputs = _split(network)[1], self._outputs(network, task)
        seed = task.seed % 2**64
        how = self._how(len(targets))
        training = CodeTraining(body, inputs, targets, outputs, seed, how, task.generator("compression"))
        steps = how.epochs * (len(targets) // min(how.batch_size, len(targets)))
        with task.progress.task("training the code", steps) as advance:
            training.run(advance, task.checkpoint("code"))
        stream, errors = self._best(training, targets, seed, task.delta)
        model = network_of(read(stream.data, outputs, self.alternatives)[0], untouched)
        bound, n = OccamBinomialBound(), len(targets)
        certificate = self.issued(
            task,
            bound,
            bound.Evidence(errors=errors, code_bits=stream.length, n=n),
            model=model,
            sample=task.train,
            predictor=Predictor.COMPRESSED,
            notes={DATA_FREE_CODE.name: self.note(task)},
            measurement={"stream": stream.data.hex(), "outputs": outputs, "tie": ties.TIE},
            digests={"code": _digest(stream), **start_digests},
        )
        record = TrainingRecord(time.perf_counter() - begun, steps * min(how.batch_size, n), how.epochs)
        return Certified(model, certificate, record)

    def evidence(self, certificate: Certificate, model: nn.Module, task: Task) -> Mapping[str, Number]:
        """Decode the stream again, compare the saved network with it bit by bit, count errors and bits."""
        self._check(task)
        try:
            data = bytes.fromhex(certificate.measurement["stream"])
            outputs = int(certificate.measurement["outputs"])
            message, bits = read(data, outputs, self.alternatives)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidEvidence(f"the certificate's stream of bits cannot be read: {error}") from error
        if message.seed != task.seed % 2**64:
            raise InvalidEvidence(f"the stream was written for seed {message.seed}, the certificate states {task.seed}")
        decoded = self.decoded(data, task, outputs)
        if weights_digest(decoded) != weights_digest(model):
            raise InvalidEvidence("the saved network is not the one that the certificate's stream decodes to")
        errors = 0
        with task.progress.task("counting errors of the decoded network", task.train.n) as advance, torch.no_grad():
            for batch in task.train.batches(BATCH):
                errors += ties.errors(decoded(batch.inputs), batch.targets, 0.0)
                advance(len(batch.targets))
        return {"errors": errors, "code_bits": bits, "n": task.train.n}

    def skeleton(self, factory: Factory, certificate: Certificate) -> nn.Module:
        """The coded network before its weights are read."""
        try:
            return Coded(factory(), int(certificate.measurement["outputs"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidEvidence(f"the certificate does not say how many outputs its network has ({error})") from error

    def decoded(self, data: bytes, task: Task, outputs: int) -> Coded:
        """The network that a stream decodes to, given the task's factory and seed.

        :raises DamagedStream: for a stream that was cut, lengthened, altered, or is of another format.
        """
        message, _ = read(data, outputs, self.alternatives)
        return network_of(message, self.start(replace(task, seed=message.seed)))

    # -- what transfer does differently ----------------------------------------------------------------------------

    def start(self, task: Task) -> nn.Module:
        """The network from which differences are coded; nothing of the training sample is in it."""
        network = task.network().eval()
        without_batch_statistics(network, "its running statistics are read off the data, and the code would have to hold them")
        check_registered(network)
        return network

    def note(self, task: Task) -> str:
        """What the run knows about the code being fixed before the data."""
        return (
            f"One of {self.alternatives} networks and settings, which costs {math.log2(self.alternatives):.1f} bits; seed, dimension, "
            "levels, scale, offsets and weights are in the stream."
        )

    def start_digests(self, network: nn.Module, task: Task) -> dict[str, str]:
        """Digests of what the code builds on."""
        return {}

    # -- parts -----------------------------------------------------------------------------------------------------

    def _check(self, task: Task) -> None:
        if task.train.classes is None:
            raise InvalidInput("compression certifies classifiers (0–1 loss); these targets are numbers. Use holdout")
        if not 0 <= self.alternative < self.alternatives:
            raise InvalidInput(
                f"alternative {self.alternative} of {self.alternatives}: it is one of 0 … {self.alternatives - 1}"
            )
        bound = OccamBinomialBound()
        needed = bound.needed(bound.Evidence(errors=0, code_bits=SHORTEST, n=1), task.delta, CHANCE) or 1
        if task.train.n < needed:
            raise InvalidInput(
                f"{task.train.n} examples are too few for compression: even a network of {SHORTEST} bits without a single error would not "
                f"come below {CHANCE:g} at δ = {task.delta:g}. That takes {needed}; some thousands will do"
            )

    def _how(self, n: int) -> Settings:
        epochs = self.epochs if self.epochs is not None else max(12, math.ceil(STEPS / max(1, n // self.batch_size)))
        rise = self.rise if self.rise is not None else (0.5 if n < LARGE else 0.0)
        return Settings(
            self.dimension, self.levels, epochs, self.learning_rate, self.batch_size, self.active, self.price, rise
        )

    @staticmethod
    def _outputs(network: nn.Module, task: Task) -> int:
        with torch.no_grad():
            first = network(next(iter(task.train.batches(1))).inputs)
        if first.ndim != 2 or first.shape[1] < (task.train.classes or 2):
            raise InvalidInput(
                f"the network gives outputs of shape {list(first.shape)} for one example; {task.train.classes} classes need [1, classes]"
            )
        return int(first.shape[1])

    @staticmethod
    @torch.no_grad()
    def _front_outputs(network: nn.Module, task: Task) -> tuple[Tensor, Tensor]:
        """Everything that reaches the first layer with weights, in memory, and the targets."""
        front, _ = _split(network)
        inputs, targets = [], []
        with task.progress.task("applying the layers without weights", task.train.n) as advance:
            for batch in task.train.batches(BATCH):
                if isinstance(batch.inputs, dict):
                    raise InvalidInput("inputs with several names: this method takes one tensor an example. Use holdout")
                inputs.append(front(batch.inputs))
                targets.append(batch.targets)
                advance(len(batch.targets))
        return torch.cat(inputs), torch.cat(targets)

    def _best(self, training: CodeTraining, targets: Tensor, seed: int, delta: float) -> tuple[BitStream, int]:
        """The stream with the offset step that gives the smallest bound, and its errors on the training sample."""
        set_weights(training.network, start_of(training.network), training.scale, training.coordinates, seed)
        with torch.no_grad():
            outputs = torch.cat([training.network(x) for x in training.inputs.split(BATCH)])
        exact = training.offsets - outputs.mean(0)
        exact = exact - (exact.max() + exact.min()) / 2  # the same for all classes: it changes no prediction
        bound, found = OccamBinomialBound(), []
        for finer in OFFSET_STEPS:
            exponent = math.frexp(max(float(outputs.std()), 1e-30))[1] - finer
            offsets = (exact / 2.0**exponent).round().long()
            message = Message(
                self.alternative,
                seed,
                self.levels,
                training.scale,
                exponent,
                tuple(offsets.tolist()),
                training.coordinates,
            )
            stream = written(message, self.alternatives)
            errors = ties.errors(outputs + offsets.float() * 2.0**exponent, targets)
            value = bound.solve(bound.Evidence(errors=errors, code_bits=stream.length, n=len(targets)), delta)
            found.append((value, finer, stream, errors))
        _, _, stream, errors = min(found, key=lambda one: one[:2])
        return stream, errors


def _split(network: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The leading layers of a Sequential that have no weights, and the rest."""
    layers = list(network) if isinstance(network, nn.Sequential) else [network]
    first = next((i for i, layer in enumerate(layers) if any(True for _ in layer.parameters())), 0)
    rest = layers[first:]
    return nn.Sequential(*layers[:first]).eval(), (rest[0] if len(rest) == 1 else nn.Sequential(*rest)).eval()


def _digest(stream: BitStream) -> str:
    return hashlib.sha256(stream.data).hexdigest()


__all__ = ["Compression", "DamagedStream"]
