"""PAC-Bayes flatness: the most Gaussian noise on the weights under which the loss (or the error) stays within a tolerance on average."""

from __future__ import annotations

import math

import torch

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.optimization.sharpness_mean import DisplacedMean, displaced_mean
from nonvacuous.optimization.slices_objective import Objective
from nonvacuous.runtime.tasks import Progress

SMALLEST, LARGEST = 1e-6, 1e3
RESOLUTION = 1.05
"""A bracket is not made narrower than this ratio."""


def flatness_std(
    objective: Objective,
    *,
    tolerance: float = 0.1,
    error: bool = False,
    adaptive: bool = False,
    floor: float = 0.0,
    draws: int = 30,
    seed: int = 0,
    progress: Progress | None = None,
) -> Measured:
    """The σ at which E L(θ + u) − L(θ), u ~ N(0, σ²), first reaches ``tolerance``: wide minima have a large one.

    ``error`` tolerates a rise of the error rate instead of the loss.  ``adaptive``: u_i ~ N(0, σ² (θ_i² + floor²)), which with ``floor`` 0
    does not change when a layer's scale is moved to another (magnitude-aware; Jiang et al. 2020 take a floor of 10⁻³).

    The mean is over ``draws`` Gaussian displacements, the same at every σ.  Lower end: the mean rise was below the tolerance by two
    standard errors; upper end: above it by two.  INDICATOR: the interval is of the central limit theorem, and the first crossing on a
    ladder of doublings is found, not a later one.  Infinite upper end: no crossing below σ = 1000.

    Sources: Neyshabur, Bhojanapalli, McAllester and Srebro 2017, Exploring Generalization in Deep Learning, section on PAC-Bayes and
    sharpness; Jiang, Neyshabur, Mobahi, Krishnan and Bengio 2020, Fantastic Generalization Measures (tolerance 0.1 on the error).

    :raises InvalidInput: sizes out of range, an objective without classes for ``error``, a loss that is not finite at the weights.
    """
    if not 0 < tolerance < math.inf or draws < 2 or not 0 <= floor < math.inf:
        raise InvalidInput(
            f"tolerance {tolerance!r}, draws {draws}, floor {floor!r}: positive and finite, at least 2, at least 0"
        )
    with displaced_mean(objective) as mean, (progress or Progress()).task("adding noise to the weights", None) as advance:
        search = _Search(mean, tolerance, error, adaptive, floor, draws, seed)

        def within(sigma: float, sure: float) -> bool:
            """Whether the mean rise is below the tolerance by ``sure`` standard errors (above it by no more, if negative)."""
            advance(1)
            centre, std = search.rise(sigma)
            return centre + sure * std <= tolerance

        middle = _first_crossing(lambda s: within(s, 0.0), 0.01)
        if middle is None:
            return Measured(LARGEST, math.inf, Kind.INDICATOR)
        low = _first_crossing(lambda s: within(s, 2.0), middle[0])
        high = _first_crossing(lambda s: within(s, -2.0), middle[1])
        lower = 0.0 if low is None else low[0]
        return Measured(min(lower, middle[0]), math.inf if high is None else max(high[1], middle[1]), Kind.INDICATOR)


class _Search:
    def __init__(
        self, mean: DisplacedMean, tolerance: float, error: bool, adaptive: bool, floor: float, draws: int, seed: int
    ) -> None:
        self.mean, self.error, self.draws, self.seed = mean, error, draws, seed
        self.unit = (mean.weights**2 + floor**2).sqrt() if adaptive else torch.ones_like(mean.weights)
        if not bool(self.unit.any()):
            raise InvalidInput("all weights are 0: noise in units of the weights moves nothing. Give a floor")
        self.start = mean.error(torch.zeros_like(mean.weights)) if error else mean.loss
        self.known: dict[float, tuple[float, float]] = {}

    def rise(self, sigma: float) -> tuple[float, float]:
        """Mean rise and its standard error."""
        if sigma not in self.known:
            generator = torch.Generator().manual_seed(self.seed)
            values = []
            for _ in range(self.draws):
                noise = torch.randn(self.unit.shape, generator=generator).to(self.unit) * self.unit * sigma
                values.append((self.mean.error(noise) if self.error else self.mean.value(noise)) - self.start)
            found = torch.tensor(values, dtype=torch.float64)
            centre = float(found.mean())
            finite = math.isfinite(centre)
            self.known[sigma] = (centre, float(found.std()) / math.sqrt(self.draws)) if finite else (math.inf, 0.0)
        return self.known[sigma]


def _first_crossing(within: object, start: float) -> tuple[float, float] | None:
    """(σ within, σ beyond) of ratio at most `RESOLUTION`; None if all up to `LARGEST` are within, (0, SMALLEST) if none is."""
    assert callable(within)
    sigma = start
    if within(sigma):
        while within(sigma * 2):
            sigma *= 2
            if sigma > LARGEST:
                return None
        low, high = sigma, sigma * 2
    else:
        while not within(sigma / 2):
            sigma /= 2
            if sigma < SMALLEST:
                return 0.0, sigma
        low, high = sigma / 2, sigma
    while high > RESOLUTION * low:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if within(middle) else (low, middle)
    return low, high
