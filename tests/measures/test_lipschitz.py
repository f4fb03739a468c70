"""Lipschitz constants over all inputs: above every slope, below nothing that is true, and the same however a model is written."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracles.dense import dense_spectral_norm
from tests.oracles.lipschitz import exact_lipschitz
from torch import nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.measures import lipschitz
from nonvacuous.measures.lipschitz import Ball, Box, bracket, global_table, global_upper, local_upper, sampled_lower


class Residual(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.outer(F.relu(self.inner(x)))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(2, 2, 1)
        self.norm = nn.BatchNorm2d(5)

    def forward(self, x):
        x = torch.cat([torch.sigmoid(self.left(x)), self.right(x)], dim=1)
        x = F.max_pool2d(F.hardswish(self.norm(x)), 3, stride=2)
        return x.mean(dim=(2, 3))


class Same(nn.Conv2d):
    """Padding in a child module, as EfficientNet-Lite's convolutions have it."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x):
        return F.conv2d(self.pad(x), self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(6, 6)

    def forward(self, x):
        return x * torch.sigmoid(self.scale(x))


class SelfAttention(nn.Module):
    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8, eps=0.1) if norm else nn.Identity()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        x = self.norm(x)
        return F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))


class ByHand(SelfAttention):
    def forward(self, x):
        x = self.norm(x)
        scores = self.query(x) @ self.key(x).transpose(-2, -1) / math.sqrt(8)
        return scores.softmax(-1) @ self.value(x)


