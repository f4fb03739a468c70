"""What can be said of a network's curvature within so many products: extreme eigenvalues, trace, spectral density, gradient norms."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from nonvacuous.core.errors import InvalidInput, NonvacuousError
from nonvacuous.core.measured import Measured
from nonvacuous.operators.curvature import Curvature, gradient, hessian
from nonvacuous.operators.gradient_norms import LayerGradient, gradient_norms
from nonvacuous.operators.lanczos import Eigenpairs, bottom_eigenpairs, top_eigenpairs
from nonvacuous.operators.mean_loss import Loss
from nonvacuous.operators.spectral_density import quantile_ratio, spectral_density
from nonvacuous.operators.traces import trace
from nonvacuous.runtime.tasks import Progress

SHARE = 0.9
"""The quantile of |λ| that the largest eigenvalue is compared with."""


@dataclass(frozen=True)
class Eigenvalue:
    """A bracket, and whether its residual met the tolerance."""

    lower: float
    upper: float
    converged: bool


@dataclass(frozen=True)
class DensityCurve:
    """Density of the eigenvalues over ``grid``, smoothed by a Gaussian of ``width``, with a band of two standard errors."""

    grid: tuple[float, ...]
    values: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    width: float


@dataclass(frozen=True)
class Effort:
    """How much work to spend: eigenvalues at the ``top`` and ``bottom``, products for the ``trace``, ``steps`` and ``probes`` of
    the density; 0 leaves a part out.
    """

    top: int = 5
    bottom: int = 1
    trace: int = 30
    steps: int = 40
    probes: int = 5
    tolerance: float = 1e-3

    @property
    def most_products(self) -> int:
        """Products at most."""
        ends = sum(40 + 20 * k for k in (self.top, self.bottom) if k)
        return ends + self.trace + self.steps * self.probes


@dataclass(frozen=True)
class CurvatureSummary:
    """Indicators, all of the mean ``loss`` over ``examples`` at the network's weights; parts that were left out are empty.

    ``absent`` says why a part is missing; ``decay`` is the factor a layer by which the gradient changes on its way back; ``ratio``
    the largest eigenvalue over the 0.9 quantile of |λ|; ``negative`` whether a negative eigenvalue was found for sure.
    """

    matrix: str
    loss_name: str
    parameters: int
    examples: int
    loss: float
    gradient_norm: float
    top: tuple[Eigenvalue, ...] = ()
    bottom: tuple[Eigenvalue, ...] = ()
    trace: Measured | None = None
    density: DensityCurve | None = None
    ratio: Measured | None = None
    layers: tuple[LayerGradient, ...] = ()
    decay: Measured | None = None
    products: int = 0
    seconds: float = 0.0
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def negative(self) -> bool:
        """Whether the smallest eigenvalue's bracket lies below zero: the weights are no local minimum of this loss."""
        return bool(self.bottom) and self.bottom[0].upper < 0


def seconds_needed(operator: Any, effort: Effort) -> float:
    """Time of one product (the faster of two) times the most products; an estimate from above, but for restarts."""
    v = torch.ones(operator.shape[0], dtype=operator.dtype, device=operator.device)
    times = []
    for _ in range(2):
        start = time.perf_counter()
        operator @ v
        times.append(time.perf_counter() - start)
    return min(times) * min(effort.most_products, 4 * operator.shape[0])


