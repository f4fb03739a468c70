"""A stack is its members, trained alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.models import initialise
from nonvacuous.runtime.stacked_training import Member, Stack, trained_stack


def data(n: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 4, 4, generator=generator)
    return x, (x.mean((1, 2, 3)) > 0).long()


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))


def normalised() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


MEMBERS = [Member(3, torch.arange(60)), Member(4, torch.arange(25)), Member(5, torch.arange(10, 17))]


@pytest.mark.parametrize("factory", [perceptron, convolutional, normalised])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_each_member_is_what_a_plain_loop_makes_of_it(factory, optimizer) -> None:
    x, y = data()
    stack = trained_stack(factory, x, y, MEMBERS, steps=12, batch_size=16, learning_rate=0.02, optimizer=optimizer)
    for index, member in enumerate(MEMBERS):
        module = initialise(factory, member.seed)
        stepper = optimizer(module.parameters(), lr=0.02)
        order = member.batches(16)
        for _ in range(12):
            rows = next(order)
            stepper.zero_grad()
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            stepper.step()
        module.eval()
        torch.testing.assert_close(stack.outputs(x)[index], module(x).detach(), atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(stack.member(index)(x).detach(), stack.outputs(x)[index], atol=1e-5, rtol=1e-5)


def test_inputs_are_perturbed_by_what_the_stack_is_at_each_step() -> None:
    x, y = data()
    norms: list[Tensor] = []

    def uphill(stack: Stack, inputs: Tensor, targets: Tensor) -> Tensor:
        inputs = inputs.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(stack.losses(inputs, targets, nn.functional.cross_entropy).sum(), inputs)
        norms.append(slope.flatten(2).norm(dim=2))
        return (inputs + 0.1 * slope.sign()).detach()

    stack = trained_stack(perceptron, x, y, MEMBERS, steps=5, batch_size=8, learning_rate=0.02, perturbed=uphill)
    assert len(norms) == 5 and norms[0].shape == (3, 8) and not torch.equal(norms[0], norms[4])
    module = initialise(perceptron, MEMBERS[0].seed)
    stepper, order = torch.optim.Adam(module.parameters(), lr=0.02), MEMBERS[0].batches(8)
    for _ in range(5):
        rows = next(order)
        inputs = x[rows].clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(module(inputs), y[rows]), inputs)
        stepper.zero_grad()
        nn.functional.cross_entropy(module((inputs + 0.1 * slope.sign()).detach()), y[rows]).backward()
        stepper.step()
    torch.testing.assert_close(stack.outputs(x)[0], module(x).detach(), atol=2e-4, rtol=1e-3)


def test_a_stack_of_one_equals_the_same_member_among_others() -> None:
    x, y = data()
    together = trained_stack(perceptron, x, y, MEMBERS, steps=9, batch_size=8).outputs(x)
    alone = [trained_stack(perceptron, x, y, [m], steps=9, batch_size=8).outputs(x)[0] for m in MEMBERS]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-4)


def test_batches_are_passes_over_the_members_own_rows() -> None:
    order = Member(1, torch.tensor([2, 5, 7])).batches(2)
    drawn = torch.cat([next(order) for _ in range(6)])
    assert [sorted(drawn[i : i + 3].tolist()) for i in (0, 3, 6, 9)] == [[2, 5, 7]] * 4


def test_observations_come_at_their_steps_and_do_not_change_the_run() -> None:
    x, y = data()
    seen: list[int] = []

    def observe(step: int, stack: Stack) -> None:
        seen.append(step)
        stack.outputs(x)

    watched = trained_stack(normalised, x, y, MEMBERS, steps=6, observe=observe, observed=(0, 3, 6)).outputs(x)
    assert seen == [0, 3, 6]
    assert torch.equal(watched, trained_stack(normalised, x, y, MEMBERS, steps=6).outputs(x))


def test_a_member_that_diverges_leaves_the_others_alone() -> None:
    x, y = data()
    x = torch.cat([x, torch.full((1, 1, 4, 4), 1e30)])
    y = torch.cat([y, y[:1]])
    members = [MEMBERS[0], Member(9, torch.tensor([60]))]
    loss = lambda outputs, targets: nn.functional.cross_entropy(outputs**3, targets)  # noqa: E731
    stack = trained_stack(perceptron, x, y, members, steps=5, learning_rate=0.1, loss=loss, optimizer=torch.optim.SGD)
    answers = stack.outputs(x[:60])
    assert answers[0].isfinite().all()
    assert not answers[1].isfinite().all()


def different() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, int(torch.randint(2, 500, ()))))


def branching() -> nn.Module:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            out = self.layer(x.flatten(1))
            return -out if out.sum() > 0 else out

    return Branching()


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        (perceptron, {"members": []}, "at least one member"),
        (perceptron, {"steps": -1}, "0 or more steps"),
        (perceptron, {"learning_rate": 0.0}, "positive learning rate"),
        (perceptron, {"members": [Member(0, torch.tensor([60]))]}, "beyond the 60 examples"),
        (different, {}, "one architecture"),
        (branching, {}, "stacks of one"),
    ],
)
def test_bad_input(factory, arguments, message) -> None:
    x, y = data()
    with pytest.raises(InvalidInput, match=message):
        trained_stack(factory, x, y, **{"members": MEMBERS, "steps": 2} | arguments)


def test_what_cannot_be_stacked_trains_in_stacks_of_one() -> None:
    x, y = data()
    assert trained_stack(branching, x, y, MEMBERS[:1], steps=2).outputs(x).shape == (1, 60, 2)


def test_a_member_without_examples_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least one example"):
        Member(0, torch.arange(0))
