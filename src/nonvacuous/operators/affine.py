"""Models of linear parts: a traced forward as a chain, sum or stack of linear maps."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.operators.convolution import Convolution
from nonvacuous.operators.cost import in_eval
from nonvacuous.operators.graph import LEAVES, Graph, Node, Parent
from nonvacuous.operators.linear_map import LinearMap
from nonvacuous.operators.maps import Chain, Matrix, Padding, Rearrangement, Stack, Sum
from nonvacuous.operators.rules import RULES, axis_of, checked, find, per_axis
from nonvacuous.operators.tracers import by_fx


def traced_map(module: nn.Module, shape: tuple[int, ...]) -> LinearMap | None:
    """The linear part of the module, or None where its forward has parts that are not linear, or cannot be traced.

    The trace is symbolic, so that what it says holds for every input of the shape.  Raises InvalidInput if the shape does not
    fit, or a part's weights hold NaN.
    """
    tensor = next(iter([*module.parameters(), *module.buffers()]), torch.zeros(()))
    dtype = tensor.dtype if tensor.is_floating_point() else torch.float32
    example = torch.zeros(1, *shape, dtype=dtype, device=tensor.device)
    with in_eval(module), torch.no_grad():
        try:
            module(example)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):  # reads numbers of words, not vectors
                return None
            kind = type(module).__name__
            raise InvalidInput(f"{kind} does not take an input of shape {shape} without the batch: {error}") from error
        try:
            seen = by_fx(module, (example,), {}, (*LEAVES, *RULES))
        except Exception:
            return None
    return _Reader(module, seen).read()


class _Reader:
    """Reads a graph from the input on: every node's result as a linear map of the input, or None for a constant."""

    def __init__(self, root: nn.Module, graph: Graph) -> None:
        self.root, self.graph = root, graph
        self.maps: dict[str, LinearMap | None] = {}

    def read(self) -> LinearMap | None:
        inputs = [node for node in self.graph if node.operation == "input"]
        if len(inputs) != 1:
            return None
        try:
            for node in self.graph:
                if node.operation == "output":
                    result = node.arguments[0]
                    return self.maps[result.name] if isinstance(result, Parent) else None
                self.maps[node.name] = self.of(node)
        except (UnsupportedModule, KeyError, TypeError):
            return None
        return None

    def of(self, node: Node) -> LinearMap | None:
        if node.operation == "input":
            return Rearrangement(node.shape_out[1:], node.shape_out[1:])
        if node.operation == "parameter":
            return None
        if node.module is not None:
            sources = [self.maps[name] for name in node.parents]
            source = sources[0] if len(sources) == 1 else None
            if source is None:
                raise UnsupportedModule(node.name)
            found = find(node.module, source.shape_out, node.module_name)
            if not isinstance(found, LinearMap):
                raise UnsupportedModule(node.name)
            return Chain.folded([source, found])
        reader = READERS.get(node.operation)
        if reader is None:
            raise UnsupportedModule(node.name)
        return reader(self, node)

    def source(self, value: Any) -> LinearMap:
        """The map an argument stands for."""
        found = self.maps[value.name] if isinstance(value, Parent) else None
        if found is None:
            raise UnsupportedModule("a constant where a map of the input is expected")
        return found

    def is_constant(self, value: Any) -> bool:
        """A number, or a parameter: it moves the result, but not its linear part."""
        return isinstance(value, int | float) or (isinstance(value, Parent) and self.maps[value.name] is None)

    def tensor(self, value: Any) -> Tensor:
        """The parameter an argument stands for."""
        target = self.graph[value.name].arguments[0]
        owner, _, name = str(target).rpartition(".")
        return checked(self.root, str(target), getattr(self.root.get_submodule(owner), name))


def _argument(node: Node, place: int, name: str, default: Any = None) -> Any:
    return node.arguments[place] if len(node.arguments) > place else node.keywords.get(name, default)


