"""From a planned bound and a measured subject to a certificate."""

from __future__ import annotations

from collections.abc import Mapping
from math import nextafter
from typing import Any

import numpy as np

from nonvacuous.auditing.plan import Planned
from nonvacuous.core.bound import DRAWN_ONCE, Bound, Direction, Hypothesis, Predictor, Sample
from nonvacuous.core.certificate import Assumption, Certificate
from nonvacuous.measures.subject import MEASURES, Subject

CANDIDATES = 33


def evidence_of(subject: Subject, bound: Bound, predictor: Predictor, measuring: float, delta: float) -> Any:
    """The bound's evidence, each field measured, free parameters chosen to make the value small."""
    measured: dict[str, Any] = {}
    free = [name for name, direction in bound.directions().items() if direction is Direction.FREE]
    for name in bound.Evidence._fields:
        if name not in free:
            measured[name] = MEASURES[name, bound.sample, predictor](subject, measuring)
    if not free:
        return bound.evidence(**measured)
    value, best = 1.0, bound.evidence(**measured, **{free[0]: _candidates(free[0], subject)[0]})
    for candidate in _candidates(free[0], subject):
        evidence = bound.evidence(**measured, **{free[0]: candidate})
        if bound.holds(evidence, delta, nextafter(value, 0.0)):  # one look tells most candidates from the best so far
            value, best = bound.solve(evidence, delta), evidence
    return best


def _candidates(name: str, subject: Subject) -> list[float]:
    """Values to try for a free parameter; any is sound, so a coarse search costs only tightness."""
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
    sampled = (DRAWN_ONCE,) if planned.measuring else ()
    return Certificate(
        bound=bound.name,
        parameters=bound.parameters,
        evidence=evidence._asdict(),
        delta=planned.share,
        value=bound.solve(evidence, left),
        loss=subject.loss.name,
        predictor=predictor.name.lower(),
        hypotheses=tuple(assumption(hypothesis, subject) for hypothesis in (*bound.hypotheses, *sampled)),
        digests=digests,
        measurement=measurement,
        measurement_delta=planned.measuring,
        ledger=dict(ledger),
        seed=seed,
    )


def assumption(hypothesis: Hypothesis, subject: Subject) -> Assumption:
    """A hypothesis with what this run recorded about it."""
    note = ""
    if hypothesis.name == "bounded_loss":
        note = f"Every value of {subject.loss.name} was checked to lie in [0, 1]."
    elif hypothesis.name == "data_free_prior":
        note = (
            "The prior's means are zero."
            if subject.initial is None
            else "The prior's means are the initial weights that were given."
        ) + " A person must argue that neither they nor the architecture were chosen by this data."
    elif hypothesis.name == "fixed_predictor" and subject.test is not None and len(subject.test.counted):
        note = f"{len(subject.test.counted)} held-out inputs also occur in the training sample; each was counted as an error."
    return Assumption(hypothesis.name, hypothesis.statement, hypothesis.checkable, note)
