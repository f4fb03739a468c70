"""The bounds' values at 50 digits, from the formulas in the papers; shares no code with the package."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import comb
from typing import Any

from mpmath.ctx_mp import MPContext

mp = MPContext()
mp.dps = 50


def kl(q: Any, p: Any) -> Any:
    q, p = mp.mpf(q), mp.mpf(p)
    if q == p:
        return mp.mpf(0)
    if p in (0, 1):
        return mp.inf
    return (q * mp.log(q / p) if q else 0) + ((1 - q) * mp.log((1 - q) / (1 - p)) if q < 1 else 0)


def root(above: Callable[[Any], bool], low: Any = 0) -> float:
    """The least x in [low, 1] from which on ``above`` holds, or 1."""
    low, high = mp.mpf(low), mp.mpf(1)
    for _ in range(170):
        middle = (low + high) / 2
        low, high = (low, middle) if above(middle) else (middle, high)
    return float(high)


def kl_inverse(q: Any, budget: Any) -> float:
    return root(lambda p: kl(q, p) >= budget, q)


def tail(k: int, n: int, p: Any) -> Any:
    return mp.fsum(mp.mpf(comb(n, i)) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


def binomial_tail(k: int, n: int, delta: Any, bits: int = 0) -> float:
    limit = mp.mpf(delta) / mp.mpf(2) ** bits
    return 1.0 if k == n else root(lambda p: tail(k, n, p) <= limit)


def hoeffding(risk: float, n: int, delta: float) -> float:
    return min(1.0, float(risk + mp.sqrt(mp.log(1 / mp.mpf(delta)) / (2 * n))))


def chernoff(risk: float, n: int, delta: float) -> float:
    return kl_inverse(risk, mp.log(1 / mp.mpf(delta)) / n)


def empirical_bernstein(risk: float, variance: float, n: int, delta: float) -> float:
    log = mp.log(2 / mp.mpf(delta))
    return min(1.0, float(risk + mp.sqrt(2 * mp.mpf(variance) * log / n) + 7 * log / (3 * (n - 1))))


def complexity(kl_nats: float, n: int, delta: float) -> Any:
    return (mp.mpf(kl_nats) + mp.log(2 * mp.sqrt(n) / mp.mpf(delta))) / n


def seeger(risk: float, kl_nats: float, n: int, delta: float) -> float:
    return kl_inverse(risk, complexity(kl_nats, n, delta))


def mcallester(risk: float, kl_nats: float, n: int, delta: float) -> float:
    return min(1.0, float(risk + mp.sqrt(complexity(kl_nats, n, delta) / 2)))


def quadratic(risk: float, kl_nats: float, n: int, delta: float) -> float:
    kappa = complexity(kl_nats, n, delta) / 2
    return min(1.0, float((mp.sqrt(risk + kappa) + mp.sqrt(kappa)) ** 2))


def trade_off(risk: float, kl_nats: float, n: int, lam: float, delta: float) -> float:
    lam = mp.mpf(lam)
    return min(1.0, float(risk / (1 - lam / 2) + complexity(kl_nats, n, delta) / (lam * (1 - lam / 2))))


def catoni(risk: float, kl_nats: float, n: int, lam: float, delta: float, ratio: float = 1.05) -> float:
    j = int(mp.nint(mp.log(mp.mpf(lam) / n) / mp.log(mp.mpf(ratio))))
    c = mp.mpf(ratio) ** j
    weight = 1 / ((mp.pi**2 / 3 - 1) * (abs(j) + 1) ** 2)
    exponent = c * risk + (kl_nats - mp.log(mp.mpf(delta) * weight)) / n
    return min(1.0, float((1 - mp.exp(-exponent)) / (1 - mp.exp(-c))))


def occam(risk: float, bits: int, n: int, delta: float) -> float:
    return kl_inverse(risk, (bits * mp.log(2) - mp.log(mp.mpf(delta))) / n)


def relative_deviation(risk: float, log_growth: Any, n: int, delta: float) -> float:
    """(v − r)² = 4 c v / n with c = ln Π(2n) + ln(4/δ), by the quadratic formula."""
    c = 2 * (log_growth + mp.log(4 / mp.mpf(delta))) / n
    return min(1.0, float(risk + c + mp.sqrt(c * c + 2 * c * risk)))


def vc(risk: float, dimension: int, n: int, delta: float) -> float:
    return relative_deviation(risk, mp.log(sum(comb(2 * n, i) for i in range(min(dimension, 2 * n) + 1))), n, delta)


def moment(m: int) -> Fraction:
    """ξ(m) = E exp(m kl(r̂, r)) at its largest: Σ C(m, k) (k/m)^k (1 − k/m)^(m − k)."""
    return sum((comb(m, k) * Fraction(k, m) ** k * Fraction(m - k, m) ** (m - k) for k in range(m + 1)), Fraction(0))
