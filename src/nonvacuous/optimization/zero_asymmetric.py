"""Deep linear residual networks: all layers the identity, the last one zero, and gradient descent converges at a linear rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.deep_linear import matrix
from nonvacuous.optimization.hypotheses import Condition
from nonvacuous.optimization.trajectories import Envelope


def zero_asymmetric_(layers: nn.Module) -> None:
    """Initialise, in place, every Linear of a module to the identity, the last one to zero; biases to zero.

    Rectangular layers get ones on the diagonal (the theorem speaks of square ones).

    :raises InvalidInput: fewer than two linear layers.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> zero_asymmetric_(net)
    >>> net[0].weight.tolist(), net[1].weight.tolist()
    ([[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]])
    """
    linear = [layer for layer in layers.modules() if isinstance(layer, nn.Linear)]
    if len(linear) < 2:
        raise InvalidInput(f"zero-asymmetric weights need at least two linear layers; found {len(linear)}")
    with torch.no_grad():
        for layer in linear:
            nn.init.eye_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(linear[-1].weight)


def step_limit(target: Any, depth: int) -> float:
    """min{1/(4L³φ⁶), 1/(144L²φ⁴)}, φ = max{2‖Φ‖_F, 3/√L, 1}: the largest step size of the theorem."""
    phi = max(2 * float(matrix(target, "Φ").norm()), 3 / math.sqrt(depth), 1.0)
    return min(1 / (4 * depth**3 * phi**6), 1 / (144 * depth**2 * phi**4))


def envelope(target: Any, depth: int, step: float) -> Envelope:
    """R(t) ≤ (1 − η/2)^t R(0) for R = ½‖W_L⋯W_1 − Φ‖²_F from W_1 = … = W_{L−1} = I, W_L = 0.

    For any square Φ ``[d, d]`` and η at most :func:`step_limit`.

    Source: Wu, Wang and Ma 2019, "Global convergence of gradient descent for deep linear residual networks", Theorem 4.3.
    """
    phi = _square(target, depth)
    limit = step_limit(phi, depth)
    conditions = (
        Condition.checked("step size", 0 < step <= limit * (1 + 1e-12), f"η = {step:.4g}, limit {limit:.4g}"),
        Condition.checked("initial weights", True, "identity, and zero in the last layer"),
    )
    return Envelope("Wu, Wang and Ma 2019, Theorem 4.3", 1 - step / 2, 0.5 * float((phi**2).sum()), 0.0, conditions)


def descend(target: Any, depth: int, step: float, steps: int, *, checked: bool = True) -> Tensor:
    """R(t) ``[steps + 1]`` from the zero-asymmetric start, in closed form: d scalars instead of L matrices.

    With Φ = UΣVᵀ, all weights stay W_L = U diag(s) Vᵀ and W_l = V diag(p) Vᵀ with the same p in every layer, where
    s ← s − η(s p^{L−1} − σ)p^{L−1} and p ← p − η(s p^{L−1} − σ)s p^{L−2}: width 4096 costs one decomposition and 4096 numbers.

    :raises InvalidInput: a Φ that is not square, depth below 2, or a step size above the limit, which is said (``checked=False``
        goes on all the same).
    """
    phi = _square(target, depth)
    limit = step_limit(phi, depth)
    if checked and not 0 < step <= limit * (1 + 1e-12):
        raise InvalidInput(f"step size {step:g}: the theorem allows at most {limit:.6g} for this Φ and L = {depth}")
    sigma = torch.linalg.svdvals(phi)
    last, inner = torch.zeros_like(sigma), torch.ones_like(sigma)
    losses = torch.empty(steps + 1, dtype=torch.float64)
    for t in range(steps + 1):
        power = inner ** (depth - 2)
        whole = power * inner
        miss = last * whole - sigma
        losses[t] = 0.5 * (miss**2).sum()
        last, inner = last - step * miss * whole, inner - step * miss * last * power
    return losses


def scalar_descent(start: Any, target: float, step: float, steps: int, every: int = 1) -> Tensor:
    """R(t) = ½(w_L⋯w_1 − φ)² of networks of width one from weights ``start`` ``[…, L]``, at every ``every``-th of ``steps`` steps.

    For φ = −1 the identity start keeps all weights equal and positive, so that the product never turns negative and R stays at ½ or
    more; Gaussian (Xavier) starts have a product near zero and take a number of steps exponential in L to leave it.
    """
    w = torch.as_tensor(start, dtype=torch.float64).clone()
    losses = []
    for t in range(steps + 1):
        ahead = torch.cat([torch.ones_like(w[..., :1]), w.cumprod(-1)[..., :-1]], -1)
        behind = torch.cat([w.flip(-1).cumprod(-1).flip(-1)[..., 1:], torch.ones_like(w[..., :1])], -1)
        miss = w.prod(-1) - target
        if t % every == 0:
            losses.append(0.5 * miss**2)
        w = w - step * miss[..., None] * ahead * behind
    return torch.stack(losses, -1)


def _square(target: Any, depth: int) -> Tensor:
    phi = matrix(target, "Φ")
    if phi.shape[0] != phi.shape[1]:
        raise InvalidInput(f"the theorem is for a square Φ; got {tuple(phi.shape)}. Pad it with zeros")
    if depth < 2:
        raise InvalidInput(f"at least two layers are needed; got L = {depth}")
    return phi
