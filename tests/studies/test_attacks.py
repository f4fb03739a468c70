"""Attacks and shifts: where a moved input lies, and that it is the worst for a linear loss."""

from __future__ import annotations

import math

import pytest
import torch

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.models import initialise, mlp
from nonvacuous.runtime.stacked_training import Stack
from nonvacuous.studies.attacks import attacked, attacking, shifting


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_linear_loss_is_climbed_to_the_edge_of_the_ball(steps: int) -> None:
    direction = torch.tensor([3.0, 4.0])
    x = torch.randn(6, 2)
    moved = attacked(lambda z: z @ direction, x, 0.5, steps)
    torch.testing.assert_close(moved, x + 0.5 * direction / 5)


def test_no_example_leaves_its_ball_and_its_loss_rises_also_without_gradients() -> None:
    net, x, y = mlp(6, 8, 3), torch.randn(20, 6), torch.arange(20) % 3
    losses = lambda z: torch.nn.functional.cross_entropy(net(z), y, reduction="none")  # noqa: E731
    with torch.no_grad():
        moved = attacked(losses, x, 0.3, 5)
        assert ((moved - x).norm(dim=1) <= 0.3 + 1e-5).all() and (losses(moved) > losses(x)).all()


def test_a_stack_is_attacked_member_by_member() -> None:
    modules = [initialise(lambda: mlp(6, 8, 3), seed) for seed in (0, 1)]
    x, y = torch.randn(2, 5, 6), torch.arange(10).reshape(2, 5) % 3
    moved = attacking(0.3, 4)(Stack(modules), x, y)
    for i, module in enumerate(modules):
        losses = lambda z: torch.nn.functional.cross_entropy(module(z), y[i], reduction="none")  # noqa: B023, E731
        torch.testing.assert_close(moved[i], attacked(losses, x[i], 0.3, 4), atol=1e-5, rtol=1e-4)


def test_pictures_move_by_at_most_a_pixel_each_way_and_all_ways() -> None:
    x = torch.zeros(2, 300, 1, 5, 5)
    x[..., 2, 2] = 1
    moved = shifting(1)(None, x, torch.zeros(2, 300))  # type: ignore[arg-type]
    places = {tuple(place.nonzero()[0].tolist()) for place in moved.flatten(0, 2)}
    assert moved.shape == x.shape and (moved.flatten(2).sum(2) == 1).all()
    assert sorted(places) == [(a, b) for a in (1, 2, 3) for b in (1, 2, 3)]


def test_what_cannot_be_moved() -> None:
    for radius, steps in ((0.0, 1), (math.nan, 1), (1.0, 0)):
        with pytest.raises(InvalidInput, match="positive radius"):
            attacked(lambda z: z.sum(1), torch.zeros(2, 2), radius, steps)
    with pytest.raises(InvalidInput, match="only pictures"):
        shifting(1)(None, torch.zeros(2, 3, 4), torch.zeros(2, 3))  # type: ignore[arg-type]
