"""Learning curves: intervals that hold at their level where the law holds, and their limits said."""

from __future__ import annotations

import numpy as np
import pytest

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind
from nonvacuous.studies.learning_curve import interval, learning_curve

SIZES = np.repeat([1000.0, 2000.0, 4000.0, 8000.0, 16000.0], 3)


def law(n, level=0.1, offset=0.5, exponent=0.5):
    return level * (offset + (1 - offset) * (np.asarray(n, dtype=float) / 16_000) ** -exponent)


def test_intervals_hold_at_their_level_over_curves_and_noise() -> None:
    generator = np.random.default_rng(0)
    held = {"next": [], "far": [], "limit": [], "gain": [], "measured": []}
    for seed in range(60):
        level, offset = np.exp(generator.uniform(-4, -1)), generator.uniform(0, 0.99)
        true = (level, offset, generator.uniform(0.05, 2.0))
        noise = np.exp(generator.uniform(np.log(0.01), np.log(0.1)))
        risks = law(SIZES, *true) * np.exp(noise * np.sqrt(3) * generator.standard_normal(len(SIZES)))
        curve = learning_curve(SIZES, risks, seed=seed)
        held["next"].append(law(32_000, *true) in curve.at(32_000))
        held["far"].append(law(96_000, *true) in curve.at(96_000))
        held["limit"].append(level * offset in curve.asymptote())
        held["gain"].append(law(16_000, *true) - law(32_000, *true) in curve.gain(16_000, 32_000))
        seen = law(96_000, *true) * np.exp(noise * generator.standard_normal())
        held["measured"].append(seen in curve.measured_at(96_000))
    for name, hits in held.items():
        assert np.mean(hits) > 0.82, name  # 90 % claimed; 60 curves


def test_a_clean_curve_is_found() -> None:
    curve = learning_curve(SIZES, law(SIZES))
    assert law(32_000) in curve.at(32_000)
    assert curve.at(32_000).width < 0.2 * law(32_000)
    assert curve.at(16_000).kind is Kind.INDICATOR


def test_farther_is_less_certain_and_more_refits_are_more() -> None:
    generator = np.random.default_rng(1)
    risks = law(SIZES) * np.exp(0.03 * generator.standard_normal(len(SIZES)))
    curve = learning_curve(SIZES, risks)
    assert curve.at(16_000).width < curve.at(64_000).width < curve.at(1_000_000).width
    assert curve.measured_at(16_000).width > curve.at(16_000).width
    assert curve.at(64_000, 0.5).width < curve.at(64_000, 0.95).width


def test_the_same_seed_gives_the_same_curve() -> None:
    risks = law(SIZES)
    assert learning_curve(SIZES, risks, seed=3).at(50_000) == learning_curve(SIZES, risks, seed=3).at(50_000)


@pytest.mark.parametrize(
    ("sizes", "risks", "message"),
    [
        ([1, 2], [0.1, 0.2], "2 different sizes"),
        ([1, 2, 2, 1], [0.1, 0.2, 0.1, 0.2], "2 different sizes"),
        ([1, 2, 3], [0.1, 0.2], "one positive"),
        ([1, 2, 3], [0.1, 0.2, 0.0], "one positive"),
        ([1, 2, 3], [0.1, 0.2, float("nan")], "one positive"),
        ([0, 2, 3], [0.1, 0.2, 0.3], "one positive"),
    ],
)
def test_bad_input(sizes, risks, message) -> None:
    with pytest.raises(InvalidInput, match=message):
        learning_curve(sizes, risks)


def test_bad_questions() -> None:
    curve = learning_curve(SIZES, law(SIZES))
    with pytest.raises(InvalidInput, match="positive size"):
        curve.at(0)
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        interval(curve.level, 1.0)
