"""Spiking networks: against a loop over single neurons and against snnTorch itself, and what the library's measures say of them."""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import nonvacuous
from nonvacuous.cli import main
from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.lipschitz import global_table, global_upper
from nonvacuous.networks.spiking import Direct, Encoding, FiringRates, Rate, Reset, Rows, SpikingLayer, SpikingNetwork, spike
from nonvacuous.operators.cost import cost
from nonvacuous.runtime.bundled import digits
from nonvacuous.runtime.models import mlp
from nonvacuous.runtime.stacked_training import Member, Stack, trained_stack

snn = pytest.importorskip("snntorch")

ENCODINGS = [lambda: Direct(7), lambda: Rows(4), lambda: Rate(6, 8, seed=3)]


def network(encoding: Encoding, reset: Reset = Reset.SUBTRACT, leak=(0.3, 0.9)) -> SpikingNetwork:
    torch.manual_seed(0)
    net = SpikingNetwork((2 if isinstance(encoding, Rows) else 8, 5, 4, 3), encoding, leak=leak, threshold=0.4, reset=reset)
    return net.double()


def slow(net: SpikingNetwork, x: list[float], reset: Reset) -> tuple[list[float], int]:
    """Outputs for one example, and how many spikes there were, one neuron after the other."""
    encoding, steps = net.encoding, net.encoding.steps
    if isinstance(encoding, Direct):
        signal = [x] * steps
    elif isinstance(encoding, Rows):
        signal = [x[2 * t : 2 * t + 2] for t in range(steps)]
    else:
        signal = [[float(a > u) for a, u in zip(x, row, strict=True)] for row in encoding.uniform.tolist()]
    count = 0
    for linear, layer in net.hidden:
        rows = [[0.0] * layer.width for _ in range(steps)]
        for i in range(layer.width):
            u = 0.0
            for t in range(steps):
                current = (
                    sum(w * s for w, s in zip(linear.weight[i].tolist(), signal[t], strict=True)) + linear.bias.tolist()[i]
                )
                fired = u > layer.threshold
                beta = layer.leak.tolist()[i]
                u = current + (0.0 if reset is Reset.ZERO and fired else beta * u - layer.threshold * fired)
                rows[t][i] = float(u > layer.threshold)
        signal, count = rows, count + int(sum(map(sum, rows)))
    rates = [sum(row[i] for row in signal) / steps for i in range(len(signal[0]))]
    outputs = [
        sum(w * r for w, r in zip(weights, rates, strict=True)) + b
        for weights, b in zip(net.readout.weight.tolist(), net.readout.bias.tolist(), strict=True)
    ]
    return outputs, count


@pytest.mark.parametrize("reset", list(Reset))
@pytest.mark.parametrize("make", ENCODINGS)
def test_against_one_neuron_after_the_other(make, reset) -> None:
    net = network(make(), reset)
    x = 2 * torch.rand(6, 1, 2, 4, dtype=torch.float64)
    oracle = [slow(net, row.flatten().tolist(), reset) for row in x]
    assert sum(count for _, count in oracle) > 20
    assert torch.allclose(net(x), torch.tensor([out for out, _ in oracle], dtype=torch.float64))


def test_against_snntorch_run_by_hand() -> None:
    torch.manual_seed(1)
    layer = SpikingLayer(5, 20, leak=0.8)
    current = torch.randn(3, 20, 5)
    neuron, membrane, spikes = snn.Leaky(beta=0.8), torch.zeros(3, 5), []
    for t in range(20):
        fired, membrane = neuron(current[:, t], membrane)
        spikes.append(fired)
    assert torch.equal(layer(current), torch.stack(spikes, 1)) and layer(current).sum() > 10


def test_the_surrogate_is_snntorchs() -> None:
    x = torch.linspace(-3, 3, 101).requires_grad_()
    ours, theirs = (torch.autograd.grad(f(x).sum(), x)[0] for f in (spike, snn.surrogate.atan()))
    assert torch.allclose(ours, theirs) and torch.equal(spike(x), snn.surrogate.atan()(x))
    forward = torch.func.jvp(spike, (x.detach(),), (torch.ones(101),))[1]
    assert torch.allclose(forward, theirs)
    assert spike(torch.tensor([math.nan])).isnan().all()


