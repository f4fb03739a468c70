"""Alarms about order: how often they are raised where nothing is wrong, and where something is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.dependence import LEVEL, drift, serial_dependence


def walk(n: int, memory: float, generator: np.random.Generator) -> np.ndarray:
    """A stationary autoregression [n]."""
    noise, values = generator.normal(size=n) * np.sqrt(1 - memory**2), np.empty(n)
    values[0] = generator.normal()
    for t in range(1, n):
        values[t] = memory * values[t - 1] + noise[t]
    return values


def test_the_p_value_is_one_also_for_rare_errors() -> None:
    """P(p ≤ u) ≤ u, where the chi-squared law of the same statistic would be wrong by far."""
    generator = np.random.default_rng(0)
    found, naive = [], []
    for seed in range(300):
        losses = (generator.random(200) < 0.03).astype(float)
        alarm = serial_dependence(losses, seed=seed)
        found.append(alarm.p_value)
        naive.append(stats.chi2.sf(alarm.statistic, max(1, alarm.lags)))
    for level in (0.05, 0.2):
        assert stats.binom.sf(sum(p <= level for p in found) - 1, len(found), level) > 1e-3
    assert sum(p <= LEVEL for p in found) <= 2 < sum(p <= LEVEL for p in naive)


def test_the_statistic_is_ljung_and_boxs() -> None:
    diagnostic = pytest.importorskip("statsmodels.stats.diagnostic")
    values = walk(150, 0.4, np.random.default_rng(1)) ** 2
    known = diagnostic.acorr_ljungbox(values, lags=[10])["lb_stat"].iloc[0]
    alarm = serial_dependence(values)
    assert (alarm.statistic, alarm.lags, alarm.tested) == (pytest.approx(known), 10, 150)


@pytest.mark.parametrize("memory", [0.5, 0.9])
def test_dependence_is_found(memory: float) -> None:
    values = walk(600, memory, np.random.default_rng(2))
    assert serial_dependence(values**2 / 20).raised
    assert serial_dependence((values > 1).astype(float)).raised
    assert not serial_dependence(np.random.default_rng(3).permutation(values)).raised


def test_a_sample_sorted_by_class_raises_no_alarm_unless_there_is_more() -> None:
    generator = np.random.default_rng(4)
    classes = np.repeat(np.arange(4), 200)
    losses = (generator.random(800) < np.array([0.0, 0.1, 0.3, 0.6])[classes]).astype(float)
    assert serial_dependence(losses).raised  # as if it were a series
    assert not serial_dependence(losses, classes).raised
    runs = np.repeat(generator.random(200) < 0.3, 4).astype(float)
    assert serial_dependence(runs, classes).raised


def test_few_or_constant_losses_are_not_tested() -> None:
    assert serial_dependence(np.array([0.0, 1.0] * 5)).tested == 0
    assert serial_dependence(np.zeros(100)).p_value == serial_dependence(np.full(100, 0.1)).p_value == 1.0
    assert drift(np.arange(5.0)).tested == 0 and drift(np.ones(50)).p_value == 1.0


def test_only_the_first_losses_are_looked_at() -> None:
    losses = np.concatenate([np.random.default_rng(5).random(10_000), np.repeat([0.0, 1.0], 500)])
    alarm = serial_dependence(losses)
    assert alarm.tested == 10_000 and not alarm.raised


def test_drift_is_found_and_dependence_alone_is_none() -> None:
    generator = np.random.default_rng(6)
    alarms = [drift(walk(500, 0.5, generator)) for _ in range(200)]
    assert np.mean([alarm.p_value <= 0.05 for alarm in alarms]) < 0.15  # approximate: the size is not exact
    assert sum(alarm.raised for alarm in alarms) <= 3
    assert drift(walk(500, 0.5, generator) + np.linspace(0, 2, 500)).raised
    assert drift(np.repeat([0.0, 1.0], 50)).raised


@pytest.mark.parametrize("test", [serial_dependence, drift])
def test_what_is_no_series(test: object) -> None:
    with pytest.raises(InvalidInput, match=r"not finite .nan. at place 3"):
        test(np.array([0.0, 1.0, 0.0, np.nan, 1.0]))
    with pytest.raises(InvalidInput, match="one row of numbers"):
        test(np.zeros((4, 4)))
