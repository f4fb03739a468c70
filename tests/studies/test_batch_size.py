"""The batch-size study: what it says follows from its intervals."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from scipy.stats import t as student

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.sources import load
from nonvacuous.studies.batch_size import CLAIMS, Arm, Claim, Run, Verdict, draw, findings, main, read, run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def one() -> Run:
    part, test = draw(load("digits"), 200, 0), draw(load("digits", "test"), None, 0)
    return run("digits", part, test, Arm.LARGE, 0, target=0.3, hidden=16)


def test_a_run_fits_to_the_target_and_measures(one: Run) -> None:
    assert one.fitted and one.batch_size == 32 and one.steps == one.epochs * 7 and one.examples == 200
    assert 0 < one.test_error < 0.5 and one.train_loss < 0.35
    assert min(one.box, one.sam, one.adaptive_sam, one.noise_std, one.adaptive_noise_std, one.fisher_rao) > 0
    part, test = draw(load("digits"), 200, 0), draw(load("digits", "test"), None, 0)
    short = run("digits", part, test, Arm.LARGE, 0, target=0.3, hidden=16, most_epochs=1)
    assert not short.fitted and short.epochs == 1


def pairs(one: Run, gaps: list[float], fitted: bool = True) -> list[Run]:
    small = [replace(one, arm=Arm.SMALL.value, seed=s) for s in range(len(gaps))]
    return small + [replace(one, seed=s, test_error=one.test_error + g, fitted=fitted) for s, g in enumerate(gaps)]


def test_verdicts_follow_the_students_interval(one: Run) -> None:
    gaps = [0.01, 0.02, 0.015, 0.012]
    claim = [Claim("test_error", True)]
    (found,) = findings(pairs(one, gaps), claims=claim)
    x = torch.tensor(gaps).double()
    reach = float(student.ppf(0.975, 3) * x.std() / 2)
    assert found.interval.lower == pytest.approx(float(x.mean()) - reach) and found.interval.upper == pytest.approx(
        float(x.mean()) + reach
    )
    assert found.verdict is Verdict.CONFIRMED and found.pairs == 4
    assert findings(pairs(one, [-g for g in gaps]), claims=claim)[0].verdict is Verdict.REVERSED
    assert findings(pairs(one, gaps), claims=[Claim("test_error", False)])[0].verdict is Verdict.REVERSED
    assert findings(pairs(one, [0.1, -0.1, 0.1, -0.1]), claims=claim)[0].verdict is Verdict.UNDECIDED
    wider = findings(pairs(one, gaps))[0]  # all claims at once: wider than one alone
    assert wider.interval.width > found.interval.width and len(findings(pairs(one, gaps))) == len(CLAIMS)


def test_seeds_that_did_not_fit_do_not_count(one: Run) -> None:
    with pytest.raises(InvalidInput, match="fitted"):
        findings(pairs(one, [0.1] * 5, fitted=False))
    with pytest.raises(InvalidInput, match="three"):
        findings(pairs(one, [0.1] * 2))


def test_a_null_effect_is_left_undecided_as_often_as_promised(one: Run) -> None:
    generator = torch.Generator().manual_seed(0)
    wrong = sum(
        findings(pairs(one, torch.randn(6, generator=generator).tolist()), claims=[Claim("test_error", True)])[0].verdict
        is not Verdict.UNDECIDED
        for _ in range(300)
    )
    assert 3 <= wrong <= 30  # 15 expected of 300


@pytest.mark.slow
def test_the_command_writes_rows_and_goes_on_with_them(tmp_path: Path) -> None:
    out = tmp_path / "runs.csv"
    words = ["--data", "digits", "--examples", "100", "--seeds", "3", "--target", "1.5", "--out", str(out)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    runs = read(out)
    assert len(runs) == 9 and {r.arm for r in runs} == {arm.value for arm in Arm}
    before = out.read_bytes()
    again = CliRunner().invoke(main, words)
    assert again.exit_code == 0 and out.read_bytes() == before
    assert [line for line in again.output.splitlines() if "seeds:" in line] == [
        line for line in result.output.splitlines() if "seeds:" in line
    ]


def test_the_stored_runs_can_be_read_and_judged() -> None:
    runs = read(ROOT / "results" / "batch_size.csv")
    for arm in (Arm.LARGE, Arm.LARGE_SCALED):
        for found in findings(runs, arm):
            assert found.pairs >= 5 and math.isfinite(found.interval.width)
