"""The study of the margin-distribution loss: pairs, choices and intervals, on a small set of its own; and what is stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.runtime.samples import ArraySample
from nonvacuous.runtime.sources import load
from nonvacuous.studies import margin_distribution as study
from nonvacuous.studies.margin_distribution import CROSS_ENTROPY, MARGIN_DISTRIBUTION, Row, Setting, Task

STORED = Path(__file__).resolve().parents[2] / "results" / "margin_distribution.csv"
SMALL = Task("breast-cancer", examples=40, spare=60, steps=40, width=8)
TWO = (Setting(0.0, 1e-2), Setting(0.0, 1e-5), Setting(1.0, 1e-2), Setting(1.0, 1e-5))


@pytest.fixture(scope="module")
def cancer() -> tuple[ArraySample, ArraySample]:
    return load("breast-cancer", "train"), load("breast-cancer", "test")  # type: ignore[return-value]


def test_both_losses_get_the_same_examples_and_initial_weights(cancer) -> None:
    idle = replace(SMALL, steps=0)
    one, two = (study.trained(idle, cancer[0], setting, [3, 4]) for setting in (TWO[0], TWO[2]))
    for a, b in zip(one[0], two[0], strict=True):
        assert a.seed == b.seed and torch.equal(a.rows, b.rows) and len(a.rows) == 40 and a.rows.min() >= SMALL.spare
    assert not torch.equal(one[0][0].rows, one[0][1].rows)
    assert all(torch.equal(p, two[1].parameters[name]) for name, p in one[1].parameters.items())


def test_the_setting_that_learns_is_chosen(cancer) -> None:
    assert study.chosen(SMALL, cancer[0], TWO) == [TWO[0], TWO[2]]


def test_rows_hold_what_the_networks_do(cancer) -> None:
    rows = study.measured(SMALL, *cancer, TWO[2], range(3))
    members, stack = study.trained(SMALL, cancer[0], TWO[2], range(3))
    for place, (row, member) in enumerate(zip(rows, members, strict=True)):
        net = stack.member(place)
        with torch.no_grad():
            outputs = net(cancer[0].inputs[member.rows])
        labels = cancer[0].targets[member.rows]
        margins = [float(o[y] - o[1 - y]) for o, y in zip(outputs, labels, strict=True)]
        assert row.train_error == pytest.approx(np.mean([m <= 0 for m in margins]))
        assert row.train_ratio == pytest.approx(np.std(margins) / np.mean(margins), rel=1e-4)
        with torch.no_grad():
            wrong = net(cancer[1].inputs).argmax(1) != cancer[1].targets
        assert row.test_error == pytest.approx(float(wrong.double().mean()))
        assert row.loss == MARGIN_DISTRIBUTION and row.gap == row.test_error - row.train_error


def _rows(changes: list[float]) -> list[Row]:
    before = [Row("d", CROSS_ENTROPY, 0, 1e-2, k, 1.0, 1.0, 0.0, 0.1 + 0.01 * k) for k in range(len(changes))]
    after = [
        replace(row, loss=MARGIN_DISTRIBUTION, test_error=row.test_error + change, train_ratio=0.5)
        for row, change in zip(before, changes, strict=True)
    ]
    return before + after[::-1]  # in another order: pairs go by seed


def test_effects_are_paired_by_seed() -> None:
    (effect,) = study.effects(_rows([-0.02, -0.021, -0.019]))
    assert effect.test_error.upper < -0.017 and study.verdict(effect.test_error) == "confirmed"
    assert (effect.train_ratio.lower, effect.train_ratio.upper) == (-0.5, -0.5)
    assert study.verdict(study.effects(_rows([-0.02, 0.02, 0.01]))[0].test_error) == "not confirmed"
    assert study.verdict(Measured.indicator(0.1, 0.2)) == "refuted"


def test_from_the_command_line(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(study, "TASKS", (SMALL,))
    monkeypatch.setattr(study, "chosen", lambda *a, **k: [TWO[0], TWO[2]])
    result = CliRunner().invoke(study.main, ["--out", str(tmp_path / "rows.csv"), "--seeds", "3"])
    assert result.exit_code == 0, result.output
    rows = study.read(tmp_path / "rows.csv")
    assert len(rows) == 6 and {row.seed for row in rows} == {0, 1, 2} and "test_error" in result.output
    study.effects(rows)


def test_what_is_stored() -> None:
    """Both losses on three sets, 16 seeds each; relative to their mean the margins of test examples spread less on all of them."""
    rows = study.read(STORED)
    found = study.effects(rows)
    assert [effect.data for effect in found] == [task.data for task in study.TASKS] and len(rows) == 2 * 3 * 16
    assert all(study.verdict(effect.test_ratio) == "confirmed" for effect in found)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (replace(SMALL, spare=0), "at least 1"),
        (replace(SMALL, examples=1), "at least 1"),
        (replace(SMALL, examples=4000), "no more"),
    ],
)
def test_bad_tasks(cancer, task, says) -> None:
    with pytest.raises(InvalidInput, match=says):
        study.trained(task, cancer[0], TWO[0], [0])


def test_seeds_without_a_partner() -> None:
    with pytest.raises(InvalidInput, match="both losses"):
        study.effects(_rows([0.1, 0.2])[:-1])
