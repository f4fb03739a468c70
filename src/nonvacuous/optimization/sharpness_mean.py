"""The mean loss and its gradient at displaced weights, as functions of one flat vector."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.directions import trainable
from nonvacuous.optimization.slices_losses import normalising
from nonvacuous.optimization.slices_objective import Objective, Statistics
from nonvacuous.optimization.slices_restored import batch_norms, restored
from nonvacuous.runtime.models import outputs
from nonvacuous.runtime.values import Batch


class DisplacedMean:
    """L(θ + z) for flat z [P]: ``value(z)`` and ``gradient(z)``; make it with `displaced_mean`, which restores the model.

    weights: θ [P] flat; loss: L(θ).
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        names = set(trainable(objective.model))
        self._parameters = [p for name, p in objective.model.named_parameters() if name in names]
        self._sizes = [p.numel() for p in self._parameters]
        self.weights = torch.cat([p.detach().reshape(-1) for p in self._parameters])
        self.loss = self.value(torch.zeros_like(self.weights))
        if not math.isfinite(self.loss):
            raise InvalidInput(
                f"the loss is {self.loss} at the model's own weights: it has no sharpness. Check weights, inputs and targets"
            )

    def value(self, z: Tensor, batches: Sequence[Batch] | None = None) -> float:
        """The mean loss over ``batches`` (all of them if left out) at θ + z; infinite where it is not a number."""
        self._place(z)
        return self.here(batches)

    def here(self, batches: Sequence[Batch] | None = None) -> float:
        """The mean loss at the weights as they are."""
        total, count = 0.0, 0
        with torch.no_grad(), normalising(self.objective):
            for batch in self.objective.batches if batches is None else batches:
                losses = self.objective.losses(outputs(self.objective.model, batch.inputs), batch.targets)
                total, count = total + float(losses.double().sum()), count + len(batch.targets)
        return math.inf if math.isnan(total) else total / count

    def error(self, z: Tensor) -> float:
        """The fraction misclassified at θ + z.

        :raises InvalidInput: an objective without classes.
        """
        if not self.objective.classify:
            raise InvalidInput("there is no error rate: the objective is of numbers, or has a loss of its own")
        self._place(z)
        wrong = 0.0
        with torch.no_grad(), normalising(self.objective):
            for batch in self.objective.batches:
                wrong += float((outputs(self.objective.model, batch.inputs).argmax(1) != batch.targets).double().mean()) * len(
                    batch.targets
                )
        return wrong / self.objective.n

    def gradient(self, z: Tensor, batches: Sequence[Batch] | None = None) -> Tensor:
        """The gradient [P] of the mean loss at θ + z."""
        self._place(z)
        chosen = self.objective.batches if batches is None else batches
        count = sum(len(batch.targets) for batch in chosen)
        total = torch.zeros_like(self.weights)
        with torch.enable_grad(), normalising(self.objective):
            for batch in chosen:
                loss = self.objective.losses(outputs(self.objective.model, batch.inputs), batch.targets).sum() / count
                parts = torch.autograd.grad(loss, self._parameters, allow_unused=True)
                total += flat(torch.zeros_like(p) if g is None else g for g, p in zip(parts, self._parameters, strict=True))
        if not bool(torch.isfinite(total).all()):
            raise InvalidInput(
                "the gradient of the loss is not finite. Check the scale of the inputs, or use a smaller neighbourhood"
            )
        return total

    def _place(self, z: Tensor) -> None:
        with torch.no_grad():
            for p, part in zip(self._parameters, torch.split(self.weights + z.to(self.weights), self._sizes), strict=True):
                p.copy_(part.reshape(p.shape))


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Tensors one after the other as a vector [P]."""
    return torch.cat([x.reshape(-1) for x in tensors])


@contextmanager
def displaced_mean(objective: Objective) -> Iterator[DisplacedMean]:
    """The mean loss as a function of a displacement; the model is restored to the bit when the block ends, however it ends."""
    if objective.statistics is Statistics.RECALIBRATED and not batch_norms(objective.model):
        raise InvalidInput("there is no batch-norm to recalibrate. Use Statistics.FROZEN")
    with restored(objective.model):
        for p in objective.model.parameters():
            p.requires_grad_(p.is_floating_point())
        yield DisplacedMean(objective)