@pytest.mark.parametrize("make", [lambda: Direct(5), lambda: Rows(4)])
def test_nan_is_not_taken_for_silence(make) -> None:
    x = torch.zeros(2, 8, dtype=torch.float64)
    x[0, 3] = math.nan
    found = network(make())(x)
    assert found[0].isnan().all() and found[1].isfinite().all()


def test_nothing_is_kept_between_calls() -> None:
    alive = len(snn.SpikingNeuron.instances)
    net, x = network(Direct(6)), torch.rand(3, 8, dtype=torch.float64)
    assert len(snn.SpikingNeuron.instances) == alive
    first, state = net(x), copy.deepcopy(net.state_dict())
    first.sum().backward()
    assert torch.equal(copy.deepcopy(net)(x), first) and torch.equal(net(x), first)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert net[2].neuron.mem.numel() == 0
    again = network(Direct(6), leak=(0.1, 0.2))
    again.load_state_dict(state)
    assert torch.equal(again(x), first)  # leaks and thresholds travel with the weights


def test_leaks_are_learned_within_bounds() -> None:
    torch.manual_seed(0)
    net = SpikingNetwork((8, 6, 2), Direct(5), leak=[torch.linspace(0.1, 0.9, 6)], threshold=0.3, learn_leak=True)
    assert torch.allclose(net.hidden[0][1].leak, torch.linspace(0.1, 0.9, 6))
    net(torch.rand(4, 8)).sum().backward()
    assert net[2].neuron.beta.grad.abs().max() > 0
    with torch.no_grad():
        net[2].neuron.beta.fill_(7.0)
    assert net.hidden[0][1].leak.max() == 1


@pytest.mark.parametrize("make", ENCODINGS)
def test_no_lipschitz_constant_and_the_reason(make) -> None:
    table = global_table(network(make()), (8,))
    assert table.log_upper == math.inf and "no Lipschitz constant" in table.reason and "threshold" in table.reason
    assert global_upper(network(make()), (8,)).upper == math.inf


def test_the_constant_before_the_first_spike() -> None:
    linear = nn.Linear(2, 3).double()
    norm = float(torch.linalg.matrix_norm(linear.weight, 2).detach())
    assert global_upper(nn.Sequential(Rows(4), linear), (8,)).upper == pytest.approx(norm, rel=0.02)
    assert global_upper(nn.Sequential(Direct(4), linear), (2,)).upper == pytest.approx(norm, rel=0.02)


def test_cost_is_what_is_run() -> None:
    x = torch.zeros(1, 8, dtype=torch.float64)
    assert cost(network(Direct(7)), x).macs == 8 * 5 + 7 * 5 * 4 + 4 * 3  # a constant current is computed once
    assert cost(network(Rows(4)), x).macs == 4 * (2 * 5 + 5 * 4) + 4 * 3
    assert cost(network(Rate(6, 8, 0)), x).macs == 6 * (8 * 5 + 5 * 4) + 4 * 3


def _digit_stack(make, members: int, steps: int) -> Stack:
    train = digits("train")
    rows = [Member(seed, torch.arange(train.n)) for seed in range(members)]
    return trained_stack(make, train.inputs, train.targets, rows, steps=steps, batch_size=64, learning_rate=1e-2)


def _errors(stack: Stack) -> torch.Tensor:
    test = digits("test")
    return (stack.outputs(test.inputs).argmax(-1) != test.targets).double().mean(1)


@pytest.fixture(scope="module")
def trained() -> SpikingNetwork:
    return _digit_stack(lambda: SpikingNetwork((64, 32, 10), Direct(4), leak=0.7), 2, 80).member(0)


def test_trains_on_digits_many_at_once(trained) -> None:
    test = digits("test")
    assert (trained(test.inputs).argmax(1) != test.targets).float().mean() < 0.12


def test_is_audited(trained) -> None:
    train, test = digits("train"), digits("test")
    report = nonvacuous.audit(trained, train=(train.inputs, train.targets), test=(test.inputs, test.targets))
    wrong = (trained(test.inputs).argmax(1) != test.targets).double().mean().item()
    assert report.best.bound == "binomial-tail" and wrong < report.best.value < 0.2
    # what holds for chains of layers with a Lipschitz constant is not applied, and the reason is said
    assert {"spectral-margin", "growth-function", "vc"} <= {s.bound for s in report.skipped if s.reason}


