"""A fit that can be broken off: what it needs to go on and end with the same bits, written between passes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.checkpoints import Checkpoint

SECONDS = 2.0
"""A pass that ends sooner after the last one that was written is not written: it is as soon done again."""


class Standing(NamedTuple):
    """Passes done, and the running numbers of the fit after them."""

    epoch: int
    numbers: tuple[float, ...]


class Unfinished:
    """A fit's parameters, its optimizer's state and its generators, in one file; nowhere if ``file`` is None.

    facts: what the fit is (JSON); a file with others is refused. Everything is put back in place by `resumed`.
    """

    def __init__(
        self,
        file: Path | None,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        generators: Sequence[torch.Generator],
        facts: Mapping[str, Any],
    ) -> None:
        self._store = None if file is None else Checkpoint(file)
        self._model = nn.ParameterDict(dict(parameters))
        self._optimizer, self._generators, self._facts = optimizer, generators, dict(facts)
        self._written = time.monotonic()

    def resumed(self, *start: float) -> Standing:
        """Where the fit stands: at its ``start``, or after the last pass that was written, whose state is put back.

        Raises :class:`InvalidInput` for the file of another fit.
        """
        if self._store is None or not self._store.path.exists():
            return Standing(0, start)
        saved = self._store.facts()
        if any(saved.get(name) != value for name, value in self._facts.items()):
            raise InvalidInput(f"{self._store.path} belongs to another run. Choose another folder, or remove it")
        self._store.restore(self._model, self._optimizer)
        for generator, state in zip(self._generators, saved["generators"], strict=True):
            generator.set_state(torch.frombuffer(bytearray.fromhex(state), dtype=torch.uint8))
        return Standing(saved["epoch"], tuple(saved["numbers"]))

    def keep(self, epoch: int, *numbers: float) -> None:
        """Write the state after ``epoch`` passes, if the last one written is some seconds old."""
        if self._store is None or time.monotonic() - self._written < SECONDS:
            return
        states = [bytes(generator.get_state().tolist()).hex() for generator in self._generators]
        facts = {**self._facts, "epoch": epoch, "numbers": numbers, "generators": states}
        self._store.write(self._model, self._optimizer, facts)
        self._written = time.monotonic()
