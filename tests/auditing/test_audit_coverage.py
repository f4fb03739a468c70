"""The whole audit, repeated: how often is anything it promises false, where the truth is known exactly."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import nonvacuous
from nonvacuous.auditing.plan import plan
from nonvacuous.auditing.result import Audit
from nonvacuous.measures.losses import ZERO_ONE

CELLS = 6
CHANCE = np.array([0.3, 0.25, 0.15, 0.12, 0.1, 0.08])  # of each cell
POSITIVE = np.array([0.1, 0.8, 0.45, 0.9, 0.25, 0.6])  # P(y = 1 | cell)


def draw(n: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs [n, 7] (one-hot cell, and a jitter that makes each input unique), labels, cells."""
    cells = generator.choice(CELLS, size=n, p=CHANCE)
    labels = (generator.random(n) < POSITIVE[cells]).astype(np.int64)
    x = np.zeros((n, CELLS + 1), dtype=np.float32)
    x[np.arange(n), cells] = 1
    x[:, -1] = generator.random(n) * 1e-3
    return x, labels, cells


def risk_of(ones: np.ndarray) -> float:
    """Exact risk of predicting 1 with probability ``ones`` [cells]."""
    return float(CHANCE @ (ones * (1 - POSITIVE) + (1 - ones) * POSITIVE))


