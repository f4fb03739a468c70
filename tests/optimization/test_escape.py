"""One exponential neuron: the certified bad minimum of the plain network, the way down with the neuron, and how runs end."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.escape import (
    End,
    ExponentialNeuron,
    cubed_hinge,
    dead_minimum,
    escape_direction,
    gradient_flow,
    kill,
)

X = torch.tensor([[-1.0], [-0.4], [0.5], [1.0], [1.3]], dtype=torch.float64)
Y = torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0], dtype=torch.float64)


def network(seed: int, depth: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Linear(1, 4), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(4, 4), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(4, 1)).double()


def perfect() -> nn.Sequential:
    net = network(0)
    with torch.no_grad():
        for p, value in zip(net.parameters(), (1.0, 2.0, -2.0, 16.0), strict=True):
            p.fill_(value)
    return net


@pytest.fixture(params=[1, 2])
def dead(request: pytest.FixtureRequest) -> nn.Sequential:
    net = network(1, request.param)
    kill(net, X, Y)
    return net


def plain_loss(net: nn.Module) -> float:
    return float(cubed_hinge(-Y * net(X).squeeze(1)).sum().detach())


def test_a_dead_network_is_a_bad_local_minimum(dead: nn.Sequential) -> None:
    found = dead_minimum(dead, X, Y, better=perfect() if len(dead) == 3 else None)
    assert found.loss == pytest.approx(plain_loss(dead)) and found.loss > 1
    assert found.bad == (len(dead) == 3)
    before = [p.detach().clone() for p in dead.parameters()]
    generator = torch.Generator().manual_seed(0)
    for trial in range(200):
        with torch.no_grad():
            for k, (p, old) in enumerate(zip(dead.parameters(), before, strict=True)):
                noise = torch.randn(p.shape, dtype=p.dtype, generator=generator)
                if k < 2:  # a row and its bias together move by less than the radius
                    noise *= (
                        0.7 * found.radius / noise.reshape(len(noise), -1).norm(dim=1).reshape(-1, *[1] * (noise.dim() - 1))
                    )
                p.copy_(old + noise * (1.0 if k < 2 else 10.0 ** -(trial % 4)))
        assert plain_loss(dead) >= found.loss * (1 - 1e-12)


def test_beyond_the_radius_the_plain_network_escapes() -> None:
    dead = network(1)
    kill(dead, X, Y)
    found = dead_minimum(dead, X, Y)
    with torch.no_grad():
        for p, value in zip(dead.parameters(), perfect().parameters(), strict=True):
            p.copy_(value)
    assert plain_loss(dead) < found.loss


def test_with_the_neuron_it_is_no_local_minimum(dead: nn.Sequential) -> None:
    wrapped = ExponentialNeuron(dead, 1)
    way = escape_direction(wrapped, X, Y, reach=1e-3)
    assert way is not None and way.slope < 0 and float(way.tilt.norm()) <= 1e-3 * (1 + 1e-12)
    here = float(wrapped.objective(X, Y).detach())
    with torch.no_grad():
        wrapped.w += way.tilt
        assert float(wrapped.objective(X, Y)) == pytest.approx(here)  # a = 0: w is not seen
        step = 1e-6
        wrapped.a += way.sign * step
        fallen = float(wrapped.objective(X, Y)) - here
    assert fallen == pytest.approx(way.slope * step, rel=0.01)


def test_at_a_global_minimum_there_is_no_way_down() -> None:
    assert escape_direction(ExponentialNeuron(perfect(), 1), X, Y) is None


def test_from_a_dead_start_the_run_diverges_as_the_theorem_allows() -> None:
    net = network(1)
    kill(net, X, Y)
    wrapped = ExponentialNeuron(net, 1, amplitude=0.1)
    flow = gradient_flow(wrapped, X, Y, until=1e4)
    assert flow.end is End.DIVERGING and abs(flow.exponent + 0.5) < 0.1
    assert flow.objective[-1] < 1e-3 < flow.objective[0] and flow.reach[-1] > 2
    assert plain_loss(net) > 1  # the caveat: the loss goes to zero, and the network underneath has learnt nothing


def test_from_a_good_start_the_run_ends_at_a_finite_global_minimum() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    flow = gradient_flow(ExponentialNeuron(net, 1, amplitude=0.5), X, Y, until=1e4)
    assert flow.end is End.FINITE and flow.amplitude[-1] < 1e-6
    assert plain_loss(net) < 1e-6


def test_without_the_penalty_the_argument_fails() -> None:
    """λ > 0 is needed: without it a point with a ≠ 0 may be critical. Two examples at one place, of opposite labels."""
    x, y = torch.zeros(2, 1, dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    net = network(0)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    wrapped = ExponentialNeuron(net, 1, penalty=1e-300)
    with torch.no_grad():
        net[2].bias.fill_(-0.5)  # type: ignore[union-attr, operator]
        wrapped.a.fill_(0.5)
    grads = torch.autograd.grad(wrapped.objective(x, y), list(wrapped.parameters()), allow_unused=True)
    assert max(float(g.abs().max()) for g in grads if g is not None) < 1e-200 and float(wrapped.a.detach()) != 0.0
    # the same two examples are not realisable, and a bad critical point stays one with the neuron as well
    with torch.no_grad():
        wrapped.a.zero_()
        net[2].bias.zero_()  # type: ignore[union-attr, operator]
    assert escape_direction(wrapped, x, y) is None


def test_what_the_theorem_does_not_cover_is_refused() -> None:
    with pytest.raises(InvalidInput, match="−1 and 1"):
        kill(network(0), X, (Y > 0).double())
    with pytest.raises(InvalidInput, match="alive"):
        dead_minimum(perfect(), X, Y)
    with pytest.raises(InvalidInput, match="penalty"):
        ExponentialNeuron(network(0), 1, penalty=0.0)
    with pytest.raises(InvalidInput, match="one output"):
        ExponentialNeuron(nn.Linear(1, 2).double(), 1)(X)
    with pytest.raises(InvalidInput, match="a = 1"):
        escape_direction(ExponentialNeuron(network(0), 1, amplitude=1.0), X, Y)
    off = network(1)
    kill(off, X, Y)
    with torch.no_grad():
        off[2].bias.add_(0.3)  # type: ignore[union-attr, operator]
    with pytest.raises(InvalidInput, match="best constant"):
        dead_minimum(off, X, Y)


def best_constant(y: Tensor) -> float:
    grid = torch.linspace(-1, 1, 20001, dtype=torch.float64)
    return float(grid[cubed_hinge(-y[:, None] * grid).sum(0).argmin()])


def test_the_best_constant_is_the_closed_form() -> None:
    net = network(2)
    kill(net, X, Y)
    assert float(net(X)[0].detach()) == pytest.approx(best_constant(Y), abs=1e-4)
    assert best_constant(Y) == pytest.approx((math.sqrt(2) - math.sqrt(3)) / (math.sqrt(2) + math.sqrt(3)), abs=1e-4)
