"""The betting bound at 60 digits, one loss after the other; shares no code with the package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpmath.ctx_mp import MPContext

mp = MPContext()
mp.dps = 60


def stakes(losses: Sequence[float], delta: float) -> list[Any]:
    """The stake on each loss, from those before it."""
    n, confidence = len(losses), mp.log(1 / mp.mpf(delta))
    found, total, squares, variance = [], mp.mpf(1) / 2, mp.mpf(1) / 4, mp.mpf(1) / 4
    for count, loss in enumerate(losses, 1):
        scale = mp.sqrt(2 * confidence / (n * variance))
        found.append(min(scale / (1 + scale * 2 / 3), mp.mpf(9) / 10))
        total += mp.mpf(loss)
        squares += (mp.mpf(loss) - total / (count + 1)) ** 2
        variance = squares / (count + 1)
    return found


def capital(losses: Sequence[float], delta: float, risk: float) -> Any:
    """What the bets are worth after the last loss if ``risk`` is the price."""
    worth = mp.mpf(1)
    for stake, loss in zip(stakes(losses, delta), losses, strict=True):
        worth *= 1 + stake * (mp.mpf(risk) - mp.mpf(loss))
    return worth


def value(losses: Sequence[float], delta: float) -> float:
    """The least risk at which the capital reaches 1/δ, or 1."""
    low, high = mp.mpf(0), mp.mpf(1)
    if capital(losses, delta, 1) < 1 / mp.mpf(delta):
        return 1.0
    for _ in range(120):
        middle = (low + high) / 2
        low, high = (low, middle) if capital(losses, delta, middle) >= 1 / mp.mpf(delta) else (middle, high)
    return float(high)
