"""``nonvacuous study`` from the command line."""

from __future__ import annotations

import json

import pytest

from nonvacuous.studies.randomization import read

QUICK = [
    *("--data", "digits", "--model", "mlp:64-16-10", "--examples", "60", "--seeds", "2"),
    *("--most-steps", "12", "--corruption", "0.5", "--batch-size", "30"),
]


def test_a_page_numbers_and_text(run, tmp_path):
    out = tmp_path / "random"
    done = run("study", "randomization", *QUICK, "--out", out)
    assert done.exit_code == 0, done.output
    assert "random labels" in done.output and "at chance" not in done.output
    page = (out / "randomization.html").read_text()
    assert (
        all(f'id="{name}"' in page for name in ("losses", "test"))
        and "http" not in page.split("<script")[0].split("<main>")[1]
    )
    assert len(read(out / "randomization.json").runs) == 14
    assert len((out / "randomization.csv").read_text().splitlines()) == 15
    refused = run("study", "randomization", *QUICK, "--out", out)
    assert refused.exit_code != 0 and "--force" in refused.stderr
    other = run("study", "randomization", *QUICK, "--out", out, "--resume", "--seed", "5")
    assert other.exit_code != 0 and "another study" in other.stderr
    again = run("study", "randomization", *QUICK, "--out", out, "--resume", "--json")
    content = json.loads(again.stdout)
    assert content["runs"] and not content["interrupted"] and content["capacity"]["upper"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--corruption", "1.5"], "from 0 to 1"),
        (["--examples", "100000"], "fewer than"),
        (["--fitted-error", "2"], "fitted_error"),
        (["--learning-rate", "-1"], "learning_rate"),
        (["--resume"], "no study"),
        (["--model", "mlp:3-2"], "failed on a batch"),
    ],
)
def test_bad_words(run, tmp_path, words, message):
    done = run("study", "randomization", *QUICK, *words, "--out", tmp_path / "random")
    assert done.exit_code != 0 and message in done.stderr and "Traceback" not in done.stderr
