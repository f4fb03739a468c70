"""Time and excess of one inversion, beside ``scipy.stats.beta.ppf`` and a naive kl bisection in Python, in one run.

``python benchmarks/bench_numerics.py`` prints one line a case: milliseconds of each, their ratio, and by how many units in the last
place each lies above the true limit (found by bisecting the 80-digit oracle of the tests); a negative excess is a promise that
is false, and a blank one is an answer off by more than 1e9 units.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

from nonvacuous.numerics.interval import lower
from nonvacuous.numerics.logdomain import positive_product
from nonvacuous.numerics.tails import binomial_upper, kl_inverse_upper, log_binomial_cdf

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.oracles import binomial as oracle

CASES = [
    (6, 100, math.log(0.05)),
    (600, 10_000, math.log(0.05)),
    (6_000, 60_000, math.log(0.05)),
    (6_000, 60_000, math.log(0.05) - 1500 * math.log(2)),
    (10**8, 10**9, math.log(0.05)),
    (5 * 10**8, 10**9, math.log(0.05)),
    (10**8, 10**9, -1e6 * math.log(2)),
]


def timed(call: Callable[[], Any], least: float = 0.2) -> tuple[Any, float]:
    """The value, and the best time of a call in milliseconds."""
    best, spent, value = math.inf, 0.0, call()
    while spent < least:
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        best, spent = min(best, took), spent + took
    return value, 1e3 * best


def naive_kl_inverse(q: float, c: float) -> float:
    """The usual midpoint bisection, 100 steps of float arithmetic."""
    low, high = q, 1.0
    for _ in range(100):
        p = (low + high) / 2
        if p >= 1.0:
            break
        value = (q * math.log(q / p) if q else 0.0) + (1 - q) * math.log((1 - q) / (1 - p))
        low, high = (low, p) if value > c else (p, high)
    return (low + high) / 2


def excess(value: float, accepted: Callable[[Fraction], bool]) -> str:
    """value − truth in units in the last place; ``accepted(p)`` says that p is at or above the truth."""
    unit = Fraction(math.ulp(value))
    low, high = -(10**9), 10**9
    if accepted(Fraction(value) - high * unit) or not accepted(Fraction(value) - low * unit):
        return ""
    low, high = -high, -low  # excess above low is not certain, excess below high is
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if accepted(Fraction(value) - middle * unit) else (low, middle)
    return f"{low:+d}"


def main() -> None:
    print(f"{'k':>10} {'n':>11} {'ln δ':>10} | {'ours ms':>8} {'scipy':>7} {'ratio':>6} {'ulp':>6} {'scipy ulp':>10} | "
          f"{'kl ms':>6} {'naive':>7} {'ratio':>6} {'ulp':>4} {'naive ulp':>10} | {'cdf ms':>6} {'width':>8}")  # fmt: skip
    for k, n, log_delta in CASES:
        ours, ours_ms = timed(partial(binomial_upper, k, n, log_delta))
        theirs, theirs_ms = timed(partial(beta.ppf, 1 - math.exp(log_delta), k + 1, n - k))
        q, c = k / n, -log_delta / n
        kl, kl_ms = timed(partial(kl_inverse_upper, q, c))
        naive, naive_ms = timed(partial(naive_kl_inverse, q, c))

        def above(p: Fraction, k: int = k, n: int = n, d: float = log_delta) -> bool:
            return bool(oracle.log_cdf(k, n, p) < d)

        def beyond(p: Fraction, q: float = q, c: float = c) -> bool:
            return bool(oracle.kl(q, p) >= c)

        cdf_ms = timed(partial(log_binomial_cdf, k, n, ours))[1]
        bracket = log_binomial_cdf(k, n, ours)
        print(
            f"{k:10d} {n:11d} {log_delta:10.4g} | {ours_ms:8.2f} {theirs_ms:7.3f} {ours_ms / theirs_ms:6.1f} "
            f"{excess(ours, above):>6} {excess(theirs, above) if theirs < 1 else '':>10} | {kl_ms:6.2f} {naive_ms:7.3f} "
            f"{kl_ms / naive_ms:6.1f} {excess(kl, beyond):>4} {excess(naive, beyond):>10} | {cdf_ms:6.3f} "
            f"{oracle.width(bracket):8.1e}"
        )
    factors = np.random.default_rng(0).uniform(0.5, 2.0, 60_000)
    product = positive_product(factors)
    ours_ms = timed(lambda: lower(positive_product(factors)))[1]
    numpy_ms = timed(lambda: float(np.log(factors).sum()))[1]
    print(f"product of 60 000 factors: {ours_ms:.2f} ms, np.log(f).sum() {numpy_ms:.2f} ms, width {oracle.width(product):.1e}")


if __name__ == "__main__":
    main()
