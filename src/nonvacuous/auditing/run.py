"""The verb ``audit``: one pass over each sample, then every certificate the plan declared."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from nonvacuous.auditing.anatomy import anatomy
from nonvacuous.auditing.certification import certificate
from nonvacuous.auditing.curvature import curvature_of
from nonvacuous.auditing.facts import error_budget, facts, indicators
from nonvacuous.auditing.needs import needs
from nonvacuous.auditing.plan import Plan, plan
from nonvacuous.auditing.result import Audit, Skipped
from nonvacuous.auditing.series import Series, demoted, demotes, dependence, needs_independence
from nonvacuous.auditing.series import declared as series_of
from nonvacuous.auditing.tangent import tangent
from nonvacuous.auditing.trainability import checks
from nonvacuous.core.bound import Predictor as Kinds
from nonvacuous.core.certificate import Certificate, Indicator
from nonvacuous.core.errors import InvalidInput, NonvacuousError
from nonvacuous.core.ledger import check_delta
from nonvacuous.measures import posterior
from nonvacuous.measures.losses import Loss, named
from nonvacuous.measures.predictor import Predictor, as_predictor
from nonvacuous.measures.risks import Observation, observe
from nonvacuous.measures.subject import Subject, Trials
from nonvacuous.runtime.data import Sample, as_sample, overlap
from nonvacuous.runtime.seeds import stream_seed
from nonvacuous.runtime.tasks import Progress, progress_bar
from nonvacuous.runtime.weights import weights_digest

MOST_OVERLAP = 0.01
"""Fraction of the test inputs that may occur in the training sample before the audit asks whether the split is broken."""

TRIAL_EXAMPLES = 96
"""Examples a drawn network is tried on: enough that drawing its weights costs little beside applying them."""

LEAST_TRIALS, MOST_DRAWN_WEIGHTS = 50, 2 * 10**9


def audit(
    model: Any,
    *,
    train: Any,
    test: Any = None,
    loss: str | Loss = "zero_one",
    delta: float = 0.05,
    initial: nn.Module | None = None,
    device: str = "cpu",
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = False,
    allow_overlap: bool = False,
    name: str | None = None,
    training_losses: Sequence[float] = (),
    input_range: tuple[float, float] | None = None,
    series: Series | bool | None = None,
) -> Audit:
    """Certificates, indicators and the error budget of a trained model.

    Args:
        model: an ``nn.Module``, an estimator with ``.predict``, or a function of a batch; used in evaluation mode, restored after.
        train, test: a ``Dataset``, a ``DataLoader`` without shuffling or augmentation, or ``(x, y)``; ``test`` may be absent.
        loss: a word of :func:`nonvacuous.measures.losses.named`, or a :class:`~nonvacuous.measures.losses.Loss`.
        delta: all certificates hold at once with probability at least 1 − delta.
        initial: the network before training, fixed before the data were seen; without it the reference is zero.
        progress: show a bar with the time left on stderr.
        allow_overlap: go on although more than 1 % of the test inputs occur in ``train`` (each is counted as an error either way).
        name: how reports call the model.
        training_losses: mean training loss after each epoch, if recorded: the report compares it with what theorems predict.
        input_range: least and largest number that an input can hold in use, known beforehand (pixels / 255: ``(0, 1)``); bounds that
            need it are skipped without. Pictures of bytes and the built-in pictures declare their own.
        series: True or a :class:`~nonvacuous.auditing.series.Series` where the examples, in their order, are stretches of a series:
            theorems for independent examples then give indicators only, and certificates rest on the mixing that it states. False: a
            person vouches for independence, whatever the test of the held-out losses finds. Absent, that test decides.

    Raises :class:`~nonvacuous.core.errors.InvalidInput` and its kin, each with a remedy.
    """
    delta, loss = check_delta(delta), named(loss)
    predictor = as_predictor(model, device)
    if initial is not None and not isinstance(initial, nn.Module):
        raise InvalidInput("initial is the network before training, an nn.Module of the same architecture")
    if initial is not None and initial is predictor.module:
        raise InvalidInput(
            "initial is the audited model itself, so that its weights would cost nothing: pass a copy made before training "
            "(copy.deepcopy(model)), or leave it out"
        )
    samples = _samples(train, test, loss)
    begun = time.perf_counter()
    ordered, held_out, network = series_of(series, samples), samples[1].n if samples[1] else None, predictor.module is not None
    independent = plan(delta, loss, held_out=held_out, network=network)
    declared = independent if ordered is None else plan(delta, loss, held_out=held_out, network=network, series=ordered)
    trials = _trial_count(samples[0], predictor.module) if any(p.predictor is Kinds.GIBBS for p in independent.planned) else 0
    with progress_bar(progress) as bar:
        seen = observed(predictor, samples, loss, batch_size, allow_overlap, bar)
        subject = Subject(predictor, loss, *samples, *seen, initial, input_range=checked_range(input_range))
        subject, skipped = _with_trials(subject, trials, seed, bar)
        weights = weights_digest(predictor.module) if predictor.module is not None else None
        with bar.task("testing the held-out losses for dependence", None):
            order = subject.once(
                "dependence", lambda: dependence(subject, ordered, series is False, stream_seed(seed, "dependence"))
            )
        certificates, more = _certificates(subject, declared, seed, weights, bar)
        would_be: tuple[Indicator, ...] = ()
        if order is not None and demotes(order):
            all_of_them = certificates if ordered is None else _certificates(subject, independent, seed, weights, bar)[0]
            would_be = demoted(all_of_them, order)
            certificates = [c for c in certificates if not needs_independence(c)]
        with bar.task("measuring layers and slopes", None):
            made_of = anatomy(subject) if predictor.module is not None else None
        with bar.task("measuring the tangent kernel", None):
            kernel = tangent(subject)
        macs = made_of.total.macs if made_of is not None and made_of.total is not None else None
        bends = curvature_of(subject, macs, stream_seed(seed, "curvature"), bar)
    ladder = tuple(sorted(certificates, key=lambda c: (c.value, c.bound)))
    return Audit(
        certificates=ladder,
        indicators=(*would_be, *indicators(subject), *(kernel.indicators() if kernel is not None else ())),
        budget=error_budget(subject, certificates, declared.ledger, not demotes(order), ordered),
        facts=facts(subject, name, delta, seed, time.perf_counter() - begun, order),
        skipped=(*declared.skipped, *skipped, *more),
        ledger=dict(declared.ledger.spent),
        trainability=checks(subject, training_losses),
        needs=needs(ladder),
        anatomy=made_of,
        tangent=kernel,
        curvature=bends,
    )


def checked_range(given: tuple[float, float] | None) -> tuple[float, float] | None:
    """A declared range of inputs; raises :class:`InvalidInput` unless it is two finite numbers, the lower first."""
    if given is None:
        return None
    if len(given) != 2 or not all(np.isfinite(end) for end in given) or not given[0] < given[1]:
        raise InvalidInput(f"input_range is (low, high), two finite numbers with low < high; got {given!r:.60}")
    return float(given[0]), float(given[1])


def _samples(train: Any, test: Any, loss: Loss) -> tuple[Sample, Sample | None]:
    first = as_sample(train, "train", regression=loss.regression)
    return first, None if test is None else as_sample(test, "test", regression=loss.regression)


def _trial_count(sample: Sample, module: nn.Module | None) -> int:
    """Two passes' worth, between 500 and 2,000; fewer where drawing the weights alone would take minutes."""
    weights = sum(parameter.numel() for parameter in module.parameters()) if module is not None else 0
    affordable = max(LEAST_TRIALS, MOST_DRAWN_WEIGHTS // max(1, weights))
    return min(int(np.clip(2 * sample.n // TRIAL_EXAMPLES, 500, 2000)), affordable)


def observed(
    predictor: Predictor,
    samples: tuple[Sample, Sample | None],
    loss: Loss,
    batch_size: int,
    allow_overlap: bool,
    bar: Progress,
) -> tuple[Observation, Observation | None]:
    """One pass over each sample; test examples that training has seen count as errors."""
    train, test = samples
    with bar.task("reading the training sample", train.n) as advance:
        first = observe(predictor, train, loss, batch_size=batch_size, advance=advance)
    if test is None:
        return first, None
    with bar.task("reading the test sample", test.n) as advance:
        second = observe(predictor, test, loss, batch_size=batch_size, advance=advance)
    both = overlap(first.fingerprint.examples, second.fingerprint.examples)
    if len(both) > MOST_OVERLAP * test.n and not allow_overlap:
        raise InvalidInput(
            f"{len(both)} of {test.n} test inputs also occur in the training sample (first at test position {both[0]}): a certificate "
            "needs examples that training never saw. Remove them from the test sample; or, if such repeats belong to the problem, allow "
            "the overlap (--allow-overlap, allow_overlap=True), and each will be counted as an error"
        )
    return first, second.counting_as_errors(both) if len(both) else second


def _with_trials(subject: Subject, trials: int, seed: int, bar: Progress) -> tuple[Subject, list[Skipped]]:
    """The subject with draws of the Gibbs classifier, or the reason why there are none."""
    if not trials:
        return subject, []
    try:
        module = subject.module
        posterior.check_sampleable(module, subject.initial)
        with bar.task("choosing the posterior's noise", None):
            chosen = posterior.chosen(
                subject.predictor,
                module,
                subject.initial,
                subject.train_sample,
                subject.loss,
                seed=stream_seed(seed, "posterior search"),
            )
        own = getattr(subject.train_sample, "own_size", None)  # a loader whose function collates batches of a size of its own
        size = own or min(TRIAL_EXAMPLES, subject.train.n)
        stream = stream_seed(seed, "gibbs trials")
        with bar.task("drawing networks from the posterior", trials * size) as advance:
            drawn = drawn_trials(subject, chosen, trials, size, stream, advance)
    except NonvacuousError as error:
        return subject, [Skipped("gibbs", str(error))]
    return replace(subject, trials=Trials(chosen, drawn.means, size, stream, drawn.forward_seconds)), []


def drawn_trials(
    subject: Subject,
    chosen: posterior.GaussianPosterior,
    trials: int,
    size: int,
    stream: int,
    advance: Callable[[int], None] | None = None,
) -> posterior.Draws:
    """The Gibbs trials of one stream: the same numbers whenever they are drawn again."""
    return posterior.drawn_losses(
        subject.predictor,
        chosen,
        subject.train_sample,
        subject.loss,
        draws=trials,
        batch_size=size,
        generator=torch.Generator().manual_seed(stream),
        advance=advance,
    )


def _certificates(
    subject: Subject, declared: Plan, seed: int, weights: str | None, bar: Progress
) -> tuple[list[Certificate], list[Skipped]]:
    issued, skipped = [], []
    with bar.task("certifying", len(declared.planned)) as advance:
        for planned in declared.planned:
            if planned.predictor is Kinds.GIBBS and subject.trials is None:
                skipped.append(Skipped(planned.bound.name, "no network could be drawn from a posterior (see gibbs)"))
                continue
            try:
                issued.append(certificate(subject, planned, ledger=declared.ledger.spent, seed=seed, weights=weights))
            except NonvacuousError as error:
                skipped.append(Skipped(planned.bound.name, str(error)))
            advance(1)
    return issued, skipped
