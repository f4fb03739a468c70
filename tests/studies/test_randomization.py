"""The randomization test: what each arm changes, what is kept, and what its capacity says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind
from nonvacuous.runtime.data import as_sample
from nonvacuous.runtime.models import mlp
from nonvacuous.runtime.sources import load
from nonvacuous.studies import randomization as study
from nonvacuous.studies.randomization import Look, Randomization, Recipe, Trained, arms, parsed, randomization, read
from nonvacuous.studies.randomization_arms import Arm, Material, Setting, changed

TRUE, RANDOM, SIGNS = Arm(Setting.LABELS), Arm(Setting.LABELS, 1.0), Arm(Setting.SIGNS)
SMALL = Recipe(examples=80, seeds=2, most_steps=400, batch_size=40, learning_rate=5e-3)


def network() -> nn.Module:
    return mlp(64, 64, 10)


@pytest.fixture(scope="module")
def clean() -> Material:
    generator = torch.Generator().manual_seed(0)
    x, t = (torch.rand(n, 1, 6, 6, generator=generator) for n in (4000, 50))
    return Material(x, torch.arange(4000) % 10, t, torch.arange(50) % 10)


@pytest.fixture(scope="module")
def found() -> Randomization:
    which = (TRUE, RANDOM, Arm(Setting.SHUFFLED_PIXELS), SIGNS)
    return randomization(network, load("digits"), load("digits", "test"), recipe=SMALL, which=which)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_labels_is_drawn_anew(clean: Material, share: float) -> None:
    new = changed(clean, Arm(Setting.LABELS, share), 10, 3)
    differ = float((new.labels != clean.labels).double().mean())
    expected = 0.9 * share  # one in ten draws gives the same label again
    assert abs(differ - expected) <= 4 * math.sqrt(expected * (1 - expected) / 4000)
    assert new.inputs is clean.inputs and new.test_labels is clean.test_labels
    assert torch.equal(new.labels, changed(clean, Arm(Setting.LABELS, share), 10, 3).labels)
    assert not share or not torch.equal(new.labels, changed(clean, Arm(Setting.LABELS, share), 10, 4).labels)


def test_one_permutation_for_all_images_and_the_tests(clean: Material) -> None:
    new = changed(clean, Arm(Setting.SHUFFLED_PIXELS), 10, 0)
    places = [int((clean.inputs[0].flatten() == value).nonzero()) for value in new.inputs[0].flatten()]
    assert sorted(places) == list(range(36)) and places != list(range(36))
    for before, after in ((clean.inputs, new.inputs), (clean.test_inputs, new.test_inputs)):
        assert torch.equal(before.flatten(1)[:, places], after.flatten(1))


def test_a_permutation_for_each_image(clean: Material) -> None:
    new = changed(clean, Arm(Setting.RANDOM_PIXELS), 10, 0)
    assert torch.equal(new.inputs.flatten(1).sort(1).values, clean.inputs.flatten(1).sort(1).values)
    orders = [tuple((clean.inputs[i].flatten() == v).nonzero().item() for v in new.inputs[i].flatten()) for i in range(20)]
    assert len(set(orders)) == 20


def test_gaussian_inputs_have_the_samples_mean_and_deviation(clean: Material) -> None:
    new = changed(clean, Arm(Setting.GAUSSIAN), 10, 0)
    assert new.inputs.shape == clean.inputs.shape and new.test_inputs.shape == clean.test_inputs.shape
    assert float(new.inputs.mean()) == pytest.approx(float(clean.inputs.mean()), abs=0.01)
    assert float(new.inputs.std()) == pytest.approx(float(clean.inputs.std()), abs=0.01)
    assert float(new.inputs.min()) < 0  # noise, not the sample


def test_the_settings_in_their_order() -> None:
    names = [arm.name for arm in arms((0.5,))]
    assert names[:3] == ["true labels", "50% corrupted", "random labels"] and len(names) == 7


def test_random_labels_are_fitted_and_learned_from_is_nothing(found: Randomization) -> None:
    for true, random in zip(found.of(TRUE), found.of(RANDOM), strict=True):
        assert true.looks[-1].error <= 0.01 and random.looks[-1].error <= 0.01
        assert true.test_error < 0.4 and random.test_error > 0.75
        early, late = true.steps_to_fit(0.01), random.steps_to_fit(0.01)
        assert early is not None and late is not None and early.upper < late.lower
        assert true.looks[0].loss > 1.5 and true.looks[0].step == 0
    assert found.of(TRUE)[0].looks != found.of(TRUE)[1].looks


def test_a_dense_network_does_not_see_the_permutation(found: Randomization) -> None:
    plain, mixed = ([run.test_error for run in found.of(arm)] for arm in (TRUE, Arm(Setting.SHUFFLED_PIXELS)))
    assert abs(np.mean(plain) - np.mean(mixed)) < 0.12


def test_capacity_is_the_mean_correlation_less_its_reach(found: Randomization) -> None:
    capacity = found.capacity(0.05)
    assert capacity is not None and capacity.kind is Kind.CONFIDENCE and capacity.upper == 1
    correlation = np.mean([1 - 2 * run.looks[-1].error for run in found.of(SIGNS)])
    assert capacity.lower == pytest.approx(correlation - math.sqrt(2 * math.log(20) / 160), abs=1e-9)
    assert replace(found, runs=found.of(TRUE)).capacity() is None
    with pytest.raises(InvalidInput, match="delta"):
        found.capacity(0.0)


def test_capacity_stays_below_a_rademacher_complexity_that_is_known() -> None:
    """Constant functions: E sup = E |mean of signs|, whatever was reached; the lower end exceeds it in at most 1 - delta of cases."""
    n, above = 50, 0
    generator = torch.Generator().manual_seed(0)
    true = float((2.0 * torch.randint(2, (20000, n), generator=generator) - 1).mean(1).abs().mean())
    for _ in range(400):
        best = float((2.0 * torch.randint(2, (n,), generator=generator) - 1).mean().abs())
        run = Trained(SIGNS, 0, (Look(0, 0.0, (1 - best) / 2),), 0.5)
        capacity = Randomization({}, Recipe(examples=n, seeds=1), 2, (run,)).capacity(0.2)
        assert capacity is not None
        above += capacity.lower > true
    assert above <= 0.2 * 400


def test_a_linear_classifier_fits_fewer_signs_than_a_network(found: Randomization) -> None:
    linear = randomization(lambda: mlp(4, 2), points(400), points(100), recipe=replace(SMALL, examples=200), which=(SIGNS,))
    low, high = linear.capacity(), found.capacity()
    assert low is not None and high is not None and low.lower < 0.3 < 0.6 < high.lower


def points(n: int):
    x = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    return as_sample((x, (x[:, 0] > 0).astype(int)), name="the points")


def test_written_and_read_again(found: Randomization) -> None:
    again = parsed(json.loads(json.dumps(found.document())))
    assert again.runs == found.runs and again.recipe == found.recipe and again.table() == found.table()
    assert found.table().count("\n") == 1 + len(found.runs)


def test_ctrl_c_keeps_the_arms_that_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, recipe = tmp_path / "r.json", replace(SMALL, most_steps=30, fitted_error=0.0)
    digits, test, real = load("digits"), load("digits", "test"), study.trained_stack
    calls: list[int] = []

    def stops(*given, **named):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(study, "trained_stack", stops)
    first = randomization(network, digits, test, recipe=recipe, which=(TRUE, RANDOM), kept=kept)
    assert first.interrupted and first.arms == (TRUE,) and read(kept).interrupted
    second = randomization(network, digits, test, recipe=recipe, which=(TRUE, RANDOM), kept=kept)
    assert not second.interrupted and second.arms == (TRUE, RANDOM) and len(calls) == 3
    assert second.of(TRUE) == first.of(TRUE)
    assert second.runs == randomization(network, digits, test, recipe=recipe, which=(TRUE, RANDOM)).runs
    with pytest.raises(InvalidInput, match="another study"):
        randomization(network, digits, test, recipe=replace(recipe, seed=1), kept=kept)
    kept.write_text("{")
    with pytest.raises(InvalidInput, match="not JSON"):
        read(kept)
    kept.write_text('{"format": "nonvacuous-randomization-1"}')
    with pytest.raises(InvalidInput, match="not a randomization study"):
        read(kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"examples": 0}, "at least 1"),
        ({"fitted_error": 1.0}, "fitted_error"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"optimizer": "adamm"}, "adam, sgd"),
    ],
)
def test_a_recipe_that_makes_no_sense(change: dict, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Recipe(**change)


def test_arms_that_make_no_sense() -> None:
    with pytest.raises(InvalidInput, match="from 0 to 1"):
        Arm(Setting.LABELS, math.nan)
    with pytest.raises(InvalidInput, match="only labels"):
        Arm(Setting.GAUSSIAN, 0.5)


def test_samples_and_networks_that_do_not_fit() -> None:
    digits, test = load("digits"), load("digits", "test")
    with pytest.raises(InvalidInput, match="fewer than"):
        randomization(network, digits, test, recipe=Recipe(examples=10**6))
    with pytest.raises(InvalidInput, match="one a class"):
        randomization(lambda: mlp(64, 3), digits, test, recipe=SMALL, which=(SIGNS,))
    with pytest.raises(InvalidInput, match="another shape"):
        randomization(network, digits, points(100), recipe=SMALL)
    one = as_sample((np.ones((100, 2), np.float32), np.zeros(100, int)), name="the points")
    with pytest.raises(InvalidInput, match="at least 2"):
        randomization(network, one, one, recipe=SMALL)
    with pytest.raises(InvalidInput, match="Lower the learning rate"):
        randomization(network, digits, test, recipe=replace(SMALL, learning_rate=1e9, optimizer="sgd"), which=(TRUE,))
