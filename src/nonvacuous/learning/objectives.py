"""What a posterior descends on: PAC-Bayes bounds as differentiable functions of empirical risk and divergence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Objective = Callable[[Tensor, Tensor], Tensor]
"""(risk, budget) → value, where budget = (KL + ln(2√n/δ))/n."""

_STEPS = 80


class _InvertedKl(torch.autograd.Function):
    """kl⁻¹(q, c) = sup{p : kl(q‖p) ≤ c} with its gradient from the implicit function theorem."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, c: Tensor) -> Tensor:
        risk, budget = q.double().clamp(1e-12, 1 - 1e-9), c.double().clamp_min(1e-12)
        pairs = zip(*(x.flatten().tolist() for x in torch.broadcast_tensors(risk, budget)), strict=True)
        p = risk.new_tensor([min(_inverse(*pair), 1 - 1e-12) for pair in pairs]).view_as(risk)
        ctx.save_for_backward(risk, p)
        return p.to(q.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (outer,) = grads
        q, p = ctx.saved_tensors
        slope = (p - q) / (p * (1 - p))
        by_risk = (torch.log(p / (1 - p)) - torch.log(q / (1 - q))) / slope
        return (outer.double() * by_risk).to(outer.dtype), (outer.double() / slope).to(outer.dtype)


def _inverse(q: float, c: float) -> float:
    """kl⁻¹ by bisection; in plain numbers, as eighty steps of tensors with one entry take milliseconds."""
    low, high, entropy = q, 1.0, q * math.log(q) + (1 - q) * math.log1p(-q)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if entropy - q * math.log(middle) - (1 - q) * math.log1p(-middle) < c:
            low = middle
        else:
            high = middle
    return high


def inverted_kl(risk: Tensor, budget: Tensor) -> Tensor:
    r"""kl⁻¹(r̂, budget), with the gradient of the inverse itself; no certificate: rounded to nearest.

    From kl(q‖p) = c: ∂p/∂c = p(1 − p)/(p − q) and ∂p/∂q = ∂p/∂c · (ln(p/(1 − p)) − ln(q/(1 − q))).

    >>> round(float(inverted_kl(torch.tensor(0.02, dtype=torch.float64), torch.tensor(510.0 / 60_000, dtype=torch.float64))), 4)
    0.0439
    """
    value: Tensor = _InvertedKl.apply(risk, budget)
    return value


def classic(risk: Tensor, budget: Tensor) -> Tensor:
    """r̂ + √(budget/2)."""
    return risk + (budget / 2).sqrt()


def quadratic(risk: Tensor, budget: Tensor) -> Tensor:
    """(√(r̂ + budget/2) + √(budget/2))²."""
    return ((risk + budget / 2).sqrt() + (budget / 2).sqrt()).square()


def best_lambda(risk: Tensor, budget: Tensor) -> Tensor:
    """r̂/(1 − λ/2) + budget/(λ(1 − λ/2)) at the best λ = 2/(√(2r̂/budget + 1) + 1), held fixed in the gradient."""
    with torch.no_grad():
        lam = 2 / ((2 * risk / budget + 1).sqrt() + 1)
    return risk / (1 - lam / 2) + budget / (lam * (1 - lam / 2))


OBJECTIVES: dict[str, Objective] = {
    "inverted-kl": inverted_kl,
    "quadratic": quadratic,
    "lambda": best_lambda,
    "classic": classic,
}


def budget_nats(divergence: Tensor, n: int, delta: float) -> Tensor:
    """(KL + ln(2√n/δ))/n."""
    return (divergence + math.log(2 * math.sqrt(n) / delta)) / n
