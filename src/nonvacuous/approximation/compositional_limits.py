r"""The curse of dimensionality from below: the least error of n coefficients, or of n examples, in up to a dozen variables.

:mod:`nonvacuous.approximation.compositional` measures methods that attain n^(−s/d).  Here are the errors that no method goes
below, computed and not estimated by training: exact n-widths, and the best learner of a random target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.measures.student import mean_interval

#: Frequencies that :func:`kolmogorov_widths` looks at, at most.
MOST_FREQUENCIES = 20_000_000
#: Squared errors below this are lost in float64's Cholesky factorisation.
SMALLEST_VARIANCE = 1e-9


def kolmogorov_widths(sizes: Sequence[int], smoothness: float, dimension: int) -> list[float]:
    r"""Exact n-widths in L₂ of the unit ball of the periodic Sobolev space W^{s,2} on [0, 1]^d, one for each n of ``sizes``.

    The ball is {f : Σ_k (1 + |2πk|²)^s |c_k|² ≤ 1} over integer frequencies k ∈ Z^d.  Whatever n functions one picks, some
    member of the ball is this far from their span, and the Fourier functions of the n lowest frequencies attain it: the
    width is the (n + 1)-st largest of (1 + |2πk|²)^(−s/2) (Kolmogorov 1936).  There are about V_d r^d frequencies of length
    at most r (V_d the volume of the ball), so the width is (2π)^(−s) (n/V_d)^(−s/d) in the limit.  DeVore, Howard and
    Micchelli 1989 (Theorem 4.2) give the same rate for every approximation with n parameters that depend continuously on the
    target, networks included.

    Raises:
        InvalidInput: smoothness not positive, dimension not a positive integer, n negative or beyond what can be counted.

    >>> kolmogorov_widths([0, 1, 2, 3], 1.0, 1) == [(1 + (2 * math.pi * k) ** 2) ** -0.5 for k in (0, 1, 1, 2)]
    True
    """
    if not (math.isfinite(smoothness) and smoothness > 0) or dimension < 1:
        raise InvalidInput(f"smoothness is positive and dimension at least 1; got {smoothness} and {dimension}")
    if not len(sizes) or min(sizes) < 0:
        raise InvalidInput(f"sizes are whole numbers from 0; got {list(sizes)}")
    most = max(sizes)
    log_volume = dimension / 2 * math.log(math.pi) - math.lgamma(dimension / 2 + 1)
    radius = max(1, int(math.exp((math.log(most + 1) - log_volume) / dimension)))
    while len(lengths := _lengths(radius, dimension, most)) <= most:
        radius = max(radius + 1, math.ceil(1.1 * radius))
    return [float((1 + 4 * math.pi**2 * float(lengths[n])) ** (-smoothness / 2)) for n in sizes]


def _lengths(radius: int, dimension: int, most: int) -> np.ndarray:
    """|k|² of all k ∈ Z^d of length at most ``radius``, in order."""
    lengths = np.zeros(1, dtype=np.int64)
    line = np.arange(-radius, radius + 1, dtype=np.int64) ** 2
    for _ in range(dimension):
        if len(lengths) * len(line) > MOST_FREQUENCIES:
            raise InvalidInput(
                f"n = {most:,} in {dimension} dimensions takes more than {MOST_FREQUENCIES:,} frequencies to count"
            )
        lengths = (lengths[:, None] + line).reshape(-1)
        lengths = lengths[lengths <= radius**2]
    return np.sort(lengths)


def matern(distance: Tensor, smoothness: float) -> Tensor:
    """Covariance of a random target of smoothness s = 1/2, 3/2 or 5/2 at ``distance``: paths have fewer than s derivatives.

    e^(−r), (1 + r)e^(−r), (1 + r + r²/3)e^(−r).

    Raises InvalidInput for other smoothness.

    >>> [round(float(matern(torch.tensor(1.0, dtype=torch.float64), s)), 4) for s in (0.5, 1.5, 2.5)]
    [0.3679, 0.7358, 0.8584]
    """
    decay = (-distance).exp()
    if smoothness == 0.5:
        return decay
    if smoothness == 1.5:
        return (1 + distance) * decay
    if smoothness == 2.5:
        return (1 + distance + distance.square() / 3) * decay
    raise InvalidInput(f"smoothness is 0.5, 1.5 or 2.5 here, where the covariance has a closed form; got {smoothness}")


def learning_error(points: Tensor, tests: Tensor, smoothness: float) -> float:
    r"""Root mean squared error, at ``tests`` [t, d], of the best learner that sees a random target at ``points`` [n, d].

    Targets are drawn from the Gaussian process with covariance `matern` of smoothness s; examples have no noise.  The
    posterior mean has the least mean squared error of all learners, and its error does not depend on the values seen:
    1 − k_n(x)ᵀK⁻¹k_n(x), averaged here over the test points.  So no learner, of whatever kind, does better on average over
    these targets.  Rate: n^(−s/d) (Ritter 2000, "Average-case analysis of numerical problems", chapter VI).

    Raises:
        InvalidInput: shapes that do not fit, points that coincide or lie too close for float64.
    """
    if points.dim() != 2 or tests.dim() != 2 or points.shape[1] != tests.shape[1]:
        raise InvalidInput(f"points [n, d] and tests [t, d] are needed; got {tuple(points.shape)} and {tuple(tests.shape)}")
    points, tests = points.to(torch.float64), tests.to(torch.float64)
    factor, failed = torch.linalg.cholesky_ex(matern(_distances(points, points), smoothness))
    if int(failed):
        raise InvalidInput(
            f"{len(points):,} points lie too close for float64 at smoothness {smoothness}: fewer points, or rougher targets"
        )
    seen = torch.linalg.solve_triangular(factor, matern(_distances(points, tests), smoothness), upper=False)
    return math.sqrt(max(float((1 - seen.square().sum(0)).mean()), 0.0))


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


@dataclass(frozen=True)
class Limit:
    """A power law error ≈ c·n^slope: the theory's ``expected`` slope, and the one seen, an indicator with its interval."""

    smoothness: float
    dimension: int
    expected: float
    slope: Measured
    sizes: tuple[int, ...]
    errors: tuple[float, ...]


