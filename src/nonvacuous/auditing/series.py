"""Audits of series: what is declared or found of dependence, and what becomes of certificates that need independent examples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from nonvacuous.auditing.result import Dependence, Facts
from nonvacuous.bounds.mixing import IndependentBlocksBound, Mixing, SeriesBlocks, SpacedBinomialBound, chosen_blocks
from nonvacuous.core.bound import IID, Bound
from nonvacuous.core.certificate import Assumption, Certificate, Indicator
from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.dependence import SILENT, Alarm, drift, serial_dependence
from nonvacuous.measures.subject import Subject
from nonvacuous.runtime.data import ArraySample, Sample


@dataclass(frozen=True)
class Series:
    """Declares that the examples, in their order, are stretches of one series.

    Attributes: ``mixing`` what is assumed of its dependence, stated beforehand; without it nothing is certified. ``span`` observations an
    example reads, target included, and ``gap`` observations left out between training and the held-out stretch: known where the samples
    are windows of :func:`nonvacuous.runtime.series.windows`, else 1 and 0. ``block`` examples in a block and ``spacing`` examples left out
    between blocks: chosen from the numbers of examples where absent.
    """

    mixing: Mixing | None = None
    span: int | None = None
    gap: int | None = None
    block: int | None = None
    spacing: int | None = None

    def blocks(self, kind: type[Bound], n: int, share: float) -> Bound:
        """The bound with its constants for ``n`` held-out examples; raises :class:`InvalidInput` where none would do."""
        cut = self._cut(n, share, 1 if issubclass(kind, SpacedBinomialBound) else self.block)
        return kind.of(vars(cut))

    def _cut(self, n: int, share: float, block: int | None) -> SeriesBlocks:
        if self.mixing is None:
            raise InvalidInput("nothing was assumed of the dependence (--mixing)")
        span, gap = 1 if self.span is None else self.span, self.gap or 0
        return chosen_blocks(n, share, self.mixing, span=span, gap=gap, block=block, spacing=self.spacing)


def declared(given: Series | bool | None, samples: tuple[Sample, Sample | None]) -> Series | None:
    """The series that the user or the samples declare; None where neither does.

    Raises :class:`InvalidInput` for windows of a series that are said to be independent, and for numbers that are none.
    """
    known = next((sample.windows for sample in samples if sample is not None and sample.windows is not None), None)
    if given is False and known is not None:
        raise InvalidInput(
            "the samples are windows of one series, which overlap: they are not independent. Leave out series=False (--independent)"
        )
    if given is False or (given is None and known is None):
        return None
    if not isinstance(given, Series | bool | None):
        raise InvalidInput(f"series is True, False or a nonvacuous.Series(mixing=…); got {given!r:.60}")
    series = given if isinstance(given, Series) else Series()
    if not (series.mixing is None or isinstance(series.mixing, Mixing)):
        raise InvalidInput(f"mixing is a nonvacuous.Mixing; got {series.mixing!r:.60}. Mixing.parse reads a text")
    if known is not None:
        if (series.span is not None and series.span < known.span) or (series.gap is not None and series.gap > known.gap):
            raise InvalidInput(
                f"the samples' windows read {known.span} observations and lie {known.gap} after training; a smaller span or a larger gap, "
                f"as declared ({series}), is not true of them: leave both out"
            )
        series = replace(
            series,
            span=known.span if series.span is None else series.span,
            gap=known.gap if series.gap is None else series.gap,
        )
    said = {name: getattr(series, name) for name in ("span", "gap", "block", "spacing")}
    SeriesBlocks(**{name: number for name, number in said.items() if number is not None})  # refuses what is no number
    return series


def dependence(subject: Subject, series: Series | None, vouched: bool, seed: int) -> Dependence | None:
    """What two tests on the held-out losses say, and what was declared; None where there is neither a held-out sample nor a series."""
    assumed = "" if series is None or series.mixing is None else series.mixing.statement
    if subject.test is None:
        return None if series is None else Dependence(True, vouched, assumed, 1.0, 0, 0)
    measured = np.delete(
        np.arange(subject.test.n), subject.test.counted
    )  # not those that count as errors whatever the model says
    losses = np.asarray(subject.test.losses)[measured]
    classes = None if subject.loss.regression else subject.test.fingerprint.targets[measured]
    found = serial_dependence(losses, classes, seed)
    moved = SILENT
    if series is not None:
        moved = min((drift(part) for part in (losses, *_levels(subject))), key=lambda alarm: alarm.p_value)
    return Dependence(
        declared=series is not None,
        vouched=vouched,
        assumed=assumed,
        p_value=found.p_value,
        lags=found.lags,
        tested=found.tested,
        drift_p_value=_none_if_untested(moved),
    )


def _levels(subject: Subject) -> list[np.ndarray]:
    """The targets of both stretches, one after the other, where they are at hand."""
    samples = (subject.train_sample, subject.test_sample)
    if not all(isinstance(sample, ArraySample) for sample in samples):
        return []
    parts = [np.asarray(sample.targets, dtype=np.float64) for sample in samples if isinstance(sample, ArraySample)]
    return [np.concatenate(parts)] if all(part.ndim == 1 for part in parts) else []


def _none_if_untested(alarm: Alarm) -> float | None:
    return alarm.p_value if alarm.tested else None


def demotes(seen: Dependence | None) -> bool:
    """Whether certificates for independent examples are indicators only: a series was declared, or dependence found and not vouched for."""
    return seen is not None and (seen.declared or (seen.found and not seen.vouched))


def contradicted(seen: Dependence | None) -> str:
    """The note on independence where a test speaks against it, or nothing."""
    if seen is None or not (seen.found or seen.declared):
        return ""
    return (
        f"A permutation test of the held-out losses in their order found dependence (p = {seen.p_value:.2g})."
        if seen.found
        else "The examples were declared a series."
    )


def needs_independence(certificate: Certificate) -> bool:
    """Whether a certificate rests on independent examples."""
    return any(assumption.name == IID.name for assumption in certificate.hypotheses)


def demoted(certificates: Iterable[Certificate], seen: Dependence) -> tuple[Indicator, ...]:
    """Certificates that rest on independence, as indicators that say why."""
    why = (
        "the examples were declared a series, and its theorem needs independent ones"
        if seen.declared
        else f"the held-out losses depend on each other (p = {seen.p_value:.2g}), and its theorem needs independent ones"
    )
    return tuple(
        Indicator(f"{c.bound}_if_independent", 0.0, c.value, why, "loss", c.predictor)
        for c in certificates
        if needs_independence(c) and not c.vacuous
    )


def stated(assumption: Assumption, bound: Bound) -> Assumption:
    """The hypothesis of mixing with its numbers, the constants of the theorem in words."""
    if assumption.name != "mixing" or not isinstance(bound, SeriesBlocks):
        return assumption
    return replace(
        assumption,
        statement=f"{assumption.statement} Stated: {bound.mixing.statement}.",
        note=(
            f"Blocks of {bound.block} examples, {bound.spacing} left out in between; an example reads {bound.span} observations, and "
            f"{bound.gap} were left out after training."
        ),
    )


def lower_blocks(series: Series, n: int, share: float) -> IndependentBlocksBound | None:
    """The bound that the lower end of the risk is taken from, None where there is none."""
    try:
        return IndependentBlocksBound.of(vars(series._cut(n, share, series.block)))  # type: ignore[return-value]
    except InvalidInput:
        return None


def warnings(facts: Facts) -> list[str]:
    """What must be said of dependence before anything else."""
    seen = facts.dependence
    if seen is None:
        return []
    says = []
    if seen.declared:
        says.append(
            "The examples are a series, not independent draws: what theorems for independent examples give stands among the indicators. "
            + (
                f"What is certified rests on an assumption that nobody measured: {seen.assumed}."
                if seen.assumed
                else "Nothing is certified, as nothing was assumed of how it forgets (--mixing geometric:C,RHO or m-dependent:M)."
            )
        )
    elif seen.found:
        outcome = (
            "It was vouched for that the examples are independent all the same."
            if seen.vouched
            else "What theorems for independent examples give stands among the indicators. If the sample is a series, say so and what may "
            "be assumed of it (--mixing); if its order means nothing, vouch for independence (--independent)."
        )
        says.append(
            f"The held-out losses depend on each other in their order (permutation test over {seen.lags} lags, p = {seen.p_value:.2g}). "
            + outcome
        )
    if seen.drifts:
        says.append(
            f"The level of the series moves between its first and its second half (p = {seen.drift_p_value:.2g}): it does not look "
            "stationary, and every certificate for a series needs that it is."
        )
    return says