@pytest.mark.slow
def test_is_audited_from_the_command_line(trained, tmp_path: Path, monkeypatch) -> None:
    from click.testing import CliRunner
    from safetensors.torch import save_file

    (tmp_path / "spikes.py").write_text(
        "from nonvacuous.networks.spiking import Direct, SpikingNetwork\n\n\n"
        "def net():\n    return SpikingNetwork((64, 32, 10), Direct(4), leak=0.7)\n"
    )
    save_file(trained.state_dict(), str(tmp_path / "weights.safetensors"))
    monkeypatch.chdir(tmp_path)
    args = ["audit", "--model", "spikes:net", "--weights", "weights.safetensors", "--train", "digits", "--test", "digits"]
    result = CliRunner().invoke(main, [*args, "--out", "out"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "audit.html").exists()
    assert nonvacuous.verify(tmp_path / "out" / "certificates").ok


@pytest.mark.slow
def test_beside_a_relu_network_of_equal_size() -> None:
    """Digits as a constant input: no worse than 2 points on average over seeds."""
    seeds, steps = 5, 300
    spiking = _errors(_digit_stack(lambda: SpikingNetwork((64, 64, 10), Direct(6), leak=0.8), seeds, steps))
    ordinary = _errors(_digit_stack(lambda: mlp(64, 64, 10), seeds, steps))
    assert sum(p.numel() for p in mlp(64, 64, 10).parameters()) == sum(
        p.numel() for p in SpikingNetwork((64, 64, 10), Direct(6)).parameters()
    )
    assert abs(float((spiking - ordinary).mean())) < 0.02 and float(spiking.max()) < 0.06


def test_without_snntorch(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "snntorch", None)
    with pytest.raises(InvalidInput, match=r"pip install 'nonvacuous\[spiking\]'"):
        SpikingLayer(3, 4)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Direct(0), "at least one"),
        (lambda: Rate(-1, 8, 0), "at least one"),
        (lambda: SpikingNetwork((8, 3), Direct(2)), "at least one hidden"),
        (lambda: SpikingNetwork((8, 0, 3), Direct(2)), "positive"),
        (lambda: SpikingNetwork((8, 4, 3), Direct(2), leak=1.0), r"\[0, 1\)"),
        (lambda: SpikingNetwork((8, 4, 3), Direct(2), leak=-0.1), r"\[0, 1\)"),
        (lambda: SpikingNetwork((8, 4, 3), Direct(2), leak=math.nan), r"\[0, 1\)"),
        (lambda: SpikingNetwork((8, 4, 3), Direct(2), leak=[torch.zeros(3)]), "one a neuron"),
        (lambda: SpikingNetwork((8, 4, 3), Direct(2), leak=[0.5, 0.5]), "one a layer"),
        (lambda: SpikingNetwork((8, 4, 3), Direct(2), threshold=0.0), "threshold"),
        (lambda: SpikingLayer(3, 0), "steps"),
        (lambda: SpikingLayer(3, 4)(torch.zeros(2, 3, 3)), r"\[n, 4 or 1, 3\]"),
        (lambda: SpikingLayer(3, 4)(torch.zeros(2, 3)), "currents"),
        (lambda: SpikingLayer(3, 4).trajectory(torch.zeros(2, 4, 3), torch.zeros(1, 3)), "state of shape"),
        (lambda: Rows(3)(torch.zeros(2, 8)), "as many steps as rows"),
        (lambda: Rate(3, 9, 0)(torch.zeros(2, 8)), "9 expected"),
    ],
)
def test_bad_input(wrong, says) -> None:
    with pytest.raises(InvalidInput, match=says):
        wrong()


def test_rates_of_a_user_s_own_network_of_these_parts() -> None:
    net = nn.Sequential(Direct(3), nn.Linear(4, 2), SpikingLayer(2, 3), FiringRates())
    assert net(torch.rand(5, 4)).shape == (5, 2)
