"""One walk over a traced graph: an upper bound of every node's Lipschitz constant with respect to the input, as a logarithm.

Affine maps are not multiplied as they come but composed, and their norm is taken when something that is not affine reads them; sums add,
concatenations are √ΣL², activations bring their largest slope (over the node's range, where ranges are known).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import UnsupportedModule
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.measures import ranges
from nonvacuous.measures.activations import activation
from nonvacuous.measures.logs import CONSTANT, log_hypot, log_of, log_sum, safe_exp, total
from nonvacuous.measures.ranges import Ball, Box, Range, option_of, outward
from nonvacuous.measures.reading import NORMALIZERS, Reading, normalizer_of
from nonvacuous.operators.graph import Graph, Node, Parent
from nonvacuous.operators.linear_map import LinearMap
from nonvacuous.operators.maps import Chain, ChannelScale, Matrix, Rearrangement, Stack, Sum
from nonvacuous.operators.norms import spectral_norm_of
from nonvacuous.operators.rules import BATCH_NORMS, find

Rule = Callable[[Any, tuple[int, ...]], Measured]
ISOMETRIES = ranges.SAME_NUMBERS | {"flatten", "reshape"}
FUNCTIONAL_MAPS = {"linear", "convolution", "pad"}
POOLS = {"max_pool", "average_pool", "adaptive_average_pool", "adaptive_max_pool"}
PRODUCTS = {"multiply", "matrix_product", "attention"}


class Unbounded(Exception):
    """There is no Lipschitz constant; the message says why."""


@dataclass(frozen=True)
class State:
    """A node's result: ``map`` of the anchor's, whose Lipschitz constant is at most e^log; None for constants."""

    anchor: str
    log: float
    map: LinearMap
    range: Range | None = None
    tokens: bool = False


@dataclass(frozen=True)
class Step:
    """What one part multiplies by; ``lower`` is 0 where only an upper end is known."""

    name: str
    kind: str
    type_name: str
    factor: Measured
    log_upper: float


class Walk(Reading):
    """Walks once; ``states`` by node, ``steps`` in order.

    ``region`` None means all inputs; with a ``tolerance`` of 1 norms are only bounded by their entries.
    """

    def __init__(
        self, model: nn.Module, graph: Graph, region: Ball | Box | None, rules: dict[type, Rule], tolerance: float
    ) -> None:
        super().__init__(model, graph)
        self.rules, self.tolerance = rules, tolerance
        self.ball = region if isinstance(region, Ball) else None
        self.region = region
        # the ranges of all nodes are needed for local slopes, and where two results are multiplied
        self.ranged = region is not None or any(node.operation in PRODUCTS for node in graph)
        self.states: dict[str, State | None] = {}
        self.steps: list[Step] = []
        self.input = ""
        with torch.no_grad():
            for node in graph:
                self.states[node.name] = self.visit(node)
        result = self.state(self.graph.output.arguments[0]) if self.graph.output.arguments else None
        self.is_linear = result is not None and result.anchor == self.input

    @property
    def output(self) -> float:
        """ln of the bound for the model."""
        return self._outputs(self.graph.output.arguments[0])

    def _outputs(self, value: Any) -> float:
        if isinstance(value, Parent):
            state = self.states[value.name]
            return CONSTANT if state is None else self.settled(self.graph[value.name], state).log
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
        log = CONSTANT
        for part in parts:
            log = log_hypot(log, self._outputs(part))
        return log

    # -- one node

    def visit(self, node: Node) -> State | None:
        if node.operation == "input":
            return self.start(node)
        if node.operation in ("parameter", "output"):
            return None
        sources = {name: self.states[name] for name in node.parents}
        moving = {name: state for name, state in sources.items() if state is not None}
        if not moving:
            return None
        if any(state.tokens for state in moving.values()) and node.operation != "embedding":
            raise self.unsupported(node, "reads integers")
        rule = self.rule_of(node)
        if rule is not None:
            (state,) = moving.values()
            shape = node.shapes_in[0][1:]
            return self.multiplied(node, state, rule(node.module, shape), None)
        if node.module is None and node.operation in NORMALIZERS:
            node = replace(node, module=normalizer_of(self, node))
        for words, visitor in self.visitors():
            if node.operation in words and not (node.module is not None and words is FUNCTIONAL_MAPS):
                return visitor(node)
        if len(moving) == 1:
            found = activation(node.operation, node.module, self.with_parameters(node))
            if found is not None:
                return self.activated(node, next(iter(moving.values())), found)
        # an exported convolution with padding of its own kind is two steps, of which its module is both
        split = self.graph.traced_by == "torch.export" and getattr(node.module, "padding_mode", "zeros") != "zeros"
        if node.module is not None and len(moving) == 1 and not split:
            return self.module(node, next(iter(moving.values())))
        raise self.unsupported(node)

    def visitors(self) -> list[tuple[set[str], Callable[[Node], State | None]]]:
        from nonvacuous.measures import walk_rules as more  # here, as they build on the walk

        return [
            ({"add", "subtract"}, self.added),
            ({"multiply", "divide", "negate"}, lambda node: more.multiplied(self, node)),
            ({"concatenate", "stack"}, self.concatenated),
            (ISOMETRIES, self.isometry),
            (POOLS, lambda node: more.pooled(self, node)),
            ({"softmax", "log_softmax"}, lambda node: more.softmax(self, node)),
            ({"mean", "sum"}, lambda node: more.summed(self, node)),
            ({"matrix_product"}, lambda node: more.matrix_product(self, node)),
            ({"attention"}, lambda node: more.attention(self, node)),
            ({"embedding"}, self.embedded),
            ({"shape"}, lambda node: None),
            ({"compare"}, self.compared),
            (FUNCTIONAL_MAPS, lambda node: more.functional(self, node)),
            ({"layer_norm", "group_norm", "instance_norm", "rms_norm"}, lambda node: more.normalized(self, node)),
        ]

    def start(self, node: Node) -> State | None:
        if not node.shape_out:
            return None
        if self.input:
            raise self.unsupported(node, "is a second input; only models of one tensor have a rule")
        self.input = node.name
        shape = node.shape_out[1:]
        given = None
        if self.region is not None:
            box = self.region.box
            given = Range(box.lower.double().unsqueeze(0), box.upper.double().unsqueeze(0))
        return State(node.name, 0.0, Rearrangement(shape, shape), given)

    def rule_of(self, node: Node) -> Rule | None:
        return next((self.rules[kind] for kind in type(node.module).__mro__ if kind in self.rules), None)

    # -- what states do

    def state(self, value: Any) -> State | None:
        return self.states[value.name] if isinstance(value, Parent) else None

    def settled(self, node: Node, state: State) -> State:
        """The state with its composed map's norm taken, and the node as its own anchor."""
        shape = tuple(state.map.shape_out)
        if isinstance(state.map, Rearrangement):
            return replace(state, map=Rearrangement(shape, shape), anchor=node.name)
        norm = spectral_norm_of(state.map, tolerance=self.tolerance) if self.tolerance < 1 else quick_norm(state.map)
        log = total(state.log, log_of(norm.upper))
        self.steps.append(Step(label(node), "affine", node.type_name, norm, log))
        settled = State(node.name, log, Rearrangement(shape, shape), state.range)
        self.states[node.name] = settled
        return settled

    def settle(self, name: str) -> State:
        """The settled state of a node that depends on the input."""
        state = self.states[name]
        assert state is not None
        return self.settled(self.graph[name], state)

    def multiplied(self, node: Node, state: State, factor: Measured, given: Range | None, kind: str = "") -> State:
        """A result that moves at most ``factor`` times as far as the node's only moving parent."""
        parent = next(name for name in node.parents if self.states[name] is not None)
        if factor.kind is not Kind.EXACT:
            raise self.unsupported(node, "its rule gives an indicator; a bound needs a proved bracket")
        settled = self.settled(self.graph[parent], state)
        log = total(settled.log, log_of(factor.upper))
        self.steps.append(Step(label(node), kind or node.operation, node.type_name, factor, log))
        return self.fresh(node, log, given)

    def fresh(self, node: Node, log: float, given: Range | None) -> State:
        if log == math.inf:
            raise Unbounded(f"{node.module_name or node.name} ({node.type_name}) has no Lipschitz constant")
        shape = node.shape_out[1:]
        finite = given is not None and bool(torch.isfinite(given.low).all() and torch.isfinite(given.high).all())
        return State(node.name, log, Rearrangement(shape, shape), given if finite else None)

    # -- affine parts

    def module(self, node: Node, state: State) -> State:
        module = cast(nn.Module, node.module)
        shape = node.shapes_in[0][1:]
        if node.operation == "batch_norm" and len(shape) == 1 and not isinstance(module, BATCH_NORMS):
            raise self.unsupported(node)
        try:
            found = find(module, shape, node.module_name)
        except UnsupportedModule as error:
            raise self.unsupported(node) from error
        if isinstance(found, Measured):
            return self.multiplied(node, state, found, None)
        return self.composed(node, state, found, lambda x: module(x))

    def composed(self, node: Node, state: State, part: LinearMap, function: Callable[[Tensor], Tensor] | None) -> State:
        """After one more affine map."""
        first = state.map
        folded = folded_columns(first, part) if isinstance(first, ChannelScale) else None
        linear = folded or Chain.folded([first, part])
        if linear.shape_out != node.shape_out[1:]:
            raise self.unsupported(node, f"gives the shape {node.shape_out[1:]} where {linear.shape_out} was expected")
        given = None
        if self.ranged and state.range is not None and function is not None:
            zero = torch.zeros_like(state.range.low)
            bias: Tensor | float = function(zero).abs()
            if isinstance(node.module, BATCH_NORMS) and node.module.running_mean is not None:
                mean = node.module.running_mean.double().abs().reshape(-1, *[1] * (zero.dim() - 2))
                bias = bias + ranges.mapped(part, torch.abs).apply(mean.expand(zero.shape))
            ball = self.ball if state.anchor == self.input and isinstance(first, Rearrangement) else None
            try:
                given = ranges.through(part, function, state.range, bias, ball)
            except UnsupportedModule:
                given = None
        return State(state.anchor, state.log, linear, given)

    # -- joins

    def added(self, node: Node) -> State:
        left, right = (self.state(value) for value in node.arguments[:2])
        alpha = float(option_of(node)("alpha", 2, 1)) * (-1.0 if node.operation == "subtract" else 1.0)
        if left is None or right is None:
            return self.shifted(node, left, right, alpha)
        given = None
        if left.range is not None and right.range is not None:
            scale = torch.tensor(alpha, dtype=torch.float64)
            given = left.range + right.range * Range(scale, scale)
        if left.map.shape_out != right.map.shape_out:
            raise self.unsupported(node, "adds results of different shapes")
        if left.anchor == right.anchor:
            return State(left.anchor, left.log, Sum([left.map, right.map], [1.0, alpha]), given)
        names = [value.name for value in node.arguments[:2]]
        logs = [self.settle(name).log for name in names]
        log = log_sum(logs[0], total(logs[1], log_of(abs(alpha))))
        self.steps.append(Step(label(node), "sum", node.type_name, Measured(0.0, safe_exp(log - max(logs)), Kind.EXACT), log))
        return self.fresh(node, log, given)

    def shifted(self, node: Node, left: State | None, right: State | None, alpha: float) -> State:
        state, scale, other = (left, 1.0, node.arguments[1]) if left is not None else (right, alpha, node.arguments[0])
        assert state is not None
        if node.shape_out[1:] != state.map.shape_out:
            raise self.unsupported(node, "adds a constant that broadcasts the result")
        constant = self.tensor(other) if isinstance(other, Parent) else other
        given = None
        if state.range is not None and constant is not None:
            shift = torch.as_tensor(constant, dtype=torch.float64) * (alpha if left is not None else 1.0)
            factor = torch.tensor(scale, dtype=torch.float64)
            given = state.range * Range(factor, factor) + Range(shift, shift)
        linear = state.map if scale == 1.0 else Sum([state.map], [scale])
        return State(state.anchor, state.log, linear, given)

    def concatenated(self, node: Node) -> State:
        parts = list(node.arguments[0])
        axis = option_of(node)("dim", 1, 0)
        axis = axis + len(node.shape_out) if axis < 0 else axis
        if axis == 0:
            raise self.unsupported(node, "joins along the batch")
        states = [self.state(part) for part in parts]
        moving = [state for state in states if state is not None]
        given = None
        if node.operation == "concatenate" and all(s is not None and s.range is not None for s in states):
            lows, highs = zip(*[(s.range.low, s.range.high) for s in moving if s.range is not None], strict=True)
            given = Range(torch.cat(lows, axis), torch.cat(highs, axis))
        if node.operation == "concatenate" and len(moving) == len(states) and len({s.anchor for s in moving}) == 1:
            return State(moving[0].anchor, moving[0].log, Stack([s.map for s in moving], axis - 1), given)
        log = CONSTANT
        for part, state in zip(parts, states, strict=True):
            log = log if state is None else log_hypot(log, self.settle(part.name).log)
        self.steps.append(Step(label(node), "concatenation", node.type_name, Measured(0.0, math.inf, Kind.EXACT), log))
        return self.fresh(node, log, given)

    def isometry(self, node: Node) -> State:
        """Views, permutations, selections: every number of the result is one of the argument's, none twice."""
        parent = next(name for name in node.parents if self.states[name] is not None)
        state = cast(State, self.states[parent])
        if node.operation == "index" and not plain_index(node):
            raise self.unsupported(node, "selects by an index that may repeat")
        given = ranges.moved(node, state.range) if state.range is not None else None
        shape = node.shape_out[1:]
        same_order = node.operation in ("flatten", "reshape", "copy", "dropout", "identity")
        if same_order and node.shape_out[:1] == (1,) and math.prod(shape) == state.map.rows:
            part = Rearrangement(state.map.shape_out, shape)
            return State(state.anchor, state.log, Chain.folded([state.map, part]), given)
        return self.fresh(node, self.settle(parent).log, given)

    def compared(self, node: Node) -> State | None:
        raise self.unsupported(node, "compares numbers that depend on the input: a jump, or a branch that no trace shows")

    def embedded(self, node: Node) -> State | None:
        raise self.unsupported(
            node, "token ids are no vectors, and the model is not Lipschitz in them; measure it from its embeddings on"
        )

    # -- activations

    def activated(self, node: Node, state: State, found: Any) -> State:
        shape = node.shape_out[1:]
        if state.range is None or self.region is None:
            given = None
            if self.ranged:
                low, high = found.bounds
                if math.isfinite(low) and math.isfinite(high):
                    given = Range(*(torch.full(node.shape_out, end, dtype=torch.float64) for end in (low, high)))
            return self.multiplied(node, state, Measured(0.0, found.lipschitz, Kind.EXACT), given, "activation")
        low, high = found.slopes(state.range.low, state.range.high)
        steep = torch.maximum(low.abs(), high.abs())
        given = Range(*outward(*found.values(state.range.low, state.range.high)))
        if len(shape) != 1:
            return self.multiplied(node, state, Measured(0.0, float(steep.max()), Kind.EXACT), given, "activation")
        # neurons that never fire are dropped from the maps on both sides
        scaled = replace(state, map=Chain.folded([state.map, ChannelScale(steep[0], shape)]))
        parent = next(name for name in node.parents if self.states[name] is not None)
        settled = self.settled(replace(self.graph[parent], name=f"{parent}→{node.name}"), scaled)
        alive = ChannelScale((steep[0] > 0).double(), shape)
        return State(node.name, settled.log, alive, given)


