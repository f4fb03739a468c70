"""The audit's tangent kernel: its numbers, its place in file and page, and what is said where it does not apply."""

from __future__ import annotations

import copy
import json
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
import torch
from torch import nn

import nonvacuous
from nonvacuous.auditing.report import page
from nonvacuous.kernels.alignment import label_alignment
from nonvacuous.kernels.empirical import OutputTrace, empirical_ntk


def data(n: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(n, 6, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0.5).long()


def test_numbers_file_and_page() -> None:
    torch.manual_seed(0)
    x, y = data()
    start = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 2))
    model = copy.deepcopy(start)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    audit = nonvacuous.audit(model, train=(x, y), initial=start)
    t = audit.tangent
    assert model.training and start.training and t is not None and t.absent == {} and t.examples == 48 and t.lazy is not None
    expected = label_alignment(empirical_ntk(model.eval(), x[:48], outputs=OutputTrace()), y[:48])
    assert t.alignment == pytest.approx(expected, rel=1e-4) and t.initial_alignment != t.alignment
    assert len(t.eigenvalues) == 48 and sum(t.energy) == pytest.approx(1, rel=1e-6)
    assert t.lazy.kernel_change > 0 and t.lazy.weight_movement > 0 and t.lazy.linearisation_error is not None
    assert {"tangent_kernel_alignment", "distance_from_lazy_regime"} <= {i.name for i in audit.indicators}
    content = json.loads(json.dumps(audit.to_dict()))
    schema = json.loads(files("nonvacuous.auditing").joinpath("audit.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(content)
    text = page(audit)
    assert "Distance from the lazy regime" in text and text.count("<circle") >= 48


def test_what_does_not_apply_is_said() -> None:
    x, _ = data()
    frozen = nonvacuous.audit(nn.Linear(6, 2).requires_grad_(False), train=(x, torch.zeros(200).long()))
    assert frozen.tangent is not None and "no trainable parameter" in frozen.tangent.absent["tangent kernel"]
    assert "no trainable parameter" in page(frozen)
    one_class = nonvacuous.audit(nn.Linear(6, 2), train=(x, torch.zeros(200).long()))
    assert one_class.tangent is not None and one_class.tangent.alignment is None
    assert set(one_class.tangent.absent) == {"alignment", "lazy regime"} and one_class.tangent.lazy is None
    function = nonvacuous.audit(lambda inputs: np.zeros(len(inputs), dtype=int), train=(x, torch.zeros(200).long()))
    assert function.tangent is None and "Tangent kernel" not in page(function)
