"""The norm and margin bounds at 50 digits, from the statements in their docstrings; shares no code with the package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpmath.ctx_mp import MPContext

mp = MPContext()
mp.dps = 50


def grid(log_x: Any, steps: int, log2_least: int = -20) -> tuple[Any, Any]:
    """(value of the smallest grid point ≥ e^log_x, its price)."""
    j = max(0, int(mp.ceil((mp.mpf(log_x) / mp.log(2) - log2_least) * steps - mp.mpf(10) ** -40)))
    return mp.mpf(2) ** (mp.mpf(j) / steps + log2_least), 2 * mp.log(j + 1) + mp.log(mp.pi**2 / 6)


def rademacher(risk: Any, complexity: Any, price: Any, n: Any, delta: Any) -> Any:
    return risk + 2 * complexity + 3 * mp.sqrt((mp.log(2 / mp.mpf(delta)) + price) / (2 * mp.mpf(n)))


def depth_factor(depth: int, classes: int) -> Any:
    mean = mp.sqrt(2 * mp.log(2) * (depth - 1)) + 1
    square = mp.mpf(2) ** (mp.mpf(depth - 1) / 2)
    if classes == 2:
        return min(mean, square)
    return 2 * mp.sqrt(classes) * min(mp.sqrt(mean**2 + 1), square)


def golowich(risk: Any, margin: Any, log_product: Any, rms: Any, depth: int, classes: int, n: int, delta: float) -> Any:
    r, price = grid(mp.mpf(log_product) - mp.log(margin), 16)
    return rademacher(risk, depth_factor(depth, classes) * r * rms / mp.sqrt(n), price, n, delta)


def chained(scale: Any, log_choices: Any, n: int) -> Any:
    """The chaining bound by trying every number of levels up to 80."""

    def entropy(j: int) -> Any:
        count = (scale / (mp.mpf(4) ** -j / 2)) ** 2
        return count * log_choices if count >= 1 and j > 0 else mp.mpf(0)

    best, total = mp.mpf(1) / 2, mp.mpf(0)
    for j in range(1, 80):
        epsilon = mp.mpf(4) ** -j / 2
        total += 5 * epsilon * mp.sqrt(2 * (entropy(j) + entropy(j - 1)) / n)
        best = min(best, total + epsilon)
    return best


def log_spectral_complexity(layers: Sequence[tuple[float, float, float]]) -> Any:
    """Without rounding to the grid."""
    product = mp.fsum(mp.log(s) + mp.log(rho) for s, _, rho in layers)
    return product + mp.mpf(3) / 2 * mp.log(mp.fsum((mp.mpf(b) / s) ** (mp.mpf(2) / 3) for s, b, _ in layers))


def spectral_budget(
    log_product: Any, margin: Any, ranks: Any, bound: Any, depth: int, widest: int, n: int, delta: float
) -> Any:
    r, price = grid(mp.mpf(log_product) - mp.log(margin), 256)
    tau = mp.expm1(mp.log1p(1 / (2 * mp.sqrt(2) * bound * r)) / depth)
    eta = mp.mpf(1) / 20
    gauss = 2 * mp.sqrt(widest) + mp.sqrt(2 * mp.log(depth / eta))
    entropy = -eta * mp.log(eta) - (1 - eta) * mp.log(1 - eta)
    return (ranks * gauss**2 / (2 * tau**2) + entropy) / (1 - eta) + mp.log(2 * mp.sqrt(n) / delta) + price


def covering_budget(log_product: Any, margin: Any, bound: Any, depth: int, parameters: int, delta: float) -> Any:
    r, price = grid(mp.mpf(log_product) - mp.log(margin), 256)
    return parameters * mp.log1p(4 * mp.sqrt(2) * depth * bound * r) + price - mp.log(delta)
