"""``nonvacuous audit``: what it prints and writes, and what it refuses before the long work begins."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nonvacuous.auditing import run as auditing
from nonvacuous.core.certificate import Certificate

AUDIT = ["audit", "--model", "mlp:64-16-10", "--train", "digits", "--test", "digits", "--seed", 3]


def leftovers(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def test_an_audit_prints_its_ladder_and_writes_everything(run: Any, trained: Path, tmp_path: Path) -> None:
    result = run(*AUDIT, "--weights", trained, "--delta", 0.1, "--out", "deep/out")
    assert result.exit_code == 0, result.stderr
    text = result.stdout
    for part in (
        "With 90% confidence, mlp:64-16-10 errs on at most ",
        "Provided, which no program can check, that:",
        "Certificates, all of which hold at once",
        "binomial-tail",
        "Where the error is",
        "optimization",
        "deep/out/audit.html",
        "nonvacuous verify deep/out",
    ):
        assert part in text
    assert "\x1b" not in text
    out = tmp_path / "deep" / "out"
    assert (out / "audit.html").is_file() and (out / "audit.json").is_file()
    certificates = [Certificate.load(path) for path in sorted((out / "certificates").glob("*.json"))]
    assert sum(c.delta for c in certificates) <= 0.1
    held_out = next(c for c in certificates if c.bound == "binomial-tail")
    assert held_out.value < 0.5
    assert held_out.seed == 3


def test_printed_percentages_are_never_below_what_is_certified(run: Any, trained: Path) -> None:
    result = run(*AUDIT, "--weights", trained, "--out", "out")
    certificates = sorted((Certificate.load(p) for p in Path("out/certificates").glob("*.json")), key=lambda c: c.value)
    table = result.stdout.split("Certificates, all of which hold at once\n")[1].split("\n\n")[0].splitlines()[1:]
    assert len(table) == len(certificates)
    for line, certificate in zip(table, certificates, strict=True):
        shown = line.split()[0]
        assert (shown == "vacuous") == certificate.vacuous
        if not certificate.vacuous:
            assert float(shown.removesuffix("%")) / 100 >= certificate.value
            assert float(shown.removesuffix("%")) / 100 <= certificate.value + 1.1e-4
    headline = re.search(r"at most ([\d.]+)%", result.stdout)
    best = min(c.value for c in certificates if c.predictor == "deterministic")
    assert headline and float(headline[1]) / 100 >= best


def test_json_is_the_audit_and_nothing_else(run: Any, trained: Path) -> None:
    result = run(*AUDIT, "--weights", trained, "--out", "out", "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    on_disk = json.loads(Path("out/audit.json").read_text(encoding="utf-8"))
    assert content["certificates"] == on_disk["certificates"]
    assert content["schema"] == 2
    assert "Where the error is" in result.stderr
    assert "Where the error is" not in run(*AUDIT, "--weights", trained, "--out", "b", "--json", "--quiet").stderr


def test_test_may_be_absent(run: Any, trained: Path) -> None:
    words = ["audit", "--model", "mlp:64-16-10", "--weights", trained, "--train", "digits", "--out", "out"]
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    assert "training" in result.stdout
    assert "test examples" not in result.stdout


def test_another_loss(run: Any, trained: Path) -> None:
    result = run(*AUDIT, "--weights", trained, "--loss", "brier", "--out", "out", "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert "brier" in {c["loss"] for c in json.loads(result.stdout)["certificates"]}
    shown = run(*AUDIT, "--weights", trained, "--loss", "brier", "--out", "again").stdout
    assert "the mean brier loss of mlp:64-16-10 on new examples is at most 0." in shown


def test_a_factory_in_the_current_directory(run: Any, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "mine_for_audit.py").write_text(
        "from torch.nn import *\ndef net():\n    return Sequential(Flatten(), Linear(64, 16), ReLU(), Linear(16, 10))\n"
    )
    words = ["--train", "digits", "--test", "digits", "--out", "out", "--quiet"]
    result = run("audit", "--model", "mine_for_audit:net", "--weights", trained, *words)
    assert result.exit_code == 0, result.stderr


def test_what_is_there_is_kept_unless_forced(run: Any, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    refused = run(*AUDIT, "--weights", trained, "--out", "out")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: --out out is not empty.")
    assert leftovers(tmp_path) == {"out", "out/mine.txt"}
    forced = run(*AUDIT, "--weights", trained, "--out", "out", "--force", "--quiet")
    assert forced.exit_code == 0, forced.stderr
    again = run(*AUDIT, "--weights", trained, "--out", "out", "--force", "--quiet")
    assert again.exit_code == 0, again.stderr


def test_ctrl_c_leaves_nothing(run: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(auditing, "audit", stopped)
    result = run(*AUDIT, "--weights", trained, "--out", "out")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "interrupted: nothing was written to out\n"
    assert leftovers(tmp_path) == set()


class Armed:
    """Unpickling it makes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it-ran",)


