"""The budget from refits, where the true parts are known, and the command that prints it."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import stats
from torch import nn

import nonvacuous
from nonvacuous.auditing.refits import order_test
from nonvacuous.cli import main
from nonvacuous.commands.budget import seconds_of
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.models import mlp
from nonvacuous.runtime.sources import load
from nonvacuous.studies.nearest_neighbour import bayes_bracket, nearest_neighbour_errors

POINTS = 8
POSITIVE = np.array([0.05, 0.1, 0.15, 0.7, 0.4, 0.8, 0.9, 0.95])  # P(y = 1 | x): a dent that no threshold follows
SAYS = np.array([[(x >= t) ^ s for x in range(POINTS)] for t, s in product(range(POINTS + 1), (0, 1))])
TRUE_RISKS = np.where(SAYS, 1 - POSITIVE, POSITIVE).mean(1)
NAMES = ["irreducible", "approximation", "sampling", "optimization", "generalization"]
SMALL = {"epochs": 8, "batch_size": 16, "learning_rate": 0.05, "replicates": 4, "progress": False, "seconds": 10_000}


def thresholds() -> nn.Module:
    """A linear classifier of one number: any threshold, either way round."""
    return mlp(1, 2)


def drawn(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and labels; the second column of the inputs makes equal points different examples and is not read by the network."""
    generator = np.random.default_rng(seed)
    x = generator.integers(POINTS, size=n)
    return x, (generator.random(n) < POSITIVE[x]).astype(int)


class First(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x[:, :1] * 2 - 1)


def inputs(x: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).random(len(x))
    return np.stack([x / (POINTS - 1), noise], 1).astype(np.float32)


def true_parts(found: nonvacuous.RefitBudget, x, y, test_x, test_y) -> dict[str, float]:
    first = found.run.at(found.run.plan.base)[0]
    wrong = first.losses.astype(bool)
    says = np.array([((test_y ^ wrong)[test_x == p][0]) for p in range(POINTS)])
    in_sample = (SAYS[:, x] != y).mean(1)
    bayes, own = np.minimum(POSITIVE, 1 - POSITIVE).mean(), np.where(says, 1 - POSITIVE, POSITIVE).mean()
    train = (says[x] != y).mean()
    assert train == pytest.approx(first.train_risk)
    best = TRUE_RISKS.min()
    return dict(
        zip(NAMES, [bayes, best - bayes, in_sample.min() - best, train - in_sample.min(), own - train], strict=True)
    ) | {"risk": own}


@pytest.mark.slow
def test_every_true_part_lies_in_its_interval() -> None:
    held = {name: [] for name in [*NAMES, "risk"]}
    for seed in range(12):
        (x, y), (test_x, test_y) = drawn(2 * seed, 400), drawn(2 * seed + 1, 600)
        found = nonvacuous.budget(First, (inputs(x, 1), y), test=(inputs(test_x, 2), test_y), delta=0.1, seed=seed, **SMALL)
        truth = true_parts(found, x, y, test_x, test_y)
        for name in NAMES:
            held[name].append(truth[name] in found.budget[name])
        held["risk"].append(truth["risk"] in found.budget.risk.measured)
        assert truth["risk"] in found.budget.sum or not all(h[-1] for h in held.values())
    assert all(held["optimization"])  # exact
    for name, hits in held.items():
        assert hits.count(False) <= stats.binom.isf(0.01, len(hits), 0.1), name


def noisy(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    return x, (x.sum(1) > 0).long()


def wide(width: float = 1.0) -> nn.Module:
    return mlp(3, max(1, round(4 * width)), 2)


def test_the_whole_thing_on_a_small_sample(tmp_path: Path) -> None:
    found = nonvacuous.budget(wide, noisy(300), folder=tmp_path / "refits", **SMALL | {"epochs": 2, "replicates": 2})
    assert {lever.name for lever in found.levers} == {"data", "width", "training"}
    assert found.budget.risk.measured.kind is Kind.CONFIDENCE
    assert found.budget["optimization"].kind is Kind.EXACT
    assert "held out" in found.notes[0]
    found.save(tmp_path)
    document = json.loads((tmp_path / "budget.json").read_text())
    assert [part["name"] for part in document["parts"]] == [*NAMES, "risk"]
    assert len(document["refits"]) == len(found.run.refits) == 11 * 2 * 3
    assert "Where the error is" in (tmp_path / "budget.html").read_text()
    again = nonvacuous.budget(wide, noisy(300), folder=tmp_path / "refits", **SMALL | {"epochs": 2, "replicates": 2})
    assert again.document()["parts"] == document["parts"]


def test_regression_has_a_budget_in_squared_error() -> None:
    x, _ = noisy(300)
    sample = as_sample((x, x.sum(1)), regression=True)
    found = nonvacuous.budget(lambda width=1.0: mlp(3, round(4 * width), 1), sample, **SMALL | {"epochs": 2})
    assert found.neighbour is None
    assert found.budget.risk.measured.kind is Kind.INDICATOR
    assert found.budget.risk.measured.lower > 0


def fixed() -> nn.Module:
    return mlp(3, 4, 2)


def test_a_factory_without_a_width_is_told_how_to_get_one() -> None:
    found = nonvacuous.budget(fixed, noisy(260), **SMALL | {"epochs": 1, "replicates": 2})
    assert {lever.name for lever in found.levers} == {"data", "training"}
    assert any("def factory(width" in note for note in found.notes)


def test_labels_in_order_are_noticed() -> None:
    x, y = noisy(400)
    order = y.argsort()
    assert order_test(y, 2) > 1e-3
    assert order_test(y[order], 2) < 1e-3
    assert order_test(x[:, 0].sort().values, None) < 1e-3
    assert order_test(torch.zeros(10, dtype=torch.long), 2) == 1.0
    found = nonvacuous.budget(fixed, (x[order], y[order]), test=noisy(50, 1), **SMALL | {"epochs": 1, "replicates": 1})
    assert any("order is not random" in note for note in found.notes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": noisy(150)}, "200"),
        ({"train": noisy(300), "test": noisy(300)}, "occur in the training sample and in the test"),
        ({"delta": 1.0}, "delta"),
        ({"seconds": 0}, "positive number of seconds"),
        ({"processes": 0}, "at least 1"),
        ({"epochs": 1e7}, "two points"),
        ({"factory": "mlp:4"}, "form"),
        ({"factory": "mlp:4-5-2"}, "failed on a batch"),
        ({"factory": "mlp:3-5-7"}, "one output a class"),
    ],
)
def test_bad_input(arguments, message) -> None:
    given = {"factory": wide, "train": noisy(300), **SMALL, "seconds": 20} | arguments
    with pytest.raises(InvalidInput, match=message):
        nonvacuous.budget(given.pop("factory"), given.pop("train"), **given)


