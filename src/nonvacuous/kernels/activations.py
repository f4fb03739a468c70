"""Activations by name: :func:`dual` gives what the infinite network needs of one, and the module that the finite network uses."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.duals import Bump, Dual, Erf, Exponential, Gelu, Identity, Moments, Rectifier, Sign, Sinusoid, Square
from nonvacuous.kernels.hermite import HermiteSeries, NoClosedForm

__all__ = ["CLOSED_FORMS", "SERIES", "Dual", "Moments", "NoClosedForm", "dual", "leaky_relu", "relu"]


def relu() -> Rectifier:
    """max(z, 0)."""
    return Rectifier(0.0, 1.0)


def leaky_relu(negative_slope: float = 0.01) -> Rectifier:
    """z where it is positive, ``negative_slope``·z elsewhere; the default is torch's."""
    return Rectifier(negative_slope, 1.0)


CLOSED_FORMS: dict[str, Dual] = {
    "abs": Rectifier(-1.0, 1.0),
    "cos": Sinusoid(math.sqrt(0.5), 1.0, math.pi / 2),
    "erf": Erf(),
    "exp": Exponential(),
    "gaussian": Bump(),
    "gelu": Gelu(),
    "identity": Identity(),
    "leaky_relu": leaky_relu(),
    "relu": relu(),
    "sign": Sign(),
    "sin": Sinusoid(math.sqrt(0.5), 1.0, 0.0),
    "square": Square(),
}


#: Smooth enough for a short series, or with their only kink at 0.
SERIES: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "mish": nn.Mish,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def dual(activation: str | Dual | nn.Module | Callable[[Tensor], Tensor]) -> Dual:
    """The dual functions of an activation: by its name, as a module, or as any elementwise function of a tensor.

    Raises ``InvalidInput`` for an unknown name and for a function that is not elementwise. Warns :class:`NoClosedForm` where a series
    has to serve.

    >>> dual("relu"), dual(nn.LeakyReLU(0.2)).mean_square_slope
    (Rectifier(negative=0.0, positive=1.0), 0.52)
    """
    match activation:
        case Dual():
            return activation
        case str() if activation in CLOSED_FORMS:
            return CLOSED_FORMS[activation]
        case str() if activation in SERIES:
            return HermiteSeries(SERIES[activation](), activation)
        case nn.ReLU():
            return CLOSED_FORMS["relu"]
        case nn.LeakyReLU():
            return Rectifier(float(activation.negative_slope), 1.0)
        case nn.GELU() if activation.approximate == "none":
            return CLOSED_FORMS["gelu"]
        case nn.Identity():
            return CLOSED_FORMS["identity"]
        case nn.Module() if any(True for _ in activation.parameters()):
            raise InvalidInput(f"{activation!r} has parameters of its own: an activation of the limit has none")
        case str() | None:
            raise InvalidInput(
                f"no activation {activation!r}; there are {', '.join(sorted({*CLOSED_FORMS, *SERIES}))}, "
                "or give a function of a tensor that acts on each number alone"
            )
        case _ if callable(activation):
            name = repr(activation) if isinstance(activation, nn.Module) else getattr(activation, "__name__", repr(activation))
            return HermiteSeries(activation, name)
    raise InvalidInput(f"{activation!r} is no activation: give a name or a function of a tensor")
