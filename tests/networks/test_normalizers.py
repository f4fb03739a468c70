"""Weight standardization, spectral and weight normalization against slow, readable code."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import nonvacuous
from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.lipschitz import global_upper, sampled_lower
from nonvacuous.networks.normalizers import folded, scaled_weight_standardized, weight_standardized
from nonvacuous.networks.spectral import NormLimit, gram_upper, norm_limited, spectrally_normalized
from nonvacuous.networks.weight_norm import weight_normalized
from nonvacuous.operators.cost import cost
from nonvacuous.operators.norms import linear_map, spectral_norm
from nonvacuous.runtime.bundled import digits

LAYERS = [
    lambda: nn.Linear(7, 5),
    lambda: nn.Conv2d(4, 6, 3),
    lambda: nn.Conv2d(4, 6, 3, groups=2),
    lambda: nn.Conv1d(3, 2, 5, bias=False),
]


@pytest.mark.parametrize("make", LAYERS)
def test_standardized_row_by_row(make) -> None:
    torch.manual_seed(0)
    layer = make()
    raw = layer.weight.detach().clone()
    plain, scaled = weight_standardized(copy.deepcopy(layer), 1e-12), scaled_weight_standardized(layer)
    for k, row in enumerate(raw.flatten(1).double()):
        centred = row - sum(row) / len(row)
        variance = sum(centred**2) / len(row)
        assert torch.allclose(plain.weight[k].flatten().double(), centred / variance.sqrt(), atol=1e-5)
        assert torch.allclose(scaled.weight[k].flatten().double(), centred / (len(row) * variance).sqrt(), atol=1e-5)


def test_scaled_standardization_removes_a_common_mean_and_keeps_the_variance() -> None:
    torch.manual_seed(0)
    layer = scaled_weight_standardized(nn.Linear(500, 400, bias=False))
    x = 3 + 2 * torch.randn(4000, 500)
    out = layer(x).detach()
    assert abs(float(out.mean())) < 0.05 and float(out.var()) == pytest.approx(4.0, rel=0.02)
    nn.init.constant_(layer.parametrizations.weight[0].gain, 0.5)
    assert float(layer(x).detach().var()) == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("standardize", [weight_standardized, scaled_weight_standardized])
def test_gradients_have_no_part_along_the_mean_or_the_weight(standardize) -> None:
    """The weight's scale and mean do not matter, so no gradient points there."""
    torch.manual_seed(0)
    layer = standardize(nn.Linear(30, 4), 1e-12)
    layer(torch.randn(8, 30)).square().sum().backward()
    raw = layer.parametrizations.weight.original
    assert raw.grad.sum(1).abs().max() < 1e-3 and (raw.grad * raw).sum(1).abs().max() < 1e-3 < raw.grad.abs().max()


@pytest.mark.parametrize("standardize", [weight_standardized, scaled_weight_standardized])
@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (nn.Conv2d(4, 4, 1, groups=4), "fan-in of 1"),
        (nn.Linear(1, 3), "fan-in of 1"),
        (nn.ConvTranspose2d(3, 4, 3), "not transposed"),
        (nn.BatchNorm1d(3), "linear layers"),
        (nn.Sequential(nn.Linear(3, 3)), "linear layers"),
    ],
)
def test_what_cannot_be_standardized(standardize, layer, says) -> None:
    with pytest.raises(InvalidInput, match=says):
        standardize(layer)


def test_standardization_refuses_nan_twice_and_eps_zero() -> None:
    layer = nn.Linear(3, 3)
    with pytest.raises(InvalidInput, match="eps"):
        weight_standardized(layer, 0.0)
    weight_standardized(layer)
    with pytest.raises(InvalidInput, match="already"):
        scaled_weight_standardized(layer)
    broken = nn.Linear(3, 3)
    nn.init.constant_(broken.weight, math.nan)
    with pytest.raises(InvalidInput, match="NaN"):
        scaled_weight_standardized(broken)