def folded_columns(scale: ChannelScale, part: LinearMap) -> LinearMap | None:
    """A scale of the inputs folded into the columns of a matrix."""
    if isinstance(part, Matrix) and not part.lead:
        return Matrix(part.weight.double() * scale.scale.double(), ())
    return None


def plain_index(node: Node) -> bool:
    """Selects by integers and slices only, so that no number is taken twice."""
    if node.type_name not in ("getitem", "__getitem__"):
        return node.type_name in ("select", "slice", "narrow")
    index = node.arguments[1]
    return all(
        isinstance(part, int | slice | type(None) | type(...)) for part in (index if isinstance(index, tuple) else (index,))
    )


def quick_norm(linear: LinearMap) -> Measured:
    """[0, Frobenius norm or √(ℓ1·ℓ∞)] where those are at hand, the spectral norm otherwise."""
    if not hasattr(linear, "entry_norms"):
        return spectral_norm_of(linear)
    norms = linear.entry_norms()
    return Measured(0.0, min(norms.frobenius.upper, math.sqrt(norms.l1.upper * norms.linf.upper) * (1 + 1e-15)), Kind.EXACT)


def label(node: Node) -> str:
    """What a reader calls the node: its module's name, or the function's."""
    return node.module_name if node.module is not None and node.module_name else node.name
