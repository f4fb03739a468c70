"""The margin-distribution loss against a slow loop, its convexity, and what it does to margins."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.learning.losses import MarginDistributionLoss, margin_ratio, margins
from nonvacuous.runtime.bundled import digits
from nonvacuous.runtime.stacked_training import Member, trained_stack

LOSS = MarginDistributionLoss(2.0, 0.5, 0.3)


def test_margins_and_loss_against_a_loop() -> None:
    torch.manual_seed(0)
    outputs, targets = 4 * torch.randn(200, 5), torch.randint(0, 5, (200,))
    slow, losses = [], []
    for scores, y in zip(outputs.tolist(), targets.tolist(), strict=True):
        gamma = scores[y] - max(s for j, s in enumerate(scores) if j != y)
        slow.append(gamma)
        if gamma < 1.5:
            losses.append((1.5 - gamma) ** 2 / 1.5**2)
        elif gamma <= 2.5:
            losses.append(0.0)
        else:
            losses.append(0.3 * (gamma - 2.5) ** 2 / 2.5**2)
    assert min(map(bool, losses)) == 0 < max(losses)
    assert torch.allclose(margins(outputs, targets), torch.tensor(slow), atol=1e-5)
    assert float(LOSS(outputs, targets)) == pytest.approx(sum(losses) / 200, rel=1e-5)
    mean = sum(slow) / 200
    spread = math.sqrt(sum((g - mean) ** 2 for g in slow) / 200)
    assert float(margin_ratio(outputs, targets)) == pytest.approx(spread / mean if mean > 0 else math.inf, rel=1e-4)


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(0, 1))
def test_convex_in_the_margin_and_above_the_error(a, b, t) -> None:
    x, y, z = (float(LOSS.of_margins(torch.tensor(g, dtype=torch.float64))) for g in (a, b, t * a + (1 - t) * b))
    assert z <= t * x + (1 - t) * y + 1e-9 * (1 + x + y)
    assert x >= (a <= 0)


def test_not_convex_in_the_outputs_unless_large_margins_are_free() -> None:
    """The counter-example: y against two others, each of which is near in one of the two ends, and neither half way."""
    y = torch.tensor([0])
    one, two = torch.tensor([[6.0, 6.0, -6.0]]), torch.tensor([[6.0, -6.0, 6.0]])
    strict, free = MarginDistributionLoss(1.0, 0.5, 5.0), MarginDistributionLoss(1.0, 0.5, 0.0)
    assert strict((one + two) / 2, y) > (strict(one, y) + strict(two, y)) / 2
    torch.manual_seed(0)
    for _ in range(200):
        a, b = 5 * torch.randn(1, 4), 5 * torch.randn(1, 4)
        assert free((a + b) / 2, y) <= (free(a, y) + free(b, y)) / 2 + 1e-5


def test_gradient() -> None:
    torch.manual_seed(0)
    outputs, targets = torch.randn(20, 4, dtype=torch.float64, requires_grad=True), torch.randint(0, 4, (20,))
    assert torch.autograd.gradcheck(lambda x: MarginDistributionLoss(0.5, 0.1, 1.0)(x, targets), outputs)
    assert torch.autograd.gradcheck(lambda x: margin_ratio(x + 5 * torch.eye(4).double()[targets], targets), outputs)


def test_trained_many_at_once_its_margins_are_of_less_spread_than_those_of_cross_entropy() -> None:
    """The mechanism the paper claims, on real digits: the ratio of spread to mean falls on the examples trained on."""
    train = digits("train")
    members = [Member(seed, torch.randperm(train.n, generator=torch.Generator().manual_seed(seed))[:200]) for seed in range(3)]

    def ratios(loss) -> torch.Tensor:
        stack = trained_stack(
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
            train.inputs,
            train.targets,
            members,
            steps=250,
            batch_size=64,
            learning_rate=3e-3,
            loss=loss,
        )
        outputs = stack.outputs(train.inputs)
        return torch.stack([margin_ratio(out[m.rows], train.targets[m.rows]) for out, m in zip(outputs, members, strict=True)])

    assert bool((ratios(MarginDistributionLoss(1.0, 0.3, 0.5)) < 0.85 * ratios(nn.functional.cross_entropy)).all())


def test_the_ratio_of_negative_margins_is_infinite() -> None:
    assert margin_ratio(torch.tensor([[0.0, 1.0]]), torch.tensor([0])) == math.inf


@pytest.mark.parametrize(
    "given", [(0.0, 0.0, 1.0), (1.0, 1.0, 1.0), (1.0, -0.1, 1.0), (1.0, 0.5, -1.0), (math.nan, 0.1, 1.0), (1.0, 0.1, math.inf)]
)
def test_parameters_out_of_range(given) -> None:
    with pytest.raises(InvalidInput, match="0 ≤ θ < r"):
        MarginDistributionLoss(*given)


@pytest.mark.parametrize(
    ("outputs", "targets", "says"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.long), "outputs"),
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.long), "k ≥ 2"),
        (torch.zeros(3, 2), torch.zeros(4, dtype=torch.long), "targets"),
        (torch.zeros(3, 2), torch.zeros(3), "whole class"),
        (torch.zeros(3, 2, dtype=torch.long), torch.zeros(3, dtype=torch.long), "floating-point"),
        (torch.zeros(3, 2), torch.full((3,), 2), "class numbers"),
        (torch.zeros(3, 2), torch.full((3,), -1), "class numbers"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), "empty batch"),
    ],
)
def test_bad_batches(outputs, targets, says) -> None:
    with pytest.raises(InvalidInput, match=says):
        LOSS(outputs, targets)
    if len(outputs) == 0:
        with pytest.raises(InvalidInput, match="no example"):
            margin_ratio(outputs, targets)