def curvature_summary(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    *,
    loss_name: str = "loss",
    make: Callable[..., Curvature] = hessian,
    effort: Effort = Effort(),
    most_seconds: float = math.inf,
    announce: Callable[[float], None] | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> CurvatureSummary:
    """Gradient norms first, then the eigenvalues, the trace and the density of ``make(model, loss, batches)``.

    Args:
        most_seconds: raise InvalidInput when the estimate from one product is above it; ``announce`` gets the estimate first.
        progress: where to show progress.

    Ctrl-C keeps what is done: the parts that follow are absent, and say so. Raises what ``make`` raises.
    """
    bar, begun = progress or Progress(), time.perf_counter()
    at = gradient(model, loss, batches)
    operator = make(model, loss, batches)
    needed = seconds_needed(operator, effort)
    if announce is not None:
        announce(needed)
    if needed > most_seconds:
        raise InvalidInput(
            f"this is estimated to take up to {needed:.0f} s, above {most_seconds:.0f} s: take fewer examples (--examples), less "
            "work (--probes, --steps, --top), or allow more time (--most-seconds)"
        )
    parts: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for name, total, part in _parts(model, loss, batches, operator, effort, seed, parts):
        if name in absent:
            continue
        try:
            with bar.task(name, total) as advance:
                part(advance)
        except NonvacuousError as error:
            absent[name] = str(error)
        except KeyboardInterrupt:
            later = [n for n, *_ in _parts(model, loss, batches, operator, effort, seed, parts)]
            absent |= dict.fromkeys(later[later.index(name) :], "interrupted")
    return CurvatureSummary(
        operator_name(make),
        loss_name,
        operator.shape[0],
        operator.examples,
        at.loss,
        float(torch.linalg.vector_norm(at.vector.double())),
        products=operator.products,
        seconds=time.perf_counter() - begun,
        absent=absent,
        **parts,
    )


def operator_name(make: Callable[..., Any]) -> str:
    """What the matrix is called."""
    return {"hessian": "Hessian", "ggn": "Gauss-Newton matrix", "fisher": "Fisher matrix"}.get(
        getattr(make, "__name__", ""), "matrix"
    )


_Part = tuple[str, int | None, Callable[[Callable[[int], None]], None]]


def _parts(
    model: nn.Module, loss: Loss, batches: Iterable[Any], operator: Curvature, effort: Effort, seed: int, into: dict[str, Any]
) -> list[_Part]:
    """Name, products and work of each part; the results go ``into`` the fields' names."""

    def layers(_: Callable[[int], None]) -> None:
        found = gradient_norms(model, loss, batches)
        into["layers"] = found.layers
        if len(found.layers) >= 3:
            into["decay"] = found.decay()

    def ends(advance: Callable[[int], None], search: Callable[..., Eigenpairs], name: str, k: int) -> None:
        k = min(k, operator.shape[0])
        into[name] = _eigenvalues(search(operator, k, tolerance=effort.tolerance, seed=seed, advance=advance))

    def sum_of(advance: Callable[[int], None]) -> None:
        into["trace"] = trace(operator, effort.trace, seed=seed, advance=advance).measured()

    def density(advance: Callable[[int], None]) -> None:
        found = spectral_density(operator, effort.steps, effort.probes, seed=seed, advance=advance)
        low, high = found.extent
        width = 0.01 * (high - low) or 1e-3 * max(1.0, abs(high))
        grid = found.grid(600)
        band = found.density(grid, width)
        highest = np.minimum(band.upper, np.finfo(float).max)
        into["density"] = DensityCurve(_short(grid), _short(band.values), _short(band.lower), _short(highest), width)
        if "top" in into:
            top = into["top"][0]
            into["ratio"] = quantile_ratio(Measured.indicator(top.lower, top.upper), found, SHARE)

    wanted: list[tuple[bool, _Part]] = [
        (True, ("gradients by layer", None, layers)),
        (effort.top > 0, ("largest eigenvalues", None, lambda a: ends(a, top_eigenpairs, "top", effort.top))),
        (effort.bottom > 0, ("smallest eigenvalues", None, lambda a: ends(a, bottom_eigenpairs, "bottom", effort.bottom))),
        (effort.trace > 0, ("trace", min(effort.trace, operator.shape[0]), sum_of)),
        (effort.steps * effort.probes > 0, ("spectral density", effort.steps * effort.probes, density)),
    ]
    return [part for there, part in wanted if there]


def _short(values: np.ndarray) -> tuple[float, ...]:
    """Six digits of each."""
    return tuple(float(f"{x:.6g}") for x in values)


def _eigenvalues(pairs: Eigenpairs) -> tuple[Eigenvalue, ...]:
    flags = pairs.converged.tolist()
    return tuple(Eigenvalue(b.lower, b.upper, flag) for b, flag in zip(pairs.measured(), flags, strict=True))