def trained_statistics(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Batch norms that have seen something."""
    with torch.no_grad():
        for _ in range(3):
            model.train()(2 * torch.randn(16, *shape) + 1)
    return model


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU6(), nn.MaxPool2d(2),
        Same(4, 6, 2), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(24, 3),
    )  # fmt: skip


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4), nn.LeakyReLU(2.5), nn.Linear(4, 3)), (6,)),
    "residual": (lambda: nn.Sequential(Residual(), nn.SiLU(), Residual()), (6,)),
    "branches": (Branches, (2, 8, 8)),
    "convnet": (convnet, (2, 8, 8)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5, eps=0.5), nn.Softplus(), nn.Linear(5, 2)), (6,)),
    "group norm": (lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4, eps=0.3), nn.PReLU(4, -0.7), nn.Flatten()), (2, 7)),
    "softmax": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Softmax(-1), nn.Linear(5, 4), nn.LogSoftmax(-1)), (6,)),
    "elu": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ELU(1.7), nn.Linear(5, 5), nn.CELU(0.4), nn.Mish(), nn.SELU()), (6,)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 3, 2), nn.Hardtanh(-0.3, 0.4), nn.AdaptiveAvgPool2d(2)), (2, 4, 4)),
    "attention after a norm": (lambda: SelfAttention(norm=True), (5, 8)),
    "attention by hand": (lambda: ByHand(norm=True), (5, 8)),
}  # fmt: skip


@pytest.fixture(params=list(MODELS))
def case(request):
    torch.manual_seed(3)
    build, shape = MODELS[request.param]
    return trained_statistics(build(), shape), shape


def test_the_bound_lies_above_every_slope(case):
    model, shape = case
    modes = [part.training for part in model.modules()]
    for scale in (0.3, 1.0, 5.0):
        seen = bracket(model, scale * torch.randn(40, *shape))
        assert 0 < seen.lower <= seen.upper < math.inf
        assert sampled_lower(model, scale * torch.randn(40, *shape)).lower <= seen.upper
    assert [part.training for part in model.modules()] == modes
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize("radius", [0.01, 0.3, 3.0])
def test_the_local_bound_lies_above_every_slope_of_the_region(case, radius):
    model, shape = case
    centre = torch.randn(shape)
    everywhere = global_upper(model, shape).upper
    box = local_upper(model, Box(centre - radius, centre + radius)).upper
    ball = local_upper(model, Ball(centre, radius)).upper
    inside = centre + radius * (2 * torch.rand(60, *shape) - 1)
    assert sampled_lower(model, inside).lower <= box <= everywhere * (1 + 1e-6) + 1e-9
    direction = torch.randn(60, *shape)
    on_ball = centre + radius * direction / direction.flatten(1).norm(dim=1).reshape(-1, *[1] * len(shape))
    assert sampled_lower(model, on_ball).lower <= ball * (1 + 1e-9)
    assert ball <= box * 1.1  # the ranges are smaller, the multipliers chosen for them not always better


@pytest.mark.parametrize("seed", range(4))
def test_exact_maximum_of_small_relu_nets(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    exact = exact_lipschitz(net)
    assert sampled_lower(net, 4 * torch.randn(300, 2)).lower <= exact * (1 + 1e-9)
    loose, tight = global_upper(net, (2,)).upper, global_upper(net, (2,), steps=60).upper
    assert exact <= tight * (1 + 1e-9) and tight <= loose
    centre = torch.randn(2)
    box = Box(centre - 0.4, centre + 0.4)
    local = exact_lipschitz(net, box.lower.numpy(), box.upper.numpy())
    assert sampled_lower(net, centre + 0.4 * (2 * torch.rand(300, 2) - 1)).lower <= local * (1 + 1e-9)
    assert local <= local_upper(net, box, steps=20).upper * (1 + 1e-9) <= local_upper(net, box).upper * (1 + 2e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 10.0))
def test_local_bound_of_random_relu_nets_lies_above_the_exact_maximum(seed, radius):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    centre = torch.randn(2)
    exact = exact_lipschitz(net, (centre - radius).numpy(), (centre + radius).numpy())
    assert exact <= local_upper(net, Box(centre - radius, centre + radius)).upper * (1 + 1e-9)


def test_a_tiny_region_in_one_linear_piece_gives_the_gradient_itself():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 4))
    x = torch.randn(20)
    slope = sampled_lower(net, x[None]).lower
    assert local_upper(net, Ball(x, 1e-7)).upper == pytest.approx(slope, rel=1e-6)
    torch.manual_seed(0)
    conv = trained_statistics(convnet(), (2, 8, 8))
    x = torch.randn(2, 8, 8)
    assert local_upper(conv, Ball(x, 1e-7)).upper == pytest.approx(sampled_lower(conv, x[None]).lower, rel=1e-3)


def test_linear_models_get_their_operator_norm():
    torch.manual_seed(0)
    parts = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 4)]
    model = trained_statistics(nn.Sequential(*parts), (2, 6, 6))
    found, true = global_upper(model, (2, 6, 6)), dense_spectral_norm(model, (2, 6, 6))
    assert found.lower <= true * (1 + 1e-9) and true <= found.upper <= true * 1.01


def test_batch_norm_is_folded_into_its_convolution_and_adjacent_maps_are_composed():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
    norm.running_var.copy_(torch.tensor([0.01, 1.0, 4.0, 9.0, 100.0]))
    product = dense_spectral_norm(conv, (3, 6, 6)) * 10
    table = global_table(nn.Sequential(conv, norm, nn.ReLU()), (3, 6, 6))
    assert [step.kind for step in table.steps] == ["affine", "activation"]
    whole = dense_spectral_norm(nn.Sequential(conv, norm), (3, 6, 6))
    assert whole <= table.measured.upper <= whole * 1.02 < product


def test_a_residual_sum_is_one_plus_the_branch_and_a_linear_one_is_composed():
    class Skip(nn.Module):
        def __init__(self, act: bool) -> None:
            super().__init__()
            self.layer, self.act = nn.Linear(5, 5), act

        def forward(self, x):
            return x + (F.relu(self.layer(x)) if self.act else self.layer(x))

    model = Skip(True)
    norm = dense_spectral_norm(model.layer, (5,))
    assert global_upper(model, (5,)).upper == pytest.approx(1 + norm, rel=0.02)
    linear = Skip(False)
    nn.init.constant_(linear.layer.weight, 0.0)
    linear.layer.weight.data.fill_diagonal_(-1.0)  # x − x
    assert global_table(linear, (5,)).measured.upper < 1e-6


def test_two_hundred_layers_neither_overflow_nor_vanish():
    for scale, log10 in ((1e3, 600.0), (1e-3, -600.0)):
        layers: list[nn.Module] = []
        for _ in range(200):
            layers += [nn.Linear(4, 4), nn.ReLU()]
            nn.init.eye_(layers[-2].weight)
            layers[-2].weight.data *= scale
        model = nn.Sequential(*layers)
        table = global_table(model, (4,))
        assert table.log10_upper == pytest.approx(log10, abs=0.01)
        bound = global_upper(model, (4,))
        assert not math.isnan(bound.upper) and bound.upper > 0.0
        assert bound.upper == (math.inf if scale > 1 else 5e-324)
        assert "log10" in str(table)


def test_attention_is_unbounded_on_all_inputs_and_bounded_on_a_region():
    torch.manual_seed(0)
    for model in (SelfAttention(), ByHand()):
        table = global_table(model, (5, 8))
        assert table.measured.upper == math.inf and "attention" in table.reason and "Kim" in table.reason
        x = torch.randn(5, 8)
        bound = local_upper(model, Ball(x, 0.5)).upper
        assert sampled_lower(model, x + 0.1 * torch.randn(20, 5, 8) / 7).lower <= bound < math.inf
    whole = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu")
    assert sampled_lower(whole, torch.randn(3, 5, 8)).lower <= global_upper(whole, (5, 8)).upper < math.inf
    stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False)
    assert global_table(stack, (5, 8)).reason.count("attention") and sampled_lower(stack, torch.randn(2, 5, 8)).lower > 0
    module = nn.MultiheadAttention(8, 2, batch_first=True)

    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = module

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    assert global_upper(Alone(), (5, 8)).upper == math.inf
    x = torch.randn(5, 8)
    assert sampled_lower(Alone(), x[None]).lower <= local_upper(Alone(), Ball(x, 0.1)).upper < math.inf


def test_a_gate_is_unbounded_on_all_inputs_and_bounded_on_a_region():
    torch.manual_seed(0)
    table = global_table(Gate(), (6,))
    assert table.log_upper == math.inf and "product" in table.reason
    x = torch.randn(6)
    assert (
        sampled_lower(Gate(), x + 0.2 * (2 * torch.rand(50, 6) - 1)).lower <= local_upper(Gate(), Box(x - 0.2, x + 0.2)).upper
    )


def test_unknown_layers_are_named_with_how_to_register_them():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.erfinv(x)

    class Model(nn.Module):
        def __init__(self, part: nn.Module) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), part)

        def forward(self, x):
            out = self.body(x)
            return out[0] if isinstance(out, tuple) else out

    with pytest.raises(UnsupportedModule, match=r"lipschitz\.register\(nn\.LSTM\)"):
        global_upper(Model(nn.LSTM(4, 4, batch_first=True)), (3, 4))
    with pytest.raises(UnsupportedModule, match=r"body\.1.*erfinv.*lipschitz\.register\(Odd\)"):
        global_upper(Model(Odd()), (4,))
    with pytest.raises(UnsupportedModule, match=r"[Ee]mbedding.*token ids"):
        global_upper(nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2)), (4,))


def test_a_registered_rule_holds_for_subclasses():
    class Wave(nn.Module):
        def forward(self, x):
            return x.sin()

    class Ripple(Wave):
        pass

    with pytest.raises(UnsupportedModule):
        global_upper(nn.Sequential(Ripple()), (3,))
    lipschitz.register(Wave)(lambda module, shape: Measured(0.0, 1.0, Kind.EXACT))
    try:
        assert global_upper(nn.Sequential(nn.Linear(3, 3), Ripple()), (3,)).upper < 10
        assert local_upper(nn.Sequential(Ripple(), nn.ReLU()), Ball(torch.zeros(3), 1.0)).upper == pytest.approx(1.0)
        lipschitz.register(Wave)(lambda module, shape: Measured.indicator(1.0))
        with pytest.raises(UnsupportedModule, match="indicator"):
            global_upper(nn.Sequential(Ripple()), (3,))
    finally:
        del lipschitz.RULES[Wave]


def test_bad_input():
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    with pytest.raises(InvalidInput):
        global_upper(net, (4,))
    with pytest.raises(InvalidInput):
        local_upper(net, Ball(torch.zeros(3), -1.0))
    with pytest.raises(InvalidInput):
        Box(torch.ones(3), torch.zeros(3))
    with pytest.raises(InvalidInput):
        sampled_lower(net, torch.zeros(0, 3))
    net[0].weight.data[0, 0] = math.nan
    with pytest.raises(InvalidInput, match="NaN"):
        global_upper(net, (3,))


def test_zero_weights_give_zero():
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    for p in net.parameters():
        nn.init.zeros_(p)
    assert global_upper(net, (3,)).upper == 0.0
    assert local_upper(net, Ball(torch.zeros(3), 1.0)).upper == 0.0


def test_power_iteration_finds_the_norm_where_outputs_are_many():
    torch.manual_seed(0)
    layer = nn.Linear(60, 50)
    found = sampled_lower(layer, torch.randn(2, 60), steps=200).lower
    assert found == pytest.approx(dense_spectral_norm(layer, (60,)), rel=1e-3)


@pytest.mark.parametrize("switched_off", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("outputs", [3, 40])  # rows of the Jacobian, and power iteration
def test_slopes_are_the_same_where_the_caller_switched_gradients_off(switched_off, outputs: int):
    net, x = nn.Sequential(nn.Linear(3, outputs), nn.ReLU()), torch.randn(8, 3)
    expected = sampled_lower(net, x).lower
    with switched_off():
        assert sampled_lower(net, x).lower == expected
        assert sampled_lower(net, x.double().clone()).lower == pytest.approx(expected, rel=1e-6)
    assert not torch.is_inference(next(net.parameters())) and all(p.grad is None for p in net.parameters())
