"""A network as a chain of affine layers and activations, whose norms the norm-based bounds take: what lies between two activations is
one layer.  :mod:`chains` has the norms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import UnsupportedModule
from nonvacuous.core.measured import Measured
from nonvacuous.measures.activations import activation
from nonvacuous.measures.chains import Chain, Layer, frobenius
from nonvacuous.measures.lipschitz import traced
from nonvacuous.measures.ranges import mapped
from nonvacuous.measures.reading import NORMALIZERS, Reading, functional_map, normalizer_of, pool_of
from nonvacuous.operators.appended import Appended
from nonvacuous.operators.certified import gamma
from nonvacuous.operators.graph import Graph, Node, Parent
from nonvacuous.operators.linear_map import LinearMap
from nonvacuous.operators.maps import AxisMaps, ChannelScale, Matrix, Rearrangement
from nonvacuous.operators.maps import Chain as Product
from nonvacuous.operators.norms import absolute_size
from nonvacuous.operators.row_squares import is_within_reach
from nonvacuous.operators.rules import BATCH_NORMS, find

__all__ = ["Chain", "Layer", "chain_of", "frobenius"]

HOMOGENEOUS = {"relu", "leaky_relu", "absolute"}
POOLS = {"max_pool", "average_pool", "adaptive_average_pool", "adaptive_max_pool"}
MAX_POOLS = {"max_pool", "adaptive_max_pool"}
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
        UnsupportedModule: branches (residual blocks), attention, activations of another kind, layers without a rule; the part is named.
        InvalidInput: NaN in the weights, a shape that does not fit.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10))
    >>> chain = chain_of(net, (1, 8, 8))
    >>> chain.depth, chain.widest, chain.constants  # 4·8·8 numbers and the appended 1
    (2, 257, (1.0,))
    """
    exact, seen = traced(model, input_shape)
    with torch.no_grad():
        return _Reader(exact, seen, tuple(input_shape), homogeneous).chain()


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

    def then(self, part: LinearMap, function: Function, module: nn.Module | None) -> _Affine:
        absolute = mapped(part, torch.abs)
        at_zero = function(torch.zeros_like(self.offset))
        reach = absolute.apply(self.reach) + at_zero.abs()
        if isinstance(module, BATCH_NORMS) and module.running_mean is not None:  # β − μγ/σ may cancel
            mean = module.running_mean.double().abs().reshape(-1, *[1] * (self.reach.dim() - 2))
            reach = reach + absolute.apply(mean.expand(self.reach.shape))
        weights, biases = self._dimensions(part)
        adds = self.adds or isinstance(module, BATCH_NORMS) or getattr(module, "bias", None) is not None or bool(at_zero.any())
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


class _Reader(Reading):
    """Follows a graph from the input on; every node reads the one before it and nothing else of the input."""

    def __init__(self, model: nn.Module, graph: Graph, shape: tuple[int, ...], homogeneous: bool) -> None:
        super().__init__(model, graph)
        self.strict = homogeneous
        self.done: list[_Affine] = []
        self.constants: list[float] = []
        self.elementwise = self.homogeneous = True
        self.now = _Affine.nothing(shape)
        self.last, self.moving = "", set[str]()
        for node in graph:
            self.visit(node)

    def visit(self, node: Node) -> None:
        if node.operation == "input" and node.shape_out:
            if self.last:
                raise self.unsupported(node, "is a second input; a chain has one")
            self.last = node.name
            self.moving.add(node.name)
            return
        read = [name for name in node.parents if name in self.moving]
        if not read or node.operation in ("parameter", "shape"):
            return
        if node.operation == "output":
            result = node.arguments[0]
            if isinstance(result, tuple | list) and len(result) == 1:  # torch.export's way
                result = result[0]
            if not isinstance(result, Parent) or read != [self.last]:
                raise self.unsupported(node, "returns more than the scores: no chain of layers")
            return
        if read != [self.last]:
            raise self.unsupported(node, "joins two results of the input (a residual block, attention): no chain of layers")
        self.moving.add(node.name)
        self.last = node.name
        if node.module is None and node.operation in NORMALIZERS:
            node = replace(node, module=normalizer_of(self, node))
        elif node.module is None and node.operation in POOLS:
            node = replace(node, module=pool_of(self, node))
        found = activation(node.operation, node.module, self.with_parameters(node))
        if found is not None:
            self.activated(node, found)
        else:
            self.affine(node)

    def affine(self, node: Node) -> None:
        shape = tuple(self.now.linear.shape_out)
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
                raise self.unsupported(node, "is neither affine nor an activation: no chain of layers")
            self.between(part.upper)
            self.elementwise = False
            self.now = _Affine.nothing(node.shape_out[1:])
            return
        grown = self.now.then(part, function, module)
        if not self.now.is_view and not isinstance(part, Rearrangement) and not is_within_reach(grown.linear):
            self.between(1.0)
            grown = self.now.then(part, function, module)
        self.now = grown

    def activated(self, node: Node, found: object) -> None:
        if node.operation not in HOMOGENEOUS:
            at_zero = found.values(*torch.zeros(2, 1, dtype=torch.float64))  # type: ignore[attr-defined]
            if self.strict:
                raise self.unsupported(node, "is not positively homogeneous (ReLU, leaky ReLU, |·| and max pooling are)")
            if node.operation == "prelu" or max(abs(float(end)) for end in at_zero) > 1e-8:
                raise self.unsupported(node, "must be fixed and vanish at 0")
            self.homogeneous = False
        self.between(max(1.0, found.lipschitz))  # type: ignore[attr-defined]

    def between(self, constant: float) -> None:
        """Ends a layer with an activation of this constant; one right after another activation joins it."""
        if self.now.is_view and self.done:
            self.constants[-1] *= constant * (1 + 2**-52) if constant != 1.0 else 1.0
            shape = tuple(self.now.linear.shape_out)
        else:
            self.done.append(self.now)
            self.constants.append(constant)
            shape = tuple(self.now.linear.shape_out)
        self.now = _Affine.nothing(shape)

    def chain(self) -> Chain:
        affine = [*self.done, self.now]
        if affine[-1].linear.rows == 2:
            affine[-1] = _difference_of_two(affine[-1])
        biased = any(part.adds for part in affine)
        layers = tuple(_layer(part, biased, part is affine[-1]) for part in affine)
        return Chain(layers, tuple(self.constants), biased, self.elementwise, self.homogeneous)


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
