"""``nonvacuous train``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from nonvacuous.runtime import training
from nonvacuous.runtime.progress import Silent

SMALL = ["train", "--model", "mlp:3-4-2", "--train", "data.npz", "--batch-size", 8]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)).astype("float32")
    np.savez(tmp_path / "data.npz", x=x, y=(x.sum(1) > 0).astype("int64"))
    return tmp_path


def files(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} - {"data.npz"}


def same(a: Path, b: Path) -> bool:
    one, other = load_file(a), load_file(b)
    return one.keys() == other.keys() and all(bool((one[k] == other[k]).all()) for k in one)


def test_weights_and_initial_weights_are_written(run: Any, data: Path) -> None:
    result = run(*SMALL, "--epochs", 3, "--out", "deep/er/w.safetensors", "--seed", 1)
    assert result.exit_code == 0, result.stderr
    assert files(data / "deep" / "er") == {"w.safetensors", "w.initial.safetensors"}
    assert "trained 3 epochs" in result.stdout
    assert "deep/er/w.initial.safetensors" in result.stdout
    assert "epoch 3/3" in result.stderr
    assert not same(data / "deep/er/w.safetensors", data / "deep/er/w.initial.safetensors")


def test_json_is_all_of_stdout_and_quiet_is_quiet(run: Any, data: Path) -> None:
    result = run(*SMALL, "--epochs", 2, "--out", "w.safetensors", "--json")
    content = json.loads(result.stdout)
    assert content["weights"] == "w.safetensors"
    assert len(content["losses"]) == content["epochs"] == 2
    quiet = run(*SMALL, "--epochs", 2, "--out", "v.safetensors", "--quiet")
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "", "")
    assert same(data / "w.safetensors", data / "v.safetensors")


def test_existing_weights_are_kept_unless_forced(run: Any, data: Path) -> None:
    (data / "w.safetensors").write_text("mine")
    result = run(*SMALL, "--epochs", 1, "--out", "w.safetensors")
    assert result.exit_code == 2
    assert result.stderr == "error: w.safetensors exists. Choose another --out, or pass --force to replace it\n"
    assert (data / "w.safetensors").read_text() == "mine"
    assert run(*SMALL, "--epochs", 1, "--out", "w.safetensors", "--force").exit_code == 0
    assert load_file(data / "w.safetensors")


class StopsAfterTwo(Silent):
    """Ctrl-C while the third epoch goes on."""

    seen = 0

    def advance(self) -> None:
        if self.seen == 2:
            raise KeyboardInterrupt

    def finished(self, loss: float, accuracy: float | None) -> None:
        self.seen += 1


def test_an_interrupted_run_resumes_to_the_weights_of_an_unbroken_one(
    run: Any, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*SMALL, "--epochs", 4, "--out", "w.safetensors"]
    with monkeypatch.context() as patch:
        patch.setattr(training, "epoch_display", lambda *_: StopsAfterTwo())
        stopped = run(*words)
    assert stopped.exit_code == 130
    assert stopped.stderr == (
        "interrupted: 2 of 4 epochs are kept in w.checkpoint.safetensors. The same command with --resume goes on\n"
    )
    assert files(data) == {"w.checkpoint.safetensors", "w.checkpoint.initial.safetensors"}
    refused = run(*words)
    assert refused.exit_code == 2
    assert "--resume" in refused.stderr and "--force" in refused.stderr
    other = run(*words, "--resume", "--seed", 9)
    assert other.exit_code == 2
    assert "belongs to another run: seed was 0, now 9" in other.stderr
    assert files(data) == {"w.checkpoint.safetensors", "w.checkpoint.initial.safetensors"}
    resumed = run(*words, "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert files(data) == {"w.safetensors", "w.initial.safetensors"}
    assert run(*SMALL, "--epochs", 4, "--out", "unbroken.safetensors").exit_code == 0
    assert same(data / "w.safetensors", data / "unbroken.safetensors")
    assert same(data / "w.initial.safetensors", data / "unbroken.initial.safetensors")


def test_stopped_before_the_first_epoch_ends_nothing_is_left(run: Any, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    display = StopsAfterTwo()
    display.seen = 2
    monkeypatch.setattr(training, "epoch_display", lambda *_: display)
    result = run(*SMALL, "--epochs", 4, "--out", "new/w.safetensors")
    assert result.exit_code == 130
    assert "nothing is left" in result.stderr
    assert files(data) == set()


def test_a_real_ctrl_c(data: Path) -> None:
    words = [*SMALL, "--epochs", 1_000_000, "--out", "w.safetensors"]
    command = [sys.executable, "-m", "nonvacuous", *map(str, words)]
    with subprocess.Popen(command, cwd=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        while not (line := process.stderr.readline()).startswith("epoch 2/"):
            assert line, "ended early"
        os.kill(process.pid, signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "of 1000000 epochs are kept in w.checkpoint.safetensors" in rest
    assert "Traceback" not in rest
    assert files(data) == {"w.checkpoint.safetensors", "w.checkpoint.initial.safetensors"}


def test_nothing_to_resume(run: Any, data: Path) -> None:
    result = run(*SMALL, "--epochs", 1, "--out", "w.safetensors", "--resume")
    assert result.exit_code == 2
    assert "there is no unfinished run" in result.stderr
    assert files(data) == set()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"--model": "mpl:3-2"}, "Did you mean mlp:"),
        ({"--model": "mlp:3-x"}, "is not of the form mlp:"),
        ({"--model": "nowhere.module:factory"}, "there is no module 'nowhere'"),
        ({"--model": "model.pt2"}, "exported program"),
        ({"--model": "mlp:5-2"}, "the model failed on a batch of shape (8, 3)"),
        ({"--train": "digit"}, "Did you mean 'digits'?"),
        ({"--train": "absent.npz"}, "does not exist"),
        ({"--train": "nan.npz"}, "NaN"),
        ({"--train": "float.npz"}, "label"),
        ({"--out": "w.bin"}, "name it w.safetensors"),
        ({"--out": "data.npz/w.safetensors"}, "cannot be written to"),
        ({"--device": "gpu9"}, "cannot be used"),
        ({"--learning-rate": "-1"}, "must be positive"),
        ({"--epochs": "0"}, "not in the range"),
    ],
    ids=lambda value: "=".join(next(iter(value.items()))) if isinstance(value, dict) else "",
)
def test_bad_input_is_said_in_one_line_and_leaves_nothing(run: Any, data: Path, changed: dict[str, str], says: str) -> None:
    x = np.ones((10, 3), dtype="float32")
    np.savez(data / "float.npz", x=x, y=np.linspace(0, 1, 10))
    x[4, 1] = np.nan
    np.savez(data / "nan.npz", x=x, y=np.zeros(10, dtype=int))
    before = files(data)
    options = {
        "--model": "mlp:3-4-2",
        "--train": "data.npz",
        "--epochs": "2",
        "--out": "new/w.safetensors",
        "--batch-size": "8",
    } | changed
    result = run("train", *(word for pair in options.items() for word in pair))
    assert result.exit_code == 2, result.stderr
    assert result.stdout == ""
    error = result.stderr.splitlines()[-1]
    assert error.startswith("error: ") and says in error
    assert files(data) == before


def test_a_diverging_run_leaves_nothing(run: Any, data: Path) -> None:
    x = np.full((40, 3), 1e30, dtype="float32")
    np.savez(data / "huge.npz", x=x, y=np.arange(40) % 2)
    words = ["train", "--model", "mlp:3-4-2", "--train", "huge.npz", "--epochs", 50, "--optimizer", "sgd"]
    result = run(*words, "--learning-rate", 1e20, "--out", "w.safetensors")
    assert result.exit_code == 2
    assert "diverged" in result.stderr and "Lower it" in result.stderr
    assert files(data) == {"huge.npz"}


def test_a_regression_is_trained_by_squared_error(run: Any, data: Path) -> None:
    x = np.linspace(-1, 1, 60, dtype="float32")[:, None]
    np.savez(data / "line.npz", x=x, y=2 * x[:, 0])
    words = ["train", "--model", "mlp:1-8-1", "--train", "line.npz", "--regression", "--epochs", 3, "--out", "w.safetensors"]
    result = run(*words, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["accuracies"] == []
