"""Compositions of near-identity maps: in function space, every stationary point is a global minimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.lipschitz import global_upper
from nonvacuous.optimization.hypotheses import Condition, Standing, weakest


@dataclass(frozen=True)
class Sides:
    """Both sides of the inequality on a sample, one entry a layer.

    left: ‖D_{h_i}Q‖ = mean ‖J_iᵀ(h − h*)‖·‖h_{i−1:1}(x)‖. right: (1 − ε)^{m−1}(Q(h) − Q(h*))/‖h − h*‖, as the slide has it. sharp:
    2·Π_{j≠i}(1 − ε_j)·(Q(h) − Q(h*))/‖h − h*‖, which the same proof gives. excess: Q(h) − Q(h*). distance: ‖h − h*‖, the largest
    ‖h(x) − h*(x)‖/‖x‖. epsilons: upper bounds of ‖h_i − Id‖_L.
    """

    left: tuple[float, ...]
    right: float
    sharp: tuple[float, ...]
    excess: float
    distance: float
    epsilons: tuple[float, ...]
    conditions: tuple[Condition, ...]

    @property
    def applies(self) -> bool:
        """All hypotheses are met."""
        return weakest(self.conditions) is Standing.MET

    def holds(self, rounding: float = 1e-6) -> bool:
        """left ≥ sharp in every layer, up to relative ``rounding``."""
        return all(left >= sharp * (1 - rounding) - 1e-300 for left, sharp in zip(self.left, self.sharp, strict=True))


def sides(branches: Sequence[nn.Module], x: Tensor, y: Tensor, *, epsilons: Sequence[float] | None = None) -> Sides:
    """Both sides of ‖D_{h_i}Q‖ ≥ (1 − ε)^{m−1}(Q(h) − Q(h*))/‖h − h*‖ for h = h_m∘…∘h_1, h_i(x) = x + g_i(x), on a sample.

    Q(h) = ½ mean ‖h(x) − y‖², h* its minimiser over all functions (the mean target of equal inputs). Theorem. If
    ‖h_i − Id‖_L ≤ ε < 1 and h_i(0) = 0 for all i, then the inequality holds for every i, where D_{h_i}Q is the derivative by the
    *function* h_i and its norm is dual to ‖Δ‖ = sup ‖Δ(x)‖/‖x‖: on a sample, the mean above. So a composition that is not optimal
    can be improved by changing any one of its maps; whether its parameters can express that change the theorem does not say.

    The slide loses a factor of two: E‖h − h*‖² is 2(Q(h) − Q(h*)), and the proof's direction Δ = c·J_i⁻¹(h − h*) keeps it. One
    layer and one example give equality in ``sharp``.

    Args:
        branches: g_1, …, g_m (any modules ``[n, d]`` → ``[n, d]``, acting example by example). x, y: ``[n, d]``.
        epsilons: upper bounds of the Lipschitz constants of g_i; by default those of the measures (spectral norms for linear maps).

    Raises:
        InvalidInput: shapes that do not fit, no branch, or as many epsilons as branches are not given.

    Source: Bartlett, Evans and Long 2018, "Representing smooth functions as compositions of near-identity functions with
    implications for deep network optimization"; the linear case Hardt and Ma 2017, "Identity matters in deep learning".

    >>> both = sides([nn.Linear(1, 1, bias=False)], torch.tensor([[2.0]]), torch.tensor([[5.0]]))
    >>> abs(both.left[0] - both.sharp[0]) < 1e-6 * both.left[0]  # one layer, one example: equality
    True
    """
    if x.dim() != 2 or x.shape != y.shape or not len(x):
        raise InvalidInput(f"inputs and targets must both be [n, d]; got {tuple(x.shape)} and {tuple(y.shape)}")
    if not branches:
        raise InvalidInput("at least one residual branch is needed")
    best = _means(x, y)
    points, value = [x.detach()], x.detach()
    with torch.enable_grad():
        for branch in branches:
            value = value.requires_grad_() if not value.requires_grad else value
            out = value + branch(value)
            if out.shape != x.shape:
                raise InvalidInput(f"a residual branch must keep the shape {tuple(x.shape)}; one gave {tuple(out.shape)}")
            points.append(out)
            value = out
        miss = (points[-1] - best).detach()
        slopes = torch.autograd.grad((points[-1] * miss).sum(), points[1:])
    left = tuple(
        float((slope.norm(dim=1) * before.detach().norm(dim=1)).double().mean())
        for slope, before in zip(slopes, points[:-1], strict=True)
    )
    bounds = tuple(epsilons) if epsilons is not None else tuple(lipschitz(branch, x.shape[1]) for branch in branches)
    if len(bounds) != len(branches):
        raise InvalidInput(f"{len(bounds)} epsilons for {len(branches)} branches. Give one a branch")
    sizes, misses = x.double().norm(dim=1), miss.double().norm(dim=1)
    excess = 0.5 * float((misses**2).mean())
    seen = misses > 0
    distance = float((misses[seen] / sizes[seen]).max()) if bool(seen.any()) else 0.0
    gain = excess / distance if distance > 0 else 0.0
    keep = [max(0.0, 1 - bound) for bound in bounds]
    sharp = []
    for i in range(len(keep)):
        others = 1.0
        for j, factor in enumerate(keep):
            others *= factor if j != i else 1.0
        sharp.append(2 * others * gain)
    with torch.no_grad():
        shift = max(float(branch(torch.zeros_like(x[:1])).abs().max()) for branch in branches)
    worst = max(bounds)
    conditions = (
        Condition.checked("‖h_i − Id‖_L ≤ ε < 1", worst < 1, f"ε ≤ {worst:.4g}"),
        Condition.checked("h_i(0) = 0", shift == 0.0, f"largest entry of h_i(0): {shift:.3g}"),
    )
    right = max(0.0, 1 - worst) ** (len(branches) - 1) * gain
    return Sides(left, right, tuple(sharp), excess, distance, bounds, conditions)


def lipschitz(branch: nn.Module, d: int) -> float:
    """An upper bound of the branch's Lipschitz constant on inputs of ``d`` numbers."""
    if isinstance(branch, nn.Linear):
        matrix = branch.weight.detach().double()
        return float(torch.linalg.matrix_norm(matrix, 2)) * (1 + 4 * len(matrix) * 2.0**-52)
    return global_upper(branch, (d,)).upper


def _means(x: Tensor, y: Tensor) -> Tensor:
    """The mean target of equal inputs, at every example."""
    _, group = torch.unique(x.detach(), dim=0, return_inverse=True)
    total = y.new_zeros(int(group.max()) + 1, y.shape[1]).index_add_(0, group, y.detach())
    return (total / torch.bincount(group)[:, None])[group]
