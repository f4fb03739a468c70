"""Slopes and values of activation functions, over the whole line or over an interval for each neuron.

An activation is described by where its derivative and its value turn (or jump); between two turns both are monotone, so that their
range over an interval is the hull of the ends and of the turns inside.  The constants are closed forms or roots rounded outward:

* GELU: ``g' = Φ + xφ``, ``g'' = φ(x)(2 − x²)``, so the slope is largest at √2: ``(1 + erf 1)/2 + e⁻¹/√π = 1.12890…``;
* SiLU: ``f'' = σ(1 − σ)(2 − x tanh(x/2))``, so at the root 2.39935… of ``x tanh(x/2) = 2``: 1.09983…;
* Mish and the tanh form of GELU: the turns were found to 20 digits and rounded outward; the tests compare them with a fine grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]
Turns = tuple[tuple[float, float | Tensor], ...]
ROUND = 1e-9
"""Outward margin on smooth slopes and values: float64 evaluation errs by less than 1e-13, the turns by less than 1e-10."""


@dataclass(frozen=True)
class Activation:
    """An elementwise function.

    Attributes:
        function, derivative: on float64 tensors; the derivative at a jump may be either side's.
        slope_turns, value_turns: (where, what) for each extremum and each side of a jump; ``what`` may differ by channel.
        slope_limits, value_limits: at −∞ and +∞.
        margin: outward, on everything computed (0 for piecewise linear functions).
    """

    function: Function
    derivative: Function
    slope_turns: Turns
    value_turns: Turns
    slope_limits: tuple[float | Tensor, float]
    value_limits: tuple[float, float]
    margin: float = 0.0

    def slopes(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest slope of each neuron over its interval."""
        return _hull(self.derivative, self.slope_turns, self.slope_limits, low, high, self.margin)

    def values(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of each neuron over its interval."""
        low, high = _hull(self.function, self.value_turns, self.value_limits, low, high, self.margin)
        return low - 1e-14 * low.abs(), high + 1e-14 * high.abs()

    @property
    def lipschitz(self) -> float:
        """Largest absolute slope anywhere.

        >>> activation("sigmoid").lipschitz, activation("relu").lipschitz
        (0.25..., 1.0)
        """
        ends = [*self.slope_limits, *(what for _, what in self.slope_turns)]
        return max(_most(end) for end in ends) + self.margin

    @property
    def bounds(self) -> tuple[float, float]:
        """Infimum and supremum of the function."""
        ends = [
            float(torch.as_tensor(v, dtype=torch.float64).max())
            for v in (*self.value_limits, *(w for _, w in self.value_turns))
        ]
        return min(ends) - self.margin, max(ends) + self.margin


def _most(value: float | Tensor) -> float:
    return float(value.abs().max()) if isinstance(value, Tensor) else abs(value)


def _hull(
    function: Function, turns: Turns, limits: Sequence[float | Tensor], low: Tensor, high: Tensor, margin: float
) -> tuple[Tensor, Tensor]:
    ends = []
    for x in (low, high):
        value = function(x)
        for limit, infinite in zip(limits, (-math.inf, math.inf), strict=True):
            value = torch.where(x == infinite, torch.as_tensor(limit, dtype=x.dtype, device=x.device), value)
        ends.append(value)
    least, most = torch.minimum(*ends), torch.maximum(*ends)
    for where, what in turns:
        inside = (low <= where + 1e-9) & (high >= where - 1e-9)
        what = torch.as_tensor(what, dtype=low.dtype, device=low.device)
        least = torch.where(inside, torch.minimum(least, what), least)
        most = torch.where(inside, torch.maximum(most, what), most)
    return least - margin, most + margin


def _pieces(function: Function, *knots: tuple[float, float | Tensor, float | Tensor], ends: tuple[float, float]) -> Activation:
    """Piecewise linear: (knot, slope to its left, slope to its right) in order, and the values at ±∞."""

    def derivative(x: Tensor) -> Tensor:
        slope = torch.as_tensor(knots[0][1], dtype=x.dtype, device=x.device).expand_as(x)
        for where, _, right in knots:
            slope = torch.where(x > where, torch.as_tensor(right, dtype=x.dtype, device=x.device), slope)
        return slope

    slopes = tuple((where, side) for where, left, right in knots for side in (left, right))
    right_end = knots[-1][2]
    assert not isinstance(right_end, Tensor)
    return Activation(
        function,
        derivative,
        slopes,
        tuple((where, float(function(torch.tensor(where, dtype=torch.float64)).max())) for where, _, _ in knots),
        (knots[0][1], right_end),
        ends,
    )


def _gelu_slope(x: Tensor) -> Tensor:
    return torch.special.ndtr(x) + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    t = torch.tanh(inner)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)


def _silu_slope(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def _mish_slope(x: Tensor) -> Tensor:
    t = torch.tanh(F.softplus(x, threshold=1e9))
    return t + x * (1 - t * t) * torch.sigmoid(x)


def _ramp(low: float, high: float) -> Activation:
    return _pieces(lambda x: x.clamp(low, high), (low, 0.0, 1.0), (high, 1.0, 0.0), ends=(low, high))


def _elu(scale: float, alpha: float, width: float) -> Activation:
    """``scale·x`` for x > 0, ``scale·α(e^{x/width} − 1)`` below."""
    return Activation(
        lambda x: scale * torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0) / width)),
        lambda x: scale * torch.where(x > 0, 1.0, alpha / width * torch.exp(x.clamp(max=0) / width)),
        ((0.0, scale), (0.0, scale * alpha / width)),
        ((0.0, 0.0),),
        (0.0, scale),
        (-scale * alpha, math.inf),
        ROUND * 1e-3,
    )


SIXTH = 1 / 6 + 1e-8  # torch's 1/6 may be single precision
GELU_SLOPE = (1 + math.erf(1)) / 2 + math.exp(-1) / math.sqrt(math.pi)
SILU_TURN, SILU_SLOPE, SILU_LEAST = 2.3993572805154297, 1.0998393201288669, (-1.2784645427610738, -0.2784645427610738)

_SMOOTH: dict[str, Activation] = {
    "gelu": Activation(
        F.gelu,
        _gelu_slope,
        ((math.sqrt(2), GELU_SLOPE), (-math.sqrt(2), 1 - GELU_SLOPE)),
        ((-0.7517915246935645, -0.16997120747990369),),
        (0.0, 1.0),
        (0.0, math.inf),
        ROUND,
    ),
    "silu": Activation(
        F.silu,
        _silu_slope,
        ((SILU_TURN, SILU_SLOPE), (-SILU_TURN, 1 - SILU_SLOPE)),
        (SILU_LEAST,),
        (0.0, 1.0),
        (0.0, math.inf),
        ROUND,
    ),
    "sigmoid": Activation(
        torch.sigmoid, lambda x: torch.sigmoid(x) * torch.sigmoid(-x), ((0.0, 0.25),), (), (0.0, 0.0), (0.0, 1.0), 1e-15
    ),
    "tanh": Activation(
        torch.tanh, lambda x: torch.cosh(x.clamp(-350, 350)) ** -2, ((0.0, 1.0),), (), (0.0, 0.0), (-1.0, 1.0), 0.0
    ),
}
_LINEAR: dict[str, Activation] = {
    "relu": _pieces(torch.relu, (0.0, 0.0, 1.0), ends=(0.0, math.inf)),
    "relu6": _ramp(0.0, 6.0),
    "absolute": _pieces(torch.abs, (0.0, -1.0, 1.0), ends=(math.inf, math.inf)),
    "hardsigmoid": _pieces(F.hardsigmoid, (-3.0, 0.0, SIXTH), (3.0, SIXTH, 0.0), ends=(0.0, 1.0)),
}


def activation(
    word: str, module: nn.Module | None = None, options: Callable[[str, int, Any], Any] | None = None
) -> Activation | None:
    """The activation a graph's word stands for, None for words that are no elementwise activation.

    ``options(name, place, default)`` reads a parameter of a functional call; of a module they are its attributes.
    """

    def option(name: str, place: int, default: Any) -> Any:
        if module is not None:
            return getattr(module, name, default)
        return default if options is None else options(name, place, default)

    if word in _LINEAR:
        return _LINEAR[word]
    if word == "gelu" and option("approximate", 1, "none") == "tanh":
        return _GELU_TANH
    if word in _SMOOTH:
        return _SMOOTH[word]
    maker = _MAKERS.get(word)
    return maker(option, module) if maker is not None else _BY_TYPE.get(type(module))


Option = Callable[[str, int, Any], Any]


def _leaky(option: Option, module: nn.Module | None) -> Activation:
    slope = float(option("negative_slope", 1, 0.01))
    end = -math.inf if slope > 0 else (0.0 if slope == 0 else math.inf)
    return _pieces(lambda x: F.leaky_relu(x, slope), (0.0, slope, 1.0), ends=(end, math.inf))


def _prelu(option: Option, module: nn.Module | None) -> Activation | None:
    weight = option("weight", 1, None)
    if not isinstance(weight, Tensor):
        return None
    weight = weight.detach().double()
    low = -math.inf if bool((weight > 0).any()) else 0.0

    def shaped(x: Tensor) -> Tensor:
        return weight.reshape(-1, *[1] * (x.dim() - 2)) if x.dim() > 1 else weight

    def function(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, shaped(x) * x)

    sides = (float(weight.min()), float(weight.max()), 1.0)  # at a jump: any channel's slopes
    return Activation(
        function,
        lambda x: torch.where(x > 0, torch.ones_like(x), shaped(x).expand_as(x)),
        tuple((0.0, side) for side in sides),
        ((0.0, 0.0),),
        (float(weight.abs().max()), 1.0),
        (low, math.inf),
    )


def _hardtanh(option: Option, module: nn.Module | None) -> Activation:
    return _ramp(float(option("min_val", 1, -1.0)), float(option("max_val", 2, 1.0)))


def _clamp(option: Option, module: nn.Module | None) -> Activation | None:
    low, high = option("min", 1, None), option("max", 2, None)
    if not all(end is None or isinstance(end, int | float) for end in (low, high)):
        return None
    if low is None and high is None:
        return None
    if low is None:
        return _pieces(lambda x: x.clamp(max=high), (float(high), 1.0, 0.0), ends=(-math.inf, float(high)))
    if high is None:
        return _pieces(lambda x: x.clamp(min=low), (float(low), 0.0, 1.0), ends=(float(low), math.inf))
    return _ramp(float(low), float(high))


def _softplus(option: Option, module: nn.Module | None) -> Activation:
    beta = float(option("beta", 1, 1.0))
    return Activation(
        lambda x: F.softplus(x, beta, 1e9),
        lambda x: torch.sigmoid(beta * x),
        (),
        (),
        (0.0, 1.0),
        (0.0, math.inf),
        1e-8,  # above its threshold torch's softplus is the identity, 2e-9/β lower
    )


def _hardswish(option: Option, module: nn.Module | None) -> Activation:
    return Activation(
        lambda x: x * (x + 3).clamp(0, 6) / 6,
        lambda x: torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, (2 * x + 3) / 6)),
        ((-3.0, 0.0), (-3.0, -0.5), (3.0, 1.5), (3.0, 1.0)),
        ((-1.5, -0.375), (-3.0, 0.0)),
        (0.0, 1.0),
        (0.0, math.inf),
        1e-15,
    )


def _elu_of(option: Option, module: nn.Module | None) -> Activation:
    alpha = float(option("alpha", 1, 1.0))
    return _elu(1.0, alpha, alpha if isinstance(module, nn.CELU) else 1.0)


_GELU_TANH = Activation(
    lambda x: F.gelu(x, approximate="tanh"),
    _gelu_tanh_slope,
    ((1.4185040087908284, 1.1289930686587718), (-1.4185040087908284, 1 - 1.1289930686587718)),
    ((-0.7524614220710163, -0.17004075057125405),),
    (0.0, 1.0),
    (0.0, math.inf),
    ROUND,
)
_MISH = Activation(
    F.mish,
    _mish_slope,
    ((1.4905711794854285, 1.0884981612517279), (-2.2563763963607932, -0.11252612238946256)),
    ((-1.1924312145154952, -0.3088434130172504),),
    (0.0, 1.0),
    (0.0, math.inf),
    ROUND,
)
_BY_TYPE: dict[type[Any], Activation] = {
    nn.Softsign: Activation(F.softsign, lambda x: (1 + x.abs()) ** -2, ((0.0, 1.0),), (), (0.0, 0.0), (-1.0, 1.0), 1e-15),
    nn.LogSigmoid: Activation(F.logsigmoid, lambda x: torch.sigmoid(-x), (), (), (1.0, 0.0), (-math.inf, 0.0), 1e-15),
    nn.Tanhshrink: Activation(
        lambda x: x - torch.tanh(x), lambda x: torch.tanh(x) ** 2, ((0.0, 0.0),), (), (1.0, 1.0), (-math.inf, math.inf), 1e-15
    ),
}
_MAKERS: dict[str, Callable[[Option, nn.Module | None], Activation | None]] = {
    "leaky_relu": _leaky,
    "prelu": _prelu,
    "elu": _elu_of,
    "selu": lambda option, module: _elu(1.0507009873554805, 1.6732632423543772, 1.0),
    "mish": lambda option, module: _MISH,
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "softplus": _softplus,
    "hardswish": _hardswish,
}
