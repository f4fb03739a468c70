"""How fast a measured quantity falls with a size: the slope on logarithmic axes, with an interval from the scatter of the draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured


@dataclass(frozen=True)
class Rate:
    """mean ≈ exp(intercept) · size^slope. slope: 95 % normal-theory interval, an indicator; means, errors: of the draws at each size."""

    sizes: tuple[float, ...]
    means: tuple[float, ...]
    errors: tuple[float, ...]
    slope: Measured
    intercept: float

    def at(self, size: float) -> float:
        """The fitted mean at a size."""
        return math.exp(self.intercept) * size**self.slope.midpoint


def fitted_rate(sizes: Sequence[float], draws: Sequence[Tensor]) -> Rate:
    """Weighted least squares of log mean on log size; each size's weight comes from the scatter of its own independent draws.

    The interval is widened by the misfit where that exceeds what the scatter explains (Birge's ratio).

    Args:
        sizes: at least two different positive numbers. draws: for each a vector ``[m]``, m ≥ 2, of independent measurements.

    Raises:
        InvalidInput: fewer than two sizes or draws, non-finite draws, or means that are not positive.

    >>> rate = fitted_rate([1, 2, 4], [torch.tensor([1.0, 1.0]) / s**2 for s in (1, 2, 4)])
    >>> round(rate.slope.midpoint, 12)
    -2.0
    """
    if len(sizes) != len(draws) or len(set(sizes)) < 2 or min(sizes) <= 0:
        raise InvalidInput(
            f"{len(sizes)} sizes and {len(draws)} vectors of draws: give as many, at two different sizes or more"
        )
    columns = [torch.as_tensor(d, dtype=torch.float64).flatten() for d in draws]
    if any(len(d) < 2 or not bool(torch.isfinite(d).all()) for d in columns):
        raise InvalidInput("every size needs two finite draws or more")
    means = torch.stack([d.mean() for d in columns])
    if not bool((means > 0).all()):
        raise InvalidInput(f"means {means.tolist()}: a rate on logarithmic axes needs positive means")
    errors = torch.stack([d.std() / math.sqrt(len(d)) for d in columns])
    x, y = torch.log(torch.tensor([float(s) for s in sizes], dtype=torch.float64)), means.log()
    variances = (errors / means).square().clamp(min=1e-24)
    weights = 1 / variances
    centre = (weights * x).sum() / weights.sum()
    spread = (weights * (x - centre).square()).sum()
    slope = float((weights * (x - centre) * y).sum() / spread)
    intercept = float((weights * y).sum() / weights.sum() - slope * centre)
    misfit = float((weights * (y - intercept - slope * x).square()).sum()) / max(len(sizes) - 2, 1)
    half = 1.96 * math.sqrt(1 / float(spread) * max(1.0, misfit if len(sizes) > 2 else 1.0))
    return Rate(
        tuple(map(float, sizes)),
        tuple(means.tolist()),
        tuple(errors.tolist()),
        Measured.indicator(slope - half, slope + half),
        intercept,
    )
