"""The table of row X3 on one small data set."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nonvacuous.learning.data_dependent import DataDependent
from nonvacuous.learning.holdout import HoldOut
from nonvacuous.studies.certificates_table import drawn, fill, rows, settings


def test_table_is_filled_once_and_gone_on_with(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    fill(file, ["wine"], ["holdout"], seeds=1)
    before = file.read_text()
    fill(file, ["wine"], ["holdout"], seeds=2)
    assert file.read_text().startswith(before) and len(rows(file)) == 2
    row = rows(file)[0]
    assert 0 <= float(row["test_risk"]) <= 1 and float(row["value"]) < 1
    train, test = drawn("wine", 0)
    assert int(row["n"]) == train.n and int(row["test_n"]) == test.n and train.n + test.n == 178


@pytest.mark.parametrize("data", ["wine", "fair", "mnist-5000", "fashion-mnist"])
def test_settings_that_were_not_the_first_on_these_draws_are_paid(data: str) -> None:
    method = settings(data, "data-dependent")
    assert isinstance(method, DataDependent)
    assert method.price_nats >= math.log(3) and len(method.scales) == 1
    assert method.mirrored == (data == "fashion-mnist")  # a digit in a mirror is none
    assert settings(data, "holdout") == HoldOut(fraction=0.2)  # the comparator is as declared everywhere