def _add(sign: float) -> Callable[[_Reader, Node], LinearMap]:
    def read(reader: _Reader, node: Node) -> LinearMap:
        left, right = node.arguments[:2]
        scale = _argument(node, 2, "alpha", 1) * sign
        if reader.is_constant(right):
            return reader.source(left)
        if reader.is_constant(left):
            return Sum([reader.source(right)], [scale])
        first, second = reader.source(left), reader.source(right)
        if first.shape_out != second.shape_out:
            raise UnsupportedModule("a sum that broadcasts")
        return Sum([first, second], [1.0, scale])

    return read


def _scale(reader: _Reader, node: Node) -> LinearMap:
    left, right = node.arguments[:2]
    if isinstance(left, int | float) and node.operation == "multiply":
        left, right = right, left
    if not isinstance(right, int | float):
        raise UnsupportedModule("a product with something that is not a number")
    return Sum([reader.source(left)], [float(right) if node.operation == "multiply" else 1.0 / right])


def _linear(reader: _Reader, node: Node) -> LinearMap:
    source = reader.source(node.arguments[0])
    return Chain.folded([source, Matrix(reader.tensor(_argument(node, 1, "weight")), source.shape_out[:-1])])


def _convolution(reader: _Reader, node: Node) -> LinearMap:
    source, weight = reader.source(node.arguments[0]), reader.tensor(_argument(node, 1, "weight"))
    stride, padding, dilation = (
        _argument(node, place, name, default)
        for place, name, default in ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))
    )
    axes = []
    for n, kernel in enumerate(weight.shape[2:]):
        span = per_axis(dilation, n) * (kernel - 1)
        if isinstance(padding, str):
            left, right = (span // 2, span - span // 2) if padding == "same" else (0, 0)
        else:
            left = right = per_axis(padding, n)
        size = source.shape_out[n + 1]
        axes.append(axis_of(reader.root, kernel, per_axis(stride, n), per_axis(dilation, n), left, right, size))
    return Chain.folded([source, Convolution(weight, axes, _argument(node, 6, "groups", 1))])


def _pad(reader: _Reader, node: Node) -> LinearMap:
    source = reader.source(node.arguments[0])
    widths, mode = list(_argument(node, 1, "pad")), _argument(node, 2, "mode", "constant")
    widths += [0] * (2 * (len(source.shape_out) - 1) - len(widths))
    if len(widths) != 2 * (len(source.shape_out) - 1):
        raise UnsupportedModule("padding of channels")
    pairs = [(widths[k], widths[k + 1]) for k in reversed(range(0, len(widths), 2))]
    return Chain.folded([source, Padding(source.shape_out, pairs, "zeros" if mode == "constant" else mode)])


def _same_order(reader: _Reader, node: Node) -> LinearMap:
    source, shape = reader.source(node.arguments[0]), node.shape_out[1:]
    if node.shape_out[0] != 1 or prod(shape) != source.rows:
        raise UnsupportedModule("a reshape over the batch")
    return Chain.folded([source, Rearrangement(source.shape_out, shape)])


def _concatenate(reader: _Reader, node: Node) -> LinearMap:
    axis = _argument(node, 1, "dim", 0)
    axis = axis + len(node.shape_out) if axis < 0 else axis
    if axis == 0:
        raise UnsupportedModule("concatenation over the batch")
    return Stack([reader.source(part) for part in node.arguments[0]], axis - 1)


def _identity(reader: _Reader, node: Node) -> LinearMap:
    return reader.source(node.arguments[0])


READERS: dict[str, Callable[[_Reader, Node], LinearMap]] = {
    "add": _add(1.0),
    "subtract": _add(-1.0),
    "multiply": _scale,
    "divide": _scale,
    "negate": lambda reader, node: Sum([reader.source(node.arguments[0])], [-1.0]),
    "linear": _linear,
    "convolution": _convolution,
    "pad": _pad,
    "flatten": _same_order,
    "reshape": _same_order,
    "concatenate": _concatenate,
    "copy": _identity,
}
