"""Which outputs a tangent kernel is of: all pairs, their trace, a chosen few, or one combination."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput


class Outputs:
    """Directions u_1 … u_m in the space of the k outputs: the kernel is that of the functions u_aᵀf.

    ``traced``: only the sum of its diagonal blocks a = b is asked for. ``single``: m is 1 and the axes of outputs are dropped.
    """

    traced = False
    single = False

    def count(self, outputs: int) -> int:
        """m, for a model of ``outputs`` outputs."""
        return outputs

    def directions(self, outputs: int, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of the directions ``[m, outputs]``, float64."""
        rows = torch.zeros(stop - start, outputs, dtype=torch.float64)
        rows[torch.arange(stop - start), torch.arange(start, stop)] = 1.0
        return rows


@dataclass(frozen=True)
class EveryOutput(Outputs):
    """∂f_a(x)·∂f_b(x') for all pairs of outputs: ``[n1, n2, k, k]``."""


@dataclass(frozen=True)
class OutputTrace(Outputs):
    """Σ_a ∂f_a(x)·∂f_a(x'): ``[n1, n2]``."""

    traced = True


@dataclass(frozen=True)
class ChosenOutputs(Outputs):
    """The outputs of these numbers, in this order: ``[n1, n2, m, m]``."""

    numbers: tuple[int, ...]

    def count(self, outputs: int) -> int:
        """m, for a model of ``outputs`` outputs; InvalidInput for a number out of range."""
        wrong = [j for j in self.numbers if not (isinstance(j, int) and 0 <= j < outputs)]
        if wrong or not self.numbers:
            raise InvalidInput(f"outputs {self.numbers}: choose at least one number from 0 to {outputs - 1}")
        return len(self.numbers)

    def directions(self, outputs: int, start: int, stop: int) -> Tensor:
        """As :meth:`Outputs.directions`."""
        rows = torch.zeros(stop - start, outputs, dtype=torch.float64)
        rows[torch.arange(stop - start), torch.tensor(self.numbers[start:stop])] = 1.0
        return rows


@dataclass(frozen=True)
class MeanDirection(Outputs):
    """The kernel of Σ_a f_a/√k: ``[n1, n2]``. In the limit of infinite width it tends to the k equal diagonal blocks, at the cost of one.

    Source: Mohamadi, Bae and Sutherland 2023, "A fast, well-founded approximation to the empirical neural tangent kernel".
    """

    single = True

    def count(self, outputs: int) -> int:
        """1."""
        return 1

    def directions(self, outputs: int, start: int, stop: int) -> Tensor:
        """As :meth:`Outputs.directions`."""
        return torch.full((1, outputs), 1 / math.sqrt(outputs), dtype=torch.float64)[start:stop]
