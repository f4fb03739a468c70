"""What autograd made of each batch, kept between products as far as memory allows and made anew beyond."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.operators.mean_loss import Batch, MeanLoss, refusal, twice_differentiable

Made = TypeVar("Made")


class Kept(NamedTuple, Generic[Made]):
    """A batch and its graph; ``batch`` without inputs where only the graph is kept."""

    batch: Batch
    made: Made


class KeptGraphs(Generic[Made]):
    """Iterates over the batches with what ``linearised`` makes of them.

    The first batch is weighed; as many of its size as ``memory`` bytes hold keep their graphs. Raises InvalidInput where the same batch
    gives two losses (a random model), or when the weights have changed since.
    """

    def __init__(self, mean: MeanLoss, linearised: Callable[[MeanLoss, Batch], Made], memory: int) -> None:
        self.mean, self.linearised = mean, linearised
        self._kept: list[Kept[Made]] = []
        self._versions = [p._version for p in mean.parameters]
        batch = next(iter(mean))
        first, weight = _weighed(lambda: self._made(batch))
        losses = [mean.last] if mean.last is not None else []
        while len(losses) < (1 if _plainly_deterministic(mean) else 2):
            losses.append(mean.value(mean.outputs(batch), batch).item())
        if losses[1:] and losses[0] != losses[1]:
            raise InvalidInput(
                f"the loss of the same batch was {losses[0]} and then {losses[1]}: the model is random (dropout by a function, "
                "noise, random augmentation). Make it deterministic, as by model.eval()"
            )
        self._most = int(memory // max(1, weight))
        if self._most:
            self._kept.append(Kept(batch, first))

    def __iter__(self) -> Iterator[Kept[Made]]:
        if [p._version for p in self.mean.parameters] != self._versions:
            raise InvalidInput("the weights have changed since this operator was made: make a new one")
        yield from self._kept
        if len(self._kept) == self.mean.own_batches:
            return
        for number, batch in enumerate(self.mean):
            if number < len(self._kept):
                continue
            kept = Kept(batch, self._made(batch))
            if number == len(self._kept) and number < self._most:
                self._kept.append(kept)
            yield kept

    def free(self) -> None:
        """Drop all graphs."""
        self._kept = []

    def _made(self, batch: Batch) -> Made:
        with self.refusing(batch), twice_differentiable(self.mean.model):
            return self.linearised(self.mean, batch)

    @contextmanager
    def refusing(self, batch: Batch) -> Iterator[None]:
        """Turns autograd's errors into one that names the layer."""
        try:
            yield
        except (RuntimeError, NotImplementedError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise refusal(self.mean.model, batch, error) from error


PLAIN = (
    nn.Sequential,
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Flatten,
    nn.Unflatten,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Identity,
)
"""Layers of torch that draw no random numbers: a chain of these alone need not be run twice to see that it is deterministic."""


def _plainly_deterministic(mean: MeanLoss) -> bool:
    return mean.loss in (nn.functional.cross_entropy, nn.functional.mse_loss) and all(
        type(part) in PLAIN and not (part._forward_hooks or part._forward_pre_hooks) for part in mean.model.modules()
    )


def _weighed(make: Callable[[], Made]) -> tuple[Made, int]:
    """What ``make`` returns, and the bytes that autograd keeps for it: every storage once."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        made = make()
    return made, sum(storages.values())
