"""Between two trained networks: the loss on the straight line, and the height of its barrier.

Two networks are linearly connected if the line between them climbs over no barrier: max_t L((1 − t)θ₀ + tθ₁) − [(1 − t)L(θ₀) + tL(θ₁)]
(Frankle, Dziugaite, Roy and Carbin 2020, Linear Mode Connectivity and the Lottery Ticket Hypothesis, take the ends' mean; the chord is
Entezari et al. 2022, The Role of Permutation Invariance).  Batch-norm's statistics of an average are not the average of the statistics:
recalibrate them (`Statistics.RECALIBRATED`), or the barrier measures that (Jordan et al. 2023, REPAIR).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.directions import between
from nonvacuous.optimization.slices_objective import Objective
from nonvacuous.optimization.surfaces import Surface, axis, surface


@dataclass(frozen=True, eq=False)
class Barrier:
    """``height`` above the chord, the largest over the grid (so a lower estimate), 0 if the line nowhere exceeds it; ``at``: where.

    ``std``: standard error of the height as an estimate for the whole sample, an upper one by the triangle inequality.
    """

    height: float
    at: float
    std: float = 0.0


@dataclass(frozen=True, eq=False)
class Connection:
    """``line``: loss and error at t in [0, 1]; their barriers (``error`` None without classes)."""

    line: Surface
    loss: Barrier
    error: Barrier | None


def connection(objective: Objective, state: Mapping[str, Tensor], *, points: int = 25, **evaluation: Any) -> Connection:
    """The straight line from the model's weights (t = 0) to those of ``state`` (t = 1), evaluated at ``points`` of it.

    ``evaluation``: as for `surface` (progress, store, most_seconds, …).

    :raises InvalidInput: a state of other shapes, equal weights, fewer than three points, or what `surface` refuses.
    """
    if points < 3:
        raise InvalidInput(f"{points} points: a barrier lies between the ends, so at least 3 are needed")
    line = surface(objective, [axis(between(objective.model, state), 0.0, 1.0, points)], **evaluation)
    spread = line.rise_std + line.coordinates[0] * line.rise_std[-1]
    error = None if line.error is None else barrier(line.coordinates[0], line.error)
    return Connection(line, barrier(line.coordinates[0], line.loss, spread), error)


def barrier(t: np.ndarray, values: np.ndarray, std: np.ndarray | None = None) -> Barrier:
    """The largest excess of ``values`` [m] over the chord between their ends, at ascending places ``t`` [m]."""
    share = (t - t[0]) / (t[-1] - t[0])
    with np.errstate(invalid="ignore"):
        excess = np.nan_to_num(values - ((1 - share) * values[0] + share * values[-1]), nan=np.inf)
    excess[[0, -1]] = 0.0
    top = int(excess.argmax())
    return Barrier(max(0.0, float(excess[top])), float(t[top]), 0.0 if std is None else float(std[top]))
