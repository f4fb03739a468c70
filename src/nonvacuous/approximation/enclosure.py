"""Interval arithmetic with derivatives on tensors: Lipschitz constants proved for targets written in torch operations.

>>> lipschitz(lambda x: torch.sin(3 * x), [(0.0, 1.0)])  # 3, and the width of 1/1024 of the domain
3.0000000...
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput

#: Relative and absolute error allowed to each floating-point operation and elementary function of torch (a few ulps).
_SLACK, _TINY = 2.0**-49, 2.0**-1040


def _out(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Rounded outward; a NaN (∞ − ∞, 0 · ∞) becomes the whole line."""
    low = (low - low.abs() * _SLACK - _TINY).nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    high = (high + high.abs() * _SLACK + _TINY).nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    return low, high


@dataclass(frozen=True)
class Range:
    """Elementwise intervals ``[low, high]``."""

    low: Tensor
    high: Tensor

    def __add__(self, other: Range) -> Range:
        return Range(*_out(self.low + other.low, self.high + other.high))

    def __neg__(self) -> Range:
        return Range(-self.high, -self.low)

    def __mul__(self, other: Range) -> Range:
        ends = torch.stack(torch.broadcast_tensors(*(a * b for a in (self.low, self.high) for b in (other.low, other.high))))
        return Range(*_out(ends.amin(0), ends.amax(0)))

    def unsqueeze(self) -> Range:
        return Range(self.low[..., None], self.high[..., None])


def _constant(value: float, like: Tensor) -> Range:
    return Range(torch.full_like(like, value), torch.full_like(like, value))


def _monotone(function: Callable[[Tensor], Tensor], x: Range) -> Range:
    return Range(*_out(function(x.low), function(x.high)))


def _sine(x: Range) -> Range:
    """Ends, and ±1 where a crest or a trough may lie inside."""
    ends = Range(*_out(torch.minimum(x.low.sin(), x.high.sin()), torch.maximum(x.low.sin(), x.high.sin())))
    slack = (x.high.abs() + x.low.abs()) * _SLACK + 2.0**-40

    def inside(phase: float) -> Tensor:
        turns_low, turns_high = (x.low - slack - phase) / (2 * math.pi), (x.high + slack - phase) / (2 * math.pi)
        return ~(turns_low.ceil() > turns_high.floor())

    low = torch.where(inside(-math.pi / 2), -1.0, ends.low.clamp_min(-1.0))
    return Range(low, torch.where(inside(math.pi / 2), 1.0, ends.high.clamp_max(1.0)))


def _shift(x: Range, by: float) -> Range:
    return x + _constant(by, x.low)


def _reciprocal(x: Range) -> Range:
    crosses = (x.low <= 0) & (x.high >= 0)
    low, high = _out(1 / x.high, 1 / x.low)
    return Range(torch.where(crosses, -math.inf, low), torch.where(crosses, math.inf, high))


def _power(x: Range, exponent: int) -> Range:
    result = _constant(1.0, x.low)
    for _ in range(exponent):
        result = result * x
    if exponent and exponent % 2 == 0:
        return Range(result.low.clamp_min(0.0), result.high)
    return result


def _step(x: Range) -> Range:
    """Derivative of relu, its two sides at 0 included."""
    return Range((x.low > 0).to(x.low), (x.high >= 0).to(x.low))


def _sign(x: Range) -> Range:
    step = _step(x)
    return Range(2 * step.low - 1, 2 * step.high - 1)


def _magnitude(x: Range) -> Range:
    low = torch.where((x.low <= 0) & (x.high >= 0), 0.0, torch.minimum(x.low.abs(), x.high.abs()))
    return Range(low, torch.maximum(x.low.abs(), x.high.abs()))


def _tanh_slope(x: Range) -> Range:
    square = _power(_monotone(torch.tanh, x), 2)
    return Range((1 - square.high * (1 + _SLACK) - _SLACK).clamp_min(0.0), (1 - square.low + _SLACK).clamp_max(1.0))


def _sigmoid_slope(x: Range) -> Range:
    s = _monotone(torch.sigmoid, x)
    return s * (_constant(1.0, s.low) + -s)


Rule = tuple[Callable[[Range], Range], Callable[[Range], Range]]

#: name of a torch function → its range, and the range of its derivative.
RULES: dict[str, Rule] = {
    "sin": (_sine, lambda x: _sine(_shift(x, math.pi / 2))),
    "cos": (lambda x: _sine(_shift(x, math.pi / 2)), lambda x: -_sine(x)),
    "exp": (lambda x: _monotone(torch.exp, x), lambda x: _monotone(torch.exp, x)),
    "log": (lambda x: _monotone(torch.log, x), _reciprocal),
    "sqrt": (
        lambda x: _monotone(torch.sqrt, x),
        lambda x: _reciprocal(_monotone(torch.sqrt, x)) * _constant(0.5, x.low),
    ),
    "tanh": (lambda x: _monotone(torch.tanh, x), _tanh_slope),
    "sigmoid": (lambda x: _monotone(torch.sigmoid, x), _sigmoid_slope),
    "relu": (lambda x: _monotone(torch.relu, x), _step),
    "abs": (_magnitude, _sign),
    "absolute": (_magnitude, _sign),
    "neg": (lambda x: -x, lambda x: _constant(-1.0, x.low)),
    "square": (lambda x: _power(x, 2), lambda x: x * _constant(2.0, x.low)),
    "reciprocal": (_reciprocal, lambda x: -_power(_reciprocal(x), 2)),
}


