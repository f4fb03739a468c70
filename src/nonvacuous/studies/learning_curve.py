"""Learning curves: the risk as a power law with an offset, its extrapolation as an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured

Floats = NDArray[np.float64]

EXPONENTS = np.linspace(0.05, 2.0, 40)
OFFSETS = np.linspace(0.0, 0.99, 34)
LEVELS = np.linspace(-1.0, 1.0, 41)
SHIFTS = np.array([0.0, 0.03, 0.1, 0.3, 1.0])
DRAWS = 4000
PRIOR_POINTS = 3.0
LEAST_NOISE = 0.01


@dataclass(frozen=True)
class LearningCurve:
    r"""Draws from the posterior of :math:`R(n) = R_m\,(f + (1 - f)((n + s)/(m + s))^{-c})`, m the largest size seen; an indicator.

    The law is an assumption that no theorem grants, and real curves bend: a size n may deviate from it by the relative noise times
    :math:`\\sqrt{1 + \\log_2^2(n/m)}`, so that far sizes say less about the law, and it says less about them. Where that holds, the
    intervals hold at their level over the prior: f uniform on [0, 1), c on [.05, 2], log R_m flat, s/m one of a few shifts, for curves
    that fall faster the farther they are. Four or more sizes, spread over a factor of 8, tell c from f.

    largest: m; level, offset, exponent, shift, noise: the draws ``[4000]`` of R_m, f, c, s/m and the relative deviation at m; bend: a
    standard normal for each.

    Source: Hestness et al. 2017 and Viering and Loog 2022 for the law; the posterior is elementary.
    """

    largest: float
    level: Floats
    offset: Floats
    exponent: Floats
    shift: Floats
    noise: Floats
    bend: Floats

    def draws(self, size: float) -> Floats:
        """The risk at ``size`` in each draw ``[4000]``."""
        if not size > 0:
            raise InvalidInput(f"a sample of {size!r} examples: give a positive size")
        law = self.level * _shape(size / self.largest, self.offset, self.exponent, self.shift)
        return law * np.exp(self.noise * self.bend * abs(math.log2(size / self.largest)))

    def at(self, size: float, confidence: float = 0.9) -> Measured:
        """The mean risk of refits at ``size``."""
        return interval(self.draws(size), confidence)

    def measured_at(self, size: float, confidence: float = 0.9, seed: int = 0) -> Measured:
        """What a few refits at ``size`` would measure: the mean risk, and the noise of a size's mean."""
        noise = np.random.default_rng(seed).standard_normal(DRAWS)
        return interval(self.draws(size) * np.exp(self.noise * noise), confidence)

    def gain(self, size: float, larger: float, confidence: float = 0.9) -> Measured:
        """R(size) − R(larger), from the same draws."""
        return interval(self.draws(size) - self.draws(larger), confidence)

    def asymptote(self, confidence: float = 0.9) -> Measured:
        """R(∞) = R_m f."""
        return interval(self.level * self.offset, confidence)


def _shape(size: float, offset: Floats, exponent: Floats, shift: Floats) -> Floats:
    """The law at a size in units of the largest, where it is 1."""
    return offset + (1 - offset) * ((size + shift) / (1 + shift)) ** -exponent


def interval(draws: Floats, confidence: float) -> Measured:
    """The central interval that holds a share ``confidence`` of the draws.

    :raises InvalidInput: a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise InvalidInput(f"confidence {confidence!r}: give a number between 0 and 1, such as 0.9")
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Measured.indicator(float(low), float(high))


def learning_curve(sizes: Sequence[float], risks: Sequence[float], *, seed: int = 0) -> LearningCurve:
    """The posterior, given a risk for each refit: several refits at one size are averaged and tell the noise.

    Args:
        sizes, risks: one entry a refit; risks positive (for errors counted on m examples, (errors + 1/2)/(m + 1) is).

    Raises:
        InvalidInput: fewer than three different sizes, or numbers that are no sizes or risks.
    """
    x, y = np.asarray(sizes, dtype=float), np.asarray(risks, dtype=float)
    if (
        x.shape != y.shape
        or x.ndim != 1
        or not (np.isfinite(x).all() and np.isfinite(y).all() and (x > 0).all() and (y > 0).all())
    ):
        raise InvalidInput("a learning curve takes one positive, finite size and risk for each refit")
    points = np.unique(x)
    if len(points) < 3:
        raise InvalidInput(
            f"{len(points)} different sizes: a curve with an offset has three unknowns. Refit at three sizes or more (four or five,"
            " spread over a factor of 8, say more)"
        )
    logs = [np.log(y[x == point]) for point in points]
    means = np.array([part.mean() for part in logs])
    spare = sum(len(part) - 1 for part in logs)
    within = sum(float(((part - part.mean()) ** 2).sum()) for part in logs) / spare if spare else 0.0
    prior = LEAST_NOISE**2 + within / min(len(part) for part in logs)

    reach = max(0.1, 5 * math.sqrt(prior), 0.3 * float(np.ptp(means)))
    level, offset, exponent, shift = np.meshgrid(means[-1] + reach * LEVELS, OFFSETS, EXPONENTS, SHIFTS, indexing="ij")
    largest = float(points[-1])
    misfit = np.zeros_like(level)
    for point, mean in zip(points, means, strict=True):
        shape = _shape(point / largest, offset[0], exponent[0], shift[0])
        misfit += (mean - level - np.log(shape)) ** 2 / (1 + math.log2(point / largest) ** 2)
    scale = PRIOR_POINTS * prior + misfit
    degrees = PRIOR_POINTS + len(points)
    weights = scale ** (-degrees / 2)
    generator = np.random.default_rng(seed)
    chosen = generator.choice(weights.size, DRAWS, p=weights.ravel() / weights.sum())
    noise = np.sqrt(scale.ravel()[chosen] / generator.chisquare(degrees, DRAWS))

    def near(values: Floats, steps: float) -> Floats:
        """Grid values, spread evenly over their cells."""
        return values.ravel()[chosen] + steps * (generator.random(DRAWS) - 0.5)

    return LearningCurve(
        largest=largest,
        level=np.exp(near(level, reach * (LEVELS[1] - LEVELS[0]))),
        offset=np.clip(near(offset, OFFSETS[1] - OFFSETS[0]), 0, 1),
        exponent=np.clip(near(exponent, EXPONENTS[1] - EXPONENTS[0]), EXPONENTS[0], EXPONENTS[-1]),
        shift=shift.ravel()[chosen],
        noise=noise,
        bend=generator.standard_normal(DRAWS),
    )
