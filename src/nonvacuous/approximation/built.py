"""What every builder returns: a network, how far it is from its target, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from nonvacuous.core.measured import Measured
from nonvacuous.operators.cost import Cost, LayerCost, cost


@dataclass(frozen=True)
class Built:
    """A constructed network.

    ``module`` is a float64 ``nn.Module`` that takes ``[n, d]``; ``error`` bounds its distance from the target in the norm the
    builder names; ``cost`` counts its numbers and the operations of one forward pass of one example.
    """

    module: nn.Module
    error: Measured
    cost: Cost

    @classmethod
    def of(cls, module: nn.Module, error: Measured, example_input: Tensor) -> Built:
        """With the cost of one forward pass of ``module`` on ``example_input``, found by tracing it."""
        return cls(module, error, cost(module, example_input))

    @classmethod
    def counted(cls, module: nn.Module, error: Measured, weights: int, units: int) -> Built:
        """With the cost of the plain ReLU network that ``module`` stands for, where its forward pass takes a shorter way.

        ``weights`` are the plain network's connections that are not zero, each one multiply-accumulate an example; ``units``
        its ReLU and output units.
        """
        size = sum(parameter.numel() for parameter in module.parameters())
        layer = LayerCost("", type(module).__name__, 1, size, weights, 2 * weights, 2 * weights - units)
        return cls(module, error, Cost(size, weights, 2 * weights, {"": layer}, layer.operations))
