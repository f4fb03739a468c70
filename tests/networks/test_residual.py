"""Near-identity blocks: the distance from the identity proved, attained and inverted."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import nonvacuous
from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.measures.lipschitz import global_upper, sampled_lower
from nonvacuous.networks.normalizers import folded
from nonvacuous.networks.residual import NearIdentityBlock, NearIdentityNet, dense_branch
from nonvacuous.operators.cost import cost
from nonvacuous.runtime.bundled import digits
from nonvacuous.runtime.stacked_training import Member, trained_stack


def _convolutions() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 2, 3, padding=1))


BRANCHES = [
    (lambda: dense_branch(5, 9), (5,)),
    (lambda: dense_branch(5, 3, nn.ReLU), (5,)),
    (lambda: dense_branch(4, 4, nn.SiLU), (4,)),
    (_convolutions, (2, 6, 6)),
    (lambda: nn.Sequential(nn.LayerNorm(4, eps=1e-2), nn.Linear(4, 4)), (4,)),
    (lambda: nn.Sequential(nn.Linear(3, 3, bias=False)), (3,)),
]


@pytest.mark.parametrize("epsilon", [0.05, 0.9, 3.0])
@pytest.mark.parametrize(("make", "shape"), BRANCHES)
def test_large_weights_are_brought_within_epsilon(make, shape, epsilon) -> None:
    torch.manual_seed(0)
    branch = make()
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.mul_(50)
    block = NearIdentityBlock(branch, shape, epsilon)
    found = block.distance_from_identity(torch.randn(16, *shape))
    assert found.upper <= epsilon
    x, y = torch.randn(200, *shape, dtype=torch.float64), torch.randn(200, *shape, dtype=torch.float64)
    block = block.double()
    moved = ((block(x) - x) - (block(y) - y)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
    assert float(moved.detach().max()) <= found.upper


def test_epsilon_is_attained_by_a_linear_branch() -> None:
    """The limit is not merely safe: a branch that wants more gets all of ε but the slack."""
    branch = nn.Sequential(nn.Linear(6, 6, bias=False))
    nn.init.normal_(branch[0].weight, std=10.0)
    found = NearIdentityBlock(branch, (6,), 0.3).distance_from_identity(torch.randn(4, 6))
    assert 0.3 * 0.99 < found.lower <= found.upper <= 0.3


def test_small_weights_are_not_touched() -> None:
    branch = dense_branch(4, 4)
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.mul_(1e-3)
    before = [part.weight.clone() for part in branch if isinstance(part, nn.Linear)]
    block = NearIdentityBlock(branch, (4,), 0.5)
    after = [part.weight for part in block.branch if isinstance(part, nn.Linear)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def _task_net() -> nn.Sequential:
    blocks = [NearIdentityBlock(dense_branch(64, 32), (64,), 0.4) for _ in range(3)]
    return nn.Sequential(nn.Flatten(), NearIdentityNet(blocks), nn.Linear(64, 10))


def _trained() -> nn.Sequential:
    torch.manual_seed(0)
    train, net = digits("train"), _task_net()
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    for step in range(100):
        rows = torch.arange(step * 128, step * 128 + 128) % train.n
        adam.zero_grad()
        nn.functional.cross_entropy(net(train.inputs[rows]), train.targets[rows]).backward()
        adam.step()
    return net.eval()


def test_trained_on_digits_stays_within_epsilon_and_is_inverted() -> None:
    net, test = _trained(), digits("test")
    assert (net(test.inputs).argmax(1) == test.targets).float().mean() > 0.9
    inner, x = net[1], test.inputs[:30].flatten(1)
    distances = inner.distances(x)
    assert all(0.05 < d.lower <= d.upper <= 0.4 for d in distances)
    expansion = inner.expansion()
    ratio = (inner(x[:15]) - inner(x[15:])).norm(dim=1) / (x[:15] - x[15:]).norm(dim=1)
    assert expansion.lower <= float(ratio.min()) <= float(ratio.max()) <= expansion.upper <= 1.4**3
    found = inner.double().inverse(inner(x.double()), tolerance=1e-9)
    assert bool(((found.x - x).norm(dim=1) <= found.error + 1e-12).all()) and float(found.error.max()) < 1e-7
    inner.float()
    upper = global_upper(net, (1, 8, 8)).upper  # the graph's sums see the blocks: no rule of their own is needed
    assert sampled_lower(net, test.inputs[:9]).lower <= upper <= expansion.upper * global_upper(net[2], (64,)).upper * 1.02
    assert cost(folded(net), test.inputs[:1]).macs == 3 * 2 * 64 * 32 + 640


def test_many_are_trained_at_once() -> None:
    train = digits("train")
    stack = trained_stack(
        lambda: nn.Sequential(nn.Flatten(), NearIdentityBlock(dense_branch(64, 16), (64,), 0.1), nn.Linear(64, 10)),
        train.inputs,
        train.targets,
        [Member(seed, torch.arange(300)) for seed in range(2)],
        steps=20,
        learning_rate=0.03,
    )
    first, second = (stack.member(k)[1].distance_from_identity().upper for k in range(2))
    assert first != second and 0.09 < min(first, second) <= max(first, second) <= 0.1


@pytest.mark.slow
def test_is_audited() -> None:
    train, test = digits("train"), digits("test")
    report = nonvacuous.audit(_trained(), train=(train.inputs, train.targets), test=(test.inputs, test.targets))
    assert min(c.value for c in report.certificates) < 0.3


def test_without_the_limit_training_leaves_the_neighbourhood() -> None:
    """The control: the same branches without limits, trained the same, are farther than ε from 0."""
    torch.manual_seed(0)

    class Free(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = dense_branch(64, 32)

        def forward(self, x):
            return x + self.branch(x)

    train = digits("train")
    net = nn.Sequential(nn.Flatten(), Free(), Free(), Free(), nn.Linear(64, 10))
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    for step in range(100):
        rows = torch.arange(step * 128, step * 128 + 128) % train.n
        adam.zero_grad()
        nn.functional.cross_entropy(net(train.inputs[rows]), train.targets[rows]).backward()
        adam.step()
    assert min(sampled_lower(net[k].branch, torch.randn(8, 64)).lower for k in (1, 2, 3)) > 0.4


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: NearIdentityBlock(dense_branch(3, 4), (3,), 0.0), "ε"),
        (lambda: NearIdentityBlock(dense_branch(3, 4), (3,), math.inf), "ε"),
        (lambda: NearIdentityBlock(dense_branch(3, 4), (5,), 0.5), "cannot be run"),
        (lambda: NearIdentityBlock(nn.Sequential(nn.Linear(3, 4)), (3,), 0.5), "equal shapes"),
        (lambda: NearIdentityBlock(nn.Sequential(nn.ReLU()), (3,), 0.5), "no linear layer"),
        (lambda: NearIdentityBlock(NearIdentityBlock(dense_branch(3, 4), (3,), 0.5).branch, (3,), 0.5), "already"),
        (lambda: NearIdentityNet([]), "at least one block"),
        (lambda: NearIdentityNet([NearIdentityBlock(dense_branch(n, 4), (n,), 0.5) for n in (2, 3)]), "one shape"),
        (lambda: dense_branch(0, 3), "at least 1"),
        (lambda: NearIdentityBlock(dense_branch(3, 4), (3,), 1.0).inverse(torch.zeros(1, 3)), "invertible"),
        (lambda: NearIdentityBlock(dense_branch(3, 4), (3,), 0.5).inverse(torch.zeros(1, 4)), "shape"),
        (lambda: NearIdentityBlock(dense_branch(3, 4), (3,), 0.5).inverse(torch.full((1, 3), math.nan)), "finite"),
    ],
)
def test_bad_input(wrong, says) -> None:
    with pytest.raises(InvalidInput, match=says):
        wrong()


def test_a_layer_without_a_rule_is_named() -> None:
    class Strange(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    with pytest.raises(UnsupportedModule):
        NearIdentityBlock(nn.Sequential(nn.Linear(3, 3), Strange()), (3,), 0.5)