SHAPED = [
    (lambda: nn.Linear(9, 6), (9,)),
    (lambda: nn.Conv2d(3, 5, 3, padding=1), (3, 8, 8)),
    (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 6, 5)),
    (lambda: nn.Conv2d(2, 3, 3, padding=2, dilation=2), (2, 7, 8)),
    (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (3, 6, 7)),
    (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 8, 8)),
    (lambda: nn.Conv1d(2, 3, 4, padding="same"), (2, 10)),
    (lambda: nn.Conv3d(2, 2, 2), (2, 4, 3, 4)),
]


@pytest.mark.parametrize(("make", "shape"), SHAPED)
def test_bound_is_above_the_norm_of_the_matrix(make, shape) -> None:
    torch.manual_seed(1)
    layer = make()
    truth = float(torch.linalg.matrix_norm(linear_map(layer, shape).dense(), 2))
    bound = float(NormLimit(layer, shape, 1.0, only_down=False).bound(layer.weight))
    assert truth <= bound <= truth * (1.9 if getattr(layer, "stride", (1,))[0] > 1 else 1.25)


def test_bound_is_tight_where_the_circle_is_the_image() -> None:
    layer = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")
    bound = float(NormLimit(layer, (8, 9, 8), 1.0, only_down=False).bound(layer.weight))
    assert spectral_norm(layer, (8, 9, 8)).lower <= bound <= 1.01 * spectral_norm(layer, (8, 9, 8)).upper


@pytest.mark.parametrize(("make", "shape"), SHAPED)
def test_limit_is_proved_to_hold(make, shape) -> None:
    torch.manual_seed(2)
    layer = spectrally_normalized(make(), shape, 0.7)
    assert spectral_norm(layer, shape, tolerance=1e-3).upper <= 0.7


def test_only_down_leaves_small_weights_alone() -> None:
    layer = nn.Linear(4, 4)
    raw = layer.weight.detach().clone()
    assert torch.equal(norm_limited(layer, (4,), 100.0).weight, raw)
    zero = nn.Linear(4, 4)
    nn.init.zeros_(zero.weight)
    assert torch.equal(norm_limited(zero, (4,), 1.0).weight, torch.zeros(4, 4))


def test_torchs_spectral_norm_is_no_bound_of_the_convolution() -> None:
    """The counter-example: constant kernels, σ of the reshaped kernel 1, the norm of the convolution near √taps = 3."""
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.ones_(layer.weight)
    theirs = nn.utils.parametrizations.spectral_norm(copy.deepcopy(layer), n_power_iterations=50).eval()
    assert float(torch.linalg.matrix_norm(theirs.weight.flatten(1), 2)) == pytest.approx(1.0, abs=1e-4)
    assert spectral_norm(theirs, (1, 24, 24)).lower > 2.9
    assert sampled_lower(theirs, torch.ones(2, 1, 24, 24)).lower > 2.5
    assert spectral_norm(spectrally_normalized(layer, (1, 24, 24)), (1, 24, 24)).upper <= 1


def test_gradient_of_the_bound_is_that_of_the_norm() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(gram_upper(matrix, 12), matrix)
    left, _, right = torch.linalg.svd(matrix)
    assert torch.allclose(ours, torch.outer(left[:, 0], right[0]), atol=1e-4)
    assert torch.autograd.gradcheck(lambda w: gram_upper(w, 4), matrix)


@pytest.mark.parametrize(
    ("layer", "shape", "limit", "says"),
    [
        (nn.Linear(3, 3), (3,), 0.0, "limit"),
        (nn.Linear(3, 3), (3,), math.nan, "limit"),
        (nn.Linear(3, 3), (4,), 1.0, "shape"),
        (nn.Conv2d(3, 3, 3), (2, 8, 8), 1.0, "shape"),
        (nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), (3, 8, 8), 1.0, "reflect"),
        (nn.Conv2d(3, 3, 3, padding=2, padding_mode="circular"), (3, 8, 8), 1.0, "repeat"),
        (nn.ConvTranspose2d(3, 3, 3), (3, 8, 8), 1.0, "transposed"),
        (nn.ReLU(), (3,), 1.0, "linear layers"),
    ],
)
def test_what_spectral_normalization_refuses(layer, shape, limit, says) -> None:
    with pytest.raises(InvalidInput, match=says):
        spectrally_normalized(layer, shape, limit)


@pytest.mark.parametrize("blocks", [torch.zeros(3), torch.zeros(0, 3, 3)])
def test_gram_refuses(blocks) -> None:
    with pytest.raises(InvalidInput, match="matrices"):
        gram_upper(blocks)


