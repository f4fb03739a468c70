"""What an audit says besides its certificates: recorded facts, indicators, and the error budget."""

from __future__ import annotations

from math import nextafter

import numpy as np

from nonvacuous.auditing.budget import Budget, budget
from nonvacuous.auditing.plan import LOWER
from nonvacuous.auditing.result import Dependence, Facts, SampleFacts
from nonvacuous.auditing.series import Series, lower_blocks
from nonvacuous.bounds.heldout import BettingBound, BinomialTailBound, rounded_up
from nonvacuous.bounds.mixing import IndependentBlocksBound
from nonvacuous.core.certificate import Certificate, Indicator
from nonvacuous.core.ledger import Ledger
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.measures.capacity import parameter_count
from nonvacuous.measures.risks import Observation
from nonvacuous.measures.subject import Subject
from nonvacuous.runtime.data import Sample, conflict_floor

MARGIN_BINS = 40


def facts(
    subject: Subject, name: str | None, delta: float, seed: int, seconds: float, dependence: Dependence | None = None
) -> Facts:
    """The audit's record of what it was given and what it did."""
    module, trials, test = subject.predictor.module, subject.trials, subject.test
    seen = [subject.train] if test is None else [subject.train, test]
    forward = sum(one.forward_seconds for one in seen) + (trials.forward_seconds if trials else 0.0)
    edges = _margin_edges(seen)
    examples = sum(one.n for one in seen) + (trials.examples if trials else 0)
    return Facts(
        model=name or type(subject.predictor.model).__name__,
        parameters=parameter_count(module) if module is not None else 0,
        loss=subject.loss.name,
        delta=delta,
        train=_sample_facts(subject.train_sample, subject.train, edges),
        test=_sample_facts(subject.test_sample, test, edges) if test and subject.test_sample else None,
        overlap=len(test.counted) if test else 0,
        initial=subject.initial is not None,
        seed=seed,
        device=str(subject.predictor.device),
        seconds={
            "forward": forward,
            "own": max(0.0, seconds - forward),
        },
        passes=examples / subject.train.n,
        dependence=dependence,
    )


def _margin_edges(observations: list[Observation]) -> np.ndarray | None:
    """Common bin edges for all samples' margins, with 0 among them."""
    known = [observation.margins for observation in observations if observation.margins is not None]
    if not known or not all(len(m) for m in known):
        return None
    finite = np.concatenate(known)
    low, high = min(0.0, float(finite.min())), max(0.0, float(finite.max()))
    width = (high - low) / MARGIN_BINS or 1.0
    first, last = int(np.floor(low / width)), int(np.ceil(high / width))
    return width * np.arange(first, max(last, first + 1) + 1)


def _sample_facts(sample: Sample, seen: Observation, edges: np.ndarray | None) -> SampleFacts:
    counts = () if edges is None or seen.margins is None else tuple(int(c) for c in np.histogram(seen.margins, edges)[0])
    return SampleFacts(
        name=sample.name,
        n=seen.n,
        risk=seen.risk.midpoint,
        errors=None if seen.wrong is None else seen.errors,
        digest=seen.fingerprint.digest,
        classes=None if sample.regression else sample.classes,
        margin_edges=() if edges is None or not counts else tuple(float(e) for e in edges),
        margin_counts=counts,
        notes=sample.notes,
    )


def indicators(subject: Subject) -> tuple[Indicator, ...]:
    """Numbers that describe and promise nothing."""
    train, test = subject.train, subject.test
    found = [_indicator("training_risk", train.risk, "it was computed on the data the model was fitted to", "loss")]
    if test is not None:
        found.append(_indicator("held_out_risk", test.risk, "a mean over one sample, without its confidence", "loss"))
        found.append(
            _indicator("measured_gap", test.risk - train.risk, "the difference of two means, without confidence", "loss")
        )
    if train.margins is not None:
        tenth = float(np.quantile(train.margins, 0.1))
        found.append(
            Indicator(
                "margin_tenth_percentile",
                tenth,
                tenth,
                "margins alone bound nothing: the scale of the weights matters",
                "score",
            )
        )
    if subject.trials is not None:
        trials = subject.trials
        mean = float(np.mean(trials.means))
        found.append(
            Indicator(
                "gibbs_training_risk", mean, mean, "a Monte-Carlo mean, without its confidence", "loss", predictor="gibbs"
            )
        )
        found.append(
            _indicator(
                "posterior_kl",
                trials.posterior.kl_nats,
                "a number a PAC-Bayes bound uses, not a bound itself",
                "nats",
                "gibbs",
            )
        )
    return tuple(found)


def _indicator(name: str, number: Measured, reason: str, unit: str, predictor: str = "deterministic") -> Indicator:
    return Indicator(name, number.lower, number.upper, reason, unit, predictor)


def error_budget(
    subject: Subject, certificates: list[Certificate], ledger: Ledger, independent: bool = True, series: Series | None = None
) -> Budget:
    """The budget's first form; see :mod:`nonvacuous.auditing.budget`. The risk has no lower end where nothing is known of dependence."""
    own = [c.value for c in certificates if c.predictor == "deterministic"]
    top = min(own, default=1.0)
    delta = sum(ledger.spent.values())
    certified = Measured(0.0, top, Kind.CONFIDENCE, delta) if own else Measured(0.0, 1.0, Kind.EXACT)
    low = 0.0
    if subject.test is not None and independent:
        low = lower_limit(subject.test, ledger.spent[LOWER], binary=subject.loss.binary)
    elif subject.test is not None and series is not None:
        blocks = lower_blocks(series, subject.test.n, ledger.spent[LOWER])
        low = 0.0 if blocks is None else turned(subject.test, blocks, ledger.spent[LOWER])
    risk = Measured(min(low, top), top, Kind.CONFIDENCE, delta) if own or low > 0 else Measured(0.0, 1.0, Kind.EXACT)
    return budget(subject.train.risk, _floor(subject), risk, certified)


def lower_limit(seen: Observation, delta: float, *, binary: bool) -> float:
    """With probability 1 − ``delta`` the risk is at least this: the upper bound of 1 − loss, turned over.

    Examples counted as errors only because training has seen them are counted as correct here.
    """
    if not binary:
        return turned(seen, BettingBound(), delta)
    tail = BinomialTailBound()
    top = tail.solve(tail.Evidence(errors=int(_gain(seen).sum()), n=seen.n), delta)
    return max(0.0, nextafter(1.0 - top, 0.0))


def turned(seen: Observation, bound: BettingBound | IndependentBlocksBound, delta: float) -> float:
    """The same by a bound that reads the losses in their order."""
    top = bound.solve(bound.Evidence(losses=rounded_up(_gain(seen).tolist()), n=seen.n), delta)
    return max(0.0, nextafter(1.0 - top, 0.0))


def _gain(seen: Observation) -> np.ndarray:
    gain = 1.0 - seen.losses
    gain[seen.counted] = 1.0
    return gain


def _floor(subject: Subject) -> float:
    """Least training risk any function of the inputs reaches (0–1 loss; 0 where equal inputs force nothing)."""
    if not subject.loss.binary or subject.loss.regression:
        return 0.0
    seen = subject.train.fingerprint
    return conflict_floor(seen.examples, seen.targets) / subject.train.n
