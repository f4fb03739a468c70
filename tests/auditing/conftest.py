"""An audit to render: numbers of an imagined network, certificates that are true."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from nonvacuous.auditing.budget import budget
from nonvacuous.auditing.result import Audit, Facts, SampleFacts, Skipped
from nonvacuous.core.bound import find
from nonvacuous.core.certificate import Assumption, Certificate, Indicator
from nonvacuous.core.measured import Kind, Measured

DIGESTS = {"weights": "sha256:" + "0f3c" * 16, "train": "sha256:" + "7a11" * 16, "test": "sha256:" + "b52e" * 16}
DELTA = 0.05
NOTES = {
    "bounded_loss": "Every value of zero_one was checked to lie in [0, 1].",
    "data_free_prior": "The prior's means are the initial weights that were given. A person must argue that neither they nor the "
    "architecture were chosen by this data.",
    "fixed_predictor": "3 test examples occur in the training sample; each was counted as an error.",
}


def certificate(
    name: str, predictor: str, delta: float, evidence: Mapping[str, Any], loss: str = "zero_one", **more: Any
) -> Certificate:
    """The best certificate that the bound gives from this evidence."""
    bound = find(name)()
    theorem_delta = math.nextafter(delta - more.get("measurement_delta", 0.0), 0.0)
    value = bound.solve(bound.Evidence(**evidence), theorem_delta)
    return Certificate(
        bound=name,
        parameters=bound.parameters,
        evidence=dict(evidence),
        delta=delta,
        value=value,
        loss=loss,
        predictor=predictor,
        hypotheses=tuple(Assumption(h.name, h.statement, h.checkable, NOTES.get(h.name, "")) for h in bound.hypotheses),
        digests=DIGESTS,
        seed=0,
        **more,
    )


def certificates() -> tuple[Certificate, ...]:
    """Tightest first, as an audit lists them; two are vacuous, and one bound speaks of two predictors."""
    gibbs = {"gibbs_risk": 0.081, "kl_nats": 5321.7, "n": 60_000}
    every = [
        certificate("binomial-tail", "deterministic", 0.02, {"errors": 873, "n": 10_000}),
        certificate("empirical-bernstein", "deterministic", 0.005, {"risk": 0.0873, "loss_variance": 0.0797, "n": 10_000}),
        certificate(
            "seeger",
            "gibbs",
            0.01,
            gibbs,
            measurement={"trials": 500, "posterior_std": [0.149496, 0.116839, 0.184501, 0.0905422]},
            measurement_delta=0.002,
        ),
        certificate("mcallester", "gibbs", 0.005, gibbs),
        certificate("occam", "compressed", 0.005, {"risk": 0.113, "code_bits": 14_208, "n": 60_000}),
        certificate("occam", "deterministic", 0.0025, {"risk": 0.062, "code_bits": 3_800_000, "n": 60_000}),
        certificate("growth-function", "deterministic", 0.0025, {"risk": 0.062, "log_growth_nats": 1e7, "n": 60_000}),
    ]
    return tuple(sorted(every, key=lambda c: c.value))


def histogram(n: int, centre: float, width: float) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Bins of a bell-shaped sample of margins."""
    edges = tuple(-8.25 + 0.75 * k for k in range(45))
    weights = [math.exp(-(((low + 0.375 - centre) / width) ** 2) / 2) for low in edges[:-1]]
    return edges, tuple(round(n * weight / sum(weights)) for weight in weights)


def facts(**changes: Any) -> Facts:
    """What the audit recorded."""
    edges, train_counts = histogram(60_000, 7.4, 4.6)
    _, test_counts = histogram(10_000, 6.4, 4.7)
    whole = Facts(
        model="mlp:784-600-600-10",
        parameters=837_610,
        loss="zero_one",
        delta=DELTA,
        train=SampleFacts("fashion-mnist, train", 60_000, 0.062, 3_720, DIGESTS["train"], 10, edges, train_counts),
        test=SampleFacts("fashion-mnist, test", 10_000, 0.0873, 873, DIGESTS["test"], 10, edges, test_counts),
        overlap=0,
        initial=True,
        seed=0,
        device="cpu",
        seconds={"forward": 4.218, "certificates": 0.213},
        passes=2.167,
    )
    return replace(whole, **changes)


def audit_of(every: tuple[Certificate, ...], recorded: Facts) -> Audit:
    """An audit of these certificates and facts, with its budget."""
    best = min((c.value for c in every if c.predictor == "deterministic"), default=1.0)
    risk = Measured(0.0801, 0.0949, Kind.CONFIDENCE, 0.04) if recorded.test else Measured(0.0, 1.0, Kind.EXACT)
    return Audit(
        certificates=every,
        indicators=(
            Indicator("flatness", 0.0121, 0.0188, "Sharpness has no proof behind it.", "loss"),
            Indicator("spectral_complexity", 3.2e9, 3.2e9, "Its constant is not explicit."),
        )
        if every
        else (),
        budget=budget(Measured.exact(recorded.train.risk), 0.0008, risk, Measured(0.0, best, Kind.CONFIDENCE, 0.02)),
        facts=recorded,
        skipped=(Skipped("vc", "the network has 10 classes; the growth function is used instead"),),
        ledger={f"{c.bound}-{place}": c.delta for place, c in enumerate(every)},
    )


@pytest.fixture(scope="session")
def example_audit() -> Audit:
    """A classifier with a held-out sample: seven certificates about three predictors."""
    return audit_of(certificates(), facts())


@pytest.fixture(scope="session")
def changed_audit() -> Callable[..., Audit]:
    """``changed_audit(certificates, **facts)``: the example with other certificates or facts."""

    def build(every: tuple[Certificate, ...] | None = None, **changes: Any) -> Audit:
        return audit_of(certificates() if every is None else every, facts(**changes))

    return build


HOSTILE = "<script>alert('x')</script></script><img src=x onerror=alert(1)>\"'{{7*7}}"