class Enclosure:
    """A function's values and gradients over a batch of boxes.

    Takes the operations of `RULES`, ``+ - * /``, integer powers, ``x[:, i]`` and ``sum(-1)``.
    """

    def __init__(self, value: Range, slope: Range) -> None:
        self.value, self.slope = value, slope

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        arguments = args if not kwargs else (*args, *kwargs.values())
        if name in ("add", "sub", "subtract", "mul", "multiply", "div", "true_divide", "pow", "sum"):
            first = arguments[0] if isinstance(arguments[0], Enclosure) else arguments[1]._lift(arguments[0])
            return {
                "add": first.__add__,
                "sub": first.__sub__,
                "subtract": first.__sub__,
                "mul": first.__mul__,
                "multiply": first.__mul__,
                "div": first.__truediv__,
                "true_divide": first.__truediv__,
                "pow": first.__pow__,
                "sum": first.sum,
            }[name](*arguments[1:])
        if name in RULES and len(arguments) == 1:
            return arguments[0]._apply(name)
        raise TypeError(f"no enclosure of torch.{name}")

    def __getattr__(self, name: str) -> Any:
        if name in RULES:
            return lambda: self._apply(name)
        raise AttributeError(f"no enclosure of Tensor.{name}")

    def _apply(self, name: str) -> Enclosure:
        function, derivative = RULES[name]
        return Enclosure(function(self.value), derivative(self.value).unsqueeze() * self.slope)

    def _lift(self, other: Any) -> Enclosure:
        if isinstance(other, Enclosure):
            return other
        if isinstance(other, Tensor) and other.numel() != 1:
            raise TypeError("an enclosure combines with numbers, not with other tensors")
        zero = torch.zeros_like(self.slope.low)
        return Enclosure(_constant(float(other), self.value.low), Range(zero, zero))

    def __getitem__(self, index: Any) -> Enclosure:
        slopes = (index, slice(None)) if not isinstance(index, tuple) else (*index, slice(None))
        return Enclosure(
            Range(self.value.low[index], self.value.high[index]), Range(self.slope.low[slopes], self.slope.high[slopes])
        )

    def sum(self, dim: int | Sequence[int] = -1) -> Enclosure:
        """Over the coordinates."""
        if self.value.low.dim() != 2 or dim not in (-1, 1, [-1], [1], (-1,), (1,)):
            raise TypeError("an enclosure sums over the coordinates only")
        parts = [self[:, i] for i in range(self.value.low.shape[1])]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def __add__(self, other: Any) -> Enclosure:
        other = self._lift(other)
        return Enclosure(self.value + other.value, self.slope + other.slope)

    __radd__ = __add__

    def __neg__(self) -> Enclosure:
        return Enclosure(-self.value, -self.slope)

    def __sub__(self, other: Any) -> Enclosure:
        return self + -self._lift(other)

    def __rsub__(self, other: Any) -> Enclosure:
        return -self + other

    def __mul__(self, other: Any) -> Enclosure:
        other = self._lift(other)
        return Enclosure(self.value * other.value, self.value.unsqueeze() * other.slope + other.value.unsqueeze() * self.slope)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Enclosure:
        return self * self._lift(other)._apply("reciprocal")

    def __rtruediv__(self, other: Any) -> Enclosure:
        return self._lift(other) / self

    def __pow__(self, exponent: Any) -> Enclosure:
        if not (isinstance(exponent, int | float) and exponent == int(exponent) and exponent >= 1):
            raise TypeError("an enclosure has powers 1, 2, 3, …")
        n = int(exponent)
        slope = _power(self.value, n - 1) * _constant(float(n), self.value.low)
        return Enclosure(_power(self.value, n), slope.unsqueeze() * self.slope)

    def __abs__(self) -> Enclosure:
        return self._apply("abs")


def lipschitz(f: Callable[[Any], Any], box: Sequence[tuple[float, float]]) -> float:
    """An upper bound on f's Lipschitz constant (Euclidean norm) over ``box``, proved by interval arithmetic on ≥ 1024 cells.

    Raises:
        InvalidInput: f uses an operation without an enclosure, or its gradient is unbounded on a cell (said where).
    """
    dimension = len(box)
    per_axis = {1: 1024, 2: 64}.get(dimension, 32)
    edges = [torch.linspace(0, 1, per_axis + 1, dtype=torch.float64) * (b - a) + a for a, b in box]
    for edge, (a, b) in zip(edges, box, strict=True):
        edge[0], edge[-1] = a, b
    low = torch.cartesian_prod(*(edge[:-1] for edge in edges)).reshape(-1, dimension)
    high = torch.cartesian_prod(*(edge[1:] for edge in edges)).reshape(-1, dimension)
    unit = torch.eye(dimension, dtype=torch.float64).expand(len(low), -1, -1)
    x = Enclosure(Range(low, high), Range(unit, unit))
    try:
        y = f(x[:, 0] if dimension == 1 else x)
    except (TypeError, AttributeError, ValueError, RuntimeError, IndexError) as error:
        raise InvalidInput(
            f"no Lipschitz constant could be proved for this target ({error}): pass lipschitz=…, or write it with + - * /, "
            f"integer powers and torch's {', '.join(sorted(RULES))}"
        ) from error
    if not isinstance(y, Enclosure):
        return 0.0
    steepest = torch.maximum(y.slope.low.abs(), y.slope.high.abs()).square().sum(-1).sqrt() * (1 + _SLACK)
    worst = int(steepest.argmax())
    if not math.isfinite(bound := float(steepest[worst])):
        cell = ", ".join(f"[{a:.6g}, {b:.6g}]" for a, b in zip(low[worst].tolist(), high[worst].tolist(), strict=True))
        raise InvalidInput(f"the target's slope is, or may be, unbounded on {cell}: pass lipschitz=… if it is Lipschitz there")
    return bound
