"""What doubling the data, the width or the training would gain: measured where it was tried, extrapolated where it was not.

Data and training are told apart: twice the data is for as many steps, twice the training on as many examples.  (At as many epochs, a sample
of twice the size also brings twice the steps, and a curve over sizes bends as training ends, which no power law foretells.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.studies.learning_curve import LearningCurve, learning_curve
from nonvacuous.studies.refits import Cell, Refit
from nonvacuous.studies.refitting import Refitted

__all__ = ["Lever", "contenders", "data_curve", "levers", "paired_gain"]

CONFIDENCE = 0.9


@dataclass(frozen=True)
class Lever:
    """One thing that could be doubled.

    gain: how much the risk falls, an indicator at 90 %; cost: steps times weights, as a multiple of today's; how: where the gain comes
    from.
    """

    name: str
    change: str
    gain: Measured
    cost: float
    how: str

    @property
    def verdict(self) -> str:
        """Helps, hurts, or undecided: whether the interval lies on one side of 0."""
        if self.gain.lower > 0:
            return "helps"
        return "hurts" if self.gain.upper < 0 else "undecided"


def paired_gain(before: Sequence[Refit], after: Sequence[Refit], confidence: float = CONFIDENCE) -> Measured:
    """Mean risk before minus after over replicates that have both, with the luck of the replicates and of the test sample.

    Student's t over replicates; the variance of the mean difference on a test example is added. With a single replicate its luck is
    not seen and counts as that of the test sample.

    :raises InvalidInput: no replicate has both.
    """
    later = {refit.replicate: refit for refit in after}
    pairs = [(refit, later[refit.replicate]) for refit in before if refit.replicate in later]
    if not pairs:
        raise InvalidInput("no replicate was trained both before and after the change: nothing can be compared")
    differences = np.stack([a.losses - b.losses for a, b in pairs]).astype(float)
    runs, examples = differences.shape
    of_examples = float(differences.mean(0).var(ddof=1)) / examples if examples > 1 else math.inf
    of_runs = float(differences.mean(1).var(ddof=1)) / runs if runs > 1 else of_examples
    quantile = float(stats.t.ppf((1 + confidence) / 2, max(runs - 1, 1)))
    reach = quantile * math.sqrt(of_runs + of_examples)
    gain = float(differences.mean())
    return Measured.indicator(gain - reach, gain + reach)


def data_curve(run: Refitted, length: float = 1.0, width: float = 1.0, seed: int = 0) -> LearningCurve | None:
    """The learning curve over sample sizes, None where fewer than three were trained."""
    sizes, risks = [], []
    for refit in run.refits:
        if refit.length == length and refit.cell.width == width:
            sizes.append(refit.cell.n)
            wrong = float(refit.losses.sum())
            risks.append((wrong + 0.5) / (run.test_size + 1))
    return learning_curve(sizes, risks, seed=seed) if len(set(sizes)) >= 3 else None


def levers(run: Refitted) -> list[Lever]:
    """Twice the data, twice the width, twice the training, from the recipe as it stands; the largest expected gain first."""
    plan, base = run.plan, run.plan.base
    today = run.at(base)
    found: list[Lever] = []
    curve = data_curve(run, seed=plan.seed)
    if curve is not None:
        sizes = len({r.cell.n for r in run.refits if r.cell.width == 1})
        found.append(
            Lever(
                "data",
                f"{plan.n:,} → {2 * plan.n:,} examples, as many steps",
                curve.gain(plan.n, 2 * plan.n),
                1.0,
                f"extrapolated from {sizes} sample sizes by a power law with an offset",
            )
        )
    wide = run.at(Cell(plan.n, 2.0))
    if today and wide:
        more = wide[0].parameters / today[0].parameters
        found.append(
            Lever("width", f"twice as wide, {more:.1f} × the weights", paired_gain(today, wide), more, _measured(today, wide))
        )
    longer = run.at(base, 2.0)
    if today and longer:
        found.append(
            Lever(
                "training",
                f"{plan.epochs:g} → {2 * plan.epochs:g} epochs, as many examples",
                paired_gain(today, longer),
                2.0,
                _measured(today, longer),
            )
        )
    return sorted(found, key=lambda lever: -lever.gain.midpoint)


def contenders(found: Sequence[Lever]) -> list[Lever]:
    """The levers that help and may be the best: those whose interval reaches as high as the best lower end. One: it is the best."""
    helping = [lever for lever in found if lever.verdict == "helps"]
    best = max((lever.gain.lower for lever in helping), default=0.0)
    return [lever for lever in found if helping and lever.gain.upper >= best and lever.gain.upper > 0]


def _measured(before: Sequence[Refit], after: Sequence[Refit]) -> str:
    shared = len({r.replicate for r in before} & {r.replicate for r in after})
    return f"measured on {shared} pair{'s' * (shared != 1)} of refits"
