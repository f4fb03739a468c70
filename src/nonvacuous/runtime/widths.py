"""A network at several widths: the knob that refits turn."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.factories import called, imported, is_factory_spec
from nonvacuous.runtime.models import SHORTHANDS, convnet, load_model, mlp, scaled, sizes_of

HOW = "write `def factory(width: float = 1.0) -> nn.Module`, where width multiplies the hidden sizes"


@dataclass(frozen=True)
class Widened:
    """``factory(width)`` for a factory that takes a width, or that takes none and has only the width 1.

    factory: a callable without required arguments, or a specification such as ``mlp:784-600-10``, ``convnet:28x28x1-10`` or
    ``pkg.module:factory``. Sent to another process as it is, so a factory defined in ``__main__`` or a lambda stays in this one.
    """

    factory: Callable[..., nn.Module] | str

    @property
    def adjustable(self) -> bool:
        """Whether there are other widths than 1."""
        if isinstance(self.factory, str) and self.factory.startswith(SHORTHANDS):
            return not self.factory.startswith("linear:") and not (self.factory.startswith("mlp:") and self._flat())
        return "width" in _parameters(self._callable())

    def __call__(self, width: float = 1.0) -> nn.Module:
        """The network; its weights come from torch's global generator.

        :raises InvalidInput: a width that is not positive, or other than 1 for a factory without a width.
        """
        if not (math.isfinite(width) and width > 0):
            raise InvalidInput(f"width {width!r}: it multiplies the hidden sizes, so it is positive and finite")
        if width != 1 and not self.adjustable:
            raise InvalidInput(f"{self.name} has no hidden width to change: {HOW}")
        spec = self.factory
        if isinstance(spec, str) and spec.startswith(SHORTHANDS):
            sizes = sizes_of(spec)
            if spec.startswith("convnet:"):
                return convnet(*sizes, scale=width)
            return mlp(sizes[0], *(scaled(size, width) for size in sizes[1:-1]), sizes[-1])
        arguments: dict[str, Any] = {"width": width} if self.adjustable else {}
        model = called(self._callable(), self.name, **arguments)
        if not isinstance(model, nn.Module):
            raise InvalidInput(f"{self.name} gave a {type(model).__name__}, not a torch.nn.Module. Return the model itself")
        return model

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.factory if isinstance(self.factory, str) else getattr(self.factory, "__qualname__", "the factory")

    def _flat(self) -> bool:
        return len(sizes_of(str(self.factory))) < 3

    def _callable(self) -> Callable[..., nn.Module]:
        if not isinstance(self.factory, str):
            return self.factory
        if not is_factory_spec(self.factory):
            load_model(self.factory)  # says what the forms are
            raise InvalidInput(f"{self.factory} is a fixed program, which cannot be trained anew. Name its factory")
        found = imported(self.factory)
        if isinstance(found, nn.Module):
            raise InvalidInput(f"{self.factory} is one network, not a factory of networks: {HOW}")
        return found


def _parameters(function: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return set()
