"""Every sample that can occur, with its probability: coverage without simulation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import product
from math import comb, factorial, prod

import numpy as np


def binomial(n: int, p: Fraction) -> list[Fraction]:
    """P(k errors of n), k = 0 … n."""
    return [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


def compositions(n: int, cells: int) -> Iterator[tuple[int, ...]]:
    """All ways to write n as an ordered sum of ``cells`` counts."""
    if cells == 1:
        yield (n,)
        return
    for first in range(n + 1):
        for rest in compositions(n - first, cells - 1):
            yield (first, *rest)


def multinomial(n: int, chances: Sequence[Fraction]) -> Iterator[tuple[Fraction, tuple[int, ...]]]:
    """How often each cell occurs in n draws: probability and counts."""
    for counts in compositions(n, len(chances)):
        ways = factorial(n) // prod(map(factorial, counts))
        yield ways * prod(chance**count for chance, count in zip(chances, counts, strict=True)), counts


def multinomial_arrays(n: int, chances: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The same as arrays: probabilities [s] and counts [s, cells], in floats, for more samples than fractions can take."""
    counts = np.array(list(compositions(n, len(chances))))
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    powers = (counts * np.log(np.maximum(chances, 1e-300))).sum(1)
    return np.exp(logs[n] - logs[counts].sum(1) + powers), counts


def sequences(n: int, chances: dict[float, Fraction]) -> Iterator[tuple[Fraction, tuple[float, ...]]]:
    """Every sequence of n independent draws from a finite distribution, with its probability."""
    for drawn in product(chances, repeat=n):
        yield prod((chances[x] for x in drawn), start=Fraction(1)), drawn
