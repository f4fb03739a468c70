"""``nonvacuous bounds``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nonvacuous.commands.bounds import described
from nonvacuous.core.bound import registered

NAMES = sorted(registered())


def test_every_bound_has_one_line(run: Any) -> None:
    result = run("bounds")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *NAMES]
    assert all(bound.statement() in line for line, bound in zip(lines[1:], registered().values(), strict=True))
    assert not any(line.endswith(" ") for line in lines)


def test_quiet_lists_names_only(run: Any) -> None:
    assert run("bounds", "--quiet").stdout.split() == NAMES


def test_the_list_as_json(run: Any) -> None:
    result = run("bounds", "--json")
    rows = json.loads(result.stdout)
    assert [row["name"] for row in rows] == NAMES
    assert set(rows[0]) == {"name", "title", "statement", "sample", "loss", "predictors"}


def test_seeger_in_full(run: Any) -> None:
    text = run("bounds", "seeger").stdout
    for part in (
        "n·kl(r̂, value) ≥ KL + ln(2√n/δ)",
        "The examples are independent draws",
        "prior",
        "kl_nats",
        "KL(Q‖P)",
        "nats",
        "worse",
        "better",
        "Maurer 2004",
        "gibbs_risk = 0.02, kl_nats = 500, n = 60,000, δ = 0.025",
        "risk ≤ 0.0439447",
    ):
        assert part in text


@pytest.mark.parametrize("name", NAMES)
def test_every_bound_can_be_printed_and_described(run: Any, name: str) -> None:
    shown = run("bounds", name)
    assert shown.exit_code == 0
    assert ">>>" not in shown.stdout
    content = json.loads(run("bounds", name, "--json").stdout)
    assert content["name"] == name
    assert {e["direction"] for e in content["evidence"]} <= {"up", "down", "free", "exact"}


@pytest.mark.parametrize("name", [name for name in NAMES if registered()[name].worked])
def test_worked_numbers_are_rounded_up_and_near_what_is_stated(name: str) -> None:
    bound = registered()[name]
    for example in described(bound)["worked"]:
        evidence = bound.Evidence(**example["evidence"])
        assert bound().solve(evidence, example["delta"]) <= example["value"]
        assert example["value"] == pytest.approx(example["stated"], abs=1e-6)


def test_an_unknown_bound_names_the_nearest(run: Any) -> None:
    result = run("bounds", "segger")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "nearest: seeger" in result.stderr
    assert len(result.stderr.splitlines()) == 1
