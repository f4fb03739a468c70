"""The practical levers: what each changes, and intervals that are those of paired differences."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from scipy.stats import t as student
from torch import nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.values import Batch
from nonvacuous.studies import practical_levers as study
from nonvacuous.studies.batch_size import draw
from nonvacuous.studies.practical_levers import BASELINE, Lever, Row, effects, levers, main, read, run


@pytest.fixture(scope="module")
def digits() -> tuple[Batch, Batch]:
    return draw(load("digits"), None, 0), draw(load("digits", "test"), None, 0)


def chosen(*names: str) -> list[Lever]:
    return [lever for lever in levers(64, 10, 32) if lever.name in names]


def test_every_lever_is_one_change_of_the_baseline() -> None:
    first, *others = levers(64, 10)
    assert first.name == BASELINE and len({lever.name for lever in others}) == 11
    for lever in others:
        changed = [name for name, value in vars(lever).items() if name != "name" and value != vars(first)[name]]
        assert len(changed) == 1, lever.name
        assert lever.factory()(torch.rand(5, 1, 8, 8)).shape == (5, 10)


def test_all_levers_train(digits: tuple[Batch, Batch]) -> None:
    rows = run(*digits, levers(64, 10, 16), examples=20, steps=4, seeds=3)
    assert len(rows) == 36 and all(0 <= row.test_error <= 1 and row.test_loss > 0 for row in rows)
    assert {e.lever for e in effects(rows)} == {lever.name for lever in levers(64, 10)[1:]}


def test_effects_that_must_be_there(digits: tuple[Batch, Batch]) -> None:
    some = chosen(BASELINE, "weight decay", "early stopping", "step size / 4")
    rows = run(*digits, some, examples=60, steps=300, seeds=6)
    found = {effect.lever: effect for effect in effects(rows, "loss")}
    assert found["weight decay"].train.lower > 0  # a fit that is kept from growing
    assert found["early stopping"].train.midpoint > 0  # stopped, and a fifth not trained on
    assert found["step size / 4"].train.lower > 0.2  # not yet fitted
    base = [row for row in rows if row.lever == BASELINE]
    assert all(row.train_error == 0 and 0 < row.test_error < 0.5 for row in base)


def test_early_stopping_trains_on_no_held_out_example(digits: tuple[Batch, Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    real = study.trained_stack

    def spied(factory, inputs, targets, members, **named):
        seen.extend(member.rows for member in members)
        return real(factory, inputs, targets, members, **named)

    monkeypatch.setattr(study, "trained_stack", spied)
    run(*digits, chosen(BASELINE, "early stopping", "augmentation"), examples=50, steps=1, seeds=1)
    everything, stopped, shifted = (set(rows.tolist()) for rows in seen)
    assert len(everything) == 50 and len(stopped) == 40 and stopped < everything
    assert len(shifted) == 9 * 50 and {i % len(digits[0].targets) for i in shifted} == everything


def test_shifts_move_by_at_most_one_pixel() -> None:
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1
    copies = study._shifted(x, 1)
    places = [tuple(int(i) for i in copy[0, 0].nonzero()[0]) for copy in copies]
    assert torch.equal(copies[0], x) and sorted(places) == [(a, b) for a in (1, 2, 3) for b in (1, 2, 3)]


def test_a_snapshot_ensemble_restarts_its_step_size() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = study._Restarts([weight], lr=0.1, cycle=4, weight_decay=0.0)
    sizes = []
    for _ in range(8):
        weight.grad = torch.ones(1)
        optimizer.step()
        sizes.append(optimizer.param_groups[0]["lr"])
    assert sizes[:4] == sizes[4:] == sorted(sizes[:4], reverse=True) and sizes[0] == 0.1
    assert sizes[2] == pytest.approx(0.05)


def test_intervals_are_students_of_the_paired_differences() -> None:
    gaps = [0.01, 0.03, 0.02, 0.05]
    rows = [Row(BASELINE, i, 0.0, 0.1 * i, 0.0, 1.0) for i in range(4)]
    rows += [Row("other", i, 0.01, 0.1 * i + gap, 0.0, 1.0) for i, gap in enumerate(gaps)]
    (found,) = effects(rows)
    x = torch.tensor(gaps).double()
    reach = float(student.ppf(1 - 0.05 / 6, 3) * x.std() / 2)
    assert found.test.upper == pytest.approx(0.0275 + reach) and found.test.lower == pytest.approx(0.0275 - reach)
    assert found.train.lower == pytest.approx(0.01) and found.gap.midpoint == pytest.approx(0.0175)
    with pytest.raises(InvalidInput, match="three"):
        effects(rows[2:])
    with pytest.raises(InvalidInput, match="error or loss"):
        effects(rows, "accuracy")


def test_ctrl_c_keeps_the_levers_that_are_done(digits: tuple[Batch, Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = study.trained_stack

    def stops(*given, **named):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(study, "trained_stack", stops)
    rows = run(*digits, chosen(BASELINE, "dropout"), examples=20, steps=2, seeds=2)
    assert [row.lever for row in rows] == [BASELINE] * 2


def test_what_cannot_be_studied(digits: tuple[Batch, Batch]) -> None:
    base = chosen(BASELINE)
    for words in ({"examples": 5}, {"examples": 10**6}, {"steps": 0}, {"seeds": 0}):
        with pytest.raises(InvalidInput, match="give 10 to"):
            run(*digits, base, **words)
    with pytest.raises(InvalidInput, match="0 levers"):
        run(*digits, [])
    flat = Batch(torch.rand(30, 4), torch.arange(30) % 2)
    with pytest.raises(InvalidInput, match="only pictures"):
        run(flat, flat, [lever for lever in levers(4, 2) if lever.shifts], examples=20, steps=1, seeds=1)
    wild = Lever("wild", lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), learning_rate=1e-3)
    bad = Batch(torch.full((20, 1, 8, 8), math.inf), digits[0].targets[:20])
    with pytest.raises(InvalidInput, match="diverged"):
        run(bad, digits[1], [wild], examples=20, steps=2, seeds=1)


def test_the_command_goes_on_with_its_file(tmp_path: Path) -> None:
    out = tmp_path / "levers.csv"
    words = ["--examples", "20", "--steps", "2", "--seeds", "3", "--out", str(out)]
    first = CliRunner().invoke(main, words)
    assert first.exit_code == 0 and "weight decay" in first.output, first.output
    kept = out.read_text()
    out.write_text("".join(kept.splitlines(True)[:-6]))
    assert CliRunner().invoke(main, words).exit_code == 0
    assert out.read_text() == kept and len(read(out)) == 36
