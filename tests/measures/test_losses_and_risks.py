"""Losses against their formulas; one pass over a sample against exact sums; a predictor leaves its model as it found it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.losses import (
    BRIER,
    ZERO_ONE,
    bounded_cross_entropy,
    clipped_absolute,
    clipped_squared,
    margins,
    named,
    predicted,
    scores,
)
from nonvacuous.measures.predictor import as_predictor, evaluating
from nonvacuous.measures.risks import Observation, observe
from nonvacuous.runtime.data import Fingerprint, as_sample

OUTPUTS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-5.0, 1.0, 1.0], [1e30, -1e30, 0.0]])
LABELS = torch.tensor([0, 2, 2, 1])


def test_zero_one_takes_the_first_of_equal_scores() -> None:
    assert predicted(OUTPUTS).tolist() == [0, 0, 1, 0]
    assert ZERO_ONE.per_example(OUTPUTS, LABELS).tolist() == [0, 1, 1, 1]
    assert ZERO_ONE.per_example(torch.tensor([0, 2, 1, 1]), LABELS).tolist() == [0, 0, 1, 0], "predicted labels"
    one = torch.tensor([[0.5], [-0.5], [0.0], [3.0]])
    assert predicted(one).tolist() == predicted(one[:, 0]).tolist() == [1, 0, 0, 1], "one score: positive means class 1"


def test_margins_keep_their_sign() -> None:
    found = margins(OUTPUTS, LABELS)
    assert torch.allclose(found, torch.tensor([1.5, 0.0, 0.0, -2e30]))
    assert ((margins(OUTPUTS, LABELS) < 0) <= (ZERO_ONE.per_example(OUTPUTS, LABELS) == 1)).all()


def test_graded_losses_are_their_formulas() -> None:
    p = OUTPUTS.double().softmax(1)
    brier = ((p - nn.functional.one_hot(LABELS, 3)) ** 2).sum(1) / 2
    assert torch.allclose(BRIER.per_example(OUTPUTS, LABELS), brier)
    least = 1e-3
    entropy = -p[torch.arange(4), LABELS].clamp_min(least).log() / -np.log(least)
    assert torch.allclose(bounded_cross_entropy(least).per_example(OUTPUTS, LABELS), entropy)
    y, guess = torch.tensor([0.0, 1.0, 5.0]), torch.tensor([0.5, -1.0, 50.0])
    assert clipped_squared(4.0).per_example(guess, y).tolist() == [0.015625, 0.25, 1.0]
    assert clipped_absolute(4.0).per_example(guess[:, None], y).tolist() == [0.125, 0.5, 1.0]


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=3, max_size=3), min_size=1, max_size=5), st.data()
)
def test_every_loss_stays_in_its_range(rows: list[list[float]], data: st.DataObject) -> None:
    outputs = torch.tensor(rows)
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows))))
    for loss in (ZERO_ONE, BRIER, bounded_cross_entropy(), bounded_cross_entropy(0.3)):
        values = loss.per_example(outputs, labels)
        assert values.dtype == torch.float64 and values.shape == (len(rows),)
        assert ((values >= 0) & (values <= 1)).all()


@given(st.floats(1e-6, 1e6))
def test_a_name_means_the_loss_exactly(scale: float) -> None:
    """What stands in a certificate is read back at level two: no digit may be lost."""
    for loss in (clipped_squared(scale), clipped_absolute(scale)):
        again = named(loss.name)
        assert again.name == loss.name and again.regression
        guess, y = torch.tensor([scale / 3, scale / 7]), torch.zeros(2)
        assert torch.equal(again.per_example(guess, y), loss.per_example(guess, y))
    assert clipped_squared(2.0).name == "clipped_squared:2" and bounded_cross_entropy().name == "bounded_cross_entropy:1e-05"


@pytest.mark.parametrize(
    "word", ["", "accuracy", "zero_one:1", "clipped_squared", "clipped_squared:0", "clipped_squared:-1", "clipped_squared:nan",
             "clipped_absolute:inf", "bounded_cross_entropy:0.5", "bounded_cross_entropy:x", None, 7]
)  # fmt: skip
def test_words_that_are_no_loss(word: Any) -> None:
    with pytest.raises(InvalidInput):
        named(word)


def test_outputs_that_are_no_scores() -> None:
    for call in (
        lambda: scores(torch.zeros(2, 3, 4)),
        lambda: BRIER.per_example(torch.tensor([0, 1]), torch.tensor([0, 5])),
        lambda: bounded_cross_entropy().per_example(torch.tensor([0, 1]), torch.tensor([0, 1])),
        lambda: clipped_squared(1.0).per_example(torch.zeros(3, 2), torch.zeros(3)),
    ):
        with pytest.raises(InvalidInput):
            call()


# -- one pass over a sample ----------------------------------------------------------------------------------------------


def seen(losses: list[float], wrong: list[bool] | None = None) -> Observation:
    return Observation(
        len(losses), np.array(losses), None if wrong is None else np.array(wrong), None, Fingerprint(), 0.0, 0.0
    )


@given(st.lists(st.floats(0, 1), min_size=2, max_size=200))
def test_means_and_variances_round_outward(losses: list[float]) -> None:
    observation, exact = seen(losses), list(map(Fraction, losses))
    mean = sum(exact, Fraction(0)) / len(exact)
    variance = sum(((x - mean) ** 2 for x in exact), Fraction(0)) / (len(exact) - 1)
    risk, spread = observation.risk, observation.loss_variance
    assert Fraction(risk.lower) <= mean <= Fraction(risk.upper) and risk.width < 1e-12
    assert Fraction(spread.lower) <= variance <= Fraction(spread.upper) and spread.width < 1e-12
    assert risk.lower >= 0 and risk.upper <= 1


@pytest.mark.parametrize("base", [0.3, 1 - 2**-40, 2.0**-30])
def test_a_tiny_variance_is_not_lost_to_rounding(base: float) -> None:
    losses = [base, base + 2.0**-45, base, base - 2.0**-46] * 50
    exact = list(map(Fraction, losses))
    mean = sum(exact, Fraction(0)) / len(exact)
    variance = sum(((x - mean) ** 2 for x in exact), Fraction(0)) / (len(exact) - 1)
    assert Fraction(seen(losses).loss_variance.upper) >= variance


@given(st.integers(0, 300), st.integers(1, 300))
def test_error_rates_round_outward(k: int, n: int) -> None:
    k = min(k, n)
    observation = seen([1.0] * k + [0.0] * (n - k), [True] * k + [False] * (n - k))
    assert Fraction(observation.risk.lower) <= Fraction(k, n) <= Fraction(observation.risk.upper)
    assert observation.errors == k
    if k in (0, n):
        assert observation.risk.width == 0


def test_counting_as_errors_changes_a_copy() -> None:
    observation = seen([0.0, 0.25, 0.0], [False, False, False])
    counted = observation.counting_as_errors(np.array([0, 2]))
    assert counted.losses.tolist() == [1, 0.25, 1] and counted.errors == 2 and counted.counted.tolist() == [0, 2]
    assert observation.errors == 0 and len(observation.counted) == 0
    with pytest.raises(InvalidInput, match="no classification errors"):
        _ = seen([0.1, 0.2]).errors
    with pytest.raises(InvalidInput, match="two examples"):
        _ = seen([0.1]).loss_variance


def test_one_pass_sees_each_example_once_in_order() -> None:
    x, y = torch.randn(103, 4), torch.randint(0, 3, (103,))
    model = nn.Linear(4, 3)
    found, steps = observe(as_predictor(model), as_sample((x, y)), ZERO_ONE, batch_size=10), []
    whole = observe(as_predictor(model), as_sample((x, y)), ZERO_ONE, batch_size=1000, advance=steps.append)
    with torch.no_grad():
        truth = (model(x).argmax(1) != y).double().numpy()
    assert np.array_equal(found.losses, truth) and np.array_equal(whole.losses, truth)
    assert found.fingerprint.digest == whole.fingerprint.digest and steps == [103]
    assert found.margins is not None and np.array_equal(found.margins < 0, truth.astype(bool))


# -- predictors ----------------------------------------------------------------------------------------------------------


def test_modes_and_device_come_back_even_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)))
    model.train()
    model[2].eval()
    before = [m.training for m in model.modules()]
    with pytest.raises(ZeroDivisionError), evaluating(as_predictor(model)):
        assert not any(m.training for m in model.modules())
        raise ZeroDivisionError
    assert [m.training for m in model.modules()] == before


def test_inputs_take_the_models_type() -> None:
    double, half = nn.Linear(2, 2).double(), nn.Linear(2, 2).bfloat16()
    for model in (double, half):
        assert as_predictor(model)(torch.ones(3, 2)).shape == (3, 2)
    embedding = nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(4, 2))
    assert as_predictor(embedding)(torch.tensor([[0, 4]])).shape == (1, 2)
    with pytest.raises(InvalidInput, match="could not be applied"):
        as_predictor(embedding)(torch.tensor([[0, 5]]))


class Record:
    logits = torch.zeros(2, 3)


@pytest.mark.parametrize(
    "result",
    [
        Record(),
        {"logits": torch.zeros(2, 3)},
        (torch.zeros(2, 3), None),
        [torch.zeros(2, 3)],
        np.zeros((2, 3)),
        [[0.0] * 3] * 2,
    ],
    ids=lambda r: type(r).__name__,
)
def test_what_models_return(result: Any) -> None:
    assert as_predictor(lambda x: result)(torch.zeros(2, 1)).shape == (2, 3)


@pytest.mark.parametrize("result", ["words", None, object(), [["a"]], {"scores": 1}], ids=lambda value: type(value).__name__)
def test_what_is_no_prediction(result: Any) -> None:
    with pytest.raises(InvalidInput):
        as_predictor(lambda x: result)(torch.zeros(2, 1))


def test_no_gradient_is_kept() -> None:
    model = nn.Linear(2, 2)
    assert not as_predictor(model)(torch.ones(1, 2)).requires_grad
    assert as_predictor(as_predictor(model)).model is model
