"""From a planned bound and a measured subject to a certificate."""

from __future__ import annotations

from collections.abc import Mapping
from math import nextafter
from typing import Any

import numpy as np

from nonvacuous.auditing.plan import Planned
from nonvacuous.auditing.series import contradicted, stated
from nonvacuous.core.bound import DRAWN_ONCE, Bound, Direction, Hypothesis, Predictor, Sample
from nonvacuous.core.certificate import Assumption, Certificate
from nonvacuous.measures import margins
from nonvacuous.measures.norm_evidence import declared_range
from nonvacuous.measures.partition_evidence import partitioned
from nonvacuous.measures.subject import MEASURES, Subject

CANDIDATES = 33
CHAINS = {"relu_chain", "homogeneous_chain", "unit_chain", "lipschitz_chain"}


def evidence_of(subject: Subject, bound: Bound, predictor: Predictor, measuring: float, delta: float) -> Any:
    """The bound's evidence, each field measured, and what may be chosen (free parameters, the margin) chosen to make the value small."""
    tried = _choices(bound, subject)
    measured = {
        name: MEASURES[name, bound.sample, predictor](subject, measuring)
        for name in bound.Evidence._fields
        if name not in tried[0]
    }
    value, best = 1.0, bound.evidence(**measured, **tried[0])
    if len(tried) == 1:
        return best
    for choice in tried:
        evidence = bound.evidence(**measured, **choice)
        if bound.holds(evidence, delta, nextafter(value, 0.0)):  # one look tells most candidates from the best so far
            value, best = bound.solve(evidence, delta), evidence
    return best


def _choices(bound: Bound, subject: Subject) -> list[dict[str, float]]:
    """Values to try for the fields that may be chosen, the one for a vacuous bound first; any is sound, a coarse search costs tightness."""
    free = [name for name, direction in bound.directions().items() if direction is Direction.FREE]
    if free:
        return [{free[0]: candidate} for candidate in _candidates(free[0], subject)]
    if {"margin", "margin_risk"} <= set(bound.Evidence._fields):
        found = margins.choices(subject.margins)
        if not found:  # no example has a positive margin
            return [{"margin": 1.0, "margin_risk": 1.0}]
        return [choice._asdict() for choice in (margins.scale_free(found), *found)]
    return [{}]


def _candidates(name: str, subject: Subject) -> list[float]:
    if name == "trade_off":
        return [float(x) for x in np.geomspace(0.02, 1.9, CANDIDATES)]
    return [float(x) for x in subject.train.n * np.geomspace(0.01, 100, CANDIDATES)]


def certificate(
    subject: Subject, planned: Planned, *, ledger: Mapping[str, float], seed: int, weights: str | None
) -> Certificate:
    """Apply one planned bound. Raises :class:`~nonvacuous.core.errors.NonvacuousError` where its evidence cannot be had."""
    bound, predictor = planned.bound, planned.predictor
    left = nextafter(planned.share - planned.measuring, 0.0) if planned.measuring else planned.share
    evidence = evidence_of(subject, bound, predictor, planned.measuring, left)
    held_out = bound.sample is Sample.HELD_OUT
    seen = subject.observed(bound.sample)
    digests = {"sample": seen.fingerprint.digest}
    if weights is not None:
        digests["weights"] = weights
    measurement: dict[str, Any] = {"sample": "test" if held_out else "train"}
    if held_out and len(seen.counted):
        measurement["counted_as_errors"] = "test examples whose input also occurs in the training sample"
        digests["train"] = subject.train.fingerprint.digest
    if predictor is Predictor.GIBBS:
        trials = subject.drawn()
        measurement |= {
            "posterior_std": [block.posterior_std for block in trials.posterior.blocks],
            "prior_index": [block.prior_index for block in trials.posterior.blocks],
            "trials": len(trials.means),
            "trial_examples": trials.batch_size,
            "trial_seed": trials.seed,
        }
    if not held_out:
        measurement["reference"] = "zero" if subject.initial is None else "initial weights"
    measurement |= _chosen(subject, evidence)
    sampled = (DRAWN_ONCE,) if planned.measuring else ()
    return Certificate(
        bound=bound.name,
        parameters=bound.parameters,
        evidence=evidence._asdict(),
        delta=planned.share,
        value=bound.solve(evidence, left),
        loss=subject.loss.name,
        predictor=predictor.name.lower(),
        hypotheses=tuple(stated(assumption(hypothesis, subject), bound) for hypothesis in (*bound.hypotheses, *sampled)),
        digests=digests,
        measurement=measurement,
        measurement_delta=planned.measuring,
        ledger=dict(ledger),
        seed=seed,
    )


def _chosen(subject: Subject, evidence: Any) -> dict[str, Any]:
    """What was chosen or declared beside the evidence, without which it could not be measured again."""
    chosen: dict[str, Any] = {}
    if "margin" in evidence._fields:
        chosen["margin"] = evidence.margin
    if {"input_bound", "cells"} & set(evidence._fields):
        chosen["input_range"] = list(declared_range(subject))
    if "cells" in evidence._fields:
        chosen["cells_a_side"] = partitioned(subject).grid.per_side
    return chosen


def assumption(hypothesis: Hypothesis, subject: Subject) -> Assumption:
    """A hypothesis with what this run recorded about it."""
    note = ""
    if hypothesis.name == "bounded_loss":
        note = f"Every value of {subject.loss.name} was checked to lie in [0, 1]."
    elif hypothesis.name == "iid":
        note = contradicted(subject.once("dependence", lambda: None))
    elif hypothesis.name == "data_free_prior":
        note = (
            "The prior's means are zero."
            if subject.initial is None
            else "The prior's means are the initial weights that were given."
        ) + " A person must argue that neither they nor the architecture were chosen by this data."
    elif hypothesis.name in CHAINS:
        note = (
            "The layers were read off a symbolic trace of the network in float64, true for every input; margins are those that the "
            "network's own arithmetic gave."
        )
    elif hypothesis.name == "reference_fixed":
        note = (
            "The references are zero."
            if subject.initial is None
            else "The references are the initial weights that were given."
        )
    elif hypothesis.name in ("bounded_inputs", "cells_cover"):
        low, high = declared_range(subject)
        note = f"Every number of an input was declared to lie in [{low:g}, {high:g}]; those of the samples do."
    elif hypothesis.name == "cells_fixed":
        grid = partitioned(subject).grid
        note = f"A grid of {grid.per_side} intervals along each coordinate of the declared range, times {grid.labels} labels."
    elif hypothesis.name == "true_supremum":
        note = f"From a proved Lipschitz constant of the network in each cell (at most {partitioned(subject).largest_lipschitz:.3g})."
    elif hypothesis.name == "fixed_predictor" and subject.test is not None and len(subject.test.counted):
        note = f"{len(subject.test.counted)} held-out inputs also occur in the training sample; each was counted as an error."
    return Assumption(hypothesis.name, hypothesis.statement, hypothesis.checkable, note)
