"""The theorems on spiking dynamics, each against brute force: where membranes go, the transition's eigenvalues, what changes no spike."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind
from nonvacuous.networks.spiking import Direct, Rate, Reset, Rows, SpikingLayer, SpikingNetwork
from nonvacuous.networks.spiking_dynamics import (
    accumulates,
    critical_leak,
    eigenvalues,
    firing_rates,
    first_spike,
    membrane_limits,
    membrane_ranges,
    spectral_radius,
    trajectories,
)
from nonvacuous.networks.spiking_stability import perturbation_growth, stability, surrogate_exponent
from nonvacuous.operators.cost import cost

pytest.importorskip("snntorch")

UNIT = st.floats(0, 0.95)


def network(encoding=None, *, reset=Reset.SUBTRACT, leak=(0.3, 0.9), seed=0, double=True) -> SpikingNetwork:
    torch.manual_seed(seed)
    encoding = encoding or Direct(7)
    net = SpikingNetwork((2 if isinstance(encoding, Rows) else 8, 6, 5, 3), encoding, leak=leak, threshold=0.4, reset=reset)
    return net.double() if double else net


def walk(beta: float, theta: float, reset: Reset, currents) -> list[float]:
    u, seen = 0.0, []
    for current in currents:
        fired = u > theta
        u = current if fired and reset is Reset.ZERO else beta * u + current - theta * fired
        seen.append(u)
    return seen


@settings(deadline=None, max_examples=40)
@given(UNIT, st.floats(-2, 2), st.floats(0, 2), st.sampled_from(list(Reset)), st.integers(0, 10**6))
def test_membranes_stay_within_the_limits(beta, a, width, reset, seed) -> None:
    c = a + width
    low, high = (float(e) for e in membrane_limits(*(torch.tensor(v, dtype=torch.float64) for v in (a, c, beta)), 0.7, reset))
    choices = torch.rand(60, generator=torch.Generator().manual_seed(seed)).round().tolist()  # ends of the range, at random
    seen = walk(beta, 0.7, reset, [c if choice else a for choice in choices])
    assert low - 1e-9 <= min(seen) and max(seen) <= high + 1e-9


@pytest.mark.parametrize("reset", list(Reset))
@pytest.mark.parametrize(
    ("beta", "a", "c"), [(0.5, -1.0, 1.0), (0.2, -0.9, 0.9), (0.9, -0.3, 0.2), (0.8, 0.05, 3.0), (0.7, -1, 0.1)]
)
def test_the_limits_are_approached(beta, a, c, reset) -> None:
    """The states that can be reached, as a set: every end is nearly met."""
    low, high = (float(e) for e in membrane_limits(*(torch.tensor(v, dtype=torch.float64) for v in (a, c, beta)), 1.0, reset))
    states, least, most = torch.zeros(1, dtype=torch.float64), 0.0, 0.0
    currents = torch.linspace(a, c, 21, dtype=torch.float64)
    for _ in range(50):
        fired = states > 1.0
        moved = beta * torch.where(fired & (reset is Reset.ZERO), 0.0, states) - (fired & (reset is Reset.SUBTRACT)).double()
        states = (moved[:, None] + currents).flatten()
        least, most = min(least, float(states.min())), max(most, float(states.max()))
        states = torch.unique((states * 500).round() / 500)
    assert low <= least + 2e-2 and most - 2e-2 <= high  # the grid rounds by 1/1000 a step
    assert least - low < 0.06 * (1 + abs(low)) and high - most < 0.06 * (1 + abs(high))


def test_the_usual_bound_is_false_for_strong_leaks_and_true_for_weak_ones() -> None:
    def largest(beta: float, most: float) -> float:
        ends = membrane_limits(*(torch.tensor(v, dtype=torch.float64) for v in (-most, most, beta)), 1.0)
        return max(-float(ends.lower), float(ends.upper))

    worst = max(max(map(abs, walk(0.1, 1.0, Reset.SUBTRACT, c))) for c in itertools.product((-1.1, 1.1), repeat=6))
    assert worst > 1.1 / 0.9 and worst <= largest(0.1, 1.1)
    for beta in (0.5, 0.7, 0.95):
        for most in (0.01, 0.3, 1.0, 1.1, 5.0):
            assert largest(beta, most) == pytest.approx(most / (1 - beta))


@pytest.mark.parametrize("reset", list(Reset))
def test_steps_of_the_proof_reach_the_limits(reset) -> None:
    """``membrane_ranges`` over many steps is ``membrane_limits``; over few it is within."""
    torch.manual_seed(0)
    for steps, close in ((400, True), (2, False)):
        net = SpikingNetwork(
            (3, 50, 2), Direct(steps), leak=[torch.linspace(0, 0.95, 50)], threshold=0.3, reset=reset
        ).double()
        linear, layer = net.hidden[0]
        high = linear.weight.clamp_min(0).sum(1) + linear.bias
        low = linear.weight.clamp_max(0).sum(1) + linear.bias
        ends, (found,) = (
            membrane_limits(low.detach(), high.detach(), layer.leak, layer.threshold, reset),
            membrane_ranges(net, 0, 1),
        )
        assert (ends.lower <= found.lower + 1e-9).all() and (found.upper <= ends.upper + 1e-9).all()
        if close:  # the limits hold the start, 0, too
            assert torch.allclose(found.lower.clamp_max(0), ends.lower, atol=1e-6)
            assert torch.allclose(found.upper.clamp_min(0), ends.upper, atol=1e-6)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("reset", list(Reset))
@pytest.mark.parametrize("make", [lambda: Direct(9), lambda: Rows(4), lambda: Rate(9, 8, 1)])
def test_membranes_of_a_network_are_within_their_ranges(make, reset, double) -> None:
    net = network(make(), reset=reset, double=double)
    x = torch.rand(3000, 8, dtype=torch.float64 if double else torch.float32)
    x[:1500] = x[:1500].round()  # corners
    for found, ends in zip(trajectories(net, x), membrane_ranges(net, 0.0, 1.0), strict=True):
        assert (ends.lower <= found.membranes).all() and (found.membranes <= ends.upper).all()
        spread = found.membranes.amax((0, 1)) - found.membranes.amin((0, 1))
        assert (ends.upper - ends.lower <= 4 * spread + 0.5).all()  # and not by a vacuous range


def test_a_neuron_proved_silent_adds_nothing_to_the_next_range() -> None:
    net = network()
    with torch.no_grad():
        net.hidden[0][0].weight.mul_(0.0)
        net.hidden[0][0].bias.fill_(-1.0)
    below = membrane_ranges(net, -5.0, 5.0)
    bias, leak = net.hidden[1][0].bias.detach(), net.hidden[1][1].leak
    assert (below[0].upper < 0).all()
    alone = SpikingLayer(5, 7, leak=leak, threshold=0.4).double().trajectory(bias.expand(1, 1, 5)).membranes
    assert torch.allclose(below[1].upper, alone.amax((0, 1)), atol=0.42) and (below[1].upper >= alone.amax((0, 1))).all()


@pytest.mark.parametrize("reset", list(Reset))
def test_the_transition_has_the_leaks_as_eigenvalues(reset) -> None:
    """The state's map, differentiated by finite differences: diag(β) away from thresholds; by the surrogate: β on the diagonal."""
    net = network(Direct(1), reset=reset, leak=[torch.linspace(0.1, 0.9, 6), torch.linspace(0.2, 0.8, 5)])
    x, state = torch.rand(1, 8, dtype=torch.float64), torch.rand(11, dtype=torch.float64) * 0.35

    def moved(u: torch.Tensor) -> torch.Tensor:
        current, parts = net.encoding(x), []
        for (linear, layer), piece in zip(net.hidden, u.split([6, 5]), strict=True):
            run = layer.trajectory(linear(current), piece[None], 1)
            current = run.spikes
            parts.append(run.membranes[0, 0])
        return torch.cat(parts)

    leaks = torch.cat(eigenvalues(net))
    with torch.no_grad():
        differences = torch.stack([(moved(state + e) - moved(state - e)) / 2e-6 for e in 1e-6 * torch.eye(11).double()], 1)
    assert torch.allclose(differences, torch.diag(leaks), atol=1e-8)
    surrogate = torch.func.jacrev(moved)(state).detach()
    assert float(surrogate[6:, :6].abs().max()) > 1e-3 and torch.equal(surrogate[:6, 6:], torch.zeros(6, 5).double())
    assert torch.allclose(torch.linalg.eigvals(surrogate).real.sort().values, leaks.sort().values, atol=1e-6)
    assert spectral_radius(net).upper == leaks.max() and spectral_radius(net).kind is Kind.EXACT


