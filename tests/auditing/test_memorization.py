"""The effective capacity of an architecture in its audit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from torch import nn

import nonvacuous
from nonvacuous.auditing.memorization import NAME, with_capacity
from nonvacuous.cli import main
from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.models import mlp
from nonvacuous.studies import randomization as study
from nonvacuous.studies.randomization import Recipe

QUICK = Recipe(examples=60, seeds=2, most_steps=300, batch_size=30, learning_rate=1e-2)


def points(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(int)


def wide() -> nn.Module:
    return mlp(4, 128, 2)


def test_a_wide_network_has_more_capacity_than_a_linear_one_whatever_its_weights() -> None:
    train = points(200)
    lower = {}
    for name, factory in {"wide": wide, "linear": lambda: mlp(4, 2)}.items():
        audited = nonvacuous.audit(factory(), train=train, test=points(80, 1), delta=0.1)
        found = with_capacity(audited, factory, train, recipe=QUICK)
        assert found.certificates == audited.certificates and found.ledger == audited.ledger
        (capacity,) = (i for i in found.indicators if i.name == NAME)
        assert capacity.upper == 1 and "random signs" in capacity.reason and not capacity.name.startswith("certif")
        lower[name] = capacity.lower
    assert lower["wide"] > 0.5 > lower["linear"]


def test_another_architecture_or_sample_is_refused() -> None:
    audited = nonvacuous.audit(wide(), train=points(100), delta=0.1)
    with pytest.raises(InvalidInput, match=r"10 parameters, the audited one 898"):
        with_capacity(audited, lambda: mlp(4, 2), points(100), recipe=QUICK)
    with pytest.raises(InvalidInput, match="another training sample"):
        with_capacity(audited, wide, points(100, 5), recipe=QUICK)


def test_where_it_does_not_apply_the_audit_says_so_and_ctrl_c_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    train = points(100)
    audited = nonvacuous.audit(wide(), train=train, delta=0.1)
    found = with_capacity(audited, wide, train, recipe=Recipe(examples=500))
    assert found.indicators == audited.indicators and any(s.bound == NAME and "fewer" in s.reason for s in found.skipped)

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "trained_stack", stopped)
    with pytest.raises(KeyboardInterrupt):
        with_capacity(audited, wide, train, recipe=QUICK)


def test_the_command_turns_it_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nonvacuous.auditing.memorization.MOST_STEPS", 20)
    weights = tmp_path / "w.safetensors"
    common = ["--model", "mlp:30-4-2", "--train", "breast-cancer"]
    trained = CliRunner().invoke(main, ["train", *common, "--epochs", "1", "--out", str(weights)])
    assert trained.exit_code == 0, trained.output
    options = ["audit", *common, "--weights", str(weights), "--random-labels", "--out", str(tmp_path / "a")]
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 0, result.output
    assert "effective_capacity" in result.output
    document = json.loads((tmp_path / "a" / "audit.json").read_text())
    assert sum(i["name"] == NAME for i in document["indicators"]) == 1
    assert "effective capacity" in (tmp_path / "a" / "audit.html").read_text()
