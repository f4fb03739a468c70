"""The certificates in ``results/``: each is consistent, and REPRODUCE.md says how to make it again."""

from __future__ import annotations

from pathlib import Path

import pytest

import nonvacuous
from nonvacuous.core.certificate import Certificate

FOLDER = Path(__file__).parents[2] / "results" / "certificates"
FILES = sorted(FOLDER.rglob("*.json"))


def test_they_are_here() -> None:
    assert len(FILES) >= 11


def test_one_command_checks_them_all() -> None:
    found = nonvacuous.verify(FOLDER)
    assert found.ok and found.verified == len(FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_is_consistent_and_listed(file: Path) -> None:
    assert nonvacuous.verify(file).ok
    assert f"{file.parent.name}/{file.name}" in (FOLDER / "REPRODUCE.md").read_text(encoding="utf-8").replace(
        "`drawn.json`", "`data-independent/drawn.json`"
    )


def test_the_unmodified_network_lies_within_five_points_of_its_test_error() -> None:
    certificate = Certificate.load(FOLDER / "fashion-mnist" / "unmodified" / "augmented.json")
    assert certificate.predictor == "deterministic" and certificate.delta == 0.05
    assert certificate.value < 0.0833 + 0.05
    assert certificate.digests["sample"] != certificate.digests["train"]
