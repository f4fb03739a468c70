"""The interval of a network's Jacobian over a region, backwards from its outputs: centre and radius of every entry.

``‖J‖ ≤ ‖centre‖ + ‖radius‖``, as Fast-Lip (Weng et al. 2018) with intervals for its bounds; any graph with few outputs.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nonvacuous.core.errors import UnsupportedModule
from nonvacuous.measures import ranges
from nonvacuous.measures.logs import log_of
from nonvacuous.measures.relaxation import linear_part, slopes_at
from nonvacuous.measures.walk import Walk
from nonvacuous.operators.certified import UNIT, gamma
from nonvacuous.operators.graph import Node, Parent
from nonvacuous.operators.maps import Matrix
from nonvacuous.operators.norms import spectral_norm_of

MOST_OUTPUTS = 64


def jacobian_bound(walk: Walk) -> float | None:
    """ln of ``‖centre‖ + ‖radius‖``; None where outputs are many or a part has no rule here."""
    result = walk.graph.output.arguments[0]
    if not isinstance(result, Parent):
        return None
    shape = walk.graph[result.name].shape_out
    count = math.prod(shape[1:])
    largest = max((math.prod(node.shape_out) for node in walk.graph), default=0)
    if count > MOST_OUTPUTS or count * largest > 2**26:
        return None
    eye = torch.eye(count, dtype=torch.float64).reshape(count, *shape[1:])
    pending: dict[str, tuple[Tensor, Tensor]] = {result.name: (eye, torch.zeros_like(eye))}
    try:
        for node in reversed(walk.graph.nodes[:-1]):
            if node.name == walk.input:
                break
            if node.name not in pending or walk.states[node.name] is None:
                continue
            for name, (centre, radius) in back(walk, node, *pending.pop(node.name)).items():
                if name in pending:
                    centre, radius = pending[name][0] + centre, pending[name][1] + radius
                    radius = radius + 2 * UNIT * centre.abs()
                pending[name] = centre, radius
    except UnsupportedModule:
        return None
    if set(pending) != {walk.input}:
        return None
    centre, radius = (part.reshape(count, -1) for part in pending[walk.input])
    whole = float(torch.linalg.matrix_norm(centre.abs() + radius)) * (1 + gamma(2 * centre.numel()))
    norms = [spectral_norm_of(Matrix(part)).upper if bool(part.any()) else 0.0 for part in (centre, radius)]
    return log_of(min(whole, sum(norms) * (1 + 4 * UNIT)))


def back(walk: Walk, node: Node, centre: Tensor, radius: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Cotangents of a node's moving parents from its own, each (outputs, *shape)."""
    moving = [name for name in node.parents if walk.states[name] is not None]
    if walk.rule_of(node) is not None:
        raise UnsupportedModule(node.name)
    slopes = slopes_at(walk, node)
    if slopes is not None:
        low, high = slopes
        middle, reach = (low + high) / 2, (high - low) / 2 * (1 + 4 * UNIT)
        spread = middle.abs() * radius + reach * (centre.abs() + radius)
        return {moving[0]: (centre * middle, spread * (1 + 8 * UNIT) + 4 * UNIT * (centre * middle).abs())}
    if node.operation in ("add", "subtract") and not option_alpha(node):
        signs = [1.0, -1.0 if node.operation == "subtract" else 1.0]
        out: dict[str, tuple[Tensor, Tensor]] = {}
        for value, sign in zip(node.arguments[:2], signs, strict=True):
            if isinstance(value, Parent) and value.name in moving:
                own = (centre * sign, radius)
                out[value.name] = own if value.name not in out else (out[value.name][0] + own[0], out[value.name][1] + own[1])
        return out
    if node.operation == "concatenate" and len(set(moving)) == len(node.parents):
        axis = ranges.option_of(node)("dim", 1, 0)
        sizes = [shape[axis] for shape in node.shapes_in]
        parts = zip(centre.split(sizes, axis), radius.split(sizes, axis), strict=True)
        return dict(zip(node.parents, parts, strict=True))
    part = linear_part(node) if len(moving) == 1 else None
    if part is not None:
        absolute = ranges.mapped(part, torch.abs)
        error = 2 * gamma(part.rows + 8)
        return {moving[0]: (part.adjoint(centre), absolute.adjoint(radius + error * (centre.abs() + radius)) * (1 + error))}
    if node.operation == "max_pool" and isinstance(node.module, nn.MaxPool2d | nn.MaxPool1d) and node.module.dilation == 1:
        return {moving[0]: unpooled(walk, node, node.module, centre, radius)}
    raise UnsupportedModule(node.name)


def option_alpha(node: Node) -> bool:
    """Whether a sum weighs its second part."""
    return bool(ranges.option_of(node)("alpha", 2, 1) != 1)


def unpooled(
    walk: Walk, node: Node, module: nn.MaxPool2d | nn.MaxPool1d, centre: Tensor, radius: Tensor
) -> tuple[Tensor, Tensor]:
    """Through max pooling: a pixel gets a window's cotangent times 1 if it is surely the largest, 0 if surely not, else [0, 1]."""
    state = walk.states[node.parents[0]]
    assert state is not None
    shape = node.shapes_in[0][1:]
    flat = len(shape) == 2  # 1-D: one row of an image

    def pair(value: int | tuple[int, ...], one: int) -> tuple[int, int]:
        first = value if isinstance(value, int) else value[0]
        second = first if isinstance(value, int) or len(value) < 2 else value[1]
        return (one, first) if flat else (first, second)

    kernel, stride, padding = pair(module.kernel_size, 1), pair(module.stride, 1), pair(module.padding, 0)
    if module.ceil_mode:
        raise UnsupportedModule(node.name)
    size = (1, shape[-1]) if flat else (shape[-2], shape[-1])
    places = (shape[0], kernel[0] * kernel[1])

    def windows(x: Tensor, fill: float) -> Tensor:
        x = F.pad(x.reshape(1, shape[0], *size), (padding[1], padding[1], padding[0], padding[0]), value=fill)
        return F.unfold(x, kernel, stride=stride).reshape(1, *places, -1)

    if state.range is None:
        low = high = torch.zeros(1, shape[0], *size, dtype=torch.float64)
        low, high = low - 1e300, high + 1e300
    else:
        low, high = state.range.low, state.range.high
    low, high = windows(low, -math.inf), windows(high, -math.inf)
    if places[1] == 1:
        sure = never = torch.zeros_like(low, dtype=torch.bool)
        sure = ~sure
    else:
        two = high.topk(2, 2).values
        rival = torch.where(high == two[:, :, :1], two[:, :, 1:], two[:, :, :1])
        sure, never = low > rival, high < low.amax(2, keepdim=True)
    middle = torch.where(sure, 1.0, torch.where(never, 0.0, 0.5))
    reach = torch.where(sure | never, 0.0, 0.5)

    def folded(x: Tensor) -> Tensor:
        padded = (size[0] + 2 * padding[0], size[1] + 2 * padding[1])
        out = F.fold(x.reshape(len(x), places[0] * places[1], -1), padded, kernel, stride=stride)
        inner = out[..., padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]
        return inner.reshape(len(x), *shape)

    c, r = (part.reshape(len(part), shape[0], 1, -1) for part in (centre, radius))
    moved, spread = folded(c * middle), folded(r * middle + reach * (c.abs() + r))
    error = gamma(4 + places[1])
    return moved, spread * (1 + error) + error * folded(c.abs() * middle)
