"""The subject of an audit, and the registry of measures: functions from a subject to one quantity of the glossary."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any, TypeVar

import numpy as np
from torch import nn

from nonvacuous.bounds.heldout import rounded_up
from nonvacuous.core import bound
from nonvacuous.core.errors import InvalidInput, NonvacuousError, UnsupportedModule
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.core.quantities import QUANTITIES
from nonvacuous.measures import capacity, code, posterior
from nonvacuous.measures.inputs import InputSummary
from nonvacuous.measures.losses import Loss
from nonvacuous.measures.predictor import Predictor
from nonvacuous.measures.risks import Observation
from nonvacuous.runtime.data import Sample

T = TypeVar("T")


@dataclass(frozen=True)
class Trials:
    """Monte-Carlo trials of the Gibbs classifier on the training sample."""

    posterior: posterior.GaussianPosterior
    means: tuple[float, ...]
    batch_size: int
    seed: int
    forward_seconds: float = 0.0

    @property
    def examples(self) -> int:
        """Evaluations of a drawn network, the search for the posterior's noise included."""
        return len(self.means) * self.batch_size + posterior.SEARCH_EXAMPLES


@dataclass(frozen=True)
class Subject:
    """A model, its loss, its samples, and what one pass over each has seen. Measures read it and change nothing.

    ``initial`` has the weights training started from; ``trials`` is None unless a Gibbs classifier was asked for; ``margin`` is the γ
    chosen for the bound at hand; ``input_range`` what the user declared of every number of an input, None where the sample says it.
    """

    predictor: Predictor
    loss: Loss
    train_sample: Sample
    test_sample: Sample | None
    train: Observation
    test: Observation | None = None
    initial: nn.Module | None = None
    trials: Trials | None = None
    margin: float | None = None
    input_range: tuple[float, float] | None = None
    _kept: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, what: Hashable, make: Callable[[], T]) -> T:
        """``make()``, called once for this subject and its copies (``replace``); an error is kept too. ``what`` names all it reads."""
        if what not in self._kept:
            try:
                self._kept[what] = make()
            except NonvacuousError as error:
                self._kept[what] = error
        found = self._kept[what]
        if isinstance(found, NonvacuousError):
            raise found
        return found

    @property
    def margins(self) -> np.ndarray:
        """Margins of the training examples [n]; raises where the model gives labels or numbers."""
        if self.train.margins is None:
            raise InvalidInput("the model gives no scores, so its decisions have no margins: wrap it so that it gives scores")
        return self.train.margins

    @property
    def sizes(self) -> InputSummary:
        """Sizes of the training inputs; raises where they are no plain array of numbers."""
        if self.train.inputs is None:
            raise InvalidInput("the inputs are no plain array of floating-point numbers: they have no norm")
        return self.train.inputs

    @property
    def module(self) -> nn.Module:
        """The network; raises for a predictor that is none."""
        if self.predictor.module is None:
            raise UnsupportedModule("the model is a function or an estimator, not an nn.Module: its weights cannot be read")
        return self.predictor.module

    def observed(self, sample: bound.Sample) -> Observation:
        """What was seen of the held-out or the training sample."""
        if sample is bound.Sample.TRAINING:
            return self.train
        if self.test is None:
            raise InvalidInput("there is no held-out sample")
        return self.test

    @cached_property
    def capacity_example(self) -> Any:
        """Inputs of one example, for tracing."""
        return next(iter(self.train_sample.batches(1))).inputs

    def drawn(self) -> Trials:
        """The trials; raises if none were made."""
        if self.trials is None:
            raise InvalidInput("no draws from the posterior were made")
        return self.trials


Number = Measured | float | tuple[float, ...]
Measure = Callable[[Subject, float], Number]
Key = tuple[str, bound.Sample, bound.Predictor]
MEASURES: dict[Key, Measure] = {}
SPENDS: set[Key] = set()


def measure(
    name: str, sample: bound.Sample, predictor: bound.Predictor = bound.Predictor.DETERMINISTIC, *, spends: bool = False
) -> Callable[[Measure], Measure]:
    """Register ``function(subject, delta) → number`` as the way to measure a glossary quantity.

    ``spends``: the number holds only with probability 1 − delta, which is paid from the bound's share.
    """
    if name not in QUANTITIES:
        raise InvalidInput(f"'{name}' is not in the glossary; enter it with nonvacuous.core.quantities.quantity(…)")

    def register(function: Measure) -> Measure:
        MEASURES[name, sample, predictor] = function
        if spends:
            SPENDS.add((name, sample, predictor))
        return function

    return register


def measures() -> dict[Key, Measure]:
    """Every measure, third parties' included (entry-point group ``nonvacuous.measures``)."""
    global _discovered
    if not _discovered:
        _discovered = True
        from nonvacuous.measures import norm_evidence, partition_evidence  # noqa: F401 - they register themselves

        for point in entry_points(group="nonvacuous.measures"):
            try:
                point.load()
            except Exception as error:  # a broken plug-in must not take the others down
                warnings.warn(f"the measures of plug-in {point.value!r} could not be loaded: {error}", stacklevel=2)
    return MEASURES


_discovered = False


HELD_OUT, TRAINING = bound.Sample.HELD_OUT, bound.Sample.TRAINING
GIBBS = bound.Predictor.GIBBS


def _seen(name: str, read: Callable[[Observation], Number]) -> None:
    """Register a quantity that both samples' observations give in the same way."""
    for sample in (HELD_OUT, TRAINING):
        measure(name, sample)(lambda subject, _delta, sample=sample: read(subject.observed(sample)))  # type: ignore[misc]


_seen("n", lambda seen: seen.n)
_seen("errors", lambda seen: seen.errors)
_seen("risk", lambda seen: seen.risk)
_seen("loss_variance", lambda seen: seen.loss_variance)
_seen("losses", lambda seen: rounded_up(np.asarray(seen.losses).tolist()))
measure("n", TRAINING, GIBBS)(lambda subject, _: subject.train.n)


@measure("code_bits", TRAINING)
def code_bits(subject: Subject, _: float) -> Number:
    """Bits of all weights and buffers in a prefix-free code, given the initial ones where there are any."""
    return code.code_bits(subject.module, subject.initial)


@measure("vc_dimension", TRAINING)
def vc_dimension(subject: Subject, _: float) -> Number:
    """VC dimension of the architecture's class of 0–1 losses."""
    return capacity.vc_dimension(subject.predictor, subject.capacity_example)


@measure("log_growth_nats", TRAINING)
def log_growth_nats(subject: Subject, _: float) -> Number:
    """Growth function of the architecture's class of 0–1 losses at 2n points."""
    return capacity.log_growth_nats(subject.predictor, subject.capacity_example, subject.train.n)


@measure("kl_nats", TRAINING, GIBBS)
def kl_nats(subject: Subject, _: float) -> Number:
    """Divergence of the Gaussian posterior from its prior."""
    return subject.drawn().posterior.kl_nats


@measure("gibbs_risk", TRAINING, GIBBS, spends=True)
def gibbs_risk(subject: Subject, delta: float) -> Number:
    """Empirical Gibbs risk, by independent trials."""
    return posterior.gibbs_risk(subject.drawn().means, delta)


def exact(number: Number) -> Measured:
    """A number as a measured one."""
    return number if isinstance(number, Measured) else Measured(float(number), float(number), Kind.EXACT)  # type: ignore[arg-type]
