"""The Flexible Transmitter against its formula in Python's complex numbers, its special cases, its bound against attained slopes."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from torch import Tensor, nn

import nonvacuous
from nonvacuous.approximation.depth import Sawtooth
from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.measures.lipschitz import global_table, global_upper, sampled_lower
from nonvacuous.networks.complex_activations import CReLU, ModReLU, SplitTanh, ZReLU
from nonvacuous.networks.flexible_transmitter import FlexibleTransmitter, FlexibleTransmitterNet, sawtooth_layer
from nonvacuous.operators.cost import cost
from nonvacuous.runtime.bundled import digits


def _layer(inputs: int = 3, units: int = 4, seed: int = 0, **options) -> FlexibleTransmitter:
    torch.manual_seed(seed)
    layer = FlexibleTransmitter(inputs, units, **options)
    for bias in (layer.bias, layer.memory_bias):
        nn.init.normal_(bias)
    return layer.double()


def _by_hand(layer: FlexibleTransmitter, x: list[list[float]], memory: list[float]) -> tuple[list[list[float]], list[float]]:
    """The formula, neuron by neuron, with tanh on both parts."""
    w, v = layer.weight.tolist(), layer.memory_weight.tolist()
    b, c = layer.bias.tolist(), layer.memory_bias.tolist()
    signals = []
    for step in x:
        both = []
        for k in range(layer.units):
            stimulus = sum(a * s for a, s in zip(w[k], step, strict=True)) + b[k]
            kept = (v[k] * memory[k] if layer.exclusive else sum(a * r for a, r in zip(v[k], memory, strict=True))) + c[k]
            z = layer.conversion * (stimulus + 1j * kept)
            both.append(complex(math.tanh(z.real), math.tanh(z.imag)))
        signals.append([z.real for z in both])
        memory = [z.imag for z in both]
    return signals, memory


@pytest.mark.parametrize("exclusive", [False, True])
def test_is_the_formula(exclusive) -> None:
    layer = _layer(conversion=cmath.rect(0.9, 2.1), exclusive=exclusive)
    x, memory = torch.randn(2, 5, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    found = layer.transmit(x, memory)
    for k in range(2):
        signals, kept = _by_hand(layer, x[k].tolist(), memory[k].tolist())
        assert torch.allclose(found.signals[k], torch.tensor(signals, dtype=torch.float64), rtol=1e-12)
        assert torch.allclose(found.memory[k], torch.tensor(kept, dtype=torch.float64), rtol=1e-12)


def test_the_ordinary_neuron_is_a_special_case_number_by_number() -> None:
    """α + βi = 1: σ(w·x + b) at every step, whatever the memory; and the memory then is blind to the stimuli."""
    layer = _layer(conversion=1, activation=CReLU()).float()
    ordinary = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    ordinary[0].load_state_dict({"weight": layer.weight, "bias": layer.bias})
    x = torch.randn(7, 6, 3)
    first, second = (layer.transmit(x, 10 * torch.randn(7, 4)) for _ in range(2))
    assert torch.equal(first.signals, ordinary(x)) and torch.equal(second.signals, ordinary(x))
    memory = torch.randn(7, 4)
    assert torch.equal(layer.transmit(x, memory).memory, layer.transmit(-x, memory).memory)


def test_both_variables_move_both_values() -> None:
    layer = _layer()
    x, memory = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((1, 1, 3), (1, 4)))
    for value in layer.transmit(x, memory):
        slopes = torch.autograd.grad(value.sum(), [x, memory], retain_graph=True)
        assert all(bool((slope != 0).all()) for slope in slopes)


def test_pieces_of_a_sequence_give_what_the_whole_gives() -> None:
    torch.manual_seed(0)
    net, x = FlexibleTransmitterNet(3, [5, 4], 2).double(), torch.randn(2, 9, 3, dtype=torch.float64)
    whole, outputs, memories = net.transmit(x), [], None
    for piece in x.split([1, 3, 5], 1):
        found = net.transmit(piece, memories)
        outputs.append(found.outputs)
        memories = found.memories
    assert torch.allclose(torch.cat(outputs, 1), whole.outputs, rtol=1e-12)
    assert all(torch.allclose(a, b) for a, b in zip(memories, whole.memories, strict=True))
    assert torch.allclose(net(x), whole.outputs[:, -1])
    assert net(x[:, :1]).shape == (2, 2)  # one step is a sequence


def _folded(x: Tensor, steps: int) -> Tensor:
    stimuli = torch.zeros(len(x), steps, 1, dtype=x.dtype)
    stimuli[:, 0, 0] = x
    return sawtooth_layer().to(x.dtype)(stimuli)[:, -1, 0]


@pytest.mark.parametrize("steps", [2, 5, 11])
def test_steps_fold_the_line_exactly(steps) -> None:
    x = torch.arange(0, 2**12 + 1, dtype=torch.float64) / 2**12  # dyadic: all arithmetic exact
    found = _folded(x, steps).detach()
    assert torch.equal(found, Sawtooth(steps - 1)(x))
    assert int((found.diff().sign().diff() != 0).sum()) + 1 == 2 ** (steps - 1)  # pieces


def test_one_hidden_layer_with_too_few_neurons_is_half_a_tooth_off() -> None:
    """tri³ has 8 pieces: 6 ReLUs cannot, however trained; 8 can, exactly."""
    x = torch.arange(0, 257, dtype=torch.float64) / 256
    y = _folded(x, 4).detach()
    for seed in range(2):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(1, 6), nn.ReLU(), nn.Linear(6, 1)).double()
        adam = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(100):
            adam.zero_grad()
            (net(x[:, None])[:, 0] - y).abs().max().backward()
            adam.step()
        assert float((net(x[:, None])[:, 0] - y).abs().max().detach()) >= 0.5 - 1e-9
    kinks = torch.arange(8, dtype=torch.float64) / 8
    slopes = torch.cat((torch.tensor([8.0]), 16 * (-1.0) ** torch.arange(1, 8))).double()
    assert torch.equal((x[:, None] - kinks).relu() @ slopes, y)


@pytest.mark.parametrize("activation", [SplitTanh(), CReLU(), ModReLU(4, threshold=0.3)])
@pytest.mark.parametrize(
    "options", [{}, {"exclusive": True}, {"conversion": 2 + 1j}, {"conversion": 0.1 + 1j}, {"conversion": -1.5}]
)
def test_no_slope_exceeds_the_bound(activation, options) -> None:
    for seed, steps in enumerate((1, 2, 6)):
        layer = _layer(seed=seed, activation=activation, **options)
        layer.memory_weight.data *= 1.3
        upper = global_upper(layer, (steps, 3)).upper
        close = torch.randn(40, steps, 3, dtype=torch.float64) * torch.logspace(-3, 1, 40, dtype=torch.float64)[:, None, None]
        assert 0 < sampled_lower(layer, close).lower <= upper < math.inf


def test_the_bound_is_attained_where_memory_carries_all() -> None:
    """α + βi = i: s_2 = −V·W·x_1 near 0, of slope ‖V‖·‖W‖, which is the bound for two steps."""
    layer = FlexibleTransmitter(1, 1, conversion=1j).double()
    layer.weight.data.fill_(3.0)
    layer.memory_weight.data.fill_(2.0)
    found = global_upper(layer, (2, 1))
    assert sampled_lower(layer, torch.zeros(1, 2, 1)).lower == pytest.approx(6.0, rel=1e-6)
    assert found.upper == pytest.approx(6.0, rel=0.02)


def test_a_contracting_memory_has_a_bound_that_time_does_not_change() -> None:
    layer = _layer()
    layer.memory_weight.data *= 0.9
    assert global_upper(layer, (2, 3)).upper == pytest.approx(global_upper(layer, (500, 3)).upper, rel=1e-9)
    layer.memory_weight.data *= 2
    assert global_upper(layer, (30, 3)).upper > 1e6
    assert global_table(layer, (5000, 3)).log_upper == math.inf
    ordinary = _layer(conversion=1, activation=CReLU())
    ordinary.memory_weight.data *= 100
    assert global_upper(ordinary, (30, 3)).upper < 10


def test_activations_that_jump_have_no_bound_and_unknown_ones_are_named() -> None:
    assert "no Lipschitz constant" in global_table(_layer(activation=ZReLU()), (2, 3)).reason

    class Unruled(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z

    with pytest.raises(UnsupportedModule, match="Unruled"):
        global_upper(_layer(activation=Unruled()), (2, 3))


def test_cost_by_hand() -> None:
    net = FlexibleTransmitterNet(8, [6, 5], 10)
    found = cost(net, torch.zeros(2, 7, 8))
    assert found.macs == 2 * 7 * (6 * 8 + 6 * 6 + 5 * 6 + 5 * 5) + 2 * 5 * 10
    assert cost(FlexibleTransmitter(8, 6, exclusive=True), torch.zeros(2, 7, 8)).macs == 2 * 7 * 6 * 8
    recurrent = nn.RNN(8, 6)  # the ordinary layer of exactly as many parameters
    assert sum(p.numel() for p in recurrent.parameters()) == sum(p.numel() for p in net.layers[0].parameters())


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    train, net = digits("train"), nn.Sequential(nn.Flatten(1, 2), FlexibleTransmitterNet(8, [32], 10))
    adam = torch.optim.Adam(net.parameters(), lr=1e-2)
    for step in range(150):
        rows = torch.arange(step * 64, step * 64 + 64) % train.n
        adam.zero_grad()
        nn.functional.cross_entropy(net(train.inputs[rows]), train.targets[rows]).backward()
        adam.step()
    return net.eval()


def test_learns_digits_read_row_by_row(trained) -> None:
    """The last row alone does not tell the digit; what the memory kept does."""
    test = digits("test")
    right = float((trained(test.inputs).argmax(1) == test.targets).float().mean())
    rows = test.inputs.flatten(1, 2)
    forgetful = float((trained[1](rows[:, -1:]).argmax(1) == test.targets).float().mean())
    assert right > 0.9 and forgetful < 0.5


def test_is_audited(trained) -> None:
    train, test = digits("train"), digits("test")
    report = nonvacuous.audit(trained, train=(train.inputs, train.targets), test=(test.inputs, test.targets))
    wrong = float((trained(test.inputs).argmax(1) != test.targets).float().mean())
    assert any(wrong < c.value < 0.25 for c in report.certificates)
    everywhere = report.anatomy.slopes[0]
    assert 0 < everywhere.lower <= 10**everywhere.log10_upper < math.inf
    assert report.anatomy.total.macs == 8 * 32 * (8 + 32) + 320


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: FlexibleTransmitter(0, 3), "at least one"),
        (lambda: FlexibleTransmitter(3, 3, conversion=0), "conversion"),
        (lambda: FlexibleTransmitter(3, 3, conversion=complex(0, math.nan)), "conversion"),
        (lambda: FlexibleTransmitterNet(3, [], 2), "at least one"),
        (lambda: FlexibleTransmitterNet(3, [4], 0), "at least one"),
        (lambda: FlexibleTransmitter(3, 4)(torch.zeros(2, 0, 3)), "one step or more"),
        (lambda: FlexibleTransmitter(3, 4)(torch.zeros(2, 3)), "takes"),
        (lambda: FlexibleTransmitter(3, 4)(torch.zeros(2, 5, 4)), "takes"),
        (lambda: FlexibleTransmitter(3, 4)(torch.zeros(2, 5, 3, dtype=torch.cfloat)), "complex64"),
        (lambda: FlexibleTransmitter(3, 4)(torch.zeros(2, 5, 3, dtype=torch.float64)), "float64"),
        (lambda: FlexibleTransmitter(3, 4)(torch.zeros(2, 5, 3, device="meta")), "meta"),
        (lambda: FlexibleTransmitter(3, 4)(torch.full((2, 5, 3), math.nan)), "sequence holds NaN"),
        (lambda: FlexibleTransmitter(3, 4).transmit(torch.zeros(2, 5, 3), torch.zeros(3, 4)), r"give \[2, 4\]"),
        (lambda: FlexibleTransmitter(3, 4).transmit(torch.zeros(2, 5, 3), torch.zeros(2, 5)), r"give \[2, 4\]"),
        (
            lambda: FlexibleTransmitter(3, 4).transmit(torch.zeros(2, 5, 3), torch.zeros(2, 4).double()),
            "memory of torch.float64",
        ),
        (lambda: FlexibleTransmitter(3, 4).transmit(torch.zeros(2, 5, 3), torch.zeros(2, 4, device="meta")), "on meta"),
        (lambda: FlexibleTransmitter(3, 4).transmit(torch.zeros(2, 5, 3), torch.full((2, 4), math.inf)), "memory holds"),
        (lambda: FlexibleTransmitterNet(3, [4], 2).transmit(torch.zeros(2, 5, 3), []), "one a layer"),
        (lambda: global_upper(FlexibleTransmitter(3, 4), (0, 3)), "one step or more"),
    ],
)
def test_bad_input(wrong, says) -> None:
    with pytest.raises(InvalidInput, match=says):
        wrong()


def test_nan_in_the_weights_is_named() -> None:
    layer = _layer()
    layer.memory_weight.data[0, 0] = math.nan
    with pytest.raises(InvalidInput, match="memory_weight holds NaN"):
        global_upper(layer, (2, 3))
