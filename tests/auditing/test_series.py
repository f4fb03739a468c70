"""Audits of series: what is certified, what is demoted and says so, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import nextafter
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from torch import nn

import nonvacuous
from nonvacuous.auditing import assurance, report
from nonvacuous.auditing.files import write
from nonvacuous.auditing.result import Audit
from nonvacuous.auditing.series import Series
from nonvacuous.bounds.mixing import Mixing
from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import CertificateRefused, InvalidInput
from nonvacuous.runtime.series import windows

FORGETS = Mixing(1.0, 0.5)


def autoregression(n: int, memory: float = 0.5, seed: int = 0) -> np.ndarray:
    noise, values = np.random.default_rng(seed).normal(size=n), np.zeros(n)
    for t in range(1, n):
        values[t] = memory * values[t - 1] + noise[t]
    return values


def persistence(inputs: torch.Tensor) -> torch.Tensor:
    """Forecasts that nothing changes."""
    return inputs[:, -1]


@pytest.fixture(scope="module")
def split() -> object:
    return windows(autoregression(4000), 3, gap=40)


@pytest.fixture(scope="module")
def audited(split: object) -> Audit:
    return nonvacuous.audit(
        persistence, train=split.kept, test=split.held_out, loss="clipped_absolute:4", series=Series(FORGETS)
    )


def test_only_blocks_certify_a_series(audited: Audit) -> None:
    assert {c.bound for c in audited.certificates} == {"independent-blocks", "block-chernoff"}
    best = audited.best
    assert audited.facts.test.risk < best.value < 0.5
    assert sum(audited.ledger.values()) <= 0.05
    for c in audited.certificates:
        assert (c.parameters["span"], c.parameters["gap"], c.parameters["rate"]) == (4, 40, 0.5)
        assert c.hypotheses[0].name == "mixing" and not c.hypotheses[0].checked
        assert c.hypotheses[0].statement.endswith("Stated: β(k) ≤ 1·0.5^k.")
        assert {"mixing", "stationary", "fixed_predictor", "bounded_loss"} == {h.name for h in c.hypotheses}
    risk = audited.budget.risk.measured
    assert 0 < risk.lower < audited.facts.test.risk < risk.upper == best.value


def test_certificates_for_independent_examples_become_indicators_that_say_why(audited: Audit) -> None:
    shown = {i.name: i for i in audited.indicators if i.name.endswith("_if_independent")}
    assert {"betting_if_independent", "chernoff_if_independent"} <= set(shown)
    assert all("declared a series" in indicator.reason for indicator in shown.values())
    assert shown["betting_if_independent"].upper < audited.best.value  # what pretending would have given
    reasons = {s.bound: s.reason for s in audited.skipped}
    assert "independent examples" in reasons["betting"]
    first = report.warnings(audited)[0]
    assert "not independent draws" in first and "β(k) ≤ 1·0.5^k" in first
    assert "β(k) ≤ 1·0.5^k" in assurance.sheets(audited)[0].limits[0]
    assert "rests on" in report.headline(audited).basis and "fades as fast" in report.headline(audited).basis
    assert "declared a series" in report.page(audited)


def test_its_files_verify_at_both_levels(audited: Audit, split: object, tmp_path: Path) -> None:
    write(audited, tmp_path / "out")
    assert nonvacuous.verify(tmp_path / "out").summary == "2 consistent (evidence unchecked), 0 refused"
    again = nonvacuous.verify(tmp_path / "out", model=persistence, test=split.held_out)
    assert again.summary == "2 verified, 0 refused"
    other = windows(autoregression(4000, seed=1), 3, gap=40).held_out
    assert nonvacuous.verify(tmp_path / "out", model=persistence, test=other).refused == 2
    for file in (tmp_path / "out" / "certificates").glob("*.json"):
        c = Certificate.load(file)
        with pytest.raises(CertificateRefused, match="arithmetic"):  # slower forgetting than was stated
            Certificate(**{**fields_of(c), "parameters": {**c.parameters, "rate": 0.99}})
    schema = json.loads(Path(report.__file__).with_name("audit.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8")), schema)


def fields_of(certificate: Certificate) -> dict:
    return {name: getattr(certificate, name) for name in certificate.__dataclass_fields__}


def test_windows_say_themselves_that_they_are_a_series(split: object) -> None:
    audit = nonvacuous.audit(persistence, train=split.kept, test=split.held_out, loss="clipped_absolute:4")
    assert audit.certificates == () and audit.facts.dependence.declared
    assert "nothing was assumed of how it forgets" in report.warnings(audit)[0]
    assert (audit.budget.risk.measured.lower, audit.budget.risk.measured.upper) == (0.0, 1.0)
    assert any(i.name == "betting_if_independent" for i in audit.indicators)
    with pytest.raises(InvalidInput, match="windows of one series, which overlap"):
        nonvacuous.audit(persistence, train=split.kept, test=split.held_out, loss="clipped_absolute:4", series=False)


def test_a_series_without_a_held_out_stretch_gets_no_certificate_either(split: object) -> None:
    audit = nonvacuous.audit(persistence, train=split.kept, loss="clipped_absolute:4", series=Series(FORGETS))
    assert audit.certificates == () and audit.facts.dependence.declared
    assert "not independent draws" in " ".join(report.warnings(audit))


def test_classes_get_the_binomial_on_spaced_examples(split: object) -> None:
    whole = windows(autoregression(4000), 3, gap=40, regression=False)
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[0.0, 0, 0.5], [0.0, 0, -0.5]]))  # back to the mean
        network.bias.zero_()
    audit = nonvacuous.audit(network, train=whole.kept, test=whole.held_out, series=Series(FORGETS, block=10))
    assert {c.bound for c in audit.certificates} == {"independent-blocks", "spaced-binomial"}
    blocks = {c.bound: c.parameters["block"] for c in audit.certificates}
    assert blocks == {"independent-blocks": 10, "spaced-binomial": 1}
    assert audit.facts.test.risk < audit.best.value < 1
    assert any(i.name == "seeger_if_independent" and i.predictor == "gibbs" for i in audit.indicators) or not audit.ledger.get(
        "seeger"
    )


def dependent(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs that are new each time, and labels that a constant predictor misses in long runs."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, 3)).astype(np.float32), np.repeat(generator.random(n // 20) * 0.8, 20)


def zero(inputs: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(inputs))


def test_dependence_that_is_found_demotes_too_and_a_person_may_vouch() -> None:
    data = {"train": dependent(400, 0), "test": dependent(400, 1), "loss": "clipped_absolute:1"}
    found = nonvacuous.audit(zero, **data)
    assert found.facts.dependence.found and not found.facts.dependence.declared
    assert not any(c.bound == "betting" for c in found.certificates)
    demoted = next(i for i in found.indicators if i.name == "betting_if_independent")
    assert "depend on each other" in demoted.reason
    assert "vouch for independence" in report.warnings(found)[0]
    assert found.budget.risk.measured.lower == 0 and found.budget.risk.measured.upper == 1
    vouched = nonvacuous.audit(zero, **data, series=False)
    assert any(c.bound == "betting" for c in vouched.certificates)
    assert "vouched for" in report.warnings(vouched)[0]
    assert all("found dependence" in h.note for c in vouched.certificates for h in c.hypotheses if h.name == "iid")
    order = np.random.default_rng(2).permutation(400)
    mixed = nonvacuous.audit(zero, **data | {"test": tuple(part[order] for part in data["test"])})
    assert any(c.bound == "betting" for c in mixed.certificates) and report.warnings(mixed) == []


def test_a_drift_is_flagged() -> None:
    moving = windows(autoregression(1500) + np.linspace(0, 6, 1500), 3, gap=40)
    audit = nonvacuous.audit(
        persistence, train=moving.kept, test=moving.held_out, loss="clipped_absolute:4", series=Series(FORGETS)
    )
    assert audit.facts.dependence.drifts
    assert any("does not look stationary" in sentence for sentence in report.warnings(audit))


@pytest.fixture
def short() -> Iterator[dict]:
    few = windows(autoregression(200), 3, gap=40)
    yield {"train": few.kept, "test": few.held_out, "loss": "clipped_absolute:4"}


@pytest.mark.parametrize(
    ("series", "says"),
    [
        (Series(Mixing(1.0, 0.97)), "Leave out"),  # the gap is too short for this slow a series
        (Series(Mixing(memory=60)), "Leave out 60 observations"),
        (Series(Mixing(memory=30), block=20), "57 held-out examples are too few for two blocks of 20 .* 73 examples hold two"),
        (Series(FORGETS, block=50), "too few for two blocks of 50"),
        (Series(FORGETS, spacing=2), "A spacing of"),
    ],
)
def test_what_cannot_be_certified_says_what_would_do(short: dict, series: Series, says: str) -> None:
    audit = nonvacuous.audit(persistence, **short, series=series)
    assert audit.certificates == () or all(c.vacuous for c in audit.certificates)
    reasons = [s.reason for s in audit.skipped if s.bound == "independent-blocks"]
    assert len(reasons) == 1
    assert re.search(says, reasons[0])


@pytest.mark.parametrize(
    ("series", "says"),
    [
        (Series("geometric:1,0.5"), "Mixing.parse reads a text"),
        (Series(FORGETS, span=2), "is not true of them"),
        (Series(FORGETS, gap=41), "is not true of them"),
        (Series(FORGETS, block=-1), "block is a whole number"),
        ("geometric:1,0.5", "series is True, False or"),
    ],
)
def test_declarations_that_are_none(short: dict, series: object, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        nonvacuous.audit(persistence, **short, series=series)


def test_the_certificate_is_the_smallest_that_holds(audited: Audit) -> None:
    for c in audited.certificates:
        bound = c.theorem()
        assert not bound.holds(c.theorem_evidence(), c.delta, nextafter(c.value, 0.0))