@pytest.fixture
def bad(tmp_path: Path, trained: Path) -> Path:
    """Files that cannot be used."""
    folder = tmp_path / "bad"
    folder.mkdir()
    rng = np.random.default_rng(0)
    x = rng.random((30, 64), dtype=np.float32)
    y = rng.integers(0, 10, 30)
    np.savez(folder / "good.npz", x=x, y=y)
    np.savez(folder / "labels.npz", x=x, y=y + 20)
    np.savez(folder / "negative.npz", x=x, y=y - 20)
    np.savez(folder / "floats.npz", x=x, y=y + 0.5)
    np.savez(folder / "empty.npz", x=x[:0], y=y[:0])
    np.savez(folder / "objects.npz", x=np.array([Armed()], dtype=object), y=y[:1])
    x = x.copy()
    x[7, 3] = np.inf
    np.savez(folder / "infinite.npz", x=x, y=y)
    (folder / "broken.npz").write_bytes(b"PK not really")
    state = load_file(trained)
    torch.save({"weights": Armed()}, folder / "armed.pt")
    (folder / "model.pt2").write_bytes(b"PK whatever")
    (folder / "cut.safetensors").write_bytes(trained.read_bytes()[:200])
    save_file({f"other.{name}": value for name, value in state.items()}, folder / "names.safetensors")
    name = next(iter(state))
    save_file({**state, name: torch.full_like(state[name], float("nan"))}, folder / "nan.safetensors")
    return folder


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"--model": "resnet:50"}, "unknown model 'resnet:50'"),
        ({"--model": "nowhere.module:factory"}, "there is no module 'nowhere'"),
        ({"--model": "bad/model.pt2"}, "--trust-model-code"),
        ({"--model": "mlp:64-17-10"}, "does not fit the model"),
        ({"--weights": "absent.safetensors"}, "does not exist"),
        ({"--weights": None}, "--weights is missing"),
        ({"--weights": "bad/names.safetensors"}, "missing 1.weight, 1.bias"),
        ({"--weights": "bad/cut.safetensors"}, "not a readable safetensors file"),
        ({"--weights": "bad/nan.safetensors"}, "NaN"),
        ({"--weights": "bad/armed.pt"}, "refused, nothing ran"),
        ({"--initial-weights": "absent.safetensors"}, "does not exist"),
        ({"--initial-weights": "bad/armed.pt"}, "refused, nothing ran"),
        ({"--train": "digtis"}, "Did you mean 'digits'?"),
        ({"--train": "bad/infinite.npz"}, "Inf"),
        ({"--train": "bad/labels.npz"}, "label"),
        ({"--train": "bad/negative.npz"}, "label"),
        ({"--train": "bad/floats.npz"}, "label"),
        ({"--train": "bad/empty.npz"}, "empty"),
        ({"--test": "bad/empty.npz"}, "empty"),
        ({"--train": "bad/objects.npz"}, "could run code"),
        ({"--train": "bad/broken.npz"}, "not a readable .npz"),
        ({"--train": "breast-cancer"}, "model"),
        ({"--delta": "0"}, "a number in (0, 1)"),
        ({"--delta": "1"}, "a number in (0, 1)"),
        ({"--delta": "nan"}, "a number in (0, 1)"),
        ({"--delta": "-0.1"}, "a number in (0, 1)"),
        ({"--loss": "hinge"}, "unknown loss 'hinge'"),
        ({"--device": "warp:9"}, "cannot be used"),
        ({"--out": "bad/good.npz"}, "is a file"),
        ({"--out": "bad/good.npz/out"}, "cannot be written to"),
        ({"--out": "/proc/out"}, "cannot be written to"),
    ],
    ids=lambda value: "=".join(map(str, next(iter(value.items())))) if isinstance(value, dict) else "",
)
def test_bad_input_is_said_in_one_line_and_leaves_nothing(
    run: Any, trained: Path, bad: Path, tmp_path: Path, changed: dict[str, str | None], says: str
) -> None:
    before = leftovers(tmp_path)
    options = {
        "--model": "mlp:64-16-10",
        "--weights": str(trained),
        "--train": "bad/good.npz",
        "--test": "bad/good.npz",
        "--out": "new/out",
    } | changed
    words = [word for option, value in options.items() if value is not None for word in (option, value)]
    result = run("audit", *words, "--allow-overlap")
    assert result.exit_code == 2, (result.exit_code, result.stderr)
    assert result.stdout == ""
    error = result.stderr.splitlines()[-1]
    assert error.startswith("error: ") and says in error, error
    assert leftovers(tmp_path) == before


def test_overlap_is_refused_unless_allowed(run: Any, trained: Path, bad: Path) -> None:
    words = ["audit", "--model", "mlp:64-16-10", "--weights", trained, "--train", "bad/good.npz", "--test", "bad/good.npz"]
    refused = run(*words, "--out", "out")
    assert refused.exit_code in (1, 2)
    assert "--allow-overlap" in refused.stderr
    assert not Path("out").exists()
    allowed = run(*words, "--out", "out", "--allow-overlap")
    assert allowed.exit_code == 0, allowed.stderr
    assert "30 test examples occur in the training sample too" in allowed.stdout
