"""Inputs moved within a Euclidean ball so that a loss rises: what adversarial training trains on, and what an attack finds."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nonvacuous.core.errors import InvalidInput
from nonvacuous.learning.augmented import shifted
from nonvacuous.runtime.stacked_training import Stack


@torch.enable_grad()
def attacked(losses: Callable[[Tensor], Tensor], inputs: Tensor, radius: float, steps: int, examples: int = 1) -> Tensor:
    """Inputs ``[…, *shape]`` within ``radius`` of those given, after ``steps`` of projected gradient ascent.

    losses: of inputs to a tensor whose sum is climbed; each example must count in it on its own. examples: how many leading
    dimensions count examples. Each step goes 2 · radius / steps along the example's own gradient (of 1 step: the radius), and back into
    the ball. The pixel range is not kept: a certified bound speaks of the whole ball too.

    Source: Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks", in the Euclidean norm.

    :raises InvalidInput: a radius that is no positive number, or no step.
    """
    if not 0 < radius < math.inf or steps < 1:
        raise InvalidInput(f"an attack of {steps} steps within {radius!r}: give a positive radius and at least one step")
    moved = torch.zeros_like(inputs)
    stride = radius * min(1.0, 2 / steps)
    for _ in range(steps):
        at = (inputs.detach() + moved).requires_grad_(True)
        (slope,) = torch.autograd.grad(losses(at).sum(), at)
        moved = moved + stride * slope / _norms(slope, examples).clamp_min(1e-12)
        moved = moved * (radius / _norms(moved, examples).clamp_min(1e-12)).clamp_max(1.0)
    return (inputs + moved).detach()


def _norms(x: Tensor, examples: int) -> Tensor:
    return x.flatten(examples).norm(dim=-1).reshape(*x.shape[:examples], *[1] * (x.ndim - examples))


def attacking(radius: float, steps: int) -> Callable[[Stack, Tensor, Tensor], Tensor]:
    """For `trained_stack`: every step trains on inputs attacked through the networks as they are."""

    def perturbed(stack: Stack, inputs: Tensor, targets: Tensor) -> Tensor:
        return attacked(lambda x: stack.losses(x, targets, cross_entropy), inputs, radius, steps, examples=2)

    return perturbed


def shifting(pixels: int) -> Callable[[Stack, Tensor, Tensor], Tensor]:
    """For `trained_stack`: every picture moved by up to ``pixels`` each way, drawn anew in each step; edges are filled with 0."""

    def perturbed(_: Stack, inputs: Tensor, targets: Tensor) -> Tensor:
        if inputs.ndim != 5:
            raise InvalidInput(f"batches of shape {tuple(inputs.shape)}: only pictures [members, b, c, h, w] can be shifted")
        return shifted(inputs.flatten(0, 1), pixels).reshape(inputs.shape)

    return perturbed
