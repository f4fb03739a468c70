"""The mean of a few independent numbers, with Student's interval."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.stats import t as student

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured


def mean_interval(numbers: Any, confidence: float, claims: int = 1) -> Measured:
    """mean ± t · s/√n of numbers ``[n]``, an indicator: exact for a normal law alone.

    confidence: of all ``claims`` at once, by Bonferroni.

    Source: Student 1908, "The probable error of a mean".

    >>> mean_interval([1.0, 2.0, 3.0], 0.9)  # 2 ± 2.92/√3
    Measured(lower=0.314..., upper=3.685..., kind=<Kind.INDICATOR: 2>, delta=0.0)

    :raises InvalidInput: fewer than two numbers.
    """
    x = np.asarray(numbers, dtype=float)
    if x.ndim != 1 or len(x) < 2:
        raise InvalidInput(f"numbers of shape {x.shape}: an interval needs two or more of them, [n]")
    factor = float(student.ppf(1 - (1 - confidence) / (2 * claims), len(x) - 1))
    mean, reach = float(x.mean()), factor * float(x.std(ddof=1)) / math.sqrt(len(x))
    return Measured.indicator(mean - reach, mean + reach)