@settings(deadline=None, max_examples=60)
@given(st.floats(0.01, 2), UNIT)
def test_bifurcation_at_the_critical_leak(current, beta) -> None:
    spikes = [u > 1.0 for u in walk(beta, 1.0, Reset.SUBTRACT, [current] * 2000)]
    critical = critical_leak(current)
    if abs(beta - critical) < 1e-3:
        return
    assert any(spikes) == (beta > critical or current > 1)
    assert first_spike(current, beta) == (spikes.index(True) + 1 if any(spikes) else None)
    assert not any(spikes) or any(spikes[-700:])  # and then for ever


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("reset", list(Reset))
@pytest.mark.parametrize("make", [lambda: Direct(7), lambda: Rows(4), lambda: Rate(7, 8, 5)])
def test_no_spike_changes_within_the_radius(make, reset, double) -> None:
    net = network(make(), reset=reset, double=double)
    x = torch.rand(100, 8, dtype=torch.float64 if double else torch.float32)
    radius, _ = stability(net, x)
    assert (radius > 0).float().mean() > 0.8
    x, radius = x[radius > 0], radius[radius > 0].to(x.dtype)
    before, smallest = trajectories(net, x), math.inf
    for k in range(12):
        direction = nn.functional.normalize(
            torch.randn(x.shape, generator=torch.Generator().manual_seed(k), dtype=x.dtype), dim=1
        )
        for share in (0.999, 2.0, 10.0):
            after = trajectories(net, x + share * radius[:, None] * direction)
            same = torch.stack([(a.spikes == b.spikes).all(2).all(1) for a, b in zip(before, after, strict=True)]).all(0)
            if share < 1:
                assert same.all()
            elif not same.all():
                smallest = min(smallest, share)
    assert smallest <= 10.0  # ten times the radius is too far for some: it is not vacuous


