"""Rules of the walk for pooling, sums, normalizers, products of two results, softmax and attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import UnsupportedModule
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.measures import ranges
from nonvacuous.measures.logs import log_of, log_sum, total
from nonvacuous.measures.ranges import Range, option_of, outward
from nonvacuous.measures.reading import functional_map, pool_of
from nonvacuous.operators.graph import Node
from nonvacuous.operators.maps import Matrix, Sum
from nonvacuous.operators.norms import spectral_norm_of
from nonvacuous.operators.rules import find

if TYPE_CHECKING:
    from nonvacuous.measures.walk import State, Walk

ATTENTION = (
    "dot-product attention has no Lipschitz constant on all inputs (Kim, Papamakarios & Mnih 2021, Theorem 3.1): "
    "a bound needs a region (local_upper), or a normalizer before it"
)


def root(value: float) -> float:
    """√, rounded up."""
    return math.sqrt(value) * (1 + 1e-15)


def at_most(value: float) -> Measured:
    return Measured(0.0, value, Kind.EXACT)


def only(walk: Walk, node: Node) -> State:
    """State of the only parent that depends on the input."""
    (state,) = (s for name in node.parents if (s := walk.states[name]) is not None)
    return state


def multiplied(walk: Walk, node: Node) -> State:
    """Products and quotients, number by number."""
    if node.operation == "negate":
        return _scaled(walk, node, only(walk, node), torch.tensor(-1.0, dtype=torch.float64))
    left, right = node.arguments[:2]
    first, second = walk.state(left), walk.state(right)
    if first is not None and second is not None:
        return _product(walk, node, first, second)
    state, other = (first, right) if first is not None else (second, left)
    if node.operation == "divide" and first is None:
        raise walk.unsupported(node, "divides by a result of the input")
    constant = walk.tensor(other) if hasattr(other, "name") else other
    if not isinstance(constant, int | float | Tensor):
        raise walk.unsupported(node, "multiplies by a constant the tracer does not show")
    factor = torch.as_tensor(constant, dtype=torch.float64)
    assert state is not None
    return _scaled(walk, node, state, factor if node.operation == "multiply" else 1 / factor)


def _scaled(walk: Walk, node: Node, state: State, factor: Tensor) -> State:
    from nonvacuous.measures.walk import State as Result

    given = None if state.range is None else state.range * Range(*outward(factor, factor))
    if factor.numel() == 1 and node.shape_out[1:] == state.map.shape_out:
        return Result(state.anchor, state.log, Sum([state.map], [float(factor)]), given)
    copies = math.prod(node.shape_out[1:]) / max(1, state.map.rows)
    return walk.multiplied(node, state, at_most(float(factor.abs().max()) * root(copies)), given, "scale")


def _product(walk: Walk, node: Node, first: State, second: State) -> State:
    """``|d(ab)| ≤ sup|a|·|db| + sup|b|·|da|``; a factor that is repeated counts √(times)."""
    if node.operation == "divide":
        raise walk.unsupported(node, "divides by a result of the input")
    if first.range is None or second.range is None:
        why = "multiplies two results of the input; the product has no Lipschitz constant unless both are bounded"
        raise _unbounded(f"{node.module_name or node.name} {why}")
    logs = []
    names = [value.name for value in node.arguments[:2]]
    for name, state, other in ((names[0], first, second), (names[1], second, first)):
        assert other.range is not None
        copies = math.prod(node.shape_out[1:]) / max(1, state.map.rows)
        logs.append(total(walk.settle(name).log, log_of(float(other.range.size.max()) * root(copies))))
    return walk.fresh(node, log_sum(*logs), first.range * second.range)


def _unbounded(why: str) -> Exception:
    from nonvacuous.measures.walk import Unbounded

    return Unbounded(why)


def pooled(walk: Walk, node: Node) -> State:
    """Average pooling is linear, max pooling monotone; functional calls are read as the modules they stand for."""
    state = only(walk, node)
    module = node.module if node.module is not None else pool_of(walk, node)
    found = find(module, node.shapes_in[0][1:], node.module_name)
    if isinstance(found, Measured):
        given = Range(module(state.range.low), module(state.range.high)) if state.range is not None else None
        return walk.multiplied(node, state, found, given)
    return walk.composed(node, state, found, lambda x: module(x))


def softmax(walk: Walk, node: Node) -> State:
    """``‖diag(p) − ppᵀ‖₂ ≤ ½`` (its rows' absolute sums are 2p(1 − p)); log-softmax ``I − 1pᵀ``, a projection, at most √n."""
    state = only(walk, node)
    if node.operation == "softmax":
        given = Range(torch.zeros(node.shape_out).double(), torch.ones(node.shape_out).double()) if walk.ranged else None
        return walk.multiplied(node, state, at_most(0.5), given)
    axis = getattr(node.module, "dim", None) if node.module is not None else option_of(node)("dim", 1, None)
    count = node.shape_out[axis] if isinstance(axis, int) else max(node.shape_out[1:], default=1)
    return walk.multiplied(node, state, at_most(root(count)), None)


def summed(walk: Walk, node: Node) -> State:
    """A sum of n numbers: √n; a mean: 1/√n, both attained."""
    state = only(walk, node)
    if not node.shape_out or node.shape_out[0] != 1:
        raise walk.unsupported(node, "sums over the batch")
    count = state.map.rows / max(1, math.prod(node.shape_out[1:]))
    factor = root(count) if node.operation == "sum" else root(1 / count)
    given = ranges.moved(node, state.range) if state.range is not None else None
    if given is not None:
        slack = 1e-13 * count * (1 + given.size)
        given = Range(given.low - slack, given.high + slack)
    return walk.multiplied(node, state, Measured(factor * (1 - 4e-15), factor, Kind.EXACT), given)


def normalized(walk: Walk, node: Node) -> State:
    """Over all inputs through ε; over a region also by the smallest standard deviation its ranges allow."""
    state = only(walk, node)
    module: Any = node.module
    shape = node.shapes_in[0][1:]
    try:
        factor = find(module, shape, node.module_name)
    except UnsupportedModule as error:
        raise walk.unsupported(node) from error
    if not isinstance(factor, Measured) or getattr(module, "running_var", None) is not None:
        return walk.module(node, state)
    if isinstance(module, nn.LayerNorm) or type(module).__name__ == "RMSNorm":
        count, groups = math.prod(module.normalized_shape), math.prod(shape) // math.prod(module.normalized_shape)
    else:
        groups = module.num_groups if isinstance(module, nn.GroupNorm) else shape[0]
        count = math.prod(shape) // groups
    given = ranges.normalized(module, state.range, node.shape_out, count) if walk.ranged else None
    if state.range is not None:
        centre = ((state.range.low + state.range.high) / 2).reshape(groups, count)
        reach = ((state.range.high - state.range.low) / 2).reshape(groups, count)
        if type(module).__name__ != "RMSNorm":
            centre = centre - centre.mean(1, keepdim=True)
        size = torch.linalg.vector_norm(centre, dim=1) - torch.linalg.vector_norm(reach, dim=1) * (1 + 1e-12)
        least = (size * (1 - 1e-12)).clamp(min=0).min() / math.sqrt(count)
        eps = module.eps if module.eps is not None else torch.finfo(torch.float32).eps
        weight = module.weight
        steep = 1.0 if weight is None else float(weight.detach().double().abs().max())
        sigma = math.sqrt(float(least) ** 2 + eps)
        factor = at_most(min(factor.upper, steep / sigma * (1 + 1e-11)))
    return walk.multiplied(node, state, factor, given)


def matrix_product(walk: Walk, node: Node) -> State:
    """A matrix product with a constant is linear; of two results it needs both bounded."""
    if len(node.arguments) < 2 or node.type_name == "einsum":
        raise walk.unsupported(node)
    left, right = node.arguments[:2]
    first, second = walk.state(left), walk.state(right)
    if first is None or second is None:
        state, constant = (first, right) if first is not None else (second, left)
        matrix = walk.tensor(constant) if hasattr(constant, "name") else None
        if state is None or matrix is None or matrix.dim() != 2:
            raise walk.unsupported(node, "multiplies by a constant the tracer does not show")
        if first is not None:
            part = Matrix(matrix.mT, state.map.shape_out[:-1])
            return walk.composed(node, state, part, part.apply)
        return walk.multiplied(node, state, spectral_norm_of(Matrix(matrix)), None)
    if first.range is None or second.range is None:
        raise _unbounded(
            f"{node.module_name or node.name} multiplies two results of the input: if this is attention, {ATTENTION}"
        )
    sizes = [first.range.size, second.range.size]
    norms = [float(torch.linalg.matrix_norm(size).max()) * (1 + 1e-10) for size in sizes]
    log = log_sum(total(walk.settle(left.name).log, log_of(norms[1])), total(walk.settle(right.name).log, log_of(norms[0])))
    reach = sizes[0] @ sizes[1] * (1 + 1e-10)
    return walk.fresh(node, log, Range(-reach, reach))


def attention(walk: Walk, node: Node) -> State:
    """Softmax attention where Q, K and V are bounded.

    With P row-stochastic of N columns, ``‖P‖₂ ≤ √N``, and the softmax's derivative at most ½, per head
    ``|d(PV)| ≤ √N·|dV| + ½·scale·‖V‖(‖K‖·|dQ| + ‖Q‖·|dK|)`` with Frobenius norms from the ranges.
    """
    if node.module is not None:
        return _multihead(walk, node)
    read = option_of(node)
    states = [walk.state(value) for value in (read("query", 0, None), read("key", 1, None), read("value", 2, None))]
    names = [value.name for value in (read("query", 0, None), read("key", 1, None), read("value", 2, None))]
    logs = [walk.settle(name).log if state is not None else -math.inf for name, state in zip(names, states, strict=True)]
    given = [None if state is None else state.range for state in states]
    if any(r is None for r in given):
        raise _unbounded(f"{node.module_name or node.name}: {ATTENTION}")
    scale = read("scale", 6, None)
    return _attended(walk, node, logs, [r for r in given if r is not None], scale)


def _attended(walk: Walk, node: Node, logs: list[float], given: list[Range], scale: float | None) -> State:
    """Q, K, V of shape (1, …, heads, N, d); every head by the largest norms of any."""
    query, key, value = (float(torch.linalg.matrix_norm(r.size).max()) * (1 + 1e-10) for r in given)
    steep = 0.5 * (given[0].low.shape[-1] ** -0.5 if scale is None else abs(scale)) * value
    tokens = given[2].low.shape[-2]
    log = total(logs[2], log_of(root(tokens)))
    log = log_sum(log, log_sum(total(logs[0], log_of(steep * key)), total(logs[1], log_of(steep * query))))
    top = given[2].high.amax(-2, keepdim=True)  # a mean of the values lies among them
    low = given[2].low.amin(-2, keepdim=True)
    shape = (*given[2].low.shape[:-2], given[0].low.shape[-2], given[2].low.shape[-1])
    reach = Range(low.expand(shape), top.expand(shape)) if node.module is None else None
    return walk.fresh(node, log, reach)


def _multihead(walk: Walk, node: Node) -> State:
    module: Any = node.module
    if not (isinstance(module, nn.MultiheadAttention) and module.batch_first and module.in_proj_weight is not None):
        raise walk.unsupported(node, "only nn.MultiheadAttention with batch_first and one embedding size has a rule")
    if module.bias_k is not None or module.add_zero_attn:
        raise walk.unsupported(node, "bias_k and add_zero_attn have no rule")
    values = [*node.arguments, *(node.keywords[k] for k in ("query", "key", "value") if k in node.keywords)][:3]
    states = [walk.state(value) for value in values]
    if any(state is None or state.range is None for state in states):
        raise _unbounded(f"{node.module_name or node.name}: {ATTENTION}")
    weights = module.in_proj_weight.detach().double().chunk(3)
    biases = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.detach().double().chunk(3)
    logs, given = [], []
    for value, state, weight, bias in zip(values, states, weights, biases, strict=True):
        assert state is not None and state.range is not None
        settled = walk.settle(value.name)
        logs.append(total(settled.log, log_of(spectral_norm_of(Matrix(weight)).upper)))
        part = Matrix(weight, state.range.low.shape[1:-1])
        shift = 0.0 if bias is None else bias
        seen = ranges.through(part, lambda x, p=part, s=shift: p.apply(x) + s, state.range, abs(shift), None)  # type: ignore[misc]
        heads = (1, seen.low.shape[1], module.num_heads, module.head_dim)
        given.append(Range(*(end.reshape(heads).transpose(1, 2) for end in (seen.low, seen.high))))
    inner = _attended(walk, node, logs, given, None)
    out = spectral_norm_of(Matrix(module.out_proj.weight.detach().double())).upper
    return walk.fresh(node, total(inner.log, log_of(out)), None)


def functional(walk: Walk, node: Node) -> State:
    """A functional linear map, convolution or padding, read as the operators read it."""
    state = walk.state(node.arguments[0])
    if state is None or any(walk.states[name] is not None for name in node.parents[1:]):
        raise _unbounded(f"{node.name} ({node.type_name}) multiplies by weights that depend on the input")
    return walk.composed(node, state, *functional_map(walk, node, tuple(state.map.shape_out)))
