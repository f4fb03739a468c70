r"""Compositions of functions of few variables, built within a proved error at a price that has no d in its exponent.

A general target of d variables with Lipschitz constant L costs about (L√d/(2ε))^d bumps.  A composition along a tree, such as

    f(x_1, …, x_8) = h(h(h(x_1, x_2), h(x_3, x_4)), h(h(x_5, x_6), h(x_7, x_8))),

costs one network of two variables a node, d − 1 of them with accuracies that add up to ε: about (d − 1)(c/ε)² bumps, where c
grows with the depth of the tree but ε's exponent does not.

Source: Poggio, Mhaskar, Rosasco, Miranda and Liao 2017 (Int. J. Automation and Computing 14), Theorems 1 and 2: shallow networks
need O(ε^(−d/s)) units for s derivatives, deep ones with the tree's shape O((d − 1) ε^(−2/s)).  Than's slide, "deep networks avoid
the curse of dimensionality when approximating Lipschitz functions", drops the word *compositional*: for all Lipschitz functions
no network does (DeVore, Howard and Micchelli 1989, for parameters that depend continuously on the target).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from nonvacuous.approximation import enclosure
from nonvacuous.approximation.built import Built
from nonvacuous.approximation.bumps import approximate
from nonvacuous.approximation.targets import Target, check_accuracy, values
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured

#: Relative room given to each interval for the rounding of what comes in.
_ROOM = 2.0**-40


@dataclass(frozen=True)
class Composed:
    """A node of a composition: ``function`` of the values of its ``parts``, which are nodes too, or numbers of variables (from 0).

    ``function`` maps ``[n, k]`` → ``[n]`` for k = 2 or 3 parts, ``[n]`` → ``[n]`` for one.  Without ``lipschitz`` its constant
    (Euclidean norm, on the values its parts take) is proved by interval arithmetic, which takes torch operations.

    >>> product = lambda x: x[:, 0] * x[:, 1]
    >>> f = Composed(product, (Composed(product, (0, 1)), Composed(torch.cos, (2,))))
    >>> f(torch.tensor([[2.0, 3.0, 0.0]])).item()
    6.0
    """

    function: Target
    parts: tuple[Composed | int, ...]
    lipschitz: float | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """The composition itself: ``[n, d]`` → ``[n]``."""
        inputs = [x[:, part] if isinstance(part, int) else part(x) for part in self.parts]
        return self.function(inputs[0] if len(inputs) == 1 else torch.stack(inputs, 1))

    def nodes(self) -> Iterator[Composed]:
        """This node and all below it."""
        yield self
        for part in self.parts:
            if isinstance(part, Composed):
                yield from part.nodes()

    @property
    def variables(self) -> int:
        """One more than the highest variable."""
        return max(part + 1 if isinstance(part, int) else part.variables for part in self.parts)


def binary_tree(function: Target, depth: int, lipschitz: float | None = None) -> Composed:
    """The same function of two variables at every node of a full binary tree over 2^depth variables.

    >>> binary_tree(lambda x: x.sum(-1), 3).variables
    8
    """
    if depth < 1:
        raise InvalidInput(f"a tree has a depth of at least 1; got {depth}")
    layer: list[Composed | int] = list(range(2**depth))
    while len(layer) > 1:
        layer = [Composed(function, (layer[i], layer[i + 1]), lipschitz) for i in range(0, len(layer), 2)]
    return cast(Composed, layer[0])


class ComposedNetwork(nn.Module):
    """Networks put together as the composition is: ``[n, d]`` → ``[n]``; ``own`` and ``below`` are submodules."""

    def __init__(self, own: nn.Module, below: Sequence[ComposedNetwork | int]) -> None:
        super().__init__()
        self.own = own
        self.below = nn.ModuleList([part for part in below if not isinstance(part, int)])
        self.sources = [part if isinstance(part, int) else None for part in below]

    def forward(self, x: Tensor) -> Tensor:
        networks = iter(self.below)
        inputs = [next(networks)(x) if source is None else x[:, source] for source in self.sources]
        return cast(Tensor, self.own(inputs[0] if len(inputs) == 1 else torch.stack(inputs, 1)))


def approximate_composition(target: Composed, domain: Sequence[Sequence[float]], eps: float) -> Built:
    r"""A ReLU network of the target's shape within ``eps`` of it everywhere on the box ``domain``.

    Every node's function is approximated within the same e on a box that holds the values its parts really take and those that
    their networks take; errors go up the tree as

        error(node) ≤ e + L·(Σ error(part)²)^{1/2},

    so that e = ε/F with F(node) = 1 + L·(Σ F(part)²)^{1/2}.  ``error`` is EXACT in the sense of
    :func:`nonvacuous.approximation.bumps.approximate`, with the recursion in place of one Lipschitz constant; its lower end is 0.
    ``cost`` adds up the nodes' plain networks.

    Args:
        target: a composition of functions of one to three variables.
        domain: one interval a variable.
        eps: sup error to reach.

    Raises:
        InvalidInput: a variable without an interval, a node with more than three parts (or none), and whatever `approximate`
            refuses at a node.

    >>> mean = binary_tree(lambda x: (x[:, 0] + x[:, 1]) / 2, 3)
    >>> built = approximate_composition(mean, [(0.0, 1.0)] * 8, 0.1)
    >>> built.error.upper <= 0.1, built.cost.macs
    (True, ...)
    """
    box = [(float(a), float(b)) for a, b in domain]
    if len(box) < target.variables:
        raise InvalidInput(
            f"the target names variable {target.variables - 1} (from 0), but the domain has {len(box)} intervals"
        )
    check_accuracy(eps, 0.0)
    built = _assembled(target, _Knowledge(box, _share(target, box, eps)))
    if built.error > eps:
        raise InvalidInput(f"eps = {eps:g} could not be shared out over the nodes; {built.error:g} was reached")
    return Built.counted(built.network, Measured(0.0, built.error, Kind.EXACT), built.weights, built.units)


def _share(target: Composed, box: list[tuple[float, float]], eps: float) -> float:
    """A large e with e·F(e) ≤ eps: F grows with e, since coarser networks reach further, where slopes may be larger."""

    def affordable(e: float) -> bool:
        return e * _Knowledge(box, e).of(target).factor <= eps * (1 - 2.0**-20)

    low, high = eps, eps
    while not affordable(low):
        low, high = low / 4, low
        if low < eps * 2.0**-80:
            raise InvalidInput(f"eps = {eps:g} cannot be shared out over the nodes: slopes multiply beyond float64")
    for _ in range(8 if low < high else 0):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if affordable(middle) else (low, middle)
    return low


@dataclass(frozen=True)
class _Known:
    """What holds for a node: an interval that holds its true values, and the error factor F."""

    low: float
    high: float
    factor: float


class _Knowledge:
    """Ranges, Lipschitz constants and error factors, node by node, at accuracy ``share`` each."""

    def __init__(self, box: list[tuple[float, float]], share: float) -> None:
        self.box, self.share = box, share
        self.known: dict[int, _Known] = {}
        self.measured: dict[tuple[object, ...], tuple[float, float, float]] = {}

    def of(self, node: Composed) -> _Known:
        """Everything about a node; looked up where it was asked before."""
        if id(node) not in self.known:
            sides, slope, total = self.inputs(node)
            low, high, _ = self.values(node, sides)
            self.known[id(node)] = _Known(low, high, 1.0 + slope * total)
        return self.known[id(node)]

    def inputs(self, node: Composed) -> tuple[list[tuple[float, float]], float, float]:
        """The box of a node's arguments, its Lipschitz constant there, and (Σ F(part)²)^{1/2}."""
        if not 1 <= len(node.parts) <= 3:
            raise InvalidInput(
                f"a node has one to three parts; got {len(node.parts)}. Write it as a composition of smaller ones"
            )
        sides, total = [], 0.0
        for part in node.parts:
            if isinstance(part, int):
                if not 0 <= part < len(self.box):
                    raise InvalidInput(f"there is no variable {part}; they count from 0 to {len(self.box) - 1}")
                sides.append(self.box[part])
            else:
                known = self.of(part)
                room = self.share * known.factor + _ROOM * max(abs(known.low), abs(known.high))
                sides.append((known.low - room, known.high + room))
                total += known.factor**2
        return sides, self.values(node, sides)[2], math.sqrt(total)

    def values(self, node: Composed, sides: list[tuple[float, float]]) -> tuple[float, float, float]:
        """Range and Lipschitz constant of a node's function; the range from a grid, and how far one can come from its points."""
        key = (node.function, node.lipschitz, *sides)
        if key not in self.measured:
            slope = node.lipschitz if node.lipschitz is not None else enclosure.lipschitz(node.function, sides)
            per_axis = {1: 1025, 2: 129, 3: 33}[len(sides)]
            axes = [torch.linspace(a, b, per_axis, dtype=torch.float64) for a, b in sides]
            sampled = values(node.function, axes[0] if len(axes) == 1 else torch.cartesian_prod(*axes))
            reach = slope * math.sqrt(sum((b - a) ** 2 for a, b in sides)) / (2 * (per_axis - 1)) * (1 + _ROOM)
            self.measured[key] = (float(sampled.min()) - reach, float(sampled.max()) + reach, slope)
        return self.measured[key]


