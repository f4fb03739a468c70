"""What autograd made of each batch, kept between products as far as memory allows and made anew beyond."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

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
        while len(losses) < 2:
            losses.append(mean.value(mean.outputs(batch), batch).item())
        if losses[0] != losses[1]:
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
