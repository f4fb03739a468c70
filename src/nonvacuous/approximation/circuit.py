"""ReLU networks written as formulas: units with sparse connections, counted as theorems count them.

Yarotsky's theorems, and bumps in several dimensions, speak of networks whose units may be connected across layers. A `Circuit`
builds one from ordinary arithmetic and ``relu``; `UnitNetwork` runs it; weights, units and depth are those of the graph.

>>> c = Circuit(1)
>>> tent = 2 * c.relu(c.inputs[0]) - 4 * c.relu(c.inputs[0] - 0.5)
>>> net = c.network(tent)
>>> net.units, net.weights, net.depth
(2, 5, 2)
>>> net(torch.tensor([[0.25], [0.75]], dtype=torch.float64))
tensor([0.5000, 0.5000], dtype=torch.float64, grad_fn=<SqueezeBackward1>)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Affine:
    """A constant plus a weighted sum of nodes; nodes are the inputs and the units, numbered in order of creation."""

    weights: dict[int, float]
    constant: float = 0.0

    def __add__(self, other: Affine | float) -> Affine:
        if not isinstance(other, Affine):
            return Affine(self.weights, self.constant + other)
        total = dict(self.weights)
        for node, weight in other.weights.items():
            total[node] = total.get(node, 0.0) + weight
        return Affine({node: weight for node, weight in total.items() if weight}, self.constant + other.constant)

    def __mul__(self, factor: float) -> Affine:
        return Affine({node: factor * weight for node, weight in self.weights.items() if factor}, factor * self.constant)

    def __neg__(self) -> Affine:
        return self * -1.0

    def __sub__(self, other: Affine | float) -> Affine:
        return self + -other

    def __rsub__(self, other: float) -> Affine:
        return -self + other

    __radd__ = __add__
    __rmul__ = __mul__


@dataclass
class Circuit:
    """A growing network with ``dimension`` inputs; `relu` adds a unit and returns it as an `Affine` to go on with."""

    dimension: int
    units: list[Affine] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)

    @property
    def inputs(self) -> list[Affine]:
        """The coordinates of the input."""
        return [Affine({i: 1.0}) for i in range(self.dimension)]

    def level(self, expression: Affine) -> int:
        """Units on the longest path to ``expression``."""
        return max((self.levels[n - self.dimension] for n in expression.weights if n >= self.dimension), default=0)

    def relu(self, expression: Affine) -> Affine:
        """max(expression, 0), as a new unit."""
        self.units.append(expression)
        self.levels.append(self.level(expression) + 1)
        return Affine({self.dimension + len(self.units) - 1: 1.0})

    def network(self, output: Affine) -> UnitNetwork:
        """The network that computes ``output``."""
        return UnitNetwork(self, output)


class _Level(NamedTuple):
    edges: slice
    units: slice
    source: Tensor
    target: Tensor


class UnitNetwork(nn.Module):
    """The network of a `Circuit`: ``[n, d]`` → ``[n]``, every connection and every bias one entry of a Parameter.

    ``depth`` counts layers of weights on the longest path: hidden layers plus one.
    """

    def __init__(self, circuit: Circuit, output: Affine) -> None:
        super().__init__()
        self.dimension = circuit.dimension
        order = sorted(range(len(circuit.units)), key=lambda unit: circuit.levels[unit])
        place = {node: node for node in range(self.dimension)}
        place |= {self.dimension + unit: self.dimension + position for position, unit in enumerate(order)}
        forms = [*(circuit.units[unit] for unit in order), output]
        levels = [*(circuit.levels[unit] for unit in order), circuit.level(output) + 1]
        levels[-1] = max(levels[-1], max(levels[:-1], default=0) + 1)
        source = [place[node] for form in forms for node in form.weights]
        target = [position for position, form in enumerate(forms) for _ in form.weights]
        self.weight = nn.Parameter(torch.tensor([w for f in forms for w in f.weights.values()], dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor([form.constant for form in forms], dtype=torch.float64))
        self.depth = circuit.level(output) + 1
        self._plan: list[_Level] = []
        first_unit = first_edge = 0
        for level in sorted(set(levels)):
            last_unit = first_unit + levels.count(level)
            last_edge = first_edge + sum(first_unit <= unit < last_unit for unit in target[first_edge:])
            edges = slice(first_edge, last_edge)
            here = torch.tensor(target[edges], dtype=torch.long) - first_unit
            self._plan.append(_Level(edges, slice(first_unit, last_unit), torch.tensor(source[edges], dtype=torch.long), here))
            first_unit, first_edge = last_unit, last_edge

    @property
    def units(self) -> int:
        """ReLU units."""
        return len(self.bias) - 1

    @property
    def weights(self) -> int:
        """Connections and biases that are not zero."""
        return int(self.weight.count_nonzero() + self.bias.count_nonzero())

    @property
    def connections(self) -> int:
        """Connections that are not zero: multiplications an example."""
        return int(self.weight.count_nonzero())

    def forward(self, x: Tensor) -> Tensor:
        values = x
        for level in self._plan:
            signal = values.index_select(1, level.source) * self.weight[level.edges]
            form = self.bias[level.units].expand(len(x), -1).index_add(1, level.target, signal)
            values = torch.cat([values, form.relu()], 1) if level.units.stop < len(self.bias) else form
        return values.squeeze(1)
