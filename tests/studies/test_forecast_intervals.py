"""Prediction intervals: the very order statistic, its coverage on exchangeable data, and what a drift does to each method."""

from __future__ import annotations

import sys
from math import ceil

import numpy as np
import pytest
import torch

import nonvacuous
from nonvacuous import Mixing, Series
from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.losses import missed, named
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.series import windows
from nonvacuous.studies.forecast_intervals import adaptive_conformal, calibration_split, split_conformal

pytest.importorskip("mapie")


def last(inputs: torch.Tensor) -> torch.Tensor:
    return inputs[:, -1]


def independent(n: int, seed: int) -> object:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, 2)).astype(np.float32)
    return as_sample((x, x[:, -1] + generator.exponential(size=n)), "test", regression=True)


def test_the_half_width_is_an_order_statistic() -> None:
    for n, coverage in ((19, 0.9), (60, 0.8), (120, 0.99)):
        calibration, fresh = independent(n, 0), independent(30, 1)
        found = split_conformal(last, calibration, fresh, coverage=coverage)
        errors = np.sort(np.abs(calibration.targets.numpy() - calibration.inputs[:, -1].double().numpy()))
        assert found.half_width == pytest.approx(errors[ceil((n + 1) * coverage - 1e-9) - 1])
        assert np.allclose(found.upper - found.lower, 2 * found.half_width)
        outside = np.abs(fresh.targets.numpy() - fresh.inputs[:, -1].double().numpy()) > found.half_width
        assert (found.missed == outside).all() and found.coverage == pytest.approx(1 - outside.mean())


def test_exchangeable_examples_are_covered_as_asked_on_average() -> None:
    coverages = [
        split_conformal(last, independent(49, 2 * s), independent(100, 2 * s + 1), coverage=0.8).coverage for s in range(60)
    ]
    mean, error = np.mean(coverages), np.std(coverages) / np.sqrt(len(coverages))
    assert mean + 3 * error > 0.8 and abs(mean - 0.8) < 0.03  # exactly 0.8 in expectation, as 50 · 0.8 is whole


def test_a_drift_breaks_the_fixed_width_and_not_the_adaptive_one() -> None:
    generator = np.random.default_rng(3)
    widening = np.cumsum(generator.normal(size=900) * np.linspace(0.5, 3, 900))
    split = windows(widening, 3, gap=5)
    _, calibration = calibration_split(split.kept)
    fixed = split_conformal(last, calibration, split.held_out)
    moving = adaptive_conformal(last, calibration, split.held_out, rate=0.05)
    assert fixed.coverage < 0.85 < moving.coverage < 0.95
    assert "exchangeable" in fixed.indicator.reason and fixed.indicator.name == "split_conformal_coverage"
    assert moving.half_width is None and moving.indicator.upper == moving.coverage


def test_the_rate_of_misses_is_certified_by_blocks() -> None:
    noise, values = np.random.default_rng(4).normal(size=6000), np.zeros(6000)
    for t in range(1, 6000):
        values[t] = 0.5 * values[t - 1] + noise[t]
    split = windows(values, 2, gap=40)
    found = split_conformal(last, calibration_split(split.kept)[1], split.held_out)
    audit = nonvacuous.audit(
        last, train=split.kept, test=split.held_out, loss=missed(found.half_width), series=Series(Mixing(1.0, 0.5))
    )
    assert audit.facts.test.risk == pytest.approx(1 - found.coverage)
    assert 1 - found.coverage < audit.best.value < 0.3
    assert named(audit.best.loss).name == audit.best.loss  # what verify needs to measure it again


def test_calibration_windows_share_no_observation_with_those_fitted() -> None:
    kept = windows(np.arange(200.0), 5, 2).kept
    fit, calibration = calibration_split(kept, 0.3)
    assert calibration.n == round(0.3 * kept.n) and fit.n + calibration.n == kept.n - 6
    assert fit.targets.max() < calibration.inputs.min()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"coverage": 1.0}, "coverage lies strictly between"),
        ({"coverage": 0.99}, "needs at least 100 calibration windows; there are 30"),
        ({"rate": 0.0}, "rate lies strictly between"),
    ],
)
def test_what_is_refused(arguments: dict, says: str) -> None:
    rule = adaptive_conformal if "rate" in arguments else split_conformal
    with pytest.raises(InvalidInput, match=says):
        rule(last, independent(30, 0), independent(10, 1), **arguments)


def test_samples_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = windows(np.random.default_rng(0).normal(size=60), 2, regression=False).kept
    with pytest.raises(InvalidInput, match="numbers to forecast"):
        split_conformal(last, classes, classes)
    with pytest.raises(InvalidInput, match="cannot be cut"):
        calibration_split(windows(np.arange(30.0), 12).kept, 0.9)
    with pytest.raises(InvalidInput, match="share lies strictly"):
        calibration_split(classes, 1.5)
    monkeypatch.setitem(sys.modules, "mapie.regression", None)
    with pytest.raises(InvalidInput, match=r"pip install 'nonvacuous\[conformal\]'"):
        split_conformal(last, independent(30, 0), independent(10, 1))


def test_the_loss_missed_counts_values_outside() -> None:
    loss = named("missed:0.5")
    assert loss.per_example(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.5, 0.4, 2.0])).tolist() == [0.0, 1.0, 0.0]
    for word in ("missed", "missed:0", "missed:x"):
        with pytest.raises(InvalidInput):
            named(word)
