"""Where every number inside a network lies while its input moves in a ball or a box: interval arithmetic on the traced graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.operators.certified import gamma
from nonvacuous.operators.convolution import Convolution
from nonvacuous.operators.graph import Node, Parent
from nonvacuous.operators.linear_map import LinearMap
from nonvacuous.operators.maps import AxisMaps, Chain, ChannelScale, Matrix, Rearrangement

SAME_NUMBERS = {"flatten", "reshape", "permute", "copy", "dropout", "identity", "index", "chunk"}
"""Operations whose results are numbers of their input, none twice."""


@dataclass(frozen=True)
class Ball:
    """All inputs within ℓ2 distance ``radius`` of ``centre`` (*input shape, no batch)."""

    centre: Tensor
    radius: float

    def __post_init__(self) -> None:
        if not (self.radius >= 0 and math.isfinite(self.radius)) or not bool(torch.isfinite(self.centre).all()):
            raise InvalidInput("a ball has a finite centre and a radius in [0, ∞)")

    @property
    def box(self) -> Box:
        """The smallest box around it."""
        return Box(self.centre.double() - self.radius, self.centre.double() + self.radius)


@dataclass(frozen=True)
class Box:
    """All inputs between ``lower`` and ``upper``, number by number."""

    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        if self.lower.shape != self.upper.shape or not bool((self.lower <= self.upper).all()):
            raise InvalidInput("a box has lower ≤ upper, of the same shape, without NaN")

    @property
    def centre(self) -> Tensor:
        return (self.lower.double() + self.upper.double()) / 2

    @property
    def box(self) -> Box:
        return self


@dataclass(frozen=True)
class Range:
    """Between ``low`` and ``high`` (1, *shape), float64."""

    low: Tensor
    high: Tensor

    @property
    def size(self) -> Tensor:
        """Largest absolute value of each number."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def __add__(self, other: Range) -> Range:
        return Range(*outward(self.low + other.low, self.high + other.high))

    def __mul__(self, other: Range) -> Range:
        ends = torch.stack(torch.broadcast_tensors(
            self.low * other.low, self.low * other.high, self.high * other.low, self.high * other.high
        ))  # fmt: skip
        return Range(*outward(ends.amin(0), ends.amax(0)))