@dataclass(frozen=True)
class _Part:
    network: ComposedNetwork
    error: float
    weights: int
    units: int


def _assembled(node: Composed, knowledge: _Knowledge) -> _Part:
    """Networks from the leaves up, and the error that follows from those really reached."""
    below = [part if isinstance(part, int) else _assembled(part, knowledge) for part in node.parts]
    sides, slope, _ = knowledge.inputs(node)
    own = approximate(node.function, sides[0] if len(sides) == 1 else sides, knowledge.share, lipschitz=slope)
    done = [part for part in below if isinstance(part, _Part)]
    carried = slope * math.sqrt(sum(part.error**2 for part in done)) * (1 + _ROOM)
    network = ComposedNetwork(own.module, [part if isinstance(part, int) else part.network for part in below])
    weights = own.cost.macs + sum(part.weights for part in done)
    units = 2 * own.cost.macs - own.cost.operations + sum(part.units for part in done)
    return _Part(network, (own.error.upper + carried) * (1 + _ROOM), weights, units)


def log_general_bumps(variables: int, lipschitz: float, width: float, eps: float) -> float:
    """ln of the bumps that `approximate`'s construction takes for any L-Lipschitz target on a cube: (L·width·√d/(2ε))^d.

    >>> round(log_general_bumps(8, 1.0, 1.0, 0.1) / math.log(10), 1)  # 10^9.2 of them
    9.2
    """
    if variables < 1 or min(lipschitz, width, eps) <= 0:
        raise InvalidInput(f"variables ≥ 1 and L, width, eps > 0 are needed; got {variables}, {lipschitz}, {width}, {eps}")
    return variables * max(0.0, math.log(lipschitz * width * math.sqrt(variables) / (2 * eps)))
