"""Loss landscapes: the loss and the error of a network on a line or a plane through its weights.

Li et al. 2018 (Visualizing the Loss Landscape of Neural Nets), with what their pictures leave unsaid: what batch-norm divides by
(`slices_objective.Statistics`), how far the sub-sample that is evaluated may be from the whole, and which points were evaluated.
A slice is an indicator: a plane through a million dimensions shows what lies in the plane.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.directions import Direction
from nonvacuous.optimization.slices_losses import Evaluation, Losses, Way
from nonvacuous.optimization.slices_objective import Objective, Statistics
from nonvacuous.optimization.surfaces_refinement import refined
from nonvacuous.optimization.surfaces_store import Columns, Store
from nonvacuous.runtime.tasks import Progress

MOST_SECONDS = 600.0
MOST_POINTS = 1 << 18
_WRITE_EVERY = 10.0


@dataclass(frozen=True, eq=False)
class Axis:
    """``coordinates`` [m] along ``direction``, ascending; 0 is where the model's own weights are.

    :raises InvalidInput: fewer than two coordinates, not ascending, or not finite.
    """

    direction: Direction
    coordinates: Tensor

    def __post_init__(self) -> None:
        c = self.coordinates
        if c.ndim != 1 or len(c) < 2:
            raise InvalidInput(
                f"an axis with {c.numel()} coordinates shows no landscape. Use at least 2 points, 25 or more for a picture"
            )
        if not bool(torch.isfinite(c).all()) or not bool((c[1:] > c[:-1]).all()):
            raise InvalidInput("the coordinates of an axis must be finite and ascending, none twice")


def axis(direction: Direction, low: float, high: float, points: int) -> Axis:
    """``points`` equidistant coordinates from ``low`` to ``high``."""
    if not -math.inf < low < high < math.inf:
        raise InvalidInput(f"an axis from {low} to {high}: it needs two finite ends, the lower first")
    return Axis(direction, torch.linspace(low, high, max(points, 0), dtype=torch.float64))


@dataclass(frozen=True)
class Estimate:
    """What a grid will cost: ``points`` of the full grid, ``seconds`` for all of them, and the ``way`` that was timed fastest."""

    points: int
    seconds: float
    way: Way

    def __str__(self) -> str:
        return f"{self.points:,} points, about {_duration(self.seconds)} ({self.way.value})"


@dataclass(frozen=True, eq=False)
class Point:
    """Loss and error (None without classes) at the model's own weights, each with its standard error."""

    loss: float
    loss_std: float
    error: float | None


@dataclass(frozen=True, eq=False)
class Surface:
    """Loss and error over a grid, arrays [m] for a line and [m₁, m₂] for a plane, the first axis first.

    ``loss`` (infinite where it overflowed), ``error`` (None without classes); ``loss_std``: standard error of the loss as an estimate of
    its mean over the whole sample of ``population`` examples, 0 where all were used; ``rise_std``: the same for the loss minus that at
    the origin, much smaller, since both see the same ``n`` examples; ``evaluated``: False where interpolated (the standard errors and the
    error are interpolated there, too).
    """

    names: tuple[str, ...]
    coordinates: tuple[np.ndarray, ...]
    loss: np.ndarray
    error: np.ndarray | None
    loss_std: np.ndarray
    rise_std: np.ndarray
    evaluated: np.ndarray
    origin: Point
    n: int
    population: int
    statistics: Statistics
    way: Way
    seconds: float
    digest: str

    @property
    def lowest(self) -> tuple[float, ...]:
        """Coordinates of the smallest loss on the grid."""
        place = np.unravel_index(int(np.argmin(self.loss)), self.loss.shape)
        return tuple(float(c[i]) for c, i in zip(self.coordinates, place, strict=True))


def surface(
    objective: Objective,
    axes: Sequence[Axis],
    *,
    tolerance: float | None = None,
    store: Path | None = None,
    resume: bool = False,
    most_seconds: float = MOST_SECONDS,
    announce: Callable[[Estimate], object] | None = None,
    progress: Progress | None = None,
    way: Way | None = None,
) -> Surface:
    """The landscape along one axis or two; the model is restored to the bit, also after an exception or Ctrl-C.

    ``tolerance`` (in units of the loss) evaluates coarse to fine and interpolates where that is expected to be as close; without it every
    point is evaluated.  ``store``: a file that keeps the points evaluated so far, written every ten seconds and when the work breaks
    off; with ``resume`` it is gone on from, if it is of the same weights, data and grid.  ``announce`` hears the cost before the work.

    :raises InvalidInput: no or too many axes, too many points, a cost beyond ``most_seconds``, a loss that is not finite at the origin, a
        store of another landscape.
    """
    shape = tuple(len(a.coordinates) for a in axes)
    if len(axes) not in (1, 2):
        raise InvalidInput(f"{len(axes)} axes: a landscape is drawn along one or two")
    if math.prod(shape) > MOST_POINTS:
        raise InvalidInput(
            f"a grid of {' × '.join(map(str, shape))} points; at most {MOST_POINTS:,} are evaluated. Use fewer points an axis"
        )
    if tolerance is not None and not 0 < tolerance < math.inf:
        raise InvalidInput(
            f"tolerance {tolerance!r}: it must be positive and finite, in units of the loss; leave it out for every point"
        )
    begun = time.perf_counter()
    digest = _digest(objective, axes)
    kept = Store.opened(store, digest, shape, resume)
    with Evaluation(objective, [a.direction for a in axes], way) as evaluation:
        assert evaluation.way is not None
        first = evaluation.at(torch.zeros(1, len(axes)))
        origin = _summary(objective, first, first)[0]
        _check_origin(origin)
        left = math.prod(shape) - int(kept.done.sum())
        cost = Estimate(math.prod(shape), left * evaluation.seconds_per_point, evaluation.way)
        if announce is not None:
            announce(cost)
        if cost.seconds > most_seconds:
            raise InvalidInput(
                f"the landscape would take about {_duration(cost.seconds)}, more than the {_duration(most_seconds)} allowed. Use "
                "fewer points or examples, a tolerance (coarse to fine), or allow more seconds"
            )
        with (progress or Progress()).task("evaluating the landscape", math.prod(shape)) as advance, kept:
            writer = _Writer(objective, axes, evaluation, first, kept, advance)
            if tolerance is None:
                writer.loss(np.stack(np.unravel_index(np.arange(math.prod(shape)), shape), 1))
                done = np.ones(shape, dtype=bool)
                columns = kept.columns
            else:
                found = refined(shape, writer.loss, tolerance)
                done = found.evaluated
                columns = _filled(kept.columns, done, found.values)
        chosen = evaluation.way
    return Surface(
        names=tuple(a.direction.name for a in axes),
        coordinates=tuple(a.coordinates.numpy().copy() for a in axes),
        loss=columns.loss,
        error=columns.error if objective.classify else None,
        loss_std=columns.loss_std,
        rise_std=columns.rise_std,
        evaluated=done,
        origin=Point(float(origin[0]), float(origin[1]), float(origin[3]) if objective.classify else None),
        n=objective.n,
        population=objective.population,
        statistics=objective.statistics,
        way=chosen,
        seconds=time.perf_counter() - begun,
        digest=digest,
    )


