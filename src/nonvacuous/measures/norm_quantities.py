"""A network as affine layers with activations, sums and concatenations between them, whose norms the norm-based bounds take: what lies
between two activations is one layer.  :mod:`chains` has the norms, :mod:`weight_graph` what they amount to in a network with branches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import UnsupportedModule
from nonvacuous.core.measured import Measured
from nonvacuous.measures.activations import Activation, activation
from nonvacuous.measures.chains import Chain, Layer, frobenius
from nonvacuous.measures.lipschitz import traced
from nonvacuous.measures.ranges import SAME_NUMBERS, mapped, option_of
from nonvacuous.measures.reading import NORMALIZERS, Reading, functional_map, normalizer_of, pool_of
from nonvacuous.measures.walk import plain_index
from nonvacuous.measures.weight_graph import Fixed, Join, WeightGraph, Weights
from nonvacuous.operators.appended import Appended
from nonvacuous.operators.certified import gamma
from nonvacuous.operators.graph import Graph, Node, Parent
from nonvacuous.operators.linear_map import LinearMap
from nonvacuous.operators.maps import AxisMaps, ChannelScale, Matrix, Rearrangement
from nonvacuous.operators.maps import Chain as Product
from nonvacuous.operators.norms import absolute_size
from nonvacuous.operators.row_squares import is_within_reach
from nonvacuous.operators.rules import BATCH_NORMS, find

__all__ = ["Chain", "Layer", "chain_of", "frobenius", "weight_graph"]

HOMOGENEOUS = {"relu", "leaky_relu", "absolute"}
POOLS = {"max_pool", "average_pool", "adaptive_average_pool", "adaptive_max_pool"}
MAX_POOLS = {"max_pool", "adaptive_max_pool"}
MOVES = (SAME_NUMBERS - {"chunk"}) - {"flatten", "reshape", "copy", "dropout", "identity"}
VIEWS = {"flatten", "reshape", "copy", "dropout", "identity"}
Function = Callable[[Tensor], Tensor]


def chain_of(model: nn.Module, input_shape: Sequence[int], *, homogeneous: bool = True) -> Chain:
    """The chain a network is: fully connected or convolutional, with batch norm in eval mode, pooling, views and activations.

    Activations are ReLU, leaky ReLU, |·| and max pooling, whose constant is √(largest number of windows an input is in): 1 where windows
    do not overlap.  A product of linear maps with too many entries to be computed stays several layers with nothing between them.

    Args:
        model: a network of one tensor; its mode does not matter.
        input_shape: of one input, without the batch.
        homogeneous: if False, every activation that vanishes at 0 will do (tanh, GELU, ReLU6); :attr:`Chain.homogeneous` tells.

    Raises:
        UnsupportedModule: branches (residual blocks: :func:`weight_graph` takes them), attention, activations of another kind, layers
            without a rule; the part is named.
        InvalidInput: NaN in the weights, a shape that does not fit.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10))
    >>> chain = chain_of(net, (1, 8, 8))
    >>> chain.depth, chain.widest, chain.constants  # 4·8·8 numbers and the appended 1
    (2, 257, (1.0,))
    """
    return _read(model, input_shape, homogeneous).chain


def weight_graph(model: nn.Module, input_shape: Sequence[int]) -> WeightGraph:
    """The layers of a network with residual sums and concatenations, and the fixed maps between them.

    Fixed maps: activations with a Lipschitz constant (also those that do not vanish at 0), max pooling, views, sums and means over
    positions, multiplication by numbers. Errors as :func:`chain_of`, but for branches: a result that multiplies another (attention,
    squeeze-and-excitation), normalizers that read their input (layer norm), weights used as slopes have no place here.

    >>> class Block(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.inner, self.outer = nn.Linear(4, 8), nn.Linear(8, 4)
    ...     def forward(self, x):
    ...         return x + self.outer(self.inner(x).relu())
    >>> graph = weight_graph(nn.Sequential(Block(), nn.ReLU(), nn.Linear(4, 3)), (4,))
    >>> [type(step).__name__ for step in graph.steps]
    ['Weights', 'Fixed', 'Weights', 'Join', 'Fixed', 'Weights']
    """
    return _read(model, input_shape, False)


def _read(model: nn.Module, input_shape: Sequence[int], homogeneous: bool) -> WeightGraph:
    exact, seen = traced(model, input_shape)
    with torch.no_grad():
        return _Reader(exact, seen, tuple(input_shape), homogeneous).graph_of_weights()


@dataclass(frozen=True)
class _Affine:
    """A layer in the making.

    ``linear`` its linear part; ``offset`` what it makes of 0; ``reach`` at least the absolute values added up on the way, in ``terms``
    roundings; ``weights`` and ``biases`` the dimensions of the spaces they range over, None where that is no linear space.
    """

    linear: LinearMap
    offset: Tensor
    reach: Tensor
    terms: int = 0
    weights: int | None = 0
    biases: int = 0
    adds: bool = False

    @classmethod
    def nothing(cls, shape: tuple[int, ...]) -> _Affine:
        zero = torch.zeros(1, *shape, dtype=torch.float64)
        return cls(Rearrangement(shape, shape), zero, zero)

    @property
    def is_view(self) -> bool:
        return isinstance(self.linear, Rearrangement)

    def then(self, part: LinearMap, function: Function, module: nn.Module | None, adds: bool) -> _Affine:
        absolute = mapped(part, torch.abs)
        at_zero = function(torch.zeros_like(self.offset))
        reach = absolute.apply(self.reach) + at_zero.abs()
        if isinstance(module, BATCH_NORMS) and module.running_mean is not None:  # β − μγ/σ may cancel
            mean = module.running_mean.double().abs().reshape(-1, *[1] * (self.reach.dim() - 2))
            reach = reach + absolute.apply(mean.expand(self.reach.shape))
        weights, biases = self._dimensions(part)
        adds = adds or self.adds or isinstance(module, BATCH_NORMS) or bool(at_zero.any())
        linear = Product.folded([self.linear, part])
        return _Affine(linear, function(self.offset), reach, self.terms + part.columns + 16, weights, biases, adds)

    def _dimensions(self, part: LinearMap) -> tuple[int | None, int]:
        if isinstance(part, Rearrangement | AxisMaps):
            return self.weights, self.biases
        if isinstance(part, ChannelScale):
            folded = bool(self.weights) and not isinstance(self.linear, ChannelScale)
            return (
                (self.weights, self.biases) if folded else (part.scale.numel() if self.weights == 0 else None, len(part.scale))
            )
        weight = part.weight if isinstance(part, Matrix) else getattr(part, "kernel", None)
        if self.weights != 0 or weight is None:
            return None, 0
        return weight.numel(), part.shape_out[-1] if isinstance(part, Matrix) else part.shape_out[0]


@dataclass(frozen=True)
class _Found:
    """An affine step before it is known whether others add constants."""

    reads: int
    affine: _Affine
    name: str

    def weights(self, biased: bool, is_last: bool) -> Weights:
        fixed = self.affine.weights == 0 and self.affine.biases == 0 and not self.affine.adds
        return Weights(self.reads, _layer(self.affine, biased, is_last), self.affine.adds, fixed, self.name)


class _Reader(Reading):
    """Follows a graph from the input on: where every node's result stands in the list of steps, and what affine map lies in between."""

    def __init__(self, model: nn.Module, graph: Graph, shape: tuple[int, ...], homogeneous: bool) -> None:
        super().__init__(model, graph)
        self.strict = homogeneous
        self.shape = shape
        self.steps: list[_Found | Fixed | Join] = []
        self.states: dict[str, tuple[int, _Affine]] = {}
        self.no_chain: UnsupportedModule | None = None
        self.elementwise = self.homogeneous = True
        readers = [name for node in graph for name in set(node.parents)]
        self.shared = {name for name in readers if readers.count(name) > 1}
        for node in graph:
            self.visit(node)

    def visit(self, node: Node) -> None:
        if node.operation == "input" and node.shape_out:
            if self.states:
                raise self.unsupported(node, "is a second input; the theorems speak of one")
            self.states[node.name] = (0, _Affine.nothing(self.shape))
            return
        read = [name for name in node.parents if name in self.states]
        if not read or node.operation in ("parameter", "shape"):
            return
        if node.operation == "output":
            self.finished(node, read)
            return
        if node.operation in ("add", "subtract", "concatenate"):
            self.states[node.name] = self.joined(node, read)
        elif len(set(read)) > 1 or node.operation == "attention":
            what = "multiplies" if node.operation == "multiply" else "joins"
            raise self.unsupported(
                node,
                f"{what} two results of the input (attention, gating, squeeze-and-excitation): no fixed Lipschitz constant over all inputs",
            )
        else:
            self.states[node.name] = self.one(node, read[0])
        if node.name in self.shared:
            self.states[node.name] = self.settled(node.name)

    def one(self, node: Node, parent: str) -> tuple[int, _Affine]:
        """A step that reads one result."""
        if node.module is None and node.operation in NORMALIZERS:
            node = replace(node, module=normalizer_of(self, node))
        elif node.module is None and node.operation in POOLS:
            node = replace(node, module=pool_of(self, node))
        found = activation(node.operation, node.module, self.with_parameters(node))
        if found is not None:
            return self.activated(node, parent, found)
        if node.operation in ("multiply", "divide", "negate"):
            return self.scaled(node, parent)
        if node.operation in ("mean", "sum") and node.shape_out[:1] == (1,) and node.shapes_in[0][:1] == (1,):
            count = math.prod(node.shapes_in[0]) / max(1, math.prod(node.shape_out))
            return self.between(parent, (count if node.operation == "sum" else 1 / count) ** 0.5 * (1 + 2**-50), node)
        if node.operation in MOVES and (node.operation != "index" or plain_index(node)):
            return self.between(parent, 1.0, node)
        return self.affine(node, parent)

    def settled(self, name: str) -> tuple[int, _Affine]:
        """The result as one in the list of steps, but for a view."""
        place, affine = self.states[name]
        if affine.is_view:
            return place, affine
        self.steps.append(_Found(place, affine, self.graph[name].module_name or name))
        self.states[name] = (len(self.steps), _Affine.nothing(tuple(affine.linear.shape_out)))
        return self.states[name]

    def affine(self, node: Node, parent: str) -> tuple[int, _Affine]:
        place, now = self.states[parent]
        shape = tuple(now.linear.shape_out)
        module = node.module
        part: LinearMap | Measured
        if node.operation in VIEWS and node.shape_out[:1] == (1,) and math.prod(shape) == math.prod(node.shape_out):
            part, function = Rearrangement(shape, node.shape_out[1:]), lambda x: x.reshape(node.shape_out)
        elif module is not None:
            try:
                part, function = find(module, shape, node.module_name), lambda x: module(x)
            except UnsupportedModule as error:
                raise self.unsupported(node, "no rule for its norms") from error
        elif node.operation in ("linear", "convolution", "pad"):
            part, function = functional_map(self, node, shape)
        else:
            raise self.unsupported(node, "no rule for its norms")
        if isinstance(part, Measured):
            if node.operation not in MAX_POOLS:
                raise self.unsupported(
                    node, "is neither affine nor a fixed activation: its constant depends on its weights or its input"
                )
            return self.between(parent, part.upper, node)
        adds = (self.with_parameters(node)("bias", 2, None) if module is None else getattr(module, "bias", None)) is not None
        grown = now.then(part, function, module, adds)
        if not now.is_view and not isinstance(part, Rearrangement) and not is_within_reach(grown.linear):
            place, now = self.settled(parent)
            grown = now.then(part, function, module, adds)
        return place, grown

    def activated(self, node: Node, parent: str, found: Activation) -> tuple[int, _Affine]:
        offset = 0.0
        if node.operation not in HOMOGENEOUS:
            if self.strict:
                raise self.unsupported(node, "is not positively homogeneous (ReLU, leaky ReLU, |·| and max pooling are)")
            if node.operation == "prelu":
                raise self.unsupported(node, "must be fixed: its slope is a weight")
            at_zero = max(abs(float(end)) for end in found.values(*torch.zeros(2, 1, dtype=torch.float64)))
            if at_zero > 1e-8:
                self.broken(node, "must be fixed and vanish at 0")
            offset = at_zero * math.sqrt(math.prod(node.shape_out)) * (1 + 1e-12)
            self.homogeneous = False
        return self.between(parent, found.lipschitz, node, offset, elementwise=True)

    def between(
        self, parent: str, constant: float, node: Node, offset: float = 0.0, elementwise: bool = False
    ) -> tuple[int, _Affine]:
        """A fixed map of this constant."""
        self.elementwise &= elementwise
        self.states[parent] = self.settled(parent)
        self.steps.append(Fixed(self.states[parent][0], constant, offset))
        return len(self.steps), _Affine.nothing(tuple(node.shape_out[1:]))

    def scaled(self, node: Node, parent: str) -> tuple[int, _Affine]:
        others = [value for value in node.arguments if not isinstance(value, Parent)]
        number = others[0] if others else -1.0
        inverse = node.operation == "divide" and node.arguments and isinstance(node.arguments[0], Parent)
        if (
            not isinstance(number, int | float)
            or len(node.parents) != 1
            or (node.operation == "divide" and not (inverse and number))
        ):
            raise self.unsupported(node, "multiplies by what is no fixed number")
        self.broken(node, "multiplies by a number: no layer of a chain")
        return self.between(parent, abs(1 / number if inverse else number) * (1 + 2**-50), node)

    def joined(self, node: Node, read: list[str]) -> tuple[int, _Affine]:
        concatenated = node.operation == "concatenate"
        values = list(node.arguments[0]) if concatenated else list(node.arguments[:2])
        self.broken(node, "joins two results of the input (a residual block, attention): no chain of layers")
        if not concatenated and len(values) == 2 and len(read) == 1:
            number = next(value for value in values if not (isinstance(value, Parent) and value.name in self.states))
            if not isinstance(number, int | float):
                raise self.unsupported(node, "adds a tensor that is no result of the input: no layer")
            return self.between(read[0], 1.0, node, abs(number) * math.sqrt(math.prod(node.shape_out)) * (1 + 1e-12))
        alpha = 1.0 if concatenated else option_of(node)("alpha", 2, 1)
        if not all(isinstance(value, Parent) and value.name in self.states for value in values) or abs(alpha) != 1:
            raise self.unsupported(node, "joins results of the input with something else")
        if concatenated and option_of(node)("dim", 1, 0) in (0, -len(node.shape_out)):
            raise self.unsupported(node, "joins along the batch")
        if not concatenated and any(self.graph[value.name].shape_out != node.shape_out for value in values):
            raise self.unsupported(node, "adds results of different shapes")
        places = []
        for value in values:
            self.states[value.name] = self.settled(value.name)
            places.append(self.states[value.name][0])
        self.steps.append(Join(tuple(places), concatenated))
        return len(self.steps), _Affine.nothing(tuple(node.shape_out[1:]))

    def broken(self, node: Node, why: str) -> None:
        """Remember why this is no chain."""
        self.no_chain = self.no_chain or self.unsupported(node, why)

    def finished(self, node: Node, read: list[str]) -> None:
        result = node.arguments[0]
        if isinstance(result, tuple | list) and len(result) == 1:  # torch.export's way
            result = result[0]
        if not isinstance(result, Parent) or len(read) != 1:
            raise self.unsupported(node, "returns more than the scores")
        place, affine = self.states[result.name]
        self.scores = affine.linear.rows
        if self.scores == 2 and not affine.is_view:
            self.states[result.name] = place, _difference_of_two(affine)
        place, self.rest = self.settled(result.name)
        if place != len(self.steps):
            raise self.unsupported(node, "computes results that it does not return")

    def graph_of_weights(self) -> WeightGraph:
        biased = any(
            step.affine.adds if isinstance(step, _Found) else isinstance(step, Fixed) and step.offset > 0
            for step in self.steps
        )
        steps = tuple(
            step.weights(biased, k == len(self.steps)) if isinstance(step, _Found) else step
            for k, step in enumerate(self.steps, 1)
        )
        chain: Chain | UnsupportedModule = self.no_chain or self.chain(steps, biased)
        return WeightGraph(steps, biased, math.prod(self.shape), max(2, self.scores), chain)

    def chain(self, steps: tuple[Weights | Fixed | Join, ...], biased: bool) -> Chain:
        layers, constants = list[Layer](), list[float]()
        for step in steps:
            if isinstance(step, Weights):
                constants += [1.0] * (len(layers) - len(constants))
                layers.append(step.layer)
            elif isinstance(step, Fixed):
                constant = max(1.0, step.lipschitz)
                if not layers:
                    layers.append(_layer(_Affine.nothing(self.shape), biased, False))
                if len(constants) < len(layers):
                    constants.append(constant)
                elif constant != 1.0:
                    constants[-1] *= constant * (1 + 2**-52)
        if len(constants) == len(layers):
            last = _difference_of_two(self.rest) if self.scores == 2 else self.rest
            layers.append(_layer(last, biased, True))
        return Chain(tuple(layers), tuple(constants), biased, self.elementwise, self.homogeneous)


def _difference_of_two(part: _Affine) -> _Affine:
    row = Matrix(torch.tensor([[-1.0, 1.0]], dtype=torch.float64))
    flat = Rearrangement(tuple(part.linear.shape_out), (2,))
    halved = replace(
        part, linear=Product.folded([part.linear, flat]), offset=part.offset.flatten(1), reach=part.reach.flatten(1)
    )
    linear = halved.linear
    if isinstance(linear, Matrix) and not linear.lead:
        linear = Matrix(linear.weight.double()[1:] - linear.weight.double()[:1])
    else:
        linear = Product.folded([linear, row])
    weights = None if part.weights is None else part.weights // 2
    offset, reach = halved.offset[:, 1:] - halved.offset[:, :1], halved.reach.sum(1, keepdim=True)
    return _Affine(linear, offset, reach, part.terms + 4, weights, 1, part.adds)


def _layer(part: _Affine, biased: bool, is_last: bool) -> Layer:
    wrong = gamma(part.terms + 8) * part.reach
    rounding = 1e-14 * absolute_size(part.linear)  # of scales folded into the weights, relative to each
    many = math.sqrt(part.linear.rows * part.linear.smaller_side)
    slack = (
        float(torch.linalg.vector_norm(wrong)) * (1 + 1e-10) + rounding,
        float(wrong.sum()) * (1 + 1e-10) + many * rounding,
    )
    count = None if part.weights is None else part.weights + part.biases * biased
    linear = part.linear
    if biased:
        return Layer(Appended(linear, part.offset, is_last), slack, count)
    return Layer(linear, slack, count)
