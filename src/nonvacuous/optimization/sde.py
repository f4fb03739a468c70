"""SGD and the stochastic differential equation beside it: dθ = −∇L dt + √η Σ^{1/2} dW, one step of SGD being time η."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.noise import ExampleLosses

__all__ = ["StationaryVariance", "sde_path", "sgd_path", "stationary_variance"]


@dataclass(frozen=True)
class StationaryVariance:
    """Of one coordinate of θ around the minimum of a quadratic: exact for SGD, and that of the equation, which is smaller."""

    sgd: float
    sde: float


def stationary_variance(curvature: float, noise: float, step: float, batch: int = 1) -> StationaryVariance:
    """ηΣ/(h(2 − ηh)) for SGD on h θ²/2 with gradient noise of variance Σ an example, and ηΣ/(2h) for the equation.

    Examples drawn with replacement; a batch of b divides Σ by b. The two differ by the factor 1/(1 − ηh/2): 5 % at ηh = .1.

    :raises InvalidInput: ηh ≥ 2, at which SGD diverges, or a number that is not positive.

    Source: elementary (an AR(1) process and an Ornstein–Uhlenbeck one); Mandt, Hoffman and Blei 2017 for the equation.
    """
    if not (curvature > 0 and noise >= 0 and step > 0 and batch >= 1):
        raise InvalidInput(f"curvature {curvature!r}, noise {noise!r}, step {step!r}, batch {batch}: give positive numbers")
    if step * curvature >= 2:
        raise InvalidInput(f"step size {step:g}: descent on this quadratic diverges from 2/h = {2 / curvature:g} on")
    return StationaryVariance(
        step * noise / batch / (curvature * (2 - step * curvature)), step * noise / batch / (2 * curvature)
    )


def sgd_path(
    losses: ExampleLosses, *, step: float, steps: int, batch: int = 1, reshuffled: bool = False, seed: int = 0, every: int = 1
) -> Tensor:
    """Positions ``[steps // every + 1, P]`` of plain SGD from the losses' start.

    reshuffled: passes over the examples in a new random order each, instead of drawing with replacement; the last, incomplete batch of a
    pass is left out.

    :raises InvalidInput: step, steps or batch out of range.
    """
    _check(losses, step, steps, batch)
    generator = torch.Generator().manual_seed(seed)
    theta, path = losses.start.clone(), [losses.start.clone()]
    queue = torch.empty(0, dtype=torch.long)
    for t in range(1, steps + 1):
        if reshuffled:
            if len(queue) < batch:
                queue = torch.randperm(losses.n, generator=generator)
            rows, queue = queue[:batch], queue[batch:]
        else:
            rows = torch.randint(losses.n, (batch,), generator=generator)
        theta = theta - step * _pulled_back(losses, theta, rows.to(theta.device))
        if t % every == 0:
            path.append(theta)
    return torch.stack(path)


def sde_path(
    losses: ExampleLosses, *, step: float, steps: int, batch: int = 1, substeps: int = 4, seed: int = 0, every: int = 1
) -> Tensor:
    """Positions ``[steps // every + 1, P]`` of the equation at times 0, η·every, …: Euler–Maruyama with η/substeps a step.

    The noise is Gaussian with the covariance of the examples' gradients where the path is, divided by the batch.

    Source: Li, Tai and E 2017, "Stochastic modified equations and adaptive stochastic gradient algorithms" (first order).
    """
    _check(losses, step, steps, batch)
    if substeps < 1:
        raise InvalidInput(f"substeps {substeps}: give at least 1")
    generator = torch.Generator().manual_seed(seed)
    theta, path = losses.start.clone(), [losses.start.clone()]
    time = step / substeps
    for t in range(1, steps + 1):
        for _ in range(substeps):
            xi = torch.randn(losses.n, generator=generator, dtype=theta.dtype).to(theta.device)
            noise = math.sqrt(step * time / batch / losses.n) * (xi - xi.mean())
            weights = torch.full_like(noise, time / losses.n) + noise  # drift and noise in one pass
            theta = theta - _pulled_back(losses, theta, weights=weights)
        if t % every == 0:
            path.append(theta)
    return torch.stack(path)


def _pulled_back(losses: ExampleLosses, theta: Tensor, rows: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """The gradient of the weighted sum of the losses, by default of their mean."""
    moving = theta.detach().requires_grad_()
    values = losses(moving, rows)
    return torch.autograd.grad(values, moving, torch.full_like(values, 1 / len(values)) if weights is None else weights)[0]


def _check(losses: ExampleLosses, step: float, steps: int, batch: int) -> None:
    if not (0 < step < math.inf and steps >= 0 and 1 <= batch <= losses.n):
        raise InvalidInput(
            f"step {step!r}, steps {steps}, batch {batch}: give a positive step, 0 or more steps and a batch of 1 to {losses.n}"
        )