def test_a_sample_that_is_itself_one_side_of_a_split_by_content_can_be_split_again() -> None:
    found = nonvacuous.budget("mlp:30-2", load("breast-cancer", "train"), **SMALL | {"epochs": 0.5, "replicates": 1})
    assert 50 < found.run.test_size < 150


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1.5h", 5400), ("45", 45), (".5m", 30)])
def test_times(text, seconds) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "-3m", "soon", "1d", "nan"])
def test_what_is_no_time(text) -> None:
    with pytest.raises(InvalidInput, match="not a time"):
        seconds_of(text)


def test_the_command(tmp_path: Path) -> None:
    options = ["budget", "--model", "mlp:30-4-2", "--train", "breast-cancer", "--test", "breast-cancer", "--epochs", "2"]
    options += ["--replicates", "2", "--time", "10m", "--processes", "1", "--out", str(tmp_path / "b")]
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 0, result.output
    assert "Where the error is" in result.output
    again = CliRunner().invoke(main, [*options, "--resume", "--json", "--quiet"])
    assert json.loads(again.stdout)["model"] == "mlp:30-4-2"
    assert CliRunner().invoke(main, options).exit_code != 0  # not empty
    assert CliRunner().invoke(main, [*options, "--time", "soon", "--force"]).exit_code != 0


def test_an_audit_with_refits_speaks_of_the_audited_network(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    common = ["--model", "mlp:30-4-2", "--train", "breast-cancer"]
    trained = CliRunner().invoke(main, ["train", *common, "--epochs", "1", "--out", str(weights)])
    assert trained.exit_code == 0, trained.output
    options = [
        "audit",
        *common,
        "--weights",
        str(weights),
        "--refit",
        "10m",
        "--refit-epochs",
        "1",
        "--out",
        str(tmp_path / "a"),
    ]
    refused = CliRunner().invoke(main, options)
    assert refused.exit_code != 0 and "--refit needs --test" in refused.output
    result = CliRunner().invoke(main, [*options, "--test", "breast-cancer", "--quiet"])
    assert result.exit_code == 0, result.output
    audited = json.loads((tmp_path / "a" / "audit.json").read_text())
    parts = json.loads((tmp_path / "a" / "budget.json").read_text())["parts"]
    assert parts[-1]["upper"] == pytest.approx(audited["budget"]["risk"]["upper"])


def test_an_audit_of_other_samples_is_refused() -> None:
    model = wide()
    audited = nonvacuous.audit(model, train=noisy(300), test=noisy(100, 1), delta=0.1)
    with pytest.raises(InvalidInput, match="other samples"):
        nonvacuous.budget(wide, noisy(300), test=noisy(100, 2), audited=audited, **SMALL)


def test_the_nearest_neighbour_and_its_bracket() -> None:
    x, y = noisy(200)
    test_x, test_y = noisy(50, 1)
    distances = torch.cdist(test_x.double(), x.double())
    expected = y[distances.argmin(1)] != test_y
    assert torch.equal(nearest_neighbour_errors(x, y, test_x, test_y), expected)
    bracket = bayes_bracket(0.18, 2)
    assert (bracket.lower, bracket.upper) == (pytest.approx(0.1), 0.18)  # 2 · .1 · .9 = .18
    assert bayes_bracket(0.0, 10).lower == 0
    with pytest.raises(InvalidInput):
        bayes_bracket(1.1, 2)
    with pytest.raises(InvalidInput):
        nearest_neighbour_errors(x, y, test_x[:, :2], test_y)
