"""``nonvacuous audit`` of a forecast, from the series to certificates that verify."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from nonvacuous.cli import main

SERIES = "series:walk.npy:lags=3:gap=40"
Run = Callable[..., Result]
AUDIT = ["audit", "--model", "mlp:3-4-1", "--weights", "w.safetensors", "--train", SERIES, "--test", SERIES]
LOSS = ["--loss", "clipped_absolute:4"]


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="nonvacuous")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series, and the weights of a forecast trained on its first half."""
    where = tmp_path_factory.mktemp("series")
    noise, values = np.random.default_rng(0).normal(size=1600), np.zeros(1600)
    for t in range(1, 1600):
        values[t] = 0.5 * values[t - 1] + noise[t]
    np.save(where / "walk.npy", values)
    spec = SERIES.replace("walk.npy", str(where / "walk.npy"))
    words = ["train", "--model", "mlp:3-4-1", "--train", spec, "--regression", "--epochs", 1, "--quiet", "--out"]
    result = invoke(*words, where / "w.safetensors")
    assert result.exit_code == 0, result.stderr
    return where


@pytest.fixture
def forecast(folder: Path, run: Run) -> Run:
    """The command line in a folder that has both."""
    for name in ("walk.npy", "w.safetensors"):
        shutil.copy(folder / name, name)
    return run


def test_a_forecast_is_certified_under_the_stated_mixing_and_verifies(forecast: Run) -> None:
    result = forecast(*AUDIT, *LOSS, "--mixing", "geometric:1,0.5", "--out", "out")
    assert result.exit_code == 0, result.stderr
    text = " ".join(result.stdout.split())
    first, rest = text.split("Certificates, all of which hold at once")
    assert "Stated: β(k) ≤ 1·0.5^k." in first and "the series is stationary" in first
    assert "Warning: The examples are a series, not independent draws" in first
    assert "independent-blocks" in rest and "betting_if_independent" in rest
    facts = json.loads(Path("out/audit.json").read_text(encoding="utf-8"))["facts"]
    assert facts["dependence"]["declared"] and facts["dependence"]["assumed"] == "β(k) ≤ 1·0.5^k"
    assert forecast("verify", "out").stdout.startswith("2 consistent")
    again = forecast("verify", "out", "--model", "mlp:3-4-1", "--weights", "w.safetensors", "--test", SERIES)
    assert again.exit_code == 0 and again.stdout.startswith("2 verified"), again.stdout


def test_without_an_assumption_nothing_is_certified_and_the_audit_says_what_to_state(forecast: Run) -> None:
    result = forecast(*AUDIT, *LOSS, "--out", "out")
    assert result.exit_code == 0, result.stderr
    assert json.loads(Path("out/audit.json").read_text(encoding="utf-8"))["certificates"] == []
    assert "--mixing geometric:C,RHO or m-dependent:M" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--mixing", "geometric:1"], "geometric:C,RHO"),
        (["--mixing", "geometric:1,1.2"], "does not forget"),
        (["--mixing", "m-dependent:2", "--independent"], "leave out --mixing"),
        (["--block", 5], "--mixing"),
        (["--independent"], "windows of one series"),
        (["--mixing", "m-dependent:2", "--block", 0], "block is a whole number"),
        (["--mixing", "m-dependent:2", "--gap", 100], "is not true of them"),
    ],
)
def test_words_that_contradict_each_other(forecast: Run, words: list[object], says: str) -> None:
    result = forecast(*AUDIT, *LOSS, *words, "--out", "out")
    assert result.exit_code == 2 and says in " ".join(result.stderr.split()), result.stderr
    assert not Path("out").exists()