def test_the_radius_is_attained() -> None:
    """One neuron, one step: beyond |w·x + b − θ|/‖w‖ along w there is a spike."""
    net = SpikingNetwork((2, 1, 2), Direct(1)).double()
    with torch.no_grad():
        net.hidden[0][0].weight.copy_(torch.tensor([[3.0, 4.0]]))
        net.hidden[0][0].bias.zero_()
    x = torch.tensor([[0.1, 0.0]]).double()
    radius = float(stability(net, x).input_radius)
    assert radius == pytest.approx(0.7 / 5, rel=1e-6)
    towards = torch.tensor([[0.6, 0.8]]).double()
    assert [float(trajectories(net, x + s * radius * towards)[0].spikes.sum()) for s in (0.999, 1.001)] == [0, 1]


@pytest.mark.parametrize("reset", list(Reset))
@pytest.mark.parametrize("make", [lambda: Direct(7), lambda: Rows(4), lambda: Rate(7, 8, 5)])
def test_no_spike_changes_within_the_leak_tolerance(make, reset) -> None:
    net, x = network(make(), reset=reset), torch.rand(60, 8, dtype=torch.float64)
    tolerance, before = stability(net, x).leak_tolerance, trajectories(net, x)
    assert (tolerance > 0).double().mean() > 0.8 and tolerance.max() > 1e-3
    changes = 0
    for n in range(20):
        for k, share in enumerate((0.999, -0.999, "mixed", 40.0)):
            other = network(make(), reset=reset)
            for _, layer in other.hidden:
                sign = (
                    torch.randn(layer.width, generator=torch.Generator().manual_seed(k)).sign() if share == "mixed" else share
                )
                with torch.no_grad():
                    layer.neuron.beta += tolerance[n] * sign * (0.999 if share == "mixed" else 1)
            after = trajectories(other, x[n : n + 1])
            same = all(torch.equal(a.spikes[n : n + 1], b.spikes) for a, b in zip(before, after, strict=True))
            assert same or share == 40.0
            changes += not same
    assert changes > 0


def test_stability_knows_its_rounding() -> None:
    """A membrane exactly at the threshold: nothing is promised."""
    net = SpikingNetwork((1, 1, 2), Direct(1))
    with torch.no_grad():
        net.hidden[0][0].weight.fill_(1.0)
        net.hidden[0][0].bias.zero_()
    found = stability(net, torch.tensor([[1.0], [1.0 + 2**-22], [0.5]]))
    assert found.input_radius[:2].tolist() == [0, 0] and found.input_radius[2] > 0.49


