"""Models of linear parts: a traced forward as a chain, sum or stack of linear maps."""

from __future__ import annotations

from torch import nn

from nonvacuous.operators.linear_map import LinearMap


def traced_map(module: nn.Module, shape: tuple[int, ...]) -> LinearMap | None:
    """The linear part of the module, or None where its forward has parts that are not linear, or cannot be traced."""
    return None