def _small_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(384, 10)
    )


def test_data_based_initialization_gives_every_pre_activation_mean_0_and_variance_1() -> None:
    torch.manual_seed(0)
    x = digits("train").inputs[:200]
    net = weight_normalized(_small_net(), x)
    for end in (1, 3, 6):
        out = net[:end](x)
        by_channel = out.movedim(1, 0).flatten(1)
        assert torch.allclose(by_channel.mean(1), torch.zeros(len(by_channel)), atol=1e-4)
        assert torch.allclose(by_channel.std(1, correction=0), torch.ones(len(by_channel)), atol=1e-3)


@pytest.mark.parametrize(
    ("net", "inputs", "says"),
    [
        (nn.Sequential(nn.Linear(3, 2)), torch.randn(1, 3), "2 or more"),
        (nn.Sequential(nn.Linear(3, 2)), torch.ones(5, 3, dtype=torch.long), "floating-point"),
        (nn.Sequential(nn.Linear(3, 2)), torch.full((5, 3), math.nan), "NaN"),
        (nn.Sequential(nn.Linear(3, 2)), torch.ones(5, 3), "does not vary"),
        (nn.Sequential(nn.Linear(3, 2, bias=False)), torch.randn(5, 3), "bias"),
        (nn.Sequential(nn.Linear(3, 2)), torch.randn(5, 4), "cannot be run"),
        (nn.Sequential(nn.ReLU()), torch.randn(5, 4), "no linear layer"),
    ],
)
def test_what_data_based_initialization_refuses(net, inputs, says) -> None:
    with pytest.raises(InvalidInput, match=says):
        weight_normalized(net, inputs)


def _normalized(kind: str) -> nn.Module:
    net = _small_net()
    if kind == "weight norm":
        return weight_normalized(net, digits("train").inputs[:100])
    shapes = {0: (1, 8, 8), 2: (6, 8, 8), 5: (384,)}
    for index, shape in shapes.items():
        if kind == "spectral":
            spectrally_normalized(net[index], shape, 2.0)
        else:
            {"standardized": weight_standardized, "scaled": scaled_weight_standardized}[kind](net[index])
    return net


KINDS = ["standardized", "scaled", "spectral", "weight norm"]


def _trained(kind: str) -> nn.Module:
    torch.manual_seed(0)
    train = digits("train")
    net = _normalized(kind)
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    for step in range(60):
        rows = torch.arange(step * 128, step * 128 + 128) % train.n
        adam.zero_grad()
        nn.functional.cross_entropy(net(train.inputs[rows]), train.targets[rows]).backward()
        adam.step()
    return net.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_each_trains_on_digits_with_a_lipschitz_bound_and_a_cost(kind) -> None:
    net, test = _trained(kind), digits("test")
    assert (net(test.inputs).argmax(1) == test.targets).float().mean() > 0.85
    upper = global_upper(net, (1, 8, 8)).upper
    assert sampled_lower(net, test.inputs[:20]).lower <= upper < math.inf
    if kind == "spectral":
        assert upper <= 2.0**3 * 1.03
    plain = folded(net)
    assert torch.allclose(plain(test.inputs[:9]), net(test.inputs[:9]), atol=1e-4)
    assert cost(plain, test.inputs[:1]).macs == cost(_small_net(), test.inputs[:1]).macs <= cost(net, test.inputs[:1]).macs
    assert [type(part) for part in plain] == [type(part) for part in _small_net()]


def test_cost_of_the_bound_stands_in_a_row_of_its_own() -> None:
    layer = spectrally_normalized(nn.Linear(20, 10), (20,))
    rows = cost(layer, torch.zeros(1, 20)).per_layer
    assert rows[""].macs == 200
    assert rows["parametrizations.weight.0"].macs == 10 * 20 * 10 + 7 * 10**3  # WᵀW, or WWᵀ, then squares of the smaller


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_is_audited(kind) -> None:
    train, test = digits("train"), digits("test")
    report = nonvacuous.audit(_trained(kind), train=(train.inputs, train.targets), test=(test.inputs, test.targets))
    assert min(c.value for c in report.certificates) < 0.3
