"""What a landscape is a landscape of: the mean loss of a model over examples, and the state of its batch normalisation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.slices_restored import batch_norms
from nonvacuous.runtime.data import Fingerprint, as_sample
from nonvacuous.runtime.models import outputs
from nonvacuous.runtime.values import Batch, Inputs
from nonvacuous.runtime.weights import weights_digest

PerExample = Callable[[Tensor, Tensor], Tensor]
"""(outputs [b, …], targets [b]) → losses [b]."""


class Statistics(Enum):
    """What batch normalisation divides by at a point away from the trained weights.

    RECALIBRATED: mean and variance estimated anew there, on data (the network one would get by averaging weights and then running
    ``update_bn``).  FROZEN: the stored ones, which belong to other weights; also what a model without batch-norm needs.  BATCH: those of
    each batch that is evaluated, as in training; the loss then depends on the batches.
    """

    RECALIBRATED = "recalibrated"
    FROZEN = "frozen"
    BATCH = "batch"


def cross_entropy(answers: Tensor, targets: Tensor) -> Tensor:
    """−ln softmax(answers)[target], [b]; further axes of the outputs are averaged."""
    if answers.ndim == 2 and targets.ndim == 1 and answers.shape[1] > 2 and targets.dtype == torch.int64:
        shifted = answers - answers.amax(1, keepdim=True)  # several times faster here than torch's for few classes
        return shifted.exp().sum(1).log() - shifted.gather(1, targets[:, None]).squeeze(1)
    losses = functional.cross_entropy(answers, targets, reduction="none")
    return losses if losses.ndim == 1 else losses.flatten(1).mean(1)


def squared_error(answers: Tensor, targets: Tensor) -> Tensor:
    """(answer − target)², [b]; outputs [b, 1] count as [b], further axes are averaged."""
    if answers.shape != targets.shape and answers.ndim == 2 and answers.shape[1] == 1:
        answers = answers.squeeze(1)
    if answers.shape != targets.shape:
        raise InvalidInput(
            f"outputs {tuple(answers.shape)} and targets {tuple(targets.shape)} differ in shape; squared error needs equal ones"
        )
    losses = (answers - targets) ** 2
    return losses if losses.ndim == 1 else losses.flatten(1).mean(1)


@dataclass(frozen=True, eq=False)
class Objective:
    """The mean of ``loss`` over the examples of ``batches``, held on the model's device.

    n: examples in use, of ``population`` in the sample they were drawn from; classify: whether there is an error rate beside the loss;
    calibration: examples whose statistics batch-norm takes where they are RECALIBRATED; digest: of the weights and the examples.
    """

    model: nn.Module
    batches: tuple[Batch, ...]
    loss: PerExample
    classify: bool
    statistics: Statistics
    n: int
    population: int
    calibration: int
    digest: str

    def losses(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Loss of each example, [b], whatever ``loss`` returned being checked."""
        found = self.loss(answers, targets)
        if tuple(found.shape) != (len(targets),):
            raise InvalidInput(
                f"the loss gave shape {tuple(found.shape)} for {len(targets)} examples; a landscape needs one number an example "
                "(reduction='none')"
            )
        return found


def objective(
    model: nn.Module,
    data: Any,
    *,
    loss: PerExample | None = None,
    statistics: Statistics | None = None,
    examples: int | None = None,
    batch_size: int = 512,
    calibration: int = 1024,
    seed: int = 0,
) -> Objective:
    """The loss of ``model`` on ``data`` (whatever `as_sample` takes), or on ``examples`` of it drawn at random without repetition.

    ``loss`` gives one number an example; cross-entropy for classes and squared error for numbers if left out.  ``statistics`` default
    to RECALIBRATED where the model has batch-norm.  The model is not changed; its weights are part of the digest.

    :raises InvalidInput: sizes out of range, labels without an output, or a loss that is not finite at the model's own weights.
    """
    if batch_size < 1 or calibration < 2 or (examples is not None and examples < 1):
        raise InvalidInput(
            f"batch size {batch_size} and examples {examples} must be at least 1, calibration {calibration} at least 2"
        )
    sample = as_sample(data)
    classify = sample.classes is not None and loss is None
    order = None
    if examples is not None and examples < sample.n:
        order = torch.randperm(sample.n, generator=torch.Generator().manual_seed(seed))[:examples].sort().values
    first = next(iter([*model.parameters(), *model.buffers()]), None)
    if first is None:
        raise InvalidInput(f"{type(model).__name__} has no parameters: its loss is one number, not a landscape")
    norms = batch_norms(model)
    if statistics is None:
        statistics = Statistics.RECALIBRATED if norms else Statistics.FROZEN
    if statistics is Statistics.FROZEN and any(norm.running_mean is None for norm in norms):
        raise InvalidInput("batch-norm keeps no running statistics here: there are none to freeze. Use Statistics.BATCH")
    print_ = Fingerprint()
    batches = []
    for batch in sample.batches(batch_size, order):
        print_.update(batch.inputs, batch.targets)
        batches.append(Batch(_like(batch.inputs, first), batch.targets.to(first.device)))
    chosen = loss or (squared_error if sample.classes is None else cross_entropy)
    n = sum(len(batch.targets) for batch in batches)
    if statistics is not Statistics.FROZEN and norms and min(len(batch.targets) for batch in batches) < 2:
        batches = _joined(batches)
    facts = (
        weights_digest(model),
        print_.digest,
        getattr(chosen, "__qualname__", repr(chosen)),
        statistics.value,
        calibration,
        batch_size,
    )
    digest = hashlib.sha256(" ".join(map(str, facts)).encode()).hexdigest()
    made = Objective(model, tuple(batches), chosen, classify, statistics, n, sample.n, calibration, digest)
    if classify:
        _check_labels(made)
    return made


def _like(inputs: Inputs, first: Tensor) -> Inputs:
    def one(x: Tensor) -> Tensor:
        return x.to(first.device, first.dtype) if x.is_floating_point() and first.is_floating_point() else x.to(first.device)

    return {k: one(v) for k, v in inputs.items()} if isinstance(inputs, dict) else one(inputs)


def _joined(batches: list[Batch]) -> list[Batch]:
    """A last batch of one example has no variance: it joins the one before."""
    if len(batches) < 2:
        raise InvalidInput("one example has no variance for batch-norm to divide by. Use more examples, or Statistics.FROZEN")
    (a, s), (b, t) = batches[-2], batches[-1]
    if isinstance(a, dict):
        assert isinstance(b, dict)
        return [*batches[:-2], Batch({k: torch.cat([a[k], b[k]]) for k in a}, torch.cat([s, t]))]
    assert isinstance(b, Tensor)
    return [*batches[:-2], Batch(torch.cat([a, b]), torch.cat([s, t]))]


def _check_labels(made: Objective) -> None:
    model, modes = made.model, {m: m.training for m in made.model.modules()}
    few = made.batches[0]
    model.eval()
    try:
        with torch.no_grad():
            answers = outputs(
                model, {k: v[:2] for k, v in few.inputs.items()} if isinstance(few.inputs, dict) else few.inputs[:2]
            )
    finally:
        for m, mode in modes.items():
            m.training = mode
    top = max(int(batch.targets.max()) for batch in made.batches)
    if answers.ndim < 2 or top >= answers.shape[1]:
        raise InvalidInput(
            f"the model gives outputs of shape {tuple(answers.shape)} for 2 examples, and the sample has label {top}. Classes need "
            "one output each; pass a loss of your own for anything else"
        )