class _Writer:
    """Evaluates grid points that the store lacks, and puts them there."""

    def __init__(
        self,
        objective: Objective,
        axes: Sequence[Axis],
        evaluation: Evaluation,
        first: Losses,
        kept: Store,
        advance: Callable[[int], None],
    ) -> None:
        self.objective, self.axes, self.evaluation, self.first, self.kept, self.advance = (
            objective,
            axes,
            evaluation,
            first,
            kept,
            advance,
        )
        self.written = time.perf_counter()
        origin = np.array([np.flatnonzero(a.coordinates.numpy() == 0)[:1] for a in axes])
        if origin.size == len(axes) and not kept.done[tuple(origin)].any():  # a grid point that has been evaluated already
            kept.put(origin.T, _summary(objective, first, first))

    def loss(self, indices: np.ndarray) -> np.ndarray:
        """The losses at ``indices`` [m, axes]."""
        missing = indices[~self.kept.done[tuple(indices.T)]]
        self.advance(len(indices) - len(missing))
        size = self.chunk
        for start in range(0, len(missing), size):
            some = missing[start : start + size]
            at = torch.stack([a.coordinates[torch.from_numpy(i)] for a, i in zip(self.axes, some.T, strict=True)], 1)
            self.kept.put(some, _summary(self.objective, self.evaluation.at(at), self.first))
            self.advance(len(some))
            if time.perf_counter() - self.written > _WRITE_EVERY:
                self.kept.write()
                self.written = time.perf_counter()
        return self.kept.columns.loss[tuple(indices.T)]

    @property
    def chunk(self) -> int:
        """Points for about half a second's work, at most what 64 MiB of losses hold."""
        timed = int(0.5 / max(self.evaluation.seconds_per_point, 1e-9))
        return max(1, min(timed, 256, (1 << 23) // self.objective.n))


def _summary(objective: Objective, found: Losses, first: Losses) -> np.ndarray:
    """[p, 4]: loss, its standard error, that of its rise over the origin, error."""
    n, whole = objective.n, objective.population
    shrink = math.sqrt(max(0.0, 1 - n / whole) / max(1, n))  # a sample without repetition from a finite population

    def std(x: Tensor) -> Tensor:
        return x.std(1) * shrink if n > 1 else torch.full((len(x),), 0.0 if whole == 1 else math.nan, dtype=torch.float64)

    error = found.wrong.double().mean(1) if found.wrong is not None else torch.full((len(found.losses),), math.nan).double()
    loss = found.losses.mean(1)
    loss = torch.where(torch.isnan(loss), math.inf, loss)
    return torch.stack([loss, std(found.losses), std(found.losses - first.losses), error], 1).numpy()


def _check_origin(origin: np.ndarray) -> None:
    if not math.isfinite(origin[0]):
        raise InvalidInput(
            f"the loss is {origin[0]} at the model's own weights: there is no landscape around it. Check the weights, the scale of "
            "the inputs, and the targets"
        )


def _filled(columns: Columns, done: np.ndarray, loss: np.ndarray) -> Columns:
    """The columns with what was not evaluated interpolated from the nearest evaluated points."""
    from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

    at, all_ = np.argwhere(done), np.argwhere(np.ones_like(done))

    def fill(x: np.ndarray) -> np.ndarray:
        if done.all() or np.isnan(x[done]).all():
            return x
        if x.ndim == 1:
            return np.interp(all_[:, 0], at[:, 0], x[done])
        inside = LinearNDInterpolator(at, x[done])(all_)
        return np.where(np.isnan(inside), NearestNDInterpolator(at, x[done])(all_), inside).reshape(x.shape)

    return Columns(loss, fill(columns.loss_std), fill(columns.rise_std), fill(columns.error))


def _digest(objective: Objective, axes: Sequence[Axis]) -> str:
    total = hashlib.sha256(objective.digest.encode())
    for a in axes:
        total.update(a.coordinates.double().numpy().tobytes())
        for key in sorted(a.direction.tensors):
            x = a.direction.tensors[key]
            total.update(f"{key} {x.dtype} {tuple(x.shape)}".encode())
            total.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
