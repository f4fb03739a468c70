"""Margins γ worth trying: the theorems pay for a choice after training, so the sample's own margins may guide it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

WINDOWS = 40
"""Margins tried at most, spread evenly over the ranks of the sample's."""
NEAR = 1e-3
"""Relative distance that is kept from the next margin above where there is room, so that a margin measured again in another order of
summation is counted on the same side."""


class MarginChoice(NamedTuple):
    """A margin γ > 0 and the fraction of examples whose margin is at most γ."""

    margin: float
    margin_risk: float


def risk_at(margins: np.ndarray, margin: float) -> float:
    """Fraction of the margins [n] that are at most ``margin``.

    >>> risk_at(np.array([-1.0, 0.5, 2.0, 3.0]), 0.5)
    0.5
    """
    return int(np.count_nonzero(margins <= margin)) / len(margins)


def choices(margins: np.ndarray, windows: int = WINDOWS) -> list[MarginChoice]:
    """For each of ``windows`` stretches of ranks the γ in the widest gap between two margins, as near to the upper one as is safe.

    A γ just below a margin is best among those that count the same examples: every bound falls as γ grows. Empty if no margin is
    positive.

    >>> choices(np.array([-1.0, 2.0, 2.0, 4.0]))
    [MarginChoice(margin=1.998, margin_risk=0.25), MarginChoice(margin=3.996, margin_risk=0.75)]
    """
    ordered = np.sort(margins)
    first = int(np.searchsorted(ordered, 0.0, side="right"))
    upper = ordered[first:]
    if not len(upper):
        return []
    lower = np.concatenate([[0.0], upper[:-1]])
    found = []
    for part in np.array_split(np.arange(len(upper)), min(windows, len(upper))):
        place = part[np.argmax((upper - lower)[part])]
        low, high = float(lower[place]), float(upper[place])
        gamma = _short(high - min((high - low) / 2, NEAR * high), low, high)
        if low < gamma < high:
            found.append(MarginChoice(gamma, (first + int(place)) / len(ordered)))
    return found


def _short(number: float, low: float, high: float) -> float:
    """The number in the fewest decimal digits that keep it between low and high, so that rounding noise does not change it."""
    shorts = (float(f"{number:.{digits}g}") for digits in range(4, 17))
    return next((short for short in shorts if low < short < high), number)


def scale_free(found: list[MarginChoice]) -> MarginChoice:
    """The choice with the largest γ(1 − r̂_γ): where a bound is far from 1 its sample size is about (scale/(γ(1 − r̂_γ)))².

    >>> scale_free([MarginChoice(1.0, 0.0), MarginChoice(4.0, 0.5), MarginChoice(5.0, 0.9)])
    MarginChoice(margin=4.0, margin_risk=0.5)
    """
    return max(found, key=lambda choice: choice.margin * (1 - choice.margin_risk))
