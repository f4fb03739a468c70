"""Complex layers against written-out real arithmetic, their constants against attained slopes, their costs by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import nonvacuous
from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.measures.lipschitz import Ball, global_table, global_upper, local_upper, sampled_lower
from nonvacuous.networks.complex_activations import CReLU, Magnitude, ModReLU, SplitTanh, ZReLU, activation_constant
from nonvacuous.networks.complex_valued import (
    ComplexConv2d,
    ComplexInput,
    ComplexLinear,
    FourierTransform2d,
    PairedInput,
    RealParts,
    circular_normal_,
    in_pairs,
)
from nonvacuous.operators.cost import cost
from nonvacuous.runtime.bundled import digits


def _complex(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.cdouble, generator=torch.Generator().manual_seed(seed))


def digits_net(hidden: int = 12) -> nn.Sequential:
    """Digits → their Fourier transform → complex layers → classes."""
    body = (ComplexLinear(64, hidden), ModReLU(hidden), ComplexLinear(hidden, 10), Magnitude())
    return nn.Sequential(FourierTransform2d(), nn.Flatten(), *body)


def test_linear_and_convolution_are_real_arithmetic_on_pairs() -> None:
    layer, z = ComplexLinear(4, 3).double(), _complex(5, 4)
    a, b = layer.pairs.unbind(-1)
    by_hand = torch.complex(z.real @ a.mT - z.imag @ b.mT + layer.bias[:, 0], z.imag @ a.mT + z.real @ b.mT + layer.bias[:, 1])
    assert torch.allclose(layer(z), by_hand, rtol=1e-13)
    conv, image = ComplexConv2d(2, 3, 3, stride=2, padding=1, bias=False).double(), _complex(2, 2, 7, 6)
    a, b = conv.pairs.unbind(-1)
    real, imaginary = (lambda x, k=k: nn.functional.conv2d(x, k, stride=2, padding=1) for k in (a, b))
    expected = torch.complex(real(image.real) - imaginary(image.imag), real(image.imag) + imaginary(image.real))
    assert torch.allclose(conv(image), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(3, 4, dtype=torch.cfloat), nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False, dtype=torch.cfloat)],
)
def test_torchs_own_complex_layers_in_pairs_compute_the_same(layer) -> None:
    z = _complex(5, 3).cfloat() if isinstance(layer, nn.Linear) else _complex(2, 2, 8, 8).cfloat()
    paired = in_pairs(layer)
    assert torch.allclose(paired(z), layer(z), atol=1e-6)
    assert paired.double().complex_weight.dtype == torch.cdouble  # the reason for pairs:
    assert layer.double().weight.dtype == torch.cfloat


def test_circular_normal_numbers_keep_the_mean_square_and_have_uniform_phases() -> None:
    torch.manual_seed(0)
    w = torch.view_as_complex(circular_normal_(torch.empty(200, 300, 2), 1 / 300))
    assert w.abs().square().mean().item() == pytest.approx(1 / 300, rel=0.02)
    assert abs((w * w).mean().item()) < 3e-5  # circular: E w² = 0
    turns = w.angle().flatten().sort().values / (2 * math.pi) + 0.5
    distance = (turns - torch.linspace(0, 1, len(turns))).abs().max()
    assert distance < 1.63 / math.sqrt(len(turns))  # Kolmogorov's 99 % limit
    z = _complex(500, 300).cfloat()
    assert (z @ w.mT).abs().square().mean().item() == pytest.approx(z.abs().square().mean().item(), rel=0.05)


@pytest.mark.parametrize("activation", [CReLU(), SplitTanh(), ModReLU(4, threshold=0.7), Magnitude(), RealParts()])
def test_a_constant_is_at_least_any_slope_and_nearly_attained(activation) -> None:
    z = 2 * _complex(4000, 4)
    w = z + _complex(4000, 4, seed=1) * torch.logspace(-6, 0, 4000, dtype=torch.float64)[:, None]
    moved = (activation.double()(z) - activation(w)).abs().square().sum(1).sqrt()
    slope = float((moved / (z - w).abs().square().sum(1).sqrt()).detach().max())
    assert 0.9 < slope <= activation_constant(activation, 4).upper + 1e-9 == 1.0 + 1e-9


@pytest.mark.parametrize("activation", [ZReLU(), ModReLU(1, threshold=-0.5, expanding=True)])
def test_functions_that_jump_have_slopes_without_limit_and_the_rule_says_so(activation) -> None:
    eps = torch.tensor([1e-2, 1e-5, 1e-8], dtype=torch.float64)
    centre = 1.0 if isinstance(activation, ZReLU) else 0.0
    up, down = (torch.complex(torch.full_like(eps, centre), sign * eps)[:, None] for sign in (1, -1))
    slopes = (activation.double()(up) - activation(down)).abs().flatten() / (2 * eps)
    assert slopes[0] > 40 and slopes[2] > 4e7
    assert activation_constant(activation, 1).upper == math.inf
    table = global_table(nn.Sequential(PairedInput(), ComplexLinear(1, 1), activation, Magnitude()), (2,))
    assert table.log_upper == math.inf and "no Lipschitz constant" in table.reason
    inside = ModReLU(1, threshold=0.5, expanding=True)
    assert activation_constant(inside, 1).upper == 1.0


def test_the_norm_of_a_complex_matrix_is_its_largest_singular_value() -> None:
    layer = ComplexLinear(6, 9, bias=False).double()
    found = global_upper(nn.Sequential(PairedInput(), layer, RealParts()), (12,), tolerance=1e-3)
    true = float(torch.linalg.matrix_norm(layer.complex_weight.detach(), 2))
    assert true <= found.upper <= 1.002 * true


def test_the_norm_of_a_complex_convolution_against_its_matrix() -> None:
    conv = ComplexConv2d(2, 2, 3, padding=1, stride=2, bias=False).double()
    units = torch.eye(2 * 25, dtype=torch.cdouble).reshape(-1, 2, 5, 5)
    true = float(torch.linalg.matrix_norm(conv(units).flatten(1).detach(), 2))
    found = global_upper(nn.Sequential(PairedInput(), conv, RealParts()), (4, 5, 5), tolerance=1e-3)
    assert true <= found.upper <= 1.01 * true


@pytest.mark.parametrize("body", ["linear", "convolution"])
def test_no_slope_of_a_network_exceeds_its_bound(body) -> None:
    torch.manual_seed(0)
    net = digits_net()
    if body == "convolution":
        layers = (ComplexConv2d(1, 3, 3, padding=1), CReLU(), nn.Flatten(), ComplexLinear(192, 5), SplitTanh(), RealParts())
        net = nn.Sequential(ComplexInput(), *layers, nn.Linear(10, 10))
    images = torch.rand(12, 1, 8, 8)
    upper = global_upper(net, (1, 8, 8)).upper
    assert 0 < sampled_lower(net, images).lower <= upper < math.inf
    assert sampled_lower(net, images).lower <= local_upper(net, Ball(images[0].double(), 10.0)).upper <= upper * 1.001


def test_costs_by_hand() -> None:
    """Linear: 4 real products each; Fourier: 5·64·6 operations, half for real input, but torch transforms both as complex."""
    found = cost(digits_net(), torch.zeros(3, 1, 8, 8))
    rows = {layer.kind: layer for layer in found.per_layer.values() if layer.macs}
    assert rows["ComplexLinear"].macs == 3 * 4 * 12 * 10
    assert found.per_layer["2"].macs == 3 * 4 * 64 * 12
    assert found.per_layer["2"].operations == 3 * 2 * 12 * (2 * 128 - 1)  # two real inner products of length 128
    assert rows["FourierTransform2d"].flops == rows["FourierTransform2d"].operations == 3 * 5 * 64 * 6
    assert found.parameters == 2 * (64 * 12 + 12 + 12 * 10 + 10) + 12
    conv = cost(nn.Sequential(ComplexInput(), ComplexConv2d(1, 2, 3)), torch.zeros(1, 1, 5, 5))
    assert conv.macs == 3 * 2 * 9 * 9  # three real convolutions
    real = cost(nn.Linear(64, 12), torch.zeros(3, 64))
    assert real.macs == 3 * 64 * 12 and real.operations == 3 * 12 * 127  # real products cost what they did


def test_real_transforms_cost_half() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(x).abs()

    assert cost(Spectrum(), torch.zeros(7, 16)).flops == 7 * 5 * 16 * 4 / 2


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    train, net = digits("train"), digits_net()
    adam = torch.optim.Adam(net.parameters(), lr=1e-2)
    for step in range(100):
        rows = torch.arange(step * 64, step * 64 + 64) % train.n
        adam.zero_grad()
        nn.functional.cross_entropy(net(train.inputs[rows]), train.targets[rows]).backward()
        adam.step()
    return net.eval()


def test_learns_digits_from_their_fourier_transform(trained) -> None:
    test = digits("test")
    assert (trained(test.inputs).argmax(1) == test.targets).float().mean() > 0.9


def test_is_audited(trained) -> None:
    """Certificates, the Lipschitz bracket by the layers' rules, costs, and the posterior's noise on pairs of real numbers."""
    train, test = digits("train"), digits("test")
    report = nonvacuous.audit(trained, train=(train.inputs, train.targets), test=(test.inputs, test.targets))
    wrong = float((trained(test.inputs).argmax(1) != test.targets).float().mean())
    assert any(wrong < c.value < 0.25 for c in report.certificates)
    assert report.anatomy.total.macs == 4 * (64 * 12 + 120) + 5 * 64 * 6 // 2
    everywhere, local = report.anatomy.slopes
    assert 0 < everywhere.lower <= 10**everywhere.log10_upper < 1e3 and local.log10_upper <= everywhere.log10_upper + 1e-9
    assert not any(skipped.bound == "gibbs" for skipped in report.skipped)


class Unruled(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z * z


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: ComplexLinear(3, 2)(torch.zeros(1, 3)), "ComplexInput"),
        (lambda: ComplexConv2d(1, 2, 3)(torch.zeros(1, 1, 8, 8)), "ComplexInput"),
        (lambda: CReLU()(torch.zeros(3)), "ComplexInput"),
        (lambda: ZReLU()(torch.zeros(3)), "ComplexInput"),
        (lambda: SplitTanh()(torch.zeros(3)), "ComplexInput"),
        (lambda: ModReLU(3)(torch.zeros(1, 3)), "ComplexInput"),
        (lambda: Magnitude()(torch.zeros(3)), "ComplexInput"),
        (lambda: RealParts()(torch.zeros(3)), "ComplexInput"),
        (lambda: ComplexInput()(_complex(1, 3)), "complex already"),
        (lambda: ComplexInput()(torch.zeros(3, dtype=torch.long)), "float"),
        (lambda: ComplexInput()(torch.tensor([math.nan])), "NaN"),
        (lambda: PairedInput()(torch.zeros(2, 3)), "2c"),
        (lambda: PairedInput()(_complex(2, 4)), "2c"),
        (lambda: PairedInput()(torch.full((1, 2), math.inf)), "infinity"),
        (lambda: FourierTransform2d()(torch.zeros(8, 8)), "images"),
        (lambda: FourierTransform2d()(torch.zeros(1, 8, 8, dtype=torch.long)), "floating"),
        (lambda: FourierTransform2d()(torch.full((1, 8, 8), math.nan)), "NaN"),
        (lambda: ComplexLinear(3, 2)(_complex(1, 3)), "complex64"),  # double into float
        (lambda: ComplexLinear(3, 2)(_complex(1, 4).cfloat()), "3"),
        (lambda: ComplexConv2d(1, 2, 5)(_complex(1, 1, 4, 4).cfloat()), "sides"),
        (lambda: ComplexLinear(0, 2), "at least 1"),
        (lambda: ComplexConv2d(1, 2, 3, stride=0), "stride"),
        (lambda: ModReLU(3)(_complex(1, 4)), "ModReLU takes"),
        (lambda: ModReLU(3, threshold=0.0), "threshold"),
        (lambda: ModReLU(3, threshold=math.nan), "threshold"),
        (lambda: circular_normal_(torch.zeros(3), 1.0), "size is 2"),
        (lambda: circular_normal_(torch.zeros(3, 2), 0.0), "variance"),
        (lambda: in_pairs(nn.Linear(2, 2)), "complex dtype"),
        (lambda: in_pairs(nn.Conv2d(2, 2, 3, groups=2, dtype=torch.cfloat)), "groups"),
        (lambda: global_upper(nn.Sequential(nn.Linear(3, 3), ComplexLinear(3, 2)), (3,)), "ComplexInput"),
        (lambda: global_upper(nn.Sequential(ComplexInput(), nn.Linear(3, 2)), (3,)), "cannot be run"),
        (lambda: cost(nn.Sequential(ComplexInput(), nn.Linear(3, 2)), torch.zeros(1, 3)), "cannot be run"),
    ],
)
def test_bad_input(wrong, says) -> None:
    with pytest.raises(InvalidInput, match=says):
        wrong()


def test_nan_in_the_weights_and_activations_without_a_rule_are_named() -> None:
    net = nn.Sequential(PairedInput(), ComplexLinear(2, 2), Magnitude())
    net[1].pairs.data[0, 0, 0] = math.nan
    with pytest.raises(InvalidInput, match="NaN"):
        global_upper(net, (4,))
    with pytest.raises(UnsupportedModule, match="Unruled"):
        activation_constant(Unruled(), 3)