def majority(x: np.ndarray, labels: np.ndarray, cells: np.ndarray) -> nn.Sequential:
    """The linear network that gives each cell the label it had most often: the training minimiser."""
    votes = np.array([np.sum(2.0 * labels[cells == c] - 1) for c in range(CELLS)])
    network = nn.Sequential(nn.Linear(CELLS + 1, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor(np.append(np.sign(votes), 0.0), dtype=torch.float32)[None])
    return network


def gibbs_ones(network: nn.Sequential, std: float) -> np.ndarray:
    """Probability that a network drawn from the posterior says 1, per cell (the jitter moves it by less than 1e-3)."""
    weights = network[0].weight.detach().numpy()[0, :CELLS]
    return stats.norm.cdf(weights / std)


def false_promises(seed: int, delta: float, sizes: tuple[int, int]) -> list[str]:
    """Names of certificates of one audit that lie below the exact risk."""
    generator = np.random.default_rng(seed)
    train, test = draw(sizes[0], generator), draw(sizes[1], generator)
    network = majority(*train)
    audit = nonvacuous.audit(network, train=train[:2], test=test[:2], delta=delta, seed=seed)
    weights = network[0].weight.detach().numpy()[0, :CELLS]
    truth = risk_of((weights > 0).astype(float))
    false = []
    for certificate in audit.certificates:
        risk = truth
        if certificate.predictor == "gibbs":
            (std,) = certificate.measurement["posterior_std"]
            risk = risk_of(gibbs_ones(network, std)) - 2e-3
        if certificate.value < risk:
            false.append(certificate.bound)
    if not audit.budget.risk.measured.lower <= truth <= audit.budget.risk.measured.upper:
        false.append("budget")
    return false


def unlikely(failures: int, runs: int, delta: float) -> bool:
    """Whether so many failures would surprise (one in a million) if each came with probability δ."""
    return bool(stats.binom.sf(failures - 1, runs, delta) < 1e-6)


@pytest.mark.parametrize("runs", [24, pytest.param(400, marks=pytest.mark.slow)])
def test_audits_are_false_at_most_as_often_as_they_say(runs: int) -> None:
    delta = 0.5
    wrong = [seed for seed in range(runs) if false_promises(seed, delta, (60, 25))]
    assert not unlikely(len(wrong), runs, delta)
    if runs >= 100:
        assert wrong, "the test has power: at δ = 0.5 some audits are false"


def test_half_the_share_is_half_the_failures() -> None:
    """The held-out certificate alone, which is exact: its failures match its own share, not the whole δ."""
    runs, delta = 4000, 0.5
    share = plan(delta, ZERO_ONE, held_out=True, network=True).ledger.spent["binomial-tail"]
    generator = np.random.default_rng(0)
    bound = nonvacuous.core.bound.find("binomial-tail")()
    truth, n = risk_of((POSITIVE > 0.5).astype(float)), 25
    values = [bound.solve(bound.Evidence(k, n), share) for k in range(n + 1)]
    misses = sum(values[k] < truth for k in generator.binomial(n, truth, size=runs))
    assert 0.3 * runs * share < misses <= stats.binom.isf(1e-6, runs, share)


# -- E1: the error budget where every part is known ----------------------------------------------------------------------


POINTS = 8
SLOPE = np.array([0.05, 0.1, 0.15, 0.7, 0.4, 0.8, 0.9, 0.95])  # P(y = 1 | x): a dent that no threshold can follow
RULES = [(t, s) for t, s in product(range(POINTS + 1), (0, 1))]
SAYS = np.array([[(x >= t) ^ s for x in range(POINTS)] for t, s in RULES])  # the class: thresholds, both ways [h, x]
TRUE_RISKS = np.where(SAYS, 1 - SLOPE, SLOPE).mean(1)


def rule(says: np.ndarray) -> Any:
    return lambda x: torch.tensor(says.astype(np.int64))[x[:, 0].long()]


def parts(says: np.ndarray, cells: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """All five parts of the identity, exactly."""
    sample_risks = (SAYS[:, cells] != labels).mean(1)
    own_risk = float(np.where(says, 1 - SLOPE, SLOPE).mean())
    own_sample = float((says[cells] != labels).mean())
    best, bayes, least = TRUE_RISKS.min(), float(np.minimum(SLOPE, 1 - SLOPE).mean()), sample_risks.min()
    return {
        "irreducible": bayes,
        "approximation": float(best - bayes),
        "sampling": float(least - best),
        "optimization": own_sample - float(least),
        "generalization": own_risk - own_sample,
        "risk": own_risk,
    }


def budget_of(seed: int, delta: float) -> tuple[Audit, dict[str, float]]:
    """One audit of a badly optimised threshold (the fourth best on its sample)."""
    generator = np.random.default_rng(seed)
    samples = []
    for n in (80, 60):
        cells = generator.integers(POINTS, size=n)
        labels = (generator.random(n) < SLOPE[cells]).astype(np.int64)
        samples.append((cells, labels, np.stack([cells, generator.random(n)], 1).astype(np.float32)))
    (cells, labels, x), (_, test_labels, test_x) = samples
    chosen = SAYS[np.argsort((SAYS[:, cells] != labels).mean(1), kind="stable")[3]]
    audit = nonvacuous.audit(rule(chosen), train=(x, labels), test=(test_x, test_labels), delta=delta)
    return audit, parts(chosen, cells, labels)


def test_every_part_of_the_budget_lies_in_its_interval() -> None:
    runs, delta, missed = 300, 0.2, 0
    for seed in range(runs):
        audit, truth = budget_of(seed, delta)
        names = [part.name for part in audit.budget.parts]
        assert names == [name for name in truth if name != "risk"]
        assert sum(truth[name] for name in names) == pytest.approx(truth["risk"], abs=1e-12), "the identity"
        inside = [truth[name] in audit.budget[name] for name in names]
        inside += [truth["risk"] in audit.budget.risk.measured, truth["risk"] in audit.budget.sum]
        missed += not all(inside)
        assert audit.budget["optimization"].kind.name == "EXACT" and truth["optimization"] in audit.budget["optimization"]
        assert audit.budget.sum.delta <= delta * (1 + 1e-12)
    assert not unlikely(missed, runs, delta)
    assert missed > 0, "the test has power: at δ = 0.2 some budgets are false"


def test_conflicting_duplicates_lower_the_optimization_part() -> None:
    """Equal inputs with different labels: no function gets both right, and the budget does not blame optimization for it."""
    x = np.repeat(np.arange(10, dtype=np.float32), 2)[:, None]
    y = np.tile([0, 1], 10)
    audit = nonvacuous.audit(lambda inputs: torch.zeros(len(inputs), dtype=torch.long), train=(x, y))
    assert audit.facts.train.errors == 10
    assert audit.budget["optimization"].upper == pytest.approx(0, abs=1e-12)


def test_without_held_out_data_the_risk_is_unknown_and_says_so() -> None:
    x, y, _ = draw(50, np.random.default_rng(0))
    audit = nonvacuous.audit(lambda inputs: torch.zeros(len(inputs), dtype=torch.long), train=(x, y))
    assert (audit.budget.risk.measured.lower, audit.budget.risk.measured.upper) == (0.0, 1.0)
    assert audit.budget.risk.measured.kind.name == "EXACT"
    assert audit.certificates == () and audit.ledger == {}
    with pytest.raises(LookupError, match="skipped"):
        audit.best  # noqa: B018