def outward(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """One unit in the last place further out."""
    return torch.nextafter(low, low.new_tensor(-math.inf)), torch.nextafter(high, high.new_tensor(math.inf))


def mapped(linear: LinearMap, change: Callable[[Tensor], Tensor]) -> LinearMap:
    """The map with every entry changed by a function with f(0) = 0.

    Raises UnsupportedModule for maps whose entries are not at hand; a chain is changed part by part.
    """
    if isinstance(linear, Matrix):
        return Matrix(change(linear.weight.double()), linear.lead)
    if isinstance(linear, Convolution):
        return Convolution(change(linear.kernel.double()), linear.axes, linear.groups, linear.transposed)
    if isinstance(linear, ChannelScale):
        return ChannelScale(change(linear.scale.double()), linear.shape_in)
    if isinstance(linear, AxisMaps):
        factor = float(change(torch.tensor(linear.factor, dtype=torch.float64)))
        return AxisMaps([change(matrix) for matrix in linear.matrices], linear.lead, factor)
    if isinstance(linear, Rearrangement):
        return linear
    if isinstance(linear, Chain):
        return Chain([mapped(part, change) for part in linear.maps])
    raise UnsupportedModule(f"intervals through a {type(linear).__name__}: no rule")


def row_norms(linear: LinearMap) -> Tensor | None:
    """ℓ2 norm of every row, shape (1, *shape_out), rounded up; None where an output may read an entry twice."""
    folds = isinstance(linear, Convolution) and any(axis.folds for axis in linear.axes)
    if folds or not isinstance(linear, Matrix | Convolution | ChannelScale | Rearrangement):
        return None
    ones = torch.ones(1, *linear.shape_in, dtype=torch.float64, device=linear.device)
    return mapped(linear, torch.square).apply(ones).sqrt() * (1 + gamma(linear.columns + 8))


def through(
    linear: LinearMap, function: Callable[[Tensor], Tensor], given: Range, bias: Tensor | float, ball: Ball | None
) -> Range:
    """Range of an affine function with this linear part.

    ``bias`` bounds the absolute constants it adds; ``ball`` is given where the argument is the very input and a ball.
    """
    centre = (given.low + given.high) / 2
    radius = (given.high - given.low) / 2 * (1 + 1e-15) + 1e-16 * given.size
    error = 2 * gamma(linear.columns + 8)
    absolute = mapped(linear, torch.abs)
    middle = function(centre)
    rows = row_norms(linear) if ball is not None else None
    if rows is not None and ball is not None:
        spread = rows * ball.radius + error * absolute.apply(centre.abs())
    else:
        spread = absolute.apply(radius + error * (centre.abs() + radius))
    spread = spread.clamp(min=0) + error * (spread.abs() + bias) + 1e-300
    return Range(*outward(middle - spread, middle + spread))


def normalized(module: nn.Module, given: Range | None, shape: tuple[int, ...], count: int) -> Range:
    """Layer, group, instance and RMS norm: ``|x̂| ≤ √(n − 1)`` (√n for RMS) whatever the input."""
    reach = math.sqrt(count if type(module).__name__ == "RMSNorm" else max(0, count - 1)) * (1 + 1e-12)
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    spread = torch.full(shape, reach, dtype=torch.float64, device=device)
    middle = torch.zeros(shape, dtype=torch.float64, device=device)
    if isinstance(weight, Tensor):
        ending = isinstance(module, nn.LayerNorm) or type(module).__name__ == "RMSNorm"
        like = (lambda t: t) if ending else (lambda t: t.reshape(-1, *[1] * (len(shape) - 2)))
        spread = spread * like(weight.detach().double().abs())
        middle = middle + (like(bias.detach().double()) if isinstance(bias, Tensor) else 0.0)
    return Range(*outward(middle - spread * (1 + 1e-12), middle + spread * (1 + 1e-12)))


def pooled(module: Any, given: Range) -> Range:
    """Max pooling is monotone."""
    return Range(module(given.low), module(given.high))


def moved(node: Node, given: Range) -> Range | None:
    """Views, permutations and selections, by calling the very function on both ends; None where that fails."""
    ends = []
    for end in (given.low, given.high):
        result = recall(node, {node.parents[0]: end})
        if not isinstance(result, Tensor) or tuple(result.shape) != node.shape_out:
            return None
        ends.append(result)
    return Range(*ends)


def recall(node: Node, values: Mapping[str, Any]) -> Any:
    """The node's result for given results of its parents; None where its function is not at hand."""

    def filled(value: Any) -> Any:
        if isinstance(value, Parent):
            return values[value.name]
        if isinstance(value, tuple | list):
            return type(value)(filled(part) for part in value)
        return value

    try:
        arguments = filled(node.arguments)
        keywords = {key: filled(value) for key, value in node.keywords.items()}
        if node.module is not None:
            return node.module(*arguments, **keywords)
        if node.operation == "index":
            return arguments[0][arguments[1]] if node.type_name in ("getitem", "__getitem__") else None
        if hasattr(arguments[0], node.type_name):
            return getattr(arguments[0], node.type_name)(*arguments[1:], **keywords)
        return getattr(torch, node.type_name)(*arguments, **keywords)
    except (AttributeError, TypeError, RuntimeError, KeyError, IndexError):
        return None


def option_of(node: Node) -> Callable[[str, int, Any], Any]:
    """Reader of a functional call's parameters."""

    def read(name: str, place: int, default: Any) -> Any:
        return node.arguments[place] if len(node.arguments) > place else node.keywords.get(name, default)

    return read


def softmax_range(low: Tensor, high: Tensor) -> Range:
    """A softmax lies between 0 and 1."""
    return Range(torch.zeros_like(low), torch.ones_like(high))
