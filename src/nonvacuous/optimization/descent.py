"""How the loss of a deep linear network changes along W + tV: second derivatives and drops, enclosed against rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nonvacuous.core.measured import Kind, Measured
from nonvacuous.optimization.deep_linear import (
    Moments,
    Weights,
    above,
    below,
    chain,
    flat,
    gamma,
    hessian,
    sandwiched,
    shaped,
)


@dataclass(frozen=True)
class Problem:
    """Second moments of the data and of its moduli, which bound what rounding does to the first."""

    moments: Moments
    moduli: Moments

    @classmethod
    def of(cls, X: Tensor, Y: Tensor) -> Problem:
        """Of inputs ``[d_x, n]`` and targets ``[d_y, n]``."""
        return cls(Moments.of(X, Y), Moments.of(X.abs(), Y.abs()))

    def error(self, weights: Weights) -> float:
        """Relative to the same expression in moduli, what any expression below may be off by: γ_N, with room to spare."""
        steps = sum(weight.shape[-1] + weight.shape[-2] for weight in weights)
        return gamma(4 * (self.moments.n + steps + 4 * len(weights) + 16))


def expansion(weights: Weights, direction: Weights) -> list[Tensor]:
    """Coefficients of 1, t, …, t^L in the product of (W_l + t·V_l), ``[…, d_y, d_x]`` each."""
    found = [weights[0], direction[0]]
    for W, V in zip(weights[1:], direction[1:], strict=True):
        pairs = zip([*found, None], [None, *found], strict=True)
        found = [_sum(None if a is None else W @ a, None if b is None else V @ b) for a, b in pairs]
    return found


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor:
    if a is None or b is None:
        return a if b is None else b  # type: ignore[return-value]
    return a + b


def second_derivative(weights: Weights, direction: Weights, problem: Problem) -> Measured:
    """d²/dt² of the loss at t = 0, over ‖V‖²: an upper bound of the smallest Hessian eigenvalue and a lower one of the largest.

    EXACT: the interval holds the true value, rounding included.
    """
    centre = _second(weights, direction, problem.moments, 1)
    modulus = _second([w.abs() for w in weights], [v.abs() for v in direction], problem.moduli, -1)
    norm = float((flat(direction) ** 2).sum())
    slack = problem.error(weights)
    reach = slack * modulus
    ends = [(centre + sign * reach) / (norm * (1 + side * slack)) for sign in (-1, 1) for side in (-1, 1)]
    return Measured(math.nextafter(min(ends[:2]), -math.inf), math.nextafter(max(ends[2:]), math.inf), Kind.EXACT)


def _second(weights: Weights, direction: Weights, moments: Moments, sign: int) -> float:
    zeroth, first, second = expansion(weights, direction)[:3]
    slope = zeroth @ moments.gram - sign * moments.cross
    return float(((first @ moments.gram) * first).sum() + 2 * (slope * second).sum())


def change(weights: Weights, direction: Weights, t: float, problem: Problem) -> Measured:
    """loss(W + tV) − loss(W), without cancellation: EXACT, rounding included."""
    centre = _change(weights, direction, t, problem.moments, 1)
    modulus = _change([w.abs() for w in weights], [v.abs() for v in direction], abs(t), problem.moduli, -1)
    reach = problem.error(weights) * modulus
    return Measured(math.nextafter(centre - reach, -math.inf), math.nextafter(centre + reach, math.inf), Kind.EXACT)


def _change(weights: Weights, direction: Weights, t: float, moments: Moments, sign: int) -> float:
    zeroth, *rest = expansion(weights, direction)
    moved = torch.zeros_like(zeroth)
    for coefficient in reversed(rest):
        moved = t * (coefficient + moved)
    slope = zeroth @ moments.gram - sign * moments.cross
    return float(0.5 * ((moved @ moments.gram) * moved).sum() + (slope * moved).sum())


def curvature_floor(weights: Weights, problem: Problem) -> float:
    """A lower bound of the smallest Hessian eigenvalue: minus the largest row sum of the norms of the indefinite blocks."""
    moments, slack = problem.moments, problem.error(weights)
    down, up = below(weights), above(weights)
    moduli = [weight.abs() for weight in weights]
    down_moduli, up_moduli = below(moduli), above(moduli)
    product = weights[-1] if down[-1] is None else weights[-1] @ down[-1]
    modulus = moduli[-1] if down_moduli[-1] is None else moduli[-1] @ down_moduli[-1]
    slope = moments.slope(product)
    slope_modulus = modulus @ problem.moduli.gram + problem.moduli.cross
    rows = [0.0] * len(weights)
    for high in range(len(weights)):
        for low in range(high):
            outer = float(sandwiched(up[high], slope, down[low]).norm())
            outer += slack * float(sandwiched(up_moduli[high], slope_modulus, down_moduli[low]).norm())
            inner = 1.0
            for weight in weights[low + 1 : high]:
                inner *= float(weight.norm()) * (1 + slack)
            rows[high] += outer * inner
            rows[low] += outer * inner
    return -max(rows) * (1 + slack)


def eigenvalue_near(weights: Weights, problem: Problem) -> tuple[Measured, tuple[Tensor, ...], Tensor]:
    """An interval that holds an eigenvalue of the Hessian, the smallest up to rounding; its vector; all computed eigenvalues.

    For symmetric H and a vector v with Rayleigh quotient q, some eigenvalue lies within ‖Hv − qv‖/‖v‖ of q; what rounding did to
    H is added in the Frobenius norm.
    """
    product = chain(weights)
    H = hessian(weights, problem.moments.gram, problem.moments.slope(product))
    modulus = chain([w.abs() for w in weights])
    H_modulus = hessian(weights, problem.moduli.gram, modulus @ problem.moduli.gram + problem.moduli.cross, absolute=True)
    H = (H + H.mT) / 2
    values, vectors = torch.linalg.eigh(H)
    v = vectors[:, 0]
    image = H @ v
    quotient = float(v @ image / (v @ v))
    slack = problem.error(weights) + gamma(4 * len(v))
    reach = float((image - quotient * v).norm() / v.norm()) * (1 + slack) + slack * float(H_modulus.norm())
    return Measured(quotient - reach, quotient + reach, Kind.EXACT), shaped(v, weights), values
