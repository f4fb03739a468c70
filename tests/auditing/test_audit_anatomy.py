"""What the network is made of, and how many examples vacuous certificates lack: numbers, page and file."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from torch import nn

import nonvacuous
from nonvacuous.auditing import wording
from nonvacuous.auditing.report import page
from nonvacuous.auditing.result import Audit

N, D = 300, 6


@pytest.fixture(scope="module")
def audit() -> Audit:
    torch.manual_seed(0)
    x = torch.rand(N, D)
    model = nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    model(x * 3)  # running statistics of their own
    return nonvacuous.audit(model.eval(), train=(x, (x[:, 0] > 0.5).long()), input_range=(0.0, 1.0))


def test_the_rows_are_those_of_the_network(audit: Audit) -> None:
    a = audit.anatomy
    assert a is not None and a.absent == {} and a.norms is not None and a.total is not None and a.pair is not None
    assert (a.total.macs, a.total.flops, a.total.operations) == (64, 128, 8 * 11 + 2 * 15)
    assert [row.normalizes for row in a.norms.rows] == [False, True, False]
    products = [math.fsum(math.log10(r.upper) for r in a.norms.rows if r.normalizes == side) for side in (False, True)]
    assert products == pytest.approx([a.norms.log10_weights, a.norms.log10_normalizers])
    assert a.norms.rows[1].euclidean is not None and a.norms.rows[1].euclidean >= a.norms.rows[1].upper
    assert a.pair.log10_ratio == pytest.approx(2 * a.norms.log10_normalizers)
    gap = a.pair.normalized.log10_lipschitz - a.pair.without.log10_lipschitz
    assert gap == pytest.approx(a.norms.log10_normalizers, abs=1e-6)
    for slopes in a.slopes:
        assert 0 < slopes.lower <= 10**slopes.log10_upper and slopes.log10_gap >= 0
    assert a.slopes[1].log10_upper <= a.slopes[0].log10_upper + 1e-9
    margin = next(c for c in audit.certificates if c.bound == "spectral-margin").evidence
    expected = margin["log_spectral_complexity_nats"] / math.log(10) + math.log10(margin["input_rms"])
    assert a.log10_margin_scale == pytest.approx(expected)


def test_a_need_is_the_least_number_that_its_bound_accepts(audit: Audit) -> None:
    needs = {need.bound: need for need in audit.needs}
    vacuous = [c for c in audit.certificates if c.vacuous]
    assert {c.bound for c in vacuous} == set(needs)
    golowich = next(c for c in vacuous if c.bound == "golowich")
    need, bound, evidence = needs["golowich"], golowich.theorem(), golowich.theorem_evidence()
    assert need.examples is not None and need.times == need.examples / N > 1
    assert bound.holds(evidence._replace(n=need.examples), golowich.theorem_delta(), need.value)
    assert not bound.holds(evidence._replace(n=need.examples - 1), golowich.theorem_delta(), need.value)
    assert needs["partition"].examples is None and "not even" in wording.need(needs["partition"])


def test_page_and_file_have_them(audit: Audit, tmp_path: Path) -> None:
    audit.save(tmp_path / "out")
    text = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    for words in (
        "What the network is made of",
        "product of the normalizers",
        "times what there is",
        'id="scaled-chart-data"',
    ):
        assert words in text
    content = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    schema = json.loads(files("nonvacuous.auditing").joinpath("audit.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(content)
    assert content["anatomy"]["total"]["macs"] == 64 and len(content["needs"]) == len(audit.needs)


def test_what_does_not_apply_is_absent_with_a_sentence() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if bool(x.sum() > 0) else -x

    x = torch.rand(N, D)
    audit = nonvacuous.audit(nn.Sequential(Odd(), nn.Linear(D, 2)), train=(x, (x[:, 0] > 0.5).long()))
    assert audit.anatomy is not None and audit.anatomy.total is not None
    assert (
        set(audit.anatomy.absent) == {"slopes", "pair", "scaled margins"} and "Odd" in audit.anatomy.absent["scaled margins"]
    )
    assert "Odd" in audit.anatomy.caveat and "indicators here" in page(audit)
    assert page(audit).count("Not given: ") == 2


class Listed(nn.Module):
    """A list of its building plan, as EfficientNet keeps one."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = list(range(100))
        self.first, self.norm, self.last = nn.utils.weight_norm(nn.Linear(D, 4)), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x)).relu())


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
def test_tables_are_shown_as_indicators_where_certificates_refuse() -> None:
    x = torch.rand(N, D)
    net = Listed().eval()
    found = nonvacuous.audit(net, train=(x, (x[:, 0] > 0.5).long()))
    a = found.anatomy
    assert a is not None and "plan" in a.caveat and a.norms is not None and len(a.slopes) == 2
    true = float(torch.linalg.matrix_norm(net.first.weight.detach().double(), 2))
    assert [row.kind for row in a.norms.rows] == ["Linear", "BatchNorm1d", "Linear"]
    assert a.norms.rows[0].lower <= true * (1 + 1e-6) and true <= a.norms.rows[0].upper * (1 + 1e-6)
    reasons = {skipped.bound: skipped.reason for skipped in found.skipped}
    assert "plan" in reasons["spectral-margin"] and "plan" in a.absent["scaled margins"]
    text = page(found)
    assert "Norms and Lipschitz constants are indicators here." in text and "plan" in text


def test_noise_stability_is_in_the_report(audit: Audit) -> None:
    a = audit.anatomy
    assert a is not None and a.stability is not None and a.caveat == ""
    assert [row.weights for row in a.stability.rows] == [48, 16] and not a.stability.convolutional
    assert all(0 < row.cushion <= 1 and 0 < row.interlayer_cushion <= 1 and row.exact for row in a.stability.rows)
    assert a.stability.needed_smoothness == 6 and a.stability.log10_examples is not None
    assert "Noise stability" in page(audit) and "constants and logarithms left out" in page(audit)


def test_a_function_has_no_anatomy() -> None:
    function = nonvacuous.audit(
        lambda inputs: np.zeros(len(inputs), dtype=int), train=(torch.rand(N, D), torch.zeros(N).long())
    )
    assert function.anatomy is None and "What the network is made of" not in page(function)
