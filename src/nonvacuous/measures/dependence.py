"""Alarms about a held-out sample in its order: are the losses serially dependent, and does their level drift?

Both are tests, so both can only raise an alarm. That one stays silent proves neither independence nor stationarity.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, floor, sqrt

import numpy as np

from nonvacuous.core.errors import InvalidInput

Floats = np.ndarray

LEVEL = 0.001
"""Largest p-value at which an alarm is raised: of a thousand samples without dependence, one raises it."""

MOST_LAGS, MOST_TESTED, PERMUTATIONS, ENOUGH = 10, 10_000, 1999, 20
LEAST = 20
"""Losses below which nothing is tested."""


@dataclass(frozen=True)
class Alarm:
    """Outcome of a test: ``p_value`` (1 where there was nothing to test), ``statistic``, numbers ``tested``, ``lags`` looked at."""

    p_value: float
    statistic: float
    tested: int
    lags: int

    @property
    def raised(self) -> bool:
        """Whether the p-value is at most :data:`LEVEL`."""
        return self.p_value <= LEVEL


SILENT = Alarm(1.0, 0.0, 0, 0)


def serial_dependence(losses: Floats, classes: Floats | None = None, seed: int = 0) -> Alarm:
    """Permutation test for dependence between losses [n] near each other in their order, by Ljung and Box's sum over 10 lags.

    Under independence, losses given their ``classes`` [n] (labels, absent for regression) may be exchanged within a class, whatever the
    order of the classes: a sample sorted by class raises no alarm. Exact at every n; drawing stops early where many permutations exceed
    the statistic (Besag and Clifford 1991, Biometrika 78). Looks at the first 10,000 losses.

    Raises :class:`InvalidInput` for numbers that are not finite.

    >>> serial_dependence(np.repeat([0.0, 1.0, 0.0, 1.0], 25)).raised, serial_dependence(np.arange(100) % 2 * 0.0).raised
    (True, False)
    """
    values = checked_series(losses)[:MOST_TESTED]
    n = len(values)
    groups = np.zeros(n, dtype=np.int64) if classes is None else np.unique(np.asarray(classes)[:n], return_inverse=True)[1]
    if n < LEAST:
        return SILENT
    sums, sizes = np.bincount(groups, values), np.bincount(groups)
    rest = values - (sums / sizes)[groups]
    if not np.abs(rest).max() > 1e-12:
        return Alarm(1.0, 0.0, n, 0)
    lags = min(MOST_LAGS, n // 5)
    observed = _ljung_box(rest, lags)
    places = np.argsort(groups, kind="stable")
    sorted_rest, sorted_groups, mixed = rest[places], groups[places], np.empty(n)
    generator = np.random.default_rng(seed)
    drawn = exceeding = 0
    while drawn < PERMUTATIONS and exceeding < ENOUGH:
        if len(sizes) == 1:
            mixed = generator.permutation(rest)
        else:
            mixed[places] = sorted_rest[np.argsort(sorted_groups + generator.random(n))]
        drawn += 1
        exceeding += _ljung_box(mixed, lags) >= observed * (1 - 1e-12)
    p_value = exceeding / drawn if exceeding >= ENOUGH else (exceeding + 1) / (drawn + 1)
    return Alarm(p_value, observed, n, lags)


def drift(values: Floats) -> Alarm:
    """Are the first and the second half of a series [n] of different level? Difference of their means over its standard error.

    The standard error allows for dependence over ⌊4 (n/100)^(2/9)⌋ lags (Newey and West 1987, Econometrica 55), in each half about its own
    mean. Approximate: good for hundreds of values, and blind to drifts that leave both halves' means alone.

    Raises :class:`InvalidInput` for numbers that are not finite.
    """
    series = checked_series(values)
    n = len(series)
    if n < LEAST:
        return SILENT
    halves = series[: n // 2], series[n - n // 2 :]
    lags = floor(4 * (n / 100) ** (2 / 9))
    spread = sum(_long_run_variance(half, lags) / len(half) for half in halves)
    difference = float(halves[1].mean() - halves[0].mean())
    if not spread > 0:
        return Alarm(1.0 if difference == 0 else 0.0, 0.0, n, lags)
    statistic = difference / sqrt(spread)
    return Alarm(erfc(abs(statistic) / sqrt(2)), statistic, n, lags)


def checked_series(values: Floats) -> Floats:
    """A series as floats [n]; raises :class:`InvalidInput` unless it is one row of finite numbers."""
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1:
        raise InvalidInput(f"a series is one row of numbers in the order of time; got the shape {series.shape}")
    if not np.isfinite(series).all():
        place = int(np.argmin(np.isfinite(series)))
        raise InvalidInput(
            f"the series has a value that is not finite ({series[place]}) at place {place}: fill gaps or cut there"
        )
    return series


def _ljung_box(rest: Floats, lags: int) -> float:
    n, total = len(rest), float(rest @ rest)
    correlations = (float(rest[k:] @ rest[:-k]) / total for k in range(1, lags + 1))
    return n * (n + 2) * sum(r * r / (n - k) for k, r in enumerate(correlations, 1))


def _long_run_variance(values: Floats, lags: int) -> float:
    """Variance of a mean times the number of values, by Bartlett's weights."""
    rest = values - values.mean()
    n = len(rest)
    total = float(rest @ rest) / n
    for k in range(1, min(lags, n - 1) + 1):
        total += 2 * (1 - k / (lags + 1)) * float(rest[k:] @ rest[:-k]) / n
    return total * n / (n - 1)
