"""How fast the loss rises around a network: Keskar's ε-sharpness in its box, and the sharpness that SAM lowers in its ball.

Each is a maximum over a neighbourhood, found by ascent: the number is a lower estimate, and the bracket says so with an infinite upper
end.  None of them promises anything about the risk, and both are changed by reparameterisation: a ReLU network whose layer is multiplied
by α and the next by 1/α is the same function with another sharpness (Dinh, Pascanu, Bengio and Bengio 2017, Sharp Minima Can Generalize For
Deep Nets).  ``adaptive=True`` measures in units of each weight, which leaves the number as it was; so do `sharpness_invariant`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.optimization.sharpness_mean import DisplacedMean, displaced_mean
from nonvacuous.optimization.slices_objective import Objective, Statistics
from nonvacuous.runtime.tasks import Progress
from nonvacuous.runtime.values import Batch, Inputs

HALVINGS = 6


@dataclass(frozen=True)
class BoxSharpness:
    """``percent``: 100 (max L − L) / (1 + L), between what was found and infinity; ``rise``: max L − L as found; ``loss``: L;
    ``at_vertex``: share of the coordinates of the maximiser at an end of the box; ``steps``: of the ascent.
    """

    percent: Measured
    rise: float
    loss: float
    at_vertex: float
    steps: int


def box_sharpness(
    objective: Objective,
    *,
    epsilon: float = 1e-3,
    steps: int = 10,
    restarts: int = 1,
    subspace: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> BoxSharpness:
    """Keskar's φ(ε): 100 (max_{z in C} L(x + Az) − L(x)) / (1 + L(x)), with C = {|z_i| ≤ ε (|(A⁺x)_i| + 1)}.

    Source: Keskar, Mudigere, Nocedal, Smelyanskiy and Tang 2017, On Large-Batch Training for Deep Learning, Metric 2.1; ε = 10⁻³ and 5·10⁻⁴
    there.  A is the identity, or with ``subspace=p`` a matrix of p random directions (the paper does not say their scale: here they have
    unit length).  The maximum is sought by conditional-gradient ascent, whose steps end at vertices of the box and never lower the loss,
    from 0 and from ``restarts`` random vertices; the paper takes ten iterations of L-BFGS-B.

    :raises InvalidInput: sizes out of range, or a loss that is not finite at the weights.
    """
    if not 0 < epsilon < math.inf or steps < 1 or restarts < 0 or (subspace is not None and subspace < 1):
        raise InvalidInput(
            f"epsilon {epsilon!r}, steps {steps}, restarts {restarts}, subspace {subspace}: positive, and restarts at least 0"
        )
    with (
        displaced_mean(objective) as mean,
        (progress or Progress()).task("climbing in the box", (1 + restarts) * steps) as advance,
    ):
        generator = torch.Generator().manual_seed(seed)
        basis = None if subspace is None else _basis(mean, subspace, generator)
        centre = mean.weights if basis is None else torch.linalg.lstsq(basis, mean.weights[:, None]).solution[:, 0]
        box = epsilon * (centre.abs() + 1)
        best, where, taken = mean.loss, torch.zeros_like(box), 0
        for run in range(1 + restarts):
            signs = torch.randint(2, box.shape, generator=generator).to(box) * 2 - 1
            start = torch.zeros_like(box) if run == 0 else box * signs
            value, z, count = _climb(mean, basis, box, start, steps)
            taken += count
            advance(steps)
            if value > best:
                best, where = value, z
        rise = best - mean.loss
        percent = 100 * rise / (1 + mean.loss)
        share = float((where.abs() >= box * (1 - 1e-6)).double().mean())
        return BoxSharpness(Measured(percent, math.inf, Kind.INDICATOR), rise, mean.loss, share, taken)


def _climb(mean: DisplacedMean, basis: Tensor | None, box: Tensor, z: Tensor, steps: int) -> tuple[float, Tensor, int]:
    """Conditional-gradient ascent: towards the vertex that the gradient points to, as far of six halvings as raises the loss most."""

    def full(z: Tensor) -> Tensor:
        return z if basis is None else basis @ z

    value = mean.value(full(z))
    for step in range(steps):
        slope = mean.gradient(full(z))
        vertex = box * (slope if basis is None else basis.T @ slope).sign()
        found, share = value, 0.0
        for halving in range(HALVINGS):
            tried = mean.value(full(z + 0.5**halving * (vertex - z)))
            if tried > found:
                found, share = tried, 0.5**halving
            elif share:
                break
        if not share:
            return value, z, step + 1
        z, value = z + share * (vertex - z), found
        if math.isinf(value):
            break
    return value, z, steps


def _basis(mean: DisplacedMean, size: int, generator: torch.Generator) -> Tensor:
    if size > len(mean.weights):
        raise InvalidInput(f"a subspace of {size} dimensions among {len(mean.weights)} weights. Ask for fewer")
    drawn = torch.randn(len(mean.weights), size, generator=generator).to(mean.weights)
    return drawn / torch.linalg.vector_norm(drawn, dim=0)


@dataclass(frozen=True)
class BallSharpness:
    """``rise``: max L(θ + e) − L(θ) over the ball, between what was found and infinity; ``std``: standard error of the found rise over the
    batches (0 for one batch); ``first_order``: ρ‖∇L‖, the rise that the gradient promises.
    """

    rise: Measured
    std: float
    first_order: float


def ball_sharpness(
    objective: Objective, *, rho: float = 0.05, examples: int | None = None, steps: int = 1, adaptive: bool = False
) -> BallSharpness:
    """SAM's sharpness: max_{‖e‖ ≤ ρ} L(θ + e) − L(θ), by ``steps`` of normalised ascent, the first of which is SAM's own e = ρ ∇L/‖∇L‖.

    ``examples=m``: the mean over disjoint batches of m examples of each batch's own maximum (m-sharpness; a last batch with less than m is
    left out).  ``adaptive``: the ball ‖e_i / |θ_i|‖ ≤ ρ, ascended along |θ|² ∇L / ‖|θ| ∇L‖; a weight that is 0 does not move.

    Sources: Foret, Kleiner, Mobahi and Neyshabur 2021, Sharpness-Aware Minimization (also for m-sharpness); Kwon, Kim, Park and Choi 2021,
    ASAM.

    :raises InvalidInput: sizes out of range; a gradient of 0 gives a rise of 0, an infinite one is refused.
    """
    if not 0 < rho < math.inf or steps < 1 or (examples is not None and not 1 <= examples <= objective.n):
        raise InvalidInput(f"rho {rho!r}, steps {steps}, examples {examples}: positive, and examples at most {objective.n}")
    if examples == 1 and objective.statistics is Statistics.BATCH:
        raise InvalidInput("one example has no variance for batch-norm to divide by. Freeze its statistics")
    with displaced_mean(objective) as mean:
        unit = mean.weights.abs() if adaptive else torch.ones_like(mean.weights)
        groups = [None] if examples is None else [(batch,) for batch in _pieces(objective, examples)]
        rises, slopes = [], []
        for group in groups:
            start = mean.loss if group is None else mean.value(torch.zeros_like(unit), group)
            best, z = 0.0, torch.zeros_like(unit)
            for step in range(steps):
                slope = mean.gradient(z, group) * unit
                length = float(torch.linalg.vector_norm(slope))
                if step == 0:
                    slopes.append(rho * length)
                if not length:
                    break
                scaled = rho * slope / length if step == 0 else _into_ball(_over(z, unit) + 0.5 * rho * slope / length, rho)
                z = unit * scaled
                best = max(best, mean.value(z, group) - start)
            rises.append(best)
    count = len(rises)
    average = math.fsum(rises) / count
    spread = math.sqrt(math.fsum((r - average) ** 2 for r in rises) / max(1, count - 1) / count) if count > 1 else 0.0
    return BallSharpness(Measured(average, math.inf, Kind.INDICATOR), spread, math.fsum(slopes) / count)


def _over(z: Tensor, unit: Tensor) -> Tensor:
    return torch.where(unit > 0, z / unit, 0.0)


def _into_ball(z: Tensor, rho: float) -> Tensor:
    return z * (rho / torch.linalg.vector_norm(z)).clamp(max=1.0)


def _pieces(objective: Objective, size: int) -> Iterator[Batch]:
    """The examples in batches of ``size``, an incomplete last one left out."""
    targets = torch.cat([batch.targets for batch in objective.batches])
    first = objective.batches[0].inputs
    if isinstance(first, dict):
        whole: Inputs = {key: torch.cat([batch.inputs[key] for batch in objective.batches]) for key in first}  # type: ignore[index]
    else:
        whole = torch.cat([batch.inputs for batch in objective.batches])  # type: ignore[misc]
    for start in range(0, len(targets) - size + 1, size):
        piece = slice(start, start + size)
        yield Batch({k: v[piece] for k, v in whole.items()} if isinstance(whole, dict) else whole[piece], targets[piece])
