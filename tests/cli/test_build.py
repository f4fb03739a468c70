"""``nonvacuous build``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nonvacuous.approximation.hinges import HingeSum
from nonvacuous.approximation.spikes import SpikeGrid

pytest.importorskip("matplotlib")

FILES = {"network.safetensors", "network.json", "plot.png"}
WAVE = ["build", "sin(3*x)*exp(-x)", "--domain", "0,2*pi", "--eps", 0.05]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_network_facts_and_plot_are_written(run: Any, tmp_path: Path) -> None:
    result = run(*WAVE, "--out", "deep/er")
    assert result.exit_code == 0, result.stderr
    folder = tmp_path / "deep" / "er"
    assert names(folder) == FILES
    assert "proved" in result.stdout and "HingeSum" in result.stdout and "deep/er/plot.png" in result.stdout
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads((folder / "network.json").read_text(encoding="utf-8"))
    assert facts["error"]["kind"] == "exact" and facts["error"]["upper"] <= 0.05
    assert facts["domain"] == [[0.0, 2 * 3.141592653589793]] and facts["lipschitz"] is None
    network = HingeSum(**load_file(folder / "network.safetensors"))  # as network.json says
    assert "HingeSum(**load_file('network.safetensors'))" in facts["load"]
    x = torch.linspace(0, 6.28, 10_001, dtype=torch.float64)
    with torch.no_grad():
        worst = float((network(x[:, None]) - (3 * x).sin() * (-x).exp()).abs().max())
    assert facts["error"]["lower"] * 0.9 <= worst <= facts["error"]["upper"]


@pytest.mark.parametrize(("expression", "d"), [("max(x1, x2)*cos(x1)", 2), ("x1*x2 - x3", 3)])
def test_boxes(run: Any, tmp_path: Path, expression: str, d: int) -> None:
    result = run("build", expression, "--domain=-1,1", "--eps", 0.5, "--out", "net", "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["domain"] == [[-1.0, 1.0]] * d and names(tmp_path / "net") == FILES
    network = SpikeGrid(**load_file(tmp_path / "net" / "network.safetensors"))
    assert network(torch.zeros(4, d, dtype=torch.float64)).shape == (4,)


def test_each_variable_may_have_its_own_interval(run: Any) -> None:
    result = run("build", "x1 + x2", "--domain", "0,1", "--domain", "2,3", "--eps", 0.3, "--out", "net", "--json")
    assert json.loads(result.stdout)["domain"] == [[0.0, 1.0], [2.0, 3.0]]


def test_without_out_it_only_prints(run: Any, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    result = run(*WAVE)
    assert result.exit_code == 0 and "proved" in result.stdout and "--out DIR saves" in result.stdout
    assert set(tmp_path.rglob("*")) == before
    assert json.loads(run(*WAVE, "--json").stdout)["out"] is None


def test_json_is_all_of_stdout_and_quiet_is_quiet(run: Any) -> None:
    result = run(*WAVE, "--out", "one", "--json")
    assert json.loads(result.stdout)["out"] == "one"
    result = run(*WAVE, "--out", "two", "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_a_given_lipschitz_constant_is_used(run: Any) -> None:
    result = run("build", "sqrt(x)", "--domain", "0.01,1", "--eps", 0.01, "--lipschitz", 5, "--out", "net", "--json")
    facts = json.loads(result.stdout)
    assert facts["lipschitz"] == 5 and facts["lipschitz_from"] == "given"


def test_earlier_files_are_kept_unless_forced(run: Any, tmp_path: Path) -> None:
    assert run(*WAVE, "--out", "net").exit_code == 0
    (tmp_path / "net" / "mine.txt").write_text("kept")
    before = (tmp_path / "net" / "network.safetensors").read_bytes()
    refused = run("build", "x", "--domain", "0,1", "--eps", 0.1, "--out", "net")
    assert refused.exit_code == 2 and "--force" in refused.stderr
    assert (tmp_path / "net" / "network.safetensors").read_bytes() == before
    assert run("build", "x", "--domain", "0,1", "--eps", 0.1, "--out", "net", "--force").exit_code == 0
    assert json.loads((tmp_path / "net" / "network.json").read_text(encoding="utf-8"))["expression"] == "x"
    assert names(tmp_path / "net") == {*FILES, "mine.txt"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["2x", "--domain", "0,1", "--eps", 0.1], "column 1"),
        (["open('w')", "--domain", "0,1", "--eps", 0.1], "'open' is unknown"),
        (["x", "--domain", "0,1", "--eps", 0], "eps is a positive"),
        (["x", "--domain", "0,1", "--eps", -1], "eps is a positive"),
        (["x", "--domain", "0,1", "--eps", "nan"], "eps is a positive"),
        (["x", "--domain", "0,1", "--eps", 1e-300], "below what float64"),
        (["x", "--domain", "0,1", "--eps", 1e-9], "bumps, more than"),
        (["x", "--domain", "0,1e999", "--eps", 0.1], "beyond float64"),
        (["x", "--domain", "0,inf", "--eps", 0.1], "'inf' is unknown"),
        (["x", "--domain", "1,0", "--eps", 0.1], "a < b"),
        (["x", "--domain", "0", "--eps", 0.1], "two ends as A,B"),
        (["x", "--domain", "0,x", "--eps", 0.1], "must be a number"),
        (["x1*x3", "--domain", "0,1", "--domain", "0,1", "--eps", 0.1], "names x3"),
        (["x", *["--domain", "0,1"] * 4, "--eps", 0.1], "1 to 3 dimensions"),
        (["1/x", "--domain=-1,1", "--eps", 0.1], "is inf at"),
        (["tan(x)", "--domain", "0,3", "--eps", 0.1], "unbounded"),
        (["sqrt(x)", "--domain", "0,1", "--eps", 0.1], "pass --lipschitz L if it is Lipschitz there"),
        (["x/abs(x)", "--domain=-0.9,1", "--eps", 0.1, "--lipschitz", 1], "jump by 2"),
        (["sin(9*x)", "--domain", "0,1", "--eps", 0.1, "--lipschitz", 1], "pass --lipschitz of at least"),
        (["x", "--domain", "0,1", "--eps", 0.1, "--lipschitz", -1], "finite number"),
        (["log(x)", "--domain=-2,-1", "--eps", 0.1], "nan at"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_leaves_nothing(run: Any, tmp_path: Path, words: list[Any], says: str) -> None:
    result = run("build", *words, "--out", "net")
    assert result.exit_code == 2 and says in " ".join(result.stderr.split()), result.stderr
    assert "Traceback" not in result.stderr and result.stdout == ""
    assert names(tmp_path) == set()


def test_nothing_is_left_when_drawing_fails(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("nonvacuous.commands.build._draw", fails)
    assert run(*WAVE, "--out", "a/b").exit_code != 0
    assert names(tmp_path) == set()


def test_a_missing_matplotlib_is_said_before_any_work(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run(*WAVE, "--out", "net")
    assert result.exit_code == 2 and "pip install 'nonvacuous[gallery]'" in " ".join(result.stderr.split())
    assert names(tmp_path) == set()
