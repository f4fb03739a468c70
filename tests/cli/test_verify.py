"""``nonvacuous verify``: arithmetic without torch, evidence with model and data, exit 0 only if everything holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nonvacuous.core.certificate import Certificate


@pytest.fixture
def copy(audited: Path, tmp_path: Path) -> Path:
    """A copy of the audit's folder, to be spoilt."""
    return Path(shutil.copytree(audited, tmp_path / "audit"))


def files(folder: Path) -> list[Path]:
    return sorted((folder / "certificates").glob("*.json"))


def forged(path: Path, **changes: Any) -> None:
    """Change a certificate and give it a matching digest, as somebody who knows the format would."""
    import hashlib

    content = json.loads(path.read_text(encoding="utf-8")) | changes
    del content["digest"]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    content["digest"] = "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
    path.write_text(json.dumps(content), encoding="utf-8")


def held_out(folder: Path) -> Path:
    return next(p for p in files(folder) if json.loads(p.read_text(encoding="utf-8"))["bound"] == "binomial-tail")


def test_a_folder_is_consistent(run: Any, audited: Path) -> None:
    n = len(files(audited))
    for place in (audited, audited / "certificates", audited.parent):
        result = run("verify", place)
        assert (result.exit_code, result.stdout) == (0, f"{n} consistent (evidence unchecked), 0 refused\n")
    one = run("verify", files(audited)[0], files(audited)[0])
    assert one.stdout == "1 consistent (evidence unchecked), 0 refused\n"


@pytest.mark.parametrize("name", ["kept", "certificates"])
def test_a_tree_of_folders_is_checked_as_a_whole(run: Any, audited: Path, tmp_path: Path, name: str) -> None:
    one, other = tmp_path / "tree" / name / "a" / "b" / "one.json", tmp_path / "tree" / name / "c" / "other.json"
    for path, source in zip((one, other), files(audited), strict=False):
        path.parent.mkdir(parents=True)
        shutil.copy(source, path)
    result = run("verify", tmp_path / "tree" / name)
    assert (result.exit_code, result.stdout) == (0, "2 consistent (evidence unchecked), 0 refused\n")
    edited(one, '"seed": 0', '"seed": 1')
    result = run("verify", tmp_path / "tree")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "1 consistent (evidence unchecked), 1 refused"
    assert str(one) in result.stdout


def test_other_json_beside_a_folder_of_certificates_is_left_alone(run: Any, copy: Path) -> None:
    (copy / "notes").mkdir()
    (copy / "notes" / "table.json").write_text("{}", encoding="utf-8")
    assert run("verify", copy).stdout == f"{len(files(copy))} consistent (evidence unchecked), 0 refused\n"


def test_quiet_says_nothing_when_all_holds(run: Any, audited: Path) -> None:
    result = run("verify", audited, "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_json(run: Any, copy: Path) -> None:
    files(copy)[0].write_text("{")
    result = run("verify", copy, "--json")
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    n = len(files(copy))
    assert (content["ok"], content["consistent"], content["verified"], content["refused"]) == (False, n - 1, 0, 1)
    assert {row["ok"] for row in content["results"]} == {True, False}
    assert "refused" in result.stderr


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: edited(p, '"seed": 0', '"seed": 1'), "digest"),
        (lambda p: p.write_text(p.read_text(encoding="utf-8")[:300], encoding="utf-8"), "truncated"),
        (lambda p: p.write_bytes(b"\xff\xfe\x00"), "cannot read"),
        (lambda p: p.write_text("[]"), "no JSON object"),
        (lambda p: forged(p, schema=99), "install a newer nonvacuous"),
        (lambda p: forged(p, value=Certificate.load(p).value / 2), "arithmetic"),
        (lambda p: forged(p, bound="wishful"), "no bound is named 'wishful'"),
        (lambda p: forged(p, hypotheses=[]), "hypotheses"),
    ],
    ids=["altered", "truncated", "binary", "not-an-object", "future-schema", "false-value", "unknown-bound", "no-hypotheses"],
)
def test_a_spoilt_certificate_is_refused_with_the_reason(run: Any, copy: Path, spoil: Any, says: str) -> None:
    path = held_out(copy)
    spoil(path)
    n = len(files(copy))
    result = run("verify", copy)
    assert result.exit_code == 1
    refused, summary = result.stdout.splitlines()
    assert refused.startswith("refused  ") and str(path.name) in refused and says in refused
    assert summary == f"{n - 1} consistent (evidence unchecked), 1 refused"
    quiet = run("verify", copy, "--quiet")
    assert (quiet.exit_code, quiet.stdout) == (1, "")
    assert says in quiet.stderr


def test_a_missing_file_is_refused_and_a_folder_without_certificates_is_an_error(run: Any, tmp_path: Path) -> None:
    missing = run("verify", "absent.json")
    assert missing.exit_code != 0
    assert "absent.json" in missing.stdout + missing.stderr
    (tmp_path / "empty").mkdir()
    empty = run("verify", "empty")
    assert empty.exit_code == 2
    assert "holds no certificates" in empty.stderr


def level_two(trained: Path, *words: object) -> list[object]:
    initial = trained.with_name("w.initial.safetensors")
    return ["--model", "mlp:64-16-10", "--weights", trained, "--initial-weights", initial, *words]


def test_level_two_measures_the_evidence_again(run: Any, audited: Path, trained: Path) -> None:
    result = run("verify", audited, *level_two(trained, "--train", "digits", "--test", "digits"))
    assert result.stdout == f"{len(files(audited))} verified, 0 refused\n", result.stdout
    assert result.exit_code == 0


def test_level_two_catches_false_evidence(run: Any, copy: Path, trained: Path) -> None:
    path = held_out(copy)
    true = Certificate.load(path)
    fewer = {**true.evidence, "errors": 0}
    bound = true.theorem()
    value = bound.solve(bound.Evidence(**fewer), true.theorem_delta())
    forged(path, evidence=fewer, value=value)
    assert run("verify", path).exit_code == 0
    result = run("verify", path, *level_two(trained, "--train", "digits", "--test", "digits"))
    assert result.exit_code == 1
    assert "errors" in result.stdout
    assert result.stdout.splitlines()[-1] == "0 verified, 1 refused"


def test_level_two_catches_other_weights(run: Any, audited: Path, trained: Path) -> None:
    other = trained.with_name("w.initial.safetensors")
    words = ["--model", "mlp:64-16-10", "--weights", other, "--train", "digits", "--test", "digits"]
    result = run("verify", held_out(audited), *words)
    assert result.exit_code == 1
    assert "weights" in result.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--weights", "w.safetensors"], "--weights without --model"),
        (["--train", "digits", "--test", "digits"], "--train, --test without --model"),
        (["--model", "mlp:64-16-10"], "pass --train, --test or both"),
        (["--model", "mlp:64-16-10", "--train", "digits"], "--weights is missing"),
        (["--model", "mlp:64-16-10", "--weights", "absent.pt", "--train", "digits"], "does not exist"),
    ],
)
def test_half_of_level_two_is_not_enough(run: Any, audited: Path, words: list[str], says: str) -> None:
    result = run("verify", audited, *words)
    assert result.exit_code == 2
    assert says in result.stderr
