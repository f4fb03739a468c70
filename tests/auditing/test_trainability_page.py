"""The audit's trainability section: what it says of a real audit, and that it never calls an unspecified constant met."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import nonvacuous
from nonvacuous.auditing.report import page
from nonvacuous.auditing.result import Audit
from nonvacuous.optimization.hypotheses import Standing
from nonvacuous.runtime.models import initialise, mlp
from nonvacuous.studies.trainability import theorems


@pytest.fixture(scope="module")
def audited() -> Audit:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator)
    y = (x[:, 0] > 0).long()
    net = initialise(lambda: mlp(4, 8, 2), seed=0)
    start = copy.deepcopy(net)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.5)
    return nonvacuous.audit(net, train=(x, y), initial=start, training_losses=[0.7, 0.5, 0.6, 0.4])


def test_an_audit_checks_every_theorem(audited: Audit) -> None:
    assert len(audited.trainability) == 8
    assert all(check.standing is not Standing.MET for check in audited.trainability)
    text = page(audited)
    assert 'id="trainability"' in text and 'href="#trainability"' in text
    assert "Kawaguchi 2016" in text and "n = 60" in text
    assert "The weights moved by 0.5 of their initial norm" in str([c.comparison for c in audited.trainability])
    assert "from 0.7 to 0.4 in 4 epochs" in text
    assert [c["standing"] for c in audited.to_dict()["trainability"]] == [c.standing.value for c in audited.trainability]


def test_a_theorem_with_an_unspecified_constant_may_apply_at_most(audited: Audit) -> None:
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    wide = nn.Sequential(nn.Linear(4, 512, bias=False), nn.Linear(512, 4, bias=False))
    checks = theorems(wide, x, x, squared=True)
    du_hu = next(check for check in checks if "Du and Hu" in check.theorem)
    text = page(replace(audited, trainability=(du_hu,)))
    assert "may apply" in text and "the theorem does not state C" in text
    assert "Of 1 theorems, 0 apply to this network, 1 may" in text


def test_no_network_no_section(audited: Audit) -> None:
    assert 'id="trainability"' not in page(replace(audited, trainability=()))
    assert (
        nonvacuous.audit(lambda x: x[:, 0] > 0, train=(torch.zeros(9, 2), torch.zeros(9, dtype=torch.long))).trainability == ()
    )
