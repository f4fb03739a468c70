"""Skips to the output: the path of the theorem, and what fails without its hypotheses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.output_skips import OutputSkips, descend

X = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
Y = torch.tensor([0, 1, 1, 0])


def stuck(hidden: int = 8, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, hidden), activation(), nn.Linear(hidden, 2)).double()
    for p in net.parameters():
        nn.init.zeros_(p)
    return net


def loss(net: nn.Module) -> Tensor:
    return cross_entropy(net(X), Y)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.Softplus])
def test_from_where_the_plain_network_is_stuck_a_path_leads_below_epsilon(activation: type[nn.Module]) -> None:
    net = stuck(activation=activation)
    slopes = torch.autograd.grad(loss(net), list(net.parameters()))
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-15  # descent does not move the plain network
    wrapped = OutputSkips(net, X)
    path = descend(wrapped, X, Y, 1e-3)
    assert path.rank == 4 and path.moved > 0
    assert path.losses[1] <= path.losses[0] * 1.01 and path.rises_by() < 1e-9
    assert path.reached == pytest.approx(float(loss(wrapped).detach())) and path.reached < 1e-3


def test_the_line_is_convex_and_the_infimum_is_not_attained() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    lengths = []
    for epsilon in (1e-1, 1e-3, 1e-6):
        wrapped = OutputSkips(net, X)
        path = descend(wrapped, X, Y, epsilon)
        line = path.losses[1:]
        assert path.moved == 0.0
        assert all(a + c >= 2 * b - 1e-12 for a, b, c in zip(line, line[1:], line[2:], strict=False))
        lengths.append(float(wrapped.skip.weight.detach().norm()))
    assert lengths[0] < lengths[1] < lengths[2]


def test_a_deep_network_gives_all_its_neurons() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 2), nn.Softplus(), nn.Linear(2, 2)).double()
    wrapped = OutputSkips(net, X)
    assert wrapped.skip.in_features == 5
    assert torch.equal(wrapped(X), net(X))  # zero at first
    assert descend(wrapped, X, Y, 1e-2).reached < 1e-2


def test_without_enough_neurons_the_theorem_is_refused_and_fails() -> None:
    """Three neurons, four examples; two cannot reach a small loss on XOR whatever V is, since Ψ's range misses the labels."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 1), nn.Tanh(), nn.Linear(1, 2)).double()
    wrapped = OutputSkips(net, X)
    with pytest.raises(InvalidInput, match="N = 1, n = 4"):
        descend(wrapped, X, Y, 1e-3)
    optimizer = torch.optim.LBFGS([wrapped.skip.weight], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(wrapped)
        value.backward()
        return value

    optimizer.step(closure)  # the loss is convex in V: this is its least value over the skips
    assert float(loss(wrapped).detach()) > 0.3


def test_relu_is_not_among_the_activations() -> None:
    net = stuck(activation=nn.ReLU)
    with pytest.raises(InvalidInput, match="ReLU is not among them"):
        OutputSkips(net, X)
    forced = OutputSkips(net, X, layers=[net[1]])
    with pytest.raises(InvalidInput, match="analytic"):
        descend(forced, X, Y, 1e-3)


def test_equal_inputs_and_bad_epsilon_are_refused() -> None:
    wrapped = OutputSkips(stuck(), X)
    with pytest.raises(InvalidInput, match="distinct"):
        descend(wrapped, X[[0, 0, 1, 2]], Y, 1e-3)
    with pytest.raises(InvalidInput, match="positive"):
        descend(wrapped, X, Y, 0.0)
