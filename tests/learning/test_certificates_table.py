"""The table of row X3 on one small data set."""

from __future__ import annotations

from pathlib import Path

from nonvacuous.studies.certificates_table import drawn, fill, rows


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
