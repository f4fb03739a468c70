"""A model as it is traced: nodes in topological order, with residual sums, concatenations and functional calls in sight.

Three tracers, the first that leaves nothing unknown: ``torch.fx`` (symbolic: true for every input, of the example's sizes where the
forward reads them), ``torch.export`` (true for inputs of the example's shape), and a recording of one run with module hooks and a
function mode (true for the example; control flow that depends on the data is followed one way).  :attr:`Graph.traced_by` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.operators.cost import call_arguments, in_eval
from nonvacuous.operators.operations import UNKNOWN, of_function, of_module

Shape = tuple[int, ...]

#: Seen whole, by isinstance, whatever they are made of: a subclass keeps its place even where it has children.
LEAVES: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.Softmax,
    nn.Upsample,
)


@dataclass(frozen=True)
class Parent:
    """Stands in a node's arguments for the result of another node."""

    name: str


@dataclass(frozen=True)
class Node:
    """One step of the computation.

    Attributes:
        name: unique in the graph.
        operation: ``input``, ``output``, ``parameter``, a glossary word of :mod:`operations` (``convolution``, ``linear``,
            ``batch_norm``, ``relu``, ``add``, ``concatenate``, ``attention``, …), ``custom`` for a class asked for in
            ``leaves``, or ``unknown``.
        module_name: the module called, or for a functional call the one that makes it; ``""`` is the model.
        module: the module called; None for a functional call.
        type_name: class of the module, or name of the function.
        parents: the nodes it reads, in order, each once for every time it is read.
        shapes_in, shape_out: shapes with the batch; ``()`` also where the result is not a tensor.
        arguments, keywords: of the call, with :class:`Parent` for results of other nodes.
    """

    name: str
    operation: str
    module_name: str
    module: nn.Module | None = field(repr=False)
    type_name: str
    parents: tuple[str, ...]
    shapes_in: tuple[Shape, ...]
    shape_out: Shape
    arguments: tuple[Any, ...] = field(repr=False, default=())
    keywords: dict[str, Any] = field(repr=False, default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order; the last is the output."""

    nodes: tuple[Node, ...]
    traced_by: str

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def children(self, name: str) -> tuple[Node, ...]:
        """The nodes that read this one; more than one where the computation branches."""
        return tuple(node for node in self.nodes if name in node.parents)

    @property
    def output(self) -> Node:
        """The node whose result the model returns."""
        return self.nodes[-1]

    @property
    def unknown(self) -> tuple[Node, ...]:
        """Nodes nobody has a word for."""
        return tuple(node for node in self.nodes if node.operation == UNKNOWN)


def graph(module: nn.Module, example_input: Any, leaves: Sequence[type[nn.Module]] = ()) -> Graph:
    """The model's graph in eval mode.

    Args:
        module: the model; left in the mode it was in.
        example_input: a tensor, a tuple of positional arguments, or a mapping of keyword arguments, with a batch.
        leaves: further classes to keep whole (those with a rule of their own).

    Raises InvalidInput when the model does not run on the example.

    >>> [node.operation for node in graph(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.zeros(1, 3))]
    ['input', 'linear', 'relu', 'output']
    """
    from nonvacuous.operators import tracers  # here, as tracers build nodes

    arguments, keywords = call_arguments(example_input)
    kept = (*LEAVES, *leaves)
    with in_eval(module), torch.no_grad():
        try:
            module(*arguments, **keywords)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            raise InvalidInput(f"{type(module).__name__} cannot be run on this example input: {error}") from error
        seen: list[Graph] = []
        for tracer in (tracers.by_fx, tracers.by_export):
            try:
                seen.append(tracer(module, arguments, keywords, kept))
            except Exception:  # symbolic tracing fails in as many ways as there are models
                continue
            if not seen[-1].unknown:
                return seen[-1]
        seen.append(tracers.by_recording(module, arguments, keywords, kept))
    return min(seen, key=lambda graph: len(graph.unknown))


def is_leaf(module: nn.Module, leaves: tuple[type[nn.Module], ...]) -> bool:
    """Kept whole: of a listed class, or one of torch's own that is no container."""
    if isinstance(module, leaves):
        return True
    own = type(module).__module__.startswith("torch.nn.modules")
    return own and not any(True for _ in module.children()) and not isinstance(module, nn.Sequential)


def shape_of(value: Any) -> Shape:
    """Shape of a tensor, ``()`` of anything else."""
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def parents_in(*values: Any) -> tuple[str, ...]:
    """Names of all :class:`Parent` in nested arguments, in order."""
    found: list[str] = []

    def visit(value: Any) -> None:
        if isinstance(value, Parent):
            found.append(value.name)
        elif isinstance(value, tuple | list):
            for part in value:
                visit(part)
        elif isinstance(value, dict):
            for part in value.values():
                visit(part)

    visit(values)
    return tuple(found)


def operation_of(
    module: nn.Module | None, function: Callable[..., Any] | str | None, leaves: tuple[type[nn.Module], ...] = ()
) -> str:
    """The word for a module or a function; ``custom`` for a module of a listed class without one, else ``unknown``."""
    word = of_module(module) if module is not None else of_function(function)
    return "custom" if word == UNKNOWN and module is not None and isinstance(module, leaves) else word