@pytest.mark.parametrize("reset", list(Reset))
def test_the_surrogate_exponent_against_products_of_jacobians(reset) -> None:
    """The surrogate's smooth neuron written out, with σ(x) = 1/2 + arctan(πx)/π for its slope and the jump for its value."""
    net, x = network(Direct(5), reset=reset), torch.rand(2, 8, dtype=torch.float64)
    seed, theta = 3, 0.4

    def smooth(u: torch.Tensor) -> torch.Tensor:
        soft = torch.atan(math.pi * u) / math.pi
        return soft + ((u > 0).double() - soft).detach()

    def moved(u: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
        signal, parts = example, []
        for (linear, layer), piece in zip(net.hidden, u.split([6, 5]), strict=True):
            fired = smooth(piece - theta)
            kept = layer.leak * piece - theta * fired if reset is Reset.SUBTRACT else layer.leak * (1 - fired) * piece
            parts.append(kept + linear(signal))
            signal = smooth(parts[-1] - theta)
        return torch.cat(parts)

    generator = torch.Generator().manual_seed(seed)
    start = torch.cat([torch.randn(2, w, generator=generator, dtype=torch.float64) for w in (6, 5)], 1)
    expected = []
    for example, vector in zip(x, start, strict=True):
        state, tangent = torch.zeros(11, dtype=torch.float64), vector / vector.norm()
        for _ in range(5):
            state, tangent = torch.func.jvp(lambda u, e=example: moved(u, e), (state,), (tangent,))
        expected.append(float(tangent.detach().norm().log() / 5))
    assert surrogate_exponent(net, x, seed).tolist() == pytest.approx(expected)


def test_a_small_perturbation_falls_like_the_leak_and_a_large_one_jumps() -> None:
    net, x = network(Direct(30), leak=0.8), torch.rand(20, 8, dtype=torch.float64)
    small, large = perturbation_growth(net, x, 1e-9, 0), perturbation_growth(net, x, 1.0, 0)
    assert small.changed.sum() == 0 and large.changed.sum() > 0
    expected = 0.8 ** torch.arange(1, 31, dtype=torch.float64)
    assert torch.allclose(small.ratios, expected.expand(20, 30), atol=1e-6)
    assert (large.ratios > 1.01 * expected).any()
    assert surrogate_exponent(net, x, 0, steps=200).shape == (20,)


def test_operations_and_rates_add_up() -> None:
    x = torch.rand(500, 8, dtype=torch.float64)
    net = network(Direct(7))
    one, two = trajectories(net, x)
    found = accumulates(net, x)
    assert found.dense == cost(net, x[:1]).macs and found.analog == 8 * 6 and found.updates == 7 * 11
    assert found.spiking.upper == pytest.approx(float(5 * one.spikes.sum() + 3 * two.spikes.sum()) / 500)
    assert found.spiking.kind is Kind.INDICATOR
    assert torch.allclose(firing_rates(net, x)[0], one.spikes.mean((0, 1)))
    coded = network(Rate(7, 8, 0))
    alone = sum(float(run.spikes.sum()) * out for run, out in zip(trajectories(coded, x), (5, 3), strict=True)) + 6 * float(
        coded.encoding(x).sum()
    )
    assert accumulates(coded, x).spiking.upper == pytest.approx(alone / 500) and accumulates(coded, x).analog == 0
    assert accumulates(network(Rows(4)), x).analog == 4 * 2 * 6


def test_states_are_carried_on() -> None:
    net, x = network(Direct(8)), torch.rand(4, 8, dtype=torch.float64)
    whole, first = trajectories(net, x), trajectories(net, x, steps=3)
    rest = trajectories(net, x, [run.membranes[:, -1] for run in first], 5)
    for w, a, b in zip(whole, first, rest, strict=True):
        assert torch.equal(w.membranes, torch.cat([a.membranes, b.membranes], 1))


X = torch.rand(2, 8, dtype=torch.float64)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: trajectories(network(), torch.full((1, 8), math.nan).double()), "NaN"),
        (lambda: trajectories(network(), X[:0]), "at least one example"),
        (lambda: stability(network(), X[:0]), "at least one example"),
        (lambda: firing_rates(network(), X[:0]), "at least one example"),
        (lambda: trajectories(network(), X, [torch.zeros(2, 6)]), "1 states for 2"),
        (lambda: trajectories(network(), X, [torch.zeros(2, 6), torch.zeros(3, 5)]), "state of shape"),
        (lambda: trajectories(network(), X, [torch.zeros(2, 6), torch.full((2, 5), math.nan)]), "finite membranes"),
        (lambda: trajectories(network(), X, steps=0), "steps"),
        (lambda: trajectories(network(Rows(4)), X, steps=3), "Direct"),
        (lambda: membrane_ranges(network(), 1.0, 0.0), "lower one first"),
        (lambda: membrane_ranges(network(), math.nan, 0.0), "lower one first"),
        (lambda: membrane_ranges(network(), torch.zeros(3), 1.0), r"\[8\]"),
        (lambda: membrane_limits(torch.zeros(1), torch.ones(1), torch.ones(1), 1.0), "β < 1"),
        (lambda: critical_leak(0.0), "positive"),
        (lambda: first_spike(1.0, 1.0), r"\[0, 1\)"),
        (lambda: perturbation_growth(network(), X, 0.0, 0), "size"),
    ],
)
def test_bad_input(wrong, says) -> None:
    with pytest.raises(InvalidInput, match=says):
        wrong()
