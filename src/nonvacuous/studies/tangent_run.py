"""Full gradient descent on the squared error beside what the tangent kernel at its start predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization import tangent_rate
from nonvacuous.optimization.implicit_bias import tangent_kernel
from nonvacuous.optimization.trajectories import Envelope
from nonvacuous.runtime.models import outputs


@dataclass(frozen=True)
class TangentRun:
    """losses: ½‖u(t) − y‖² of the network ``[steps + 1]``; linearised: of its linearisation at the start; smallest: λ_min of the
    empirical kernel at the start, the middle and the end; theorem: Du et al.'s envelope; constant_kernel: the linearisation's.
    """

    losses: tuple[float, ...]
    linearised: tuple[float, ...]
    smallest: tuple[float, float, float]
    theorem: Envelope
    constant_kernel: Envelope

    def stayed_positive(self) -> bool:
        """λ_min never fell below half its start at the moments seen: what the theorem's proof rests on."""
        return min(self.smallest) >= self.smallest[0] / 2 > 0


def tangent_run(
    model: nn.Module, inputs: Tensor, targets: Tensor, *, step: float, steps: int, kernel: Any = None
) -> TangentRun:
    """Train ``model`` in place by ``steps`` steps of full gradient descent on ½Σ(u_i − y_i)², and predict the curve.

    Args:
        inputs: ``[n, …]``; targets: shaped as the outputs.
        kernel: ``[N, N]`` for the N outputs, for instance that of the infinite width; by default the empirical one at the start.

    Raises:
        InvalidInput: targets of another shape than the outputs, or a step size at which the linearisation diverges.
    """
    with torch.no_grad():
        first = outputs(model, inputs)
    if first.shape != targets.shape:
        raise InvalidInput(f"targets {tuple(targets.shape)} for outputs {tuple(first.shape)}: give them the same shape")
    start = tangent_kernel(model, inputs)
    used = start if kernel is None else kernel
    residual = (first - targets).flatten().double()
    linear = tangent_rate.linearised(used, residual, step, steps)
    parameters = [p for p in model.parameters() if p.requires_grad]
    losses, least = [], [float(tangent_rate.spectrum(start)[0])]
    for t in range(steps + 1):
        loss = 0.5 * (outputs(model, inputs) - targets).square().sum()
        losses.append(float(loss.detach()))
        if t in (steps // 2, steps):
            least.append(float(tangent_rate.spectrum(tangent_kernel(model, inputs))[0]))
        if t < steps:
            slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
            with torch.no_grad():
                for p, slope in zip(parameters, slopes, strict=True):
                    if slope is not None:
                        p.sub_(step * slope)
    return TangentRun(
        tuple(losses),
        tuple(linear.tolist()),
        (least[0], least[1], least[-1]),
        tangent_rate.envelope(used, losses[0], step),
        tangent_rate.linearised_envelope(used, losses[0], step),
    )