def width_rate(smoothness: float, dimension: int, sizes: Sequence[int]) -> Limit:
    """Slope of log width against log n, from :func:`kolmogorov_widths`; its interval is spanned by neighbouring pairs of sizes.

    >>> rate = width_rate(2.0, 1, [100, 1000, 10_000])
    >>> rate.expected, round(rate.slope.midpoint, 2)
    (-2.0, -2.0)
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise InvalidInput(f"a slope takes two sizes or more, all positive; got {list(sizes)}")
    errors = kolmogorov_widths(sizes, smoothness, dimension)
    slopes = np.diff(np.log(errors)) / np.diff(np.log(np.asarray(sizes, dtype=float)))
    slope = Measured(float(slopes.min()), float(slopes.max()), Kind.INDICATOR)
    return Limit(smoothness, dimension, -smoothness / dimension, slope, tuple(sizes), tuple(errors))


def best_learning_rate(
    smoothness: float, dimension: int, sizes: Sequence[int], seeds: int = 5, tests: int = 500, confidence: float = 0.95
) -> Limit:
    """Slope of log `learning_error` against log n for examples spread over [0, 1]^d, fitted for each seed.

    The examples are scrambled Sobol points; errors are measured in the middle half of the cube, since within an example's
    distance of its faces the error is larger and falls faster.  ``slope`` is the t-interval over the seeds: of the slope over
    *these* n, which reaches −s/d only as n grows, and more slowly the larger s and d are.  Targets vary on a length of 1, the
    side of the cube.  ``errors`` are geometric means.

    Raises InvalidInput where float64 cannot resolve the error, and for fewer than two sizes or seeds.
    """
    if len(sizes) < 2 or seeds < 2:
        raise InvalidInput(f"a slope with its interval takes two sizes and two seeds; got {len(sizes)} and {seeds}")
    table = np.empty((seeds, len(sizes)))
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        points = torch.quasirandom.SobolEngine(dimension, scramble=True, seed=seed).draw(max(sizes), dtype=torch.float64)
        where = 0.25 + torch.rand(tests, dimension, dtype=torch.float64, generator=generator) / 2
        table[seed] = [learning_error(points[:n], where, smoothness) for n in sizes]
    if table.min() ** 2 < SMALLEST_VARIANCE:
        raise InvalidInput(
            f"errors of {table.min():.1g} are lost in rounding: fewer points at smoothness {smoothness}, d = {dimension}"
        )
    slopes = np.polyfit(np.log(np.asarray(sizes, dtype=float)), np.log(table).T, 1)[0]
    slope = mean_interval(slopes, confidence)
    mean = np.exp(np.log(table).mean(0))
    return Limit(smoothness, dimension, -smoothness / dimension, slope, tuple(sizes), tuple(map(float, mean)))
