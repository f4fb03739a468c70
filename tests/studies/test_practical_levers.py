"""The practical levers: what each changes, what is measured of it, and what the command keeps."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.models import mlp
from nonvacuous.runtime.sources import load
from nonvacuous.runtime.values import Batch
from nonvacuous.studies import practical_levers as study
from nonvacuous.studies.batch_size import draw
from nonvacuous.studies.lever_effects import effects, read
from nonvacuous.studies.lever_networks import Ensemble
from nonvacuous.studies.practical_levers import BASELINE, Lever, Protocol, levers, main, run, slopes

SHAPE = (1, 8, 8)
TINY = Protocol(examples=20, seeds=3, epochs=1, others=(12,), other_seeds=1)


@pytest.fixture(scope="module")
def digits() -> tuple[Batch, Batch]:
    return draw(load("digits"), None, 0), draw(load("digits", "test"), None, 0)


@pytest.fixture(autouse=True)
def few_slopes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "SLOPES", 2)
    monkeypatch.setattr(study, "LOOKS", 8)


def chosen(*names: str) -> list[Lever]:
    return [lever for lever in levers(SHAPE, 10, hidden=32) if lever.name in names]


def alone(examples: int, seeds: int, epochs: float) -> Protocol:
    return Protocol(examples, seeds, epochs, ())


@pytest.mark.parametrize("family", ["dense", "convolutional"])
def test_every_lever_is_one_change_of_the_baseline(family: str) -> None:
    first, *others = levers(SHAPE, 10, family)
    assert first.name == BASELINE and len({lever.name for lever in others}) == 13
    for lever in others:
        changed = {k for k, value in vars(lever).items() if value != vars(first)[k]} - {"name", "architecture"}
        assert len(changed) == 1, lever.name
        assert lever.factory()(torch.rand(5, *SHAPE)).shape == (5, 10)
        same_weights = [x.shape for x in lever.factory().state_dict().values()] == [
            x.shape for x in first.factory().state_dict().values()
        ]
        assert same_weights == (lever.architecture in ("plain", "ensemble"))
    assert "augmentation" not in {lever.name for lever in levers((64,), 10)}  # no pictures


def test_all_levers_train_and_are_measured(digits: tuple[Batch, Batch]) -> None:
    rows = run(*digits, levers(SHAPE, 10, hidden=16), TINY)
    assert len(rows) == 14 * 4 and all(0 <= row.test_error <= 1 and row.test_loss > 0 for row in rows)
    for row in rows:
        assert math.isnan(row.attacked_error) == (row.examples != 20)
        assert math.isnan(row.slope_lower) == (row.examples != 20 or row.lever == "snapshot ensemble")
        assert math.isnan(row.slope_upper) or row.slope_lower <= row.slope_upper
    assert all(not math.isnan(row.slope_upper) for row in rows if row.lever == BASELINE and row.examples == 20)
    assert {e.lever for e in effects(rows)} == {lever.name for lever in levers(SHAPE, 10)[1:]}


def test_effects_that_must_be_there(digits: tuple[Batch, Batch]) -> None:
    some = chosen(BASELINE, "weight decay", "step size / 4", "adversarial training")
    rows = run(*digits, some, alone(100, 6, 60))
    found = {effect.lever: effect for effect in effects(rows, "loss")}
    assert found["step size / 4"].optimization.lower > 0  # not yet fitted
    assert found["adversarial training"].optimization.lower > 0  # it fits attacked pictures
    adversarial = found["adversarial training"]
    assert adversarial.attacked is not None and adversarial.attacked.upper < -0.05  # and withstands attacks, by smaller slopes
    assert adversarial.slope is not None and adversarial.slope.upper < 1
    decay = found["weight decay"].slope
    assert decay is not None and decay.upper < 1


def test_early_stopping_trains_on_no_held_out_example(digits: tuple[Batch, Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    real = study.trained_stack

    def spied(factory, inputs, targets, members, **named):
        seen.extend(member.rows for member in members)
        return real(factory, inputs, targets, members, **named)

    monkeypatch.setattr(study, "trained_stack", spied)
    run(*digits, chosen(BASELINE, "early stopping"), alone(50, 1, 1))
    everything, stopped = (set(rows.tolist()) for rows in seen)
    assert len(everything) == 50 and len(stopped) == 40 and stopped < everything


def test_early_stopping_keeps_the_weights_of_the_least_held_out_loss(digits: tuple[Batch, Batch]) -> None:
    train, test = digits
    trial = study._Trial(chosen("early stopping")[0], "dense", train, test, 40, False, [torch.arange(40)])
    trial.rows([3])
    ((loss, network),) = trial.best
    held, trained = torch.arange(8), torch.arange(8, 40)
    assert isinstance(train.inputs, torch.Tensor)
    assert loss == pytest.approx(study._judged(network, train.inputs[held], train.targets[held])[1])
    last = study.trained_stack(
        trial.lever.factory,
        train.inputs,
        train.targets,
        [study.Member(3, trained)],
        steps=25,
        batch_size=64,
        learning_rate=2e-3,
    ).member(0)
    assert loss <= study._judged(last, train.inputs[held], train.targets[held])[1] + 1e-6


def test_a_snapshot_ensemble_restarts_its_step_size_and_averages_probabilities() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = study._Restarts([weight], lr=0.1, cycle=4, weight_decay=0.0)
    sizes = []
    for _ in range(8):
        weight.grad = torch.ones(1)
        optimizer.step()
        sizes.append(optimizer.param_groups[0]["lr"])
    assert sizes[:4] == sizes[4:] == sorted(sizes[:4], reverse=True) and sizes[0] == 0.1
    assert sizes[2] == pytest.approx(0.05)
    both = [mlp(3, 4), mlp(3, 4)]
    x = torch.randn(5, 3)
    torch.testing.assert_close(Ensemble(both)(x).exp(), (both[0](x).softmax(1) + both[1](x).softmax(1)) / 2)


def test_slopes_of_a_linear_network_are_its_norm() -> None:
    low, high = slopes(linear := nn.Linear(4, 3), torch.randn(5, 4))
    norm = float(torch.linalg.matrix_norm(linear.weight.detach().double(), 2))
    assert low == pytest.approx(norm) and norm <= high <= 1.02 * norm
    assert math.isnan(slopes(linear, torch.randn(5, 4), proved=False)[1])


def test_ctrl_c_keeps_the_levers_that_are_done(digits: tuple[Batch, Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = study.trained_stack

    def stops(*given, **named):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(study, "trained_stack", stops)
    rows = run(*digits, chosen(BASELINE, "dropout"), alone(20, 2, 1))
    assert [row.lever for row in rows] == [BASELINE] * 2


def test_what_cannot_be_studied(digits: tuple[Batch, Batch]) -> None:
    base = chosen(BASELINE)
    for protocol in (alone(5, 1, 1), alone(10**6, 1, 1), alone(20, 0, 1), alone(20, 1, 0), Protocol(20, 1, 1, (5,))):
        with pytest.raises(InvalidInput, match="give 10 to"):
            run(*digits, base, protocol)
    with pytest.raises(InvalidInput, match="0 levers"):
        run(*digits, [], TINY)
    with pytest.raises(InvalidInput, match="Possible: dense, convolutional"):
        levers(SHAPE, 10, "recurrent")
    with pytest.raises(InvalidInput, match="takes pictures"):
        levers((64,), 10, "convolutional")
    bad = Batch(torch.full((20, *SHAPE), math.inf), digits[0].targets[:20])
    with pytest.raises(InvalidInput, match="diverged"):
        run(bad, digits[1], base, alone(20, 1, 1))


def test_the_command_goes_on_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "levers", lambda *_: chosen(BASELINE, "weight decay", "early stopping"))
    out = tmp_path / "levers.csv"
    words = ["--data", "digits", "--network", "dense", "--examples", "20", "--other", "12", "--epochs", "1"]
    words += ["--seeds", "3", "--other-seeds", "1", "--out", str(out)]
    first = CliRunner().invoke(main, words)
    assert first.exit_code == 0 and "weight decay" in first.output and "generalization" in first.output, first.output
    kept = out.read_text()
    out.write_text("".join(kept.splitlines(True)[:-4]))
    assert CliRunner().invoke(main, words).exit_code == 0
    assert out.read_text() == kept and len(read(out)) == 12
