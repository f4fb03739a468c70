"""Transfer: the code of a network is its difference from one that was trained on another sample."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import InvalidEvidence, InvalidInput
from nonvacuous.learning.compression import Compression
from nonvacuous.learning.method import Number, Task
from nonvacuous.learning.plain import plainly_trained
from nonvacuous.measures.state import check_registered
from nonvacuous.runtime.data import Sample, example_digests, overlap, sample_digest
from nonvacuous.runtime.weights import weights_digest


@dataclass(frozen=True)
class Transfer(Compression):
    """θ = θ_source + s · P · q: `Compression` that starts from the weights a plain training on ``task.source`` leaves behind.

    source_epochs (None: about 2,000 steps), source_learning_rate: of that training. The source must share no example with the
    training sample, so that its network is fixed before the sample; its classes may be others, but no more than the network's outputs.
    Level two trains the source network again. Source: Lotfi et al. 2022 (NeurIPS 35), section 5, for the idea.
    """

    source_epochs: int | None = None
    source_learning_rate: float = 1e-3

    word: ClassVar[str] = "transfer"

    def start(self, task: Task) -> nn.Module:
        """The network trained on the source."""
        super().start(task)  # refuses what cannot be coded before any training
        source = self._source(task)
        before = replace(task, train=source)
        done = plainly_trained(
            before, source, purpose="source", epochs=self.source_epochs, learning_rate=self.source_learning_rate
        )
        network = done.model.eval()
        check_registered(network)
        return network

    def evidence(self, certificate: Certificate, model: nn.Module, task: Task) -> Mapping[str, Number]:
        """As for `Compression`, with the source network trained again."""
        if certificate.digests.get("source") != sample_digest(self._source(task)):
            raise InvalidEvidence("the source sample is not the one the certificate speaks of (its SHA-256 differs)")
        return super().evidence(certificate, model, task)

    def note(self, task: Task) -> str:
        """Also says what the source was."""
        source = self._source(task)
        return f"Coded from a network trained on {source.n:,} other examples, none of which is in the sample. {super().note(task)}"

    def start_digests(self, network: nn.Module, task: Task) -> dict[str, str]:
        """Digests of the source sample and of the network it gave."""
        return {"source": sample_digest(self._source(task)), "start": weights_digest(copy.deepcopy(network))}

    @staticmethod
    def _source(task: Task) -> Sample:
        if task.source is None:
            raise InvalidInput("transfer starts from a network trained on another sample: name one (--source DATA, source=…)")
        shared = overlap(example_digests(task.train), example_digests(task.source))
        if len(shared):
            raise InvalidInput(
                f"{len(shared)} examples of the source are also in the training sample: a network that has seen them is not fixed before "
                "the data. Remove them from the source"
            )
        return task.source
