"""The files of an audit: all of them or none, and never somebody else's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nonvacuous.auditing import files
from nonvacuous.auditing.files import check_target, write
from nonvacuous.auditing.result import Audit
from nonvacuous.core.certificate import Certificate, Indicator
from nonvacuous.core.errors import InvalidInput
from tests.auditing.conftest import certificates


def tree(directory: Path) -> dict[str, str]:
    """Every file below, hidden ones too, with its text."""
    return {
        str(file.relative_to(directory)): file.read_text(encoding="utf-8") for file in directory.rglob("*") if file.is_file()
    }


def test_writes_report_data_and_certificates(example_audit: Audit, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    assert write(example_audit, out) == out
    assert sorted(tree(tmp_path / "deep")) == sorted(
        f"out/{name}"
        for name in (
            "audit.html",
            "audit.json",
            "certificates/binomial-tail.json",
            "certificates/empirical-bernstein.json",
            "certificates/growth-function.json",
            "certificates/mcallester.json",
            "certificates/occam-compressed.json",
            "certificates/occam-deterministic.json",
            "certificates/seeger.json",
        )
    )
    loaded = [Certificate.load(file) for file in (out / "certificates").iterdir()]
    assert sorted(c.digest for c in loaded) == sorted(c.digest for c in example_audit.certificates)
    assert json.loads((out / "audit.json").read_text(encoding="utf-8"))["facts"]["model"] == example_audit.facts.model


def test_audit_save_writes_them(example_audit: Audit, tmp_path: Path) -> None:
    example_audit.save(str(tmp_path / "out"))
    assert (tmp_path / "out" / "audit.json").is_file()


def test_an_empty_directory_is_filled(example_audit: Audit, tmp_path: Path) -> None:
    write(example_audit, tmp_path)
    assert (tmp_path / "audit.html").is_file()


def test_permissions_are_the_usual_ones(example_audit: Audit, tmp_path: Path) -> None:
    write(example_audit, tmp_path / "out")
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_infinite_numbers_are_written_as_words(changed_audit: Callable[..., Audit], tmp_path: Path) -> None:
    from dataclasses import replace

    audit = replace(changed_audit(), indicators=(Indicator("sharpness", float("-inf"), float("inf"), "unbounded"),))
    write(audit, tmp_path / "out")
    (written,) = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))["indicators"]
    assert (written["lower"], written["upper"]) == ("-inf", "inf")


def test_an_occupied_directory_is_refused_untouched(example_audit: Audit, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InvalidInput, match=r"not empty.*--force"):
        write(example_audit, tmp_path)
    with pytest.raises(InvalidInput, match="--force"):
        check_target(tmp_path)
    assert tree(tmp_path) == {"thesis.tex": "years of work"}


def test_force_replaces_the_earlier_audit_and_nothing_else(
    example_audit: Audit, changed_audit: Callable[..., Audit], tmp_path: Path
) -> None:
    write(example_audit, tmp_path)
    (tmp_path / "notes.md").write_text("mine")
    (tmp_path / "certificates" / "from-a-colleague.json").write_text('{"digest": "other"}')
    write(changed_audit(certificates()[:1], model="another"), tmp_path, force=True)
    now = tree(tmp_path)
    assert sorted(now) == [
        "audit.html", "audit.json", "certificates/binomial-tail.json", "certificates/from-a-colleague.json", "notes.md",
    ]  # fmt: skip
    assert now["notes.md"] == "mine"
    assert "another" in now["audit.json"]


def test_a_file_is_no_directory(example_audit: Audit, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(InvalidInput, match="is a file"):
        write(example_audit, tmp_path / "out", force=True)
    with pytest.raises(InvalidInput, match="cannot write"):
        write(example_audit, tmp_path / "out" / "below")
    assert tree(tmp_path) == {"out": "x"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_place_is_refused(example_audit: Audit, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InvalidInput, match="cannot write"):
            write(example_audit, tmp_path / "out")
    finally:
        tmp_path.chmod(0o700)


def failing(after: int, error: BaseException, method: Callable[..., object]) -> Callable[..., object]:
    """The method, failing once it was called so often."""
    calls = 0

    def call(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == after:
            raise error
        return method(*args, **kwargs)

    return call


DISK_FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize(("error", "seen"), [(DISK_FULL, InvalidInput), (KeyboardInterrupt(), KeyboardInterrupt)])
@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_failure_while_writing_leaves_nothing(
    example_audit: Audit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    seen: type[BaseException],
    after: int,
) -> None:
    monkeypatch.setattr(Path, "write_text", failing(after, error, Path.write_text))
    with pytest.raises(seen):
        write(example_audit, tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", range(1, 19))
def test_a_failure_while_replacing_brings_the_old_audit_back(
    example_audit: Audit, changed_audit: Callable[..., Audit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    write(example_audit, tmp_path)
    before = tree(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", failing(after, DISK_FULL, Path.rename))
        with pytest.raises(InvalidInput, match="No space left"):
            write(changed_audit(model="another"), tmp_path, force=True)
    assert tree(tmp_path) == before


def test_audit_json_is_moved_last(example_audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, target: (moved.append(self.name), rename(self, target))[1])
    write(example_audit, tmp_path)
    assert moved[-1] == files.LAST
