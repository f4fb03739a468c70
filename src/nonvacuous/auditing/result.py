"""What an audit returns: certificates, indicators, the budget, and the facts they rest on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nonvacuous._version import __version__
from nonvacuous.auditing.anatomy import Anatomy
from nonvacuous.auditing.budget import Budget, Part
from nonvacuous.auditing.needs import Need
from nonvacuous.auditing.tangent import Tangent
from nonvacuous.core.certificate import Certificate, Indicator
from nonvacuous.core.measured import Measured
from nonvacuous.measures.dependence import LEVEL as ALARM

if TYPE_CHECKING:
    from nonvacuous.measures.curvature import CurvatureSummary
    from nonvacuous.studies.trainability import TheoremCheck

AUDIT_SCHEMA = 2


@dataclass(frozen=True)
class Skipped:
    """A bound that was not applied, and why."""

    bound: str
    reason: str


@dataclass(frozen=True)
class SampleFacts:
    """What was seen of one sample in its single pass.

    ``risk``, ``errors`` (None for regression), ``margin_edges`` and ``margin_counts`` (histogram of the margins, negative where
    misclassified; empty where there are none), ``digest`` SHA-256 of the content in order, ``notes`` in plain words.
    """

    name: str
    n: int
    risk: float
    errors: int | None
    digest: str
    classes: int | None = None
    margin_edges: tuple[float, ...] = ()
    margin_counts: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dependence:
    """What is known of dependence in the held-out sample, in its order.

    ``declared`` as a series; ``vouched`` independent whatever the test says; ``assumed`` of its dependence, in symbols, or empty;
    ``p_value`` of the permutation test over ``lags`` lags on the first ``tested`` losses; ``drift_p_value`` of the test whether the
    level moves (None: not tested).
    """

    declared: bool
    vouched: bool
    assumed: str
    p_value: float
    lags: int
    tested: int
    drift_p_value: float | None = None

    @property
    def found(self) -> bool:
        """Whether the test found serial dependence."""
        return self.p_value <= ALARM

    @property
    def drifts(self) -> bool:
        """Whether the test found that the level moves."""
        return self.drift_p_value is not None and self.drift_p_value <= ALARM


@dataclass(frozen=True)
class Facts:
    """What the audit recorded besides numbers with a guarantee."""

    model: str
    parameters: int
    loss: str
    delta: float
    train: SampleFacts
    test: SampleFacts | None
    overlap: int
    """Test examples whose input also occurs in the training sample; each was counted as an error."""
    initial: bool
    """Whether initial weights were given."""
    seed: int
    device: str
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by phase: 'forward' is the model's own, the rest the audit's."""
    passes: float = 0.0
    """Forward-pass equivalents over the training sample."""
    dependence: Dependence | None = None
    """Serial dependence of the held-out sample; None without one."""


@dataclass(frozen=True)
class Audit:
    """Result of :func:`nonvacuous.audit`.

    Attributes: ``certificates`` tightest first, all of which hold at once with probability 1 − δ; ``indicators``; ``budget``;
    ``facts``; ``skipped`` bounds with reasons; ``ledger`` the shares of δ, declared before the data were read; ``needs`` the
    examples that vacuous certificates would need; ``anatomy`` costs, norms and slopes of an ``nn.Module``; ``trainability``
    the theorems on optimization, each with its hypotheses checked.
    """

    certificates: tuple[Certificate, ...]
    indicators: tuple[Indicator, ...]
    budget: Budget
    facts: Facts
    skipped: tuple[Skipped, ...]
    ledger: dict[str, float]
    trainability: tuple[TheoremCheck, ...] = ()
    needs: tuple[Need, ...] = ()
    anatomy: Anatomy | None = None
    tangent: Tangent | None = None
    curvature: CurvatureSummary | None = None

    @property
    def best(self) -> Certificate:
        """The tightest certificate that speaks of the network as given, for the requested loss."""
        own = [c for c in self.certificates if c.predictor == "deterministic" and c.loss == self.facts.loss]
        if not own:
            raise LookupError("this audit issued no certificate for the network as given; see .skipped for the reasons")
        return min(own, key=lambda certificate: certificate.value)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``audit.json``; its schema is documented in ``docs/audit_schema.md``."""
        return {
            "schema": AUDIT_SCHEMA,
            "version": __version__,
            "facts": asdict(self.facts),
            "budget": {
                "parts": [_part(part) for part in self.budget.parts],
                "risk": _part(self.budget.risk),
                "sum": _measured(self.budget.sum),
            },
            "certificates": [json.loads(certificate.to_json()) for certificate in self.certificates],
            "indicators": [asdict(indicator) for indicator in self.indicators],
            "skipped": [asdict(skipped) for skipped in self.skipped],
            "ledger": dict(self.ledger),
            "trainability": [check.to_dict() for check in self.trainability],
            "needs": [{**asdict(need), "times": need.times} for need in self.needs],
            "anatomy": None if self.anatomy is None else asdict(self.anatomy),
            "tangent": None if self.tangent is None else asdict(self.tangent),
            "curvature": None if self.curvature is None else _curvature(self.curvature),
        }

    def save(self, directory: str | Path, force: bool = False) -> Path:
        """Write ``audit.html``, ``audit.json`` and ``certificates/*.json``, all or nothing; returns the directory.

        Raises :class:`~nonvacuous.core.errors.InvalidInput` if it holds files already and ``force`` is not set.
        """
        from nonvacuous.auditing.files import write

        return write(self, Path(directory), force=force)

    def _repr_html_(self) -> str:
        from nonvacuous.auditing.report import fragment

        return fragment(self)


def _curvature(summary: CurvatureSummary) -> dict[str, Any]:
    from nonvacuous.auditing.curvature import document

    return document(summary)


def _measured(number: Measured) -> dict[str, Any]:
    return {"lower": number.lower, "upper": number.upper, "kind": number.kind.name.lower(), "delta": number.delta}


def _part(part: Part) -> dict[str, Any]:
    return {"name": part.name, "symbol": part.symbol, **_measured(part.measured), "source": part.source}
