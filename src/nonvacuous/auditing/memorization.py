"""The effective capacity of an audited architecture: how well it can be trained on random signs, as an indicator of the audit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from nonvacuous.auditing.result import Audit, Skipped
from nonvacuous.core.certificate import Indicator
from nonvacuous.core.errors import InvalidInput, NonvacuousError
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.fingerprint import fingerprint
from nonvacuous.runtime.models import initialise
from nonvacuous.runtime.samples import Sample
from nonvacuous.runtime.tasks import progress_bar
from nonvacuous.studies.randomization import Randomization, Recipe, randomization
from nonvacuous.studies.randomization_arms import Arm, Setting

NAME = "effective_capacity"
EXAMPLES, SEEDS, MOST_STEPS = 1000, 2, 3000


def with_capacity(
    audited: Audit,
    factory: Callable[[], nn.Module],
    train: Any,
    *,
    recipe: Recipe | None = None,
    progress: bool = False,
    device: torch.device | str = "cpu",
) -> Audit:
    """The audit with one more indicator: the Rademacher complexity of the architecture, between the end that training reached and 1.

    ``factory()`` is trained anew on random signs (row G5's test, its last arm) of at most 1,000 of the training inputs, twice, for at most
    3,000 steps of Adam; ``recipe`` changes that. Where the test does not apply, the audit says why among what was skipped. The
    audited weights are not read, and no δ of the certificates is spent.

    Raises:
        InvalidInput: a factory of another number of parameters than the audited network, or another training sample.
        KeyboardInterrupt: Ctrl-C while it trains.
    """
    sample = train if isinstance(train, Sample) else as_sample(train, "train", regression=audited.facts.train.classes is None)
    if fingerprint(sample).digest != audited.facts.train.digest:
        raise InvalidInput("the audit is of another training sample: give the one that it was given")
    parameters = sum(p.numel() for p in initialise(factory, 0).parameters())
    if parameters != audited.facts.parameters:
        raise InvalidInput(
            f"the factory's network has {parameters:,} parameters, the audited one {audited.facts.parameters:,}: give the factory of the"
            " audited architecture"
        )
    recipe = recipe or Recipe(min(EXAMPLES, sample.n), SEEDS, MOST_STEPS, seed=audited.facts.seed)
    try:
        with progress_bar(progress) as bar:
            found = randomization(
                factory, sample, sample, recipe=recipe, which=(Arm(Setting.SIGNS),), progress=bar, device=device
            )
    except NonvacuousError as error:
        return replace(audited, skipped=(*audited.skipped, Skipped(NAME, str(error))))
    if found.interrupted:
        raise KeyboardInterrupt
    return replace(audited, indicators=(*audited.indicators, indicator(found)))


def indicator(found: Randomization) -> Indicator:
    """The capacity that a study's arm of random signs shows."""
    capacity = found.capacity()
    assert capacity is not None
    fits = [run.steps_to_fit(found.recipe.fitted_error) for run in found.runs]
    steps = [fit.upper for fit in fits if fit is not None]
    fitted = f"fitted in {max(steps):,.0f} steps" if len(steps) == len(fits) else "not fitted by all"
    reason = (
        f"it speaks of the architecture, not of these weights: networks trained anew on random signs for {found.recipe.examples:,} of the"
        f" training inputs ({fitted}) have this correlation with them at least, with confidence {1 - capacity.delta:.0%}; a"
        " bound that adds this Rademacher complexity to the training error promises no less than it"
    )
    return Indicator(NAME, capacity.lower, capacity.upper, reason, "correlation")
