"""The landscapes that SGD sees: the loss over mini-batches, all of them from one evaluation of every example."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.slices_losses import Evaluation
from nonvacuous.optimization.slices_objective import Objective, Statistics
from nonvacuous.optimization.surfaces import MOST_POINTS, MOST_SECONDS, Axis
from nonvacuous.runtime.tasks import Progress


@dataclass(frozen=True, eq=False)
class StochasticSurface:
    """``losses`` ``[draws, *grid]``: of each mini-batch of ``batch_size`` examples; ``mean`` ``[*grid]``: of all examples;
    ``coordinates`` of the axes; ``batches`` ``[draws, batch_size]``: which examples.
    """

    coordinates: tuple[np.ndarray, ...]
    losses: np.ndarray
    mean: np.ndarray
    batches: np.ndarray
    batch_size: int

    @property
    def std(self) -> np.ndarray:
        """Standard deviation over mini-batches at each point of the grid."""
        return self.losses.std(0, ddof=1)


def mini_batches(n: int, batch_size: int, draws: int, seed: int) -> Tensor:
    """``[draws, batch_size]`` indices below n, without repetition within a batch; independent batches."""
    if not 1 <= batch_size <= n or draws < 2:
        raise InvalidInput(f"{draws} mini-batches of {batch_size} from {n} examples: draw at least 2, of 1 to {n} examples")
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(n, generator=generator)[:batch_size] for _ in range(draws)])


def stochastic_surface(
    objective: Objective,
    axes: Sequence[Axis],
    *,
    batch_size: int,
    draws: int = 6,
    seed: int = 0,
    most_seconds: float = MOST_SECONDS,
    progress: Progress | None = None,
) -> StochasticSurface:
    """The loss of ``draws`` random mini-batches over one grid; costs what the surface of all examples costs.

    The mean over all mini-batches is the surface of all examples, at every point.  Where batch-norm is recalibrated or frozen, the
    mini-batches differ in their examples alone.

    :raises InvalidInput: sizes out of range, batch-norm over the evaluated batches, no or too many axes or points, too much work.
    """
    if objective.statistics is Statistics.BATCH:
        raise InvalidInput(
            "with statistics of the batch, an example's loss depends on its batch. Recalibrate or freeze batch-norm"
        )
    shape = tuple(len(a.coordinates) for a in axes)
    if len(axes) not in (1, 2) or math.prod(shape) > MOST_POINTS:
        raise InvalidInput(
            f"a grid of {' × '.join(map(str, shape)) or 'no axes'}: one or two axes, at most {MOST_POINTS:,} points"
        )
    batches = mini_batches(objective.n, batch_size, draws, seed)
    points = torch.cartesian_prod(*(a.coordinates.double() for a in axes)).reshape(-1, len(axes))
    means, losses = [], []
    with Evaluation(objective, [a.direction for a in axes]) as evaluation:
        if len(points) * evaluation.seconds_per_point > most_seconds:
            raise InvalidInput(
                f"{len(points):,} points would take about {len(points) * evaluation.seconds_per_point:.0f} s, more than the "
                f"{most_seconds:g} s allowed. Use fewer points or examples, or allow more"
            )
        with (progress or Progress()).task("evaluating the landscape", len(points)) as advance:
            for some in points.split(max(1, min(256, (1 << 23) // objective.n))):
                found = evaluation.at(some).losses
                means.append(found.mean(1))
                losses.append(found[:, batches].mean(2))
                advance(len(some))
    return StochasticSurface(
        tuple(a.coordinates.numpy().copy() for a in axes),
        torch.cat(losses).T.reshape(draws, *shape).numpy(),
        torch.cat(means).reshape(shape).numpy(),
        batches.numpy(),
        batch_size,
    )
