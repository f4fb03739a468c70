"""Gauss–Newton and Levenberg–Marquardt steps for least squares, without a matrix.

For S(w) = ½ Σ ‖f(w; x) − y‖² over all examples the step is d = −(JᵀJ + λI)⁻¹ Jᵀ(f − y), J the Jacobian of all outputs by the weights.
It is the least-squares solution of [J; √λ I] d = [−(f − y); 0], found by CGLS (Hestenes and Stiefel 1952; Björck 1996, section 7.4)
with one product by J and one by Jᵀ an iteration; JᵀJ, whose condition number is the square, is never formed. Without damping and with
more weights than equations it is the shortest solution, −J⁺(f − y).

Source: Levenberg 1944; Marquardt 1963; the damping's schedule is Nielsen's (1999), "Damping parameter in Marquardt's method".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nonvacuous.core.errors import InvalidInput
from nonvacuous.operators.curvature import MEMORY, Jacobian
from nonvacuous.operators.kept_graphs import KeptGraphs
from nonvacuous.operators.lanczos import Advance
from nonvacuous.operators.mean_loss import Batch, MeanLoss


@dataclass(frozen=True)
class GaussNewtonStep:
    """``direction`` d [P] in the order of the trainable parameters.

    ``value`` S before; ``decrease`` what the linear model S(w) → ½‖f − y + Jd‖² predicts; ``residual`` ‖Jᵀ(Jd + f − y) + λd‖ over
    ‖Jᵀ(f − y)‖ and whether it ``converged``; ``iterations`` of CGLS (two products each).
    """

    direction: Tensor
    value: float
    decrease: float
    residual: float
    converged: bool
    iterations: int


@dataclass(frozen=True)
class LeastSquaresFit:
    """``values`` of S: at the start and after every step tried; ``dampings`` λ of the steps; ``iterations`` of CGLS in each."""

    values: tuple[float, ...]
    dampings: tuple[float, ...]
    accepted: tuple[bool, ...]
    iterations: tuple[int, ...]


def gauss_newton_step(
    model: nn.Module,
    batches: Iterable[Any],
    damping: float = 0.0,
    *,
    tolerance: float | None = None,
    most: int | None = None,
    memory: int = MEMORY,
) -> GaussNewtonStep:
    """The step d at the model's weights, which stay as they are.

    Args:
        batches: (x, y) with y of the outputs' shape, again and again (a list or a loader).
        damping: λ ≥ 0.
        tolerance: CGLS stops when the gradient of the damped problem is below tolerance of that at 0, by default 1e-8 in float64 and
            1e-5 in float32; it also stops where rounding lets it go no further, and ``converged`` says so.
        most: iterations of CGLS at most; by default 4 · min(P, number of equations).
        memory: bytes of graphs kept between products, and bytes of earlier gradients kept for reorthogonalisation.

    Raises InvalidInput for a negative damping, targets of another shape, and all that ``curvature.hessian`` refuses.
    """
    rows = _Equations(model, batches, memory)
    tolerance = tolerance if tolerance is not None else 1e-8 if rows.mean.dtype == torch.float64 else 1e-5
    if not damping >= 0 or not tolerance > 0:
        raise InvalidInput(f"damping {damping!r} is at least 0, tolerance {tolerance!r} above 0")
    r = [-part for part in rows.residuals()]
    value = 0.5 * _square(r)
    d = torch.zeros(rows.mean.size, dtype=rows.mean.dtype, device=rows.mean.device)
    s = rows.adjoint(r)
    p, gamma = s.clone(), float(s.double() @ s.double())
    start, best, stalled, iterations = gamma, gamma, 0, 0
    most = 4 * min(rows.mean.size, sum(part.numel() for part in r)) if most is None else most
    room = min(most + 1, int(memory // (rows.mean.size * s.element_size())))
    seen = torch.empty(room, rows.mean.size, dtype=s.dtype, device=s.device)
    while iterations < most and gamma > tolerance**2 * start and stalled < 20:
        if iterations < room:
            seen[iterations] = s / gamma**0.5
        q = rows.times(p)
        alpha = gamma / (_square(q) + damping * float(p.double() @ p.double()))
        d.add_(p, alpha=alpha)
        for part, step in zip(r, q, strict=True):
            part.sub_(step, alpha=alpha)
        s = rows.adjoint(r) - damping * d
        before, true = seen[: min(iterations + 1, room)], float(s.double() @ s.double())
        for _ in range(2):  # the gradients of exact arithmetic are orthogonal to each other
            s = s - before.mT @ (before @ s)
        iterations += 1
        following = float(s.double() @ s.double())
        stalled = 0 if true < 0.99 * best else stalled + 1
        best = min(best, true)
        if not following > 0:
            gamma = true
            break
        p, gamma = s + (following / gamma) * p, following
    s = rows.adjoint(r) - damping * d
    gamma = float(s.double() @ s.double())
    residual = (gamma / start) ** 0.5 if start > 0 else 0.0
    return GaussNewtonStep(d, value, value - 0.5 * _square(r), residual, residual <= tolerance, iterations)


def levenberg_marquardt(
    model: nn.Module,
    batches: Iterable[Any],
    steps: int = 20,
    *,
    damping: float = 1e-2,
    tolerance: float = 1e-4,
    most: int = 200,
    memory: int = MEMORY,
    advance: Advance | None = None,
) -> LeastSquaresFit:
    """Fit the model in place by ``steps`` damped Gauss–Newton steps, each with at most ``most`` iterations of CGLS.

    ``damping`` is relative: λ starts at damping · ‖Jg‖²/‖g‖², g = Jᵀ(f − y). A step that raises S is taken back and λ is raised;
    otherwise λ falls by how well the linear model predicted the decrease.
    Stops early where S or its gradient is 0. Raises InvalidInput as `gauss_newton_step`.
    """
    if not damping > 0:
        raise InvalidInput(f"damping {damping!r} to start with: give a positive number")
    parameters = [p for p in model.parameters() if p.requires_grad]
    values: list[float] = []
    dampings, accepted, iterations, growth = [], [], [], 2.0
    damping *= _stretch(model, batches, memory)
    for _ in range(steps):
        step = gauss_newton_step(model, batches, damping, tolerance=tolerance, most=most, memory=memory)
        values = values or [step.value]
        if step.value == 0 or step.iterations == 0:
            break
        _moved(parameters, step.direction, 1.0)
        after = _sum_of_squares(model, batches)
        ratio = (step.value - after) / step.decrease if step.decrease > 0 else -1.0
        good = ratio > 0  # false for NaN too
        dampings.append(damping)
        accepted.append(good)
        iterations.append(step.iterations)
        if good:
            damping, growth = damping * max(1 / 3, 1 - (2 * min(ratio, 1.0) - 1) ** 3), 2.0
            values.append(after)
        else:
            _moved(parameters, step.direction, -1.0)
            damping, growth = damping * growth, 2 * growth
            values.append(step.value)
        if advance is not None:
            advance(1)
    return LeastSquaresFit(tuple(values), tuple(dampings), tuple(accepted), tuple(iterations))


class _Equations:
    """J and f − y of all examples, a tensor a batch."""

    def __init__(self, model: nn.Module, batches: Iterable[Any], memory: int) -> None:
        self.mean = MeanLoss(model, mse_loss, batches)
        self.graphs: KeptGraphs[Jacobian] = KeptGraphs(self.mean, _jacobian_of, memory)

    def residuals(self) -> list[Tensor]:
        """f − y."""
        return [made.outputs.detach() - batch.targets for batch, made in self.graphs]

    def times(self, v: Tensor) -> list[Tensor]:
        """J v."""
        images = []
        for batch, made in self.graphs:
            with self.graphs.refusing(batch):
                images.append(made.times(self.mean.split(v)))
        return images

    def adjoint(self, u: list[Tensor]) -> Tensor:
        """Jᵀ u."""
        total = torch.zeros(self.mean.size, dtype=self.mean.dtype, device=self.mean.device)
        for part, (batch, made) in zip(u, self.graphs, strict=True):
            with self.graphs.refusing(batch):
                total += self.mean.flat(made.adjoint(part))
        return total


def _stretch(model: nn.Module, batches: Iterable[Any], memory: int) -> float:
    """‖Jg‖²/‖g‖² along the gradient g; 1 where it is 0."""
    rows = _Equations(model, batches, memory)
    g = rows.adjoint(rows.residuals())
    size = float(g.double() @ g.double())
    return _square(rows.times(g)) / size if size > 0 else 1.0


def _jacobian_of(mean: MeanLoss, batch: Batch) -> Jacobian:
    outputs = mean.outputs(batch)
    if outputs.shape != batch.targets.shape:
        raise InvalidInput(
            f"outputs {tuple(outputs.shape)} and targets {tuple(batch.targets.shape)}: least squares needs the same shape"
        )
    return Jacobian(mean, outputs)


def _square(parts: list[Tensor]) -> float:
    return sum(float(part.double().square().sum()) for part in parts)


def _moved(parameters: list[nn.Parameter], direction: Tensor, sign: float) -> None:
    offset = 0
    with torch.no_grad():
        for p in parameters:
            p.add_(direction[offset : offset + p.numel()].view_as(p), alpha=sign)
            offset += p.numel()


def _sum_of_squares(model: nn.Module, batches: Iterable[Any]) -> float:
    with torch.no_grad():
        return 0.5 * sum(float((model(x) - y).double().square().sum()) for x, y in batches)
