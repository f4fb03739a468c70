"""The error budget with refits: the same parts and the same identity as :mod:`nonvacuous.auditing.budget`, in narrower intervals.

What the refits add, in the order of trust: another network of the class with a lower training risk *proves* a least optimization
error; any network's risk bounds the irreducible risk from above, at the confidence of its measurement; and a learning curve, which is an
assumption, says where the class's risk goes as the sample grows.
"""

from __future__ import annotations

from collections.abc import Sequence

from nonvacuous.auditing.budget import Budget, Part
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.studies.levers import data_curve, paired_gain
from nonvacuous.studies.refits import Refit
from nonvacuous.studies.refitting import Refitted


def class_risk(run: Refitted, risk: Measured) -> Measured:
    """An indicator of F(P, h*), h* the best network of the class.

    Upper end: what is measured, or where the learning curve of the longest training goes. Lower end: where it goes, less what still
    longer training may gain, if each doubling gains at most half of what the one before it did; 0 without a curve.
    """
    length = max(run.plan.lengths)
    base = run.plan.base
    curve = data_curve(run, length, seed=run.plan.seed)
    if curve is None:
        return Measured.indicator(0.0, risk.upper)
    limit = curve.asymptote()
    shorter, longer = run.at(base), run.at(base, length)
    to_come = 2 * max(0.0, paired_gain(shorter, longer).upper) if shorter and longer else risk.upper
    low = max(0.0, limit.lower - to_come)
    return Measured.indicator(min(low, risk.upper), min(max(limit.upper, low), risk.upper))


def least_risk_seen(run: Refitted, own: Measured) -> float:
    """Upper end for the risk of the best function: of all curves' limits and the network's own."""
    ends = [own.upper]
    for width in sorted({r.cell.width for r in run.refits}):
        for length in run.plan.lengths:
            curve = data_curve(run, length, width, run.plan.seed)
            if curve is not None:
                ends.append(curve.asymptote().upper)
    return min(ends)


def refit_budget(run: Refitted, *, train_risk: float, floor: float, risk: Measured) -> Budget:
    """The parts of the risk of a network h of the class, each [lower, upper].

    Args:
        train_risk: F(D, h) on the sample that the refits of the base cell trained on.
        floor: the least training risk any function reaches (equal inputs with different labels).
        risk: two-sided interval for F(P, h).
    """
    best = class_risk(run, risk)
    least = least_risk_seen(run, risk)
    same_sample: Sequence[Refit] = [r for r in run.refits if r.cell.n == run.plan.n and r.cell.width == 1]
    lowest = min([r.train_risk for r in same_sample] + [train_risk])
    return Budget(
        parts=(
            Part(
                "irreducible",
                "F(P, y*)",
                Measured.indicator(0.0, least),
                "no more than any network's risk or its curve's limit",
            ),
            Part(
                "approximation",
                "F(P, h*) − F(P, y*)",
                Measured.indicator(max(0.0, best.lower - least), best.upper),
                "limit of the learning curve, minus the least risk seen at any width",
            ),
            Part(
                "sampling",
                "F(D, h°) − F(P, h*)",
                Measured.indicator(floor - best.upper, lowest - best.lower),
                "least training risk seen, minus the limit of the learning curve",
            ),
            Part(
                "optimization",
                "F(D, h) − F(D, h°)",
                Measured(max(0.0, train_risk - lowest), max(0.0, train_risk - floor), Kind.EXACT),
                "a network of the class with a lower training risk below, conflicting duplicates above",
            ),
            Part(
                "generalization",
                "F(P, h) − F(D, h)",
                risk - train_risk,
                "risk interval minus training risk",
            ),
        ),
        risk=Part("risk", "F(P, h)", risk, "held-out sample"),
    )
