"""Double descent: the exact risk of weak features, and where the peaks sit."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from nonvacuous.core.errors import InvalidInput
from nonvacuous.studies import double_descent as study
from nonvacuous.studies.double_descent import (
    Point,
    Regression,
    by_samples,
    exact_risk,
    least_norm,
    main,
    networks,
    noisy_digits,
    peak,
    random_features,
    read,
    two_layers,
)


def means(points, by) -> dict[float, float]:
    groups: dict[float, list[float]] = {}
    for point in points:
        groups.setdefault(by(point), []).append(point.test_risk)
    return {place: float(np.mean(risks)) for place, risks in groups.items()}


@pytest.mark.parametrize("p", [0, 5, 30, 60, 90])
def test_the_exact_risk_against_draws(p: int) -> None:
    n, features, noise, draws = 40, 100, 0.5, 400
    generator = torch.Generator().manual_seed(p)
    beta = torch.randn(features, 1, generator=generator, dtype=torch.float64) / 10
    risks = []
    for _ in range(draws):
        x = torch.randn(n, features, generator=generator, dtype=torch.float64)
        y = x @ beta + math.sqrt(noise) * torch.randn(n, 1, generator=generator, dtype=torch.float64)
        found = torch.zeros_like(beta)
        if p:
            found[:p] = least_norm(x[:, :p], y)
        risks.append(float((found - beta).square().sum()) + noise)
    exact = exact_risk(float(beta[:p].square().sum()), float(beta[p:].square().sum()), noise, n, p)
    assert abs(np.mean(risks) - exact) <= 5 * np.std(risks) / math.sqrt(draws) + 1e-12


def test_the_exact_risk_is_infinite_at_the_threshold_and_falls_after() -> None:
    assert [exact_risk(1, 0, 1, 20, p) for p in (19, 20, 21)] == [math.inf] * 3
    before, after = ([exact_risk(1, 0, 1, 20, p) for p in sizes] for sizes in (range(19), range(22, 200)))
    assert before == sorted(before) and min(after) < after[0]
    assert exact_risk(1, 0, 0, 20, 10) == 0  # nothing to learn wrongly
    with pytest.raises(InvalidInput, match="theorem does not say"):
        exact_risk(1, 0, 0, 20, 20)


@pytest.mark.parametrize("n", [40, 90])
def test_the_peak_of_random_features_sits_at_as_many_features_as_examples(n: int) -> None:
    points = random_features(noisy_digits(n, 0.2), [n // 4, n // 2, n - 8, n, n + 8, 2 * n, 20 * n], seeds=4)
    risks = means(points, lambda point: point.size)
    assert peak(points) == 1 and peak(points, lambda point: point.size) == n
    assert risks[20 * n] < min(risks[n // 4], risks[n // 2])  # the second descent goes below the first valley
    assert all((point.train_risk < 1e-12) == (point.size >= n) for point in points if point.size != n)


def test_more_examples_can_hurt() -> None:
    risks = means(by_samples(noisy_digits(300, 0.2), 60, [20, 60, 300], seeds=4), lambda point: point.examples)
    assert risks[60] > 3 * risks[20] > 3 * risks[300]


def test_least_norm_is_the_pseudo_inverse() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((10, 4), (4, 10)):
        x, y = torch.randn(shape, generator=generator).double(), torch.randn(shape[0], 2, generator=generator).double()
        assert torch.allclose(least_norm(x, y), torch.linalg.pinv(x) @ y)


def test_a_network_is_measured_at_each_length() -> None:
    data = noisy_digits(20, 0.2)
    seen: list[int] = []
    points = networks(data, [2, 30], steps=[1, 200], seeds=2, finished=lambda points: seen.append(len(points)))
    assert seen == [4, 4] and len(points) == 8
    assert {p.size for p in points} == {sum(x.numel() for x in two_layers(64, h, 10).parameters()) for h in (2, 30)}
    large = [p for p in points if p.size > 1000 and p.steps == 200]
    assert all(p.train_risk < 1e-2 for p in large) and large[0].ratio == large[0].size / 200
    assert all(p.train_risk > 0.1 for p in points if p.size < 1000)


@pytest.mark.slow
def test_the_peak_of_a_small_network_sits_near_as_many_parameters_as_numbers_to_fit() -> None:
    points = networks(noisy_digits(50, 0.2), [2, 4, 8, 16, 48], steps=[700], seeds=4)
    risks = means(points, lambda point: point.ratio)
    assert 0.9 < peak(points) < 1.5  # 610 parameters for 500 numbers
    assert 1.4 * max(risks[min(risks)], risks[max(risks)]) < risks[peak(points)]


def test_ctrl_c_keeps_the_widths_that_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = study.trained_stack, []

    def stops(*given, **named):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(study, "trained_stack", stops)
    points = networks(noisy_digits(10, 0.0), [1, 2], steps=[3], seeds=2)
    assert len(points) == 2 and {p.steps for p in points} == {3}


def test_the_command_goes_on_with_its_file(tmp_path: Path) -> None:
    out = tmp_path / "points.csv"
    words = ["--examples", "10", "--steps", "2,4", "--seeds", "1", "--out", str(out), "--hidden"]
    for hidden, rows in (("1", 2), ("1,2", 4), ("2", 4)):
        result = CliRunner().invoke(main, [*words, hidden])
        assert result.exit_code == 0 and "peak at" in result.output, result.output
        assert len(read(out)) == rows


def regression(n: int = 4) -> Regression:
    return Regression(torch.ones(n, 2), torch.ones(n, 1), torch.ones(3, 2), torch.ones(3, 1))


def test_input_that_cannot_be_fitted() -> None:
    with pytest.raises(InvalidInput, match=r"\[n, d\]"):
        random_features(regression()._replace(targets=torch.ones(3, 1)), [2])
    with pytest.raises(InvalidInput, match="NaN"):
        networks(regression()._replace(inputs=torch.full((4, 2), math.nan)), [1], steps=[1])
    with pytest.raises(InvalidInput, match="different numbers"):
        random_features(regression()._replace(test_inputs=torch.ones(3, 5)), [2])
    for features in ([], [0]):
        with pytest.raises(InvalidInput, match="at least"):
            random_features(regression(), features)
    with pytest.raises(InvalidInput, match="widths and steps"):
        networks(regression(), [1], steps=[])
    with pytest.raises(InvalidInput, match="give 1 to 4"):
        by_samples(regression(), 3, [5])
    with pytest.raises(InvalidInput, match="no points"):
        peak([])
    with pytest.raises(InvalidInput, match="share of labels"):
        noisy_digits(10, math.nan)
    with pytest.raises(InvalidInput, match="squared norms"):
        exact_risk(-1, 0, 0, 4, 2)
    assert Point(40, 4, 10, 1, 0, 0.0, 0.0).ratio == 1 and Point(4, 4, 10, 0, 0, 0.0, 0.0).ratio == 1
