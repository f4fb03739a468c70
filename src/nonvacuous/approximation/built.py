"""What every builder returns: a network, how far it is from its target, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from nonvacuous.core.measured import Measured

if TYPE_CHECKING:
    from nonvacuous.operators.cost import Cost


@dataclass(frozen=True)
class Built:
    """A constructed network.

    ``module`` is a float64 ``nn.Module`` that takes ``[n, d]``; ``error`` bounds its distance from the target in the norm the
    builder names; ``cost`` counts its numbers and operations.
    """

    module: nn.Module
    error: Measured
    cost: Cost

    @classmethod
    def of(cls, module: nn.Module, error: Measured, example_input: Tensor) -> Built:
        """With the cost of one forward pass of ``module`` on ``example_input``, found by tracing it."""
        from nonvacuous.operators.cost import cost

        return cls(module, error, cost(module, example_input))
