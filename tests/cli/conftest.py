"""The command line inside the test process, and in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nonvacuous.cli import main

Run = Callable[..., Result]
Shell = Callable[..., "subprocess.CompletedProcess[str]"]


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], prog_name="nonvacuous")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``nonvacuous WORDS`` in an empty current directory."""
    monkeypatch.chdir(tmp_path)
    return invoke


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """``python -m nonvacuous WORDS`` in a fresh process and an empty current directory."""

    def command(*words: object, **extra: object) -> subprocess.CompletedProcess[str]:
        full = [sys.executable, "-m", "nonvacuous", *map(str, words)]
        return subprocess.run(full, cwd=tmp_path, capture_output=True, text=True, **extra)  # type: ignore[call-overload]

    return command


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network trained on digits, initial ones beside them."""
    weights = tmp_path_factory.mktemp("trained") / "w.safetensors"
    words = "train --model mlp:64-16-10 --train digits --epochs 12 --learning-rate 0.01 --quiet --out"
    result = invoke(*words.split(), weights)
    assert result.exit_code == 0, result.stderr
    return weights


@pytest.fixture(scope="session")
def audited(trained: Path) -> Path:
    """The folder of an audit of that network with train, test and initial weights. Read only."""
    out = trained.parent / "audited"
    result = invoke(*network_words(trained), "--train", "digits", "--test", "digits", "--out", out, "--quiet")
    assert result.exit_code == 0, result.stderr
    assert (result.stdout, result.stderr) == ("", "")
    return out


def network_words(weights: Path) -> list[object]:
    """The start of an audit's command line."""
    initial = weights.with_name("w.initial.safetensors")
    return ["audit", "--model", "mlp:64-16-10", "--weights", weights, "--initial-weights", initial]
