"""From the command line's words to a network and a sample. Its functions load torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from nonvacuous.core.errors import InvalidInput

if TYPE_CHECKING:
    from torch import nn

    from nonvacuous.runtime.samples import Sample


SHORTHANDS = ("mlp:", "convnet:", "linear:")


def require_weights(spec: str, weights: Path | None) -> None:
    """Raise :class:`InvalidInput` for a model by shorthand without weights: what it promises would be about random ones."""
    if weights is None and spec.startswith(SHORTHANDS):
        raise InvalidInput(f"--weights is missing: {spec} alone has random weights. `nonvacuous train` makes a weights file")


def network(spec: str, weights: Path | None, *, seed: int, trust_model_code: bool) -> nn.Module:
    """The model that ``spec`` names, with its weights read from ``weights`` if given."""
    from nonvacuous.runtime.models import initialise, load_model, load_weights

    model = initialise(lambda: load_model(spec, trust_model_code), seed)
    if weights is not None:
        load_weights(model, weights)
    return model


def sample(spec: str, part: str, loss: str = "zero_one") -> Sample:
    """The sample that ``spec`` names; numbers instead of classes as targets where the loss is one of regression."""
    from nonvacuous.measures.losses import named
    from nonvacuous.runtime.data import Role
    from nonvacuous.runtime.sources import load

    return load(spec, cast(Role, part), regression=named(loss).regression)
