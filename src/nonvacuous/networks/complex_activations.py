"""Activations on torch's complex tensors, with their Lipschitz constants as maps of ℝ²ⁿ.

Sources: Trabelsi et al. 2018 (CReLU); Arjovsky, Shah and Bengio 2016 (modReLU); Guberman 2016 (zReLU).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.measures.lipschitz import RULES, register
from nonvacuous.operators.rules import fits

__all__ = ["CReLU", "Magnitude", "ModReLU", "Split", "SplitTanh", "ZReLU", "activation_constant"]


def complex_numbers(x: Tensor, layer: nn.Module) -> Tensor:
    """x itself; raises InvalidInput if it is real."""
    if not x.is_complex():
        raise InvalidInput(
            f"{type(layer).__name__} takes complex tensors; got {x.dtype}. Put ComplexInput() or FourierTransform2d() before it"
        )
    return x


def finite(x: Tensor, what: str) -> Tensor:
    """x itself; raises InvalidInput for NaN or infinity (inside torch.func's transforms values cannot be read, and are not)."""
    if not torch._C._functorch.is_functorch_wrapped_tensor(x) and not bool(torch.isfinite(x).all()):
        raise InvalidInput(f"{what} holds NaN or infinity: remove or replace those examples first")
    return x


class Split(nn.Module, ABC):
    """f(Re z) + i·f(Im z), number by number, for a real function :meth:`part`."""

    @abstractmethod
    def part(self, x: Tensor) -> Tensor:
        """f, of a real tensor."""

    def forward(self, z: Tensor) -> Tensor:
        z = complex_numbers(z, self)
        return torch.complex(self.part(z.real), self.part(z.imag))


class CReLU(Split):
    """ReLU(Re z) + i·ReLU(Im z), number by number.  1-Lipschitz, as ReLU is in every coordinate."""

    def part(self, x: Tensor) -> Tensor:
        return x.relu()


class SplitTanh(Split):
    """tanh(Re z) + i·tanh(Im z), number by number.  1-Lipschitz."""

    def part(self, x: Tensor) -> Tensor:
        return x.tanh()


class ZReLU(nn.Module):
    """z where Re z ≥ 0 and Im z ≥ 0, else 0.

    It has no Lipschitz constant: 1 + iε ↦ 1 + iε and 1 − iε ↦ 0 for every ε > 0.
    """

    def forward(self, z: Tensor) -> Tensor:
        z = complex_numbers(z, self)
        return z * ((z.real >= 0) & (z.imag >= 0))


class ModReLU(nn.Module):
    """ReLU(|z| + b)·z/|z|, one learned b a feature (axis 1): moduli shrink, phases stay.

    As published b may have any sign; where it is positive the function jumps at 0 by 2b and has no Lipschitz constant.  Here
    b = −|threshold| unless ``expanding``: soft thresholding, the proximal map of |threshold|·|z|, and 1-Lipschitz, as all proximal
    maps of convex functions are (Moreau 1965).

    Args:
        features: size of axis 1, at least 1.
        threshold: at first; not 0 without ``expanding``, as |·| has no slope there to learn from.
        expanding: learn b = −threshold of any sign.

    Raises InvalidInput for no features, a threshold that is 0 or not finite; in the forward pass for real tensors or other sizes.

    >>> ModReLU(1, threshold=1.0)(torch.tensor([[3 + 4j]]))
    tensor([[2.4000+3.2000j]], grad_fn=<...>)
    """

    def __init__(self, features: int, *, threshold: float = 0.1, expanding: bool = False) -> None:
        super().__init__()
        if features < 1 or not math.isfinite(threshold) or (threshold == 0 and not expanding):
            raise InvalidInput(
                f"features {features}, threshold {threshold!r}: give 1 feature or more, and a finite threshold ≠ 0"
            )
        self.features, self.expanding = int(features), bool(expanding)
        self.threshold = nn.Parameter(torch.full((self.features,), float(threshold)))

    @property
    def bias(self) -> Tensor:
        """b, ``[features]``."""
        return -self.threshold if self.expanding else -self.threshold.abs()

    def forward(self, z: Tensor) -> Tensor:
        z = complex_numbers(z, self)
        if z.dim() < 2 or z.shape[1] != self.features:
            raise InvalidInput(f"ModReLU takes [n, {self.features}, …]; got {tuple(z.shape)}")
        bias = self.bias.reshape(-1, *[1] * (z.dim() - 2))
        return (z.abs() + bias).relu() * torch.sgn(z)

    def extra_repr(self) -> str:
        return f"features={self.features}, expanding={self.expanding}"


class Magnitude(nn.Module):
    """|z|, number by number: complex in, real out.  1-Lipschitz, as ||z| − |w|| ≤ |z − w|."""

    def forward(self, z: Tensor) -> Tensor:
        return complex_numbers(z, self).abs()


def activation_constant(activation: nn.Module, features: int) -> Measured:
    """The registered Lipschitz constant of an activation on complex tensors ``[n, features]``; ∞ where it has none.

    Raises UnsupportedModule for a class without a rule.

    >>> activation_constant(CReLU(), 5).upper
    1.0
    """
    rule = next((RULES[kind] for kind in type(activation).__mro__ if kind in RULES), None)
    if rule is None:
        name = type(activation).__name__
        raise UnsupportedModule(
            f"{name} has no Lipschitz rule: register one (module, input_shape) → Measured with @lipschitz.register({name})"
        )
    return rule(activation, (features,))


# -- Lipschitz rules, by the proofs in the classes


@register(CReLU, SplitTanh, Magnitude)
def _at_most_one(module: nn.Module, shape: tuple[int, ...]) -> Measured:
    return Measured(0.0, 1.0, Kind.EXACT)


@register(ZReLU)
def _jumps(module: ZReLU, shape: tuple[int, ...]) -> Measured:
    return Measured.exact(math.inf)


@register(ModReLU)
def _shrinks(module: ModReLU, shape: tuple[int, ...]) -> Measured:
    fits(module, bool(shape) and shape[0] == module.features, shape, f"({module.features}, …)")
    return Measured.exact(math.inf) if bool((module.bias > 0).any()) else Measured(0.0, 1.0, Kind.EXACT)
