"""The audit's page on trainability: which optimization theorems the network meets, what they promise, how its curve compares."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nonvacuous.measures.subject import Subject
from nonvacuous.studies.trainability import TheoremCheck, theorems

EXAMPLES = 64


def checks(subject: Subject, losses: Sequence[float] = ()) -> tuple[TheoremCheck, ...]:
    """Every theorem against the audited network, read off its modules and its first training examples; nothing is trained.

    losses: mean training loss after each epoch, where it was recorded. Empty for a model that is no network, or whose inputs are no
    plain tensor: the theorems say nothing of it.
    """
    module = subject.predictor.module
    if module is None:
        return ()
    inputs, targets = next(iter(subject.train_sample.batches(min(EXAMPLES, subject.train.n))))
    if not isinstance(inputs, Tensor):
        return ()
    device = subject.predictor.device
    wrong = subject.train.wrong
    return theorems(
        module,
        inputs.to(device),
        targets.to(device),
        n=subject.train.n,
        initial=subject.initial,
        losses=losses,
        training_error=None if wrong is None else float(wrong.mean()),
    )
