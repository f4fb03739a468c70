"""Brackets of operator norms against the dense SVD of the module applied to unit vectors."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from tests.oracles.dense import dense_matrix
from torch import nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.operators import norms
from nonvacuous.operators.convolution import Convolution
from nonvacuous.operators.rules import RULES

ROUNDING = 1e-12


def conv1d_cases() -> list[Any]:
    cases = []
    for k, s, p, mode, d, g in itertools.product(
        (1, 2, 3), (1, 2, 3), (0, 1, 2, "same", "valid"), ("zeros", "circular", "reflect", "replicate"), (1, 2), (1, 2)
    ):
        if p == "same" and (s > 1 or d * (k - 1) % 2):  # torch warns of uneven padding
            continue
        cases.append((nn.Conv1d, (2, 4, k), {"stride": s, "padding": p, "padding_mode": mode, "dilation": d, "groups": g}))
    return cases


def conv2d_cases() -> list[Any]:
    return [
        (nn.Conv2d, (2, 4, k), {"stride": s, "padding": p, "padding_mode": mode, "dilation": d, "groups": g})
        for k, s, p, mode, d, g in itertools.product(
            (1, 3, (2, 3)), (1, 2), (0, 1), ("zeros", "circular", "reflect", "replicate"), (1, 2), (1, 2)
        )
    ]


def transposed_cases() -> list[Any]:
    return [
        (nn.ConvTranspose2d, (2, 4, k), {"stride": s, "padding": p, "output_padding": o, "dilation": d, "groups": g})
        for k, s, p, o, d, g in itertools.product((2, 3), (1, 2, 3), (0, 1), (0, 1), (1, 2), (1, 2))
        if o < max(s, d)
    ]


SHAPES = {nn.Conv1d: (2, 7), nn.Conv2d: (2, 6, 5), nn.ConvTranspose2d: (2, 4, 3)}


def check(module: nn.Module, shape: tuple[int, ...], structured: bool = True) -> None:
    """Adjoint, dense matrix, every norm, and every upper end the structure allows, against the oracle."""
    matrix = dense_matrix(module, shape)
    truth = float(torch.linalg.matrix_norm(matrix, 2))
    linear = norms.linear_map(module, shape)
    assert torch.allclose(linear.dense(), matrix, atol=1e-12)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *linear.shape_in, dtype=torch.float64, generator=generator)
    y = torch.randn(2, *linear.shape_out, dtype=torch.float64, generator=generator)
    assert torch.allclose((linear.apply(x) * y).flatten(1).sum(1), (x * linear.adjoint(y)).flatten(1).sum(1))

    bracket = norms.spectral_norm(module, shape)
    assert bracket.kind is Kind.EXACT
    assert bracket.lower <= truth * (1 + ROUNDING) and truth <= bracket.upper * (1 + ROUNDING)
    assert bracket.width <= 0.05 * truth

    for function, value in (
        (norms.frobenius_norm, matrix.norm()),
        (norms.l21_norm, matrix.norm(dim=1).sum()),
        (norms.linf_norm, matrix.abs().sum(1).max()),
        (norms.l1_norm, matrix.abs().sum(0).max()),
    ):
        measured = function(module, shape)
        assert measured.lower <= float(value) * (1 + ROUNDING) and float(value) <= measured.upper * (1 + ROUNDING)
        assert measured.width <= 1e-9 * max(float(value), 1e-9)

    if structured and isinstance(linear, Convolution):
        for size in range(1 << len(linear.axes)):
            written_out = frozenset(n for n in range(len(linear.axes)) if size >> n & 1)
            upper = linear._circle(bracket.lower, 0.01, 2**26, written_out)
            assert upper >= truth * (1 - ROUNDING)
            if size == (1 << len(linear.axes)) - 1:
                assert upper <= truth * 1.02
        for memory in (2**4, 2**12):
            assert linear.upper(bracket.lower, 0.01, memory) >= truth * (1 - ROUNDING)


@pytest.mark.parametrize("start", range(8))
def test_convolutions_against_the_dense_matrix(start: int) -> None:
    for kind, arguments, options in [*conv1d_cases(), *conv2d_cases(), *transposed_cases()][start::32]:
        torch.manual_seed(start)
        check(kind(*arguments, **options), SHAPES[kind])


@pytest.mark.slow
@pytest.mark.parametrize("start", range(8, 32))
def test_all_convolutions_against_the_dense_matrix(start: int) -> None:
    test_convolutions_against_the_dense_matrix(start)


def scaled_batch_norm() -> nn.Module:
    module = nn.BatchNorm2d(3)
    module.running_var.uniform_(0.1, 2.0)
    module.weight.data.normal_()
    return module


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Conv3d(2, 3, 3, padding=1), (2, 3, 4, 3)),
        (lambda: nn.Conv3d(2, 3, 3, 2, padding=1, padding_mode="circular"), (2, 3, 4, 4)),
        (lambda: nn.ConvTranspose1d(2, 3, 3, 2, 1, 1), (2, 5)),
        (lambda: nn.ConvTranspose3d(2, 3, 3, 2, 1, 1), (2, 3, 2, 2)),
        (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 5, 6)),
        (lambda: nn.Conv2d(1, 2, 5, padding=2), (1, 4, 4)),
        (lambda: nn.Conv2d(2, 2, 4, 4), (2, 8, 8)),
        (scaled_batch_norm, (3, 2, 3)),
        (lambda: nn.AvgPool2d(3, 2, 1), (2, 7, 6)),
        (lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 7, 6)),
        (lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True), (2, 7, 6)),
        (lambda: nn.AvgPool2d(2, divisor_override=3), (2, 7, 6)),
        (lambda: nn.AvgPool1d(3, ceil_mode=True), (2, 7)),
        (lambda: nn.AdaptiveAvgPool2d((3, None)), (2, 7, 6)),
        (lambda: nn.AdaptiveAvgPool2d(1), (2, 7, 6)),
        (lambda: nn.ReflectionPad2d((1, 2, 0, 1)), (1, 4, 5)),
        (lambda: nn.ZeroPad2d((1, -1, 0, 1)), (1, 4, 5)),
        (lambda: nn.ReplicationPad1d(2), (2, 5)),
        (lambda: nn.CircularPad1d(2), (2, 5)),
        (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), (2, 3, 4)),
        (lambda: nn.Upsample(size=(5, 7)), (2, 3, 4)),
        (lambda: nn.PixelShuffle(2), (8, 3, 2)),
        (lambda: nn.Unflatten(1, (2, 3)), (6, 2)),
        (nn.Flatten, (2, 3)),
        (lambda: nn.Dropout(0.5), (2, 3)),
        (lambda: nn.Linear(4, 5), (4,)),
        (lambda: nn.Linear(4, 5), (3, 4)),
        (
            lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3, 4)),
            (2, 4, 4),
        ),
        (lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(2, 3, 3)), (2, 4, 4)),
        (lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(2, 3, 3, 2, padding=1)), (2, 5, 4)),
        (lambda: nn.Sequential(), (3,)),
    ],
)
def test_other_layers_against_the_dense_matrix(make: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    check(make(), shape)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.5 * self.second(self.norm(self.first(x)))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.left(x), -self.right(x)], 1).flatten(1) - 1.0


class SamePadded(nn.Conv2d):
    """As EfficientNet-Lite has it: a convolution with a child that pads."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.static_padding = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(
            self.static_padding(x), self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


@pytest.mark.parametrize(
    ("make", "shape"), [(lambda: Residual(2), (2, 4, 5)), (Branching, (2, 4, 4)), (lambda: SamePadded(2, 3, 3, 2), (2, 7, 7))]
)
def test_models_of_linear_parts_have_a_norm_as_a_whole(make: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    check(make().eval(), shape)


def test_a_subclass_that_overrides_forward_does_not_inherit_the_rule() -> None:
    module = SamePadded(2, 3, 3, 2)
    plain = nn.Conv2d(2, 3, 3, 2)
    plain.load_state_dict(module.state_dict())
    assert norms.linear_map(module, (2, 6, 6)).shape_out == (3, 3, 3)
    assert norms.linear_map(plain, (2, 6, 6)).shape_out == (3, 2, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_of_any_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(3, 4, 3, padding=1).to(dtype)
    truth = float(torch.linalg.matrix_norm(dense_matrix(module, (3, 5, 5)), 2))
    bracket = norms.spectral_norm(module, (3, 5, 5))
    assert bracket.lower <= truth * (1 + ROUNDING) and truth <= bracket.upper * (1 + ROUNDING)


@pytest.mark.parametrize("size", [6, 700])
@pytest.mark.parametrize("scale", [1e-100, 1e-30, 1e30, 1e100])
def test_the_bracket_scales_with_the_weights(scale: float, size: int) -> None:
    torch.manual_seed(0)
    module = nn.Linear(size, size + 1).double()
    truth = float(torch.linalg.matrix_norm(module.weight.detach(), 2))
    module.weight.data *= scale
    bracket = norms.spectral_norm(module, (size,))
    assert bracket.lower <= truth * scale * (1 + ROUNDING) and truth * scale <= bracket.upper * (1 + ROUNDING)
    assert bracket.width <= 0.01 * truth * scale


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(12, 10, 3, padding=1), (12, 10, 8)),
        (nn.Conv2d(8, 20, 3, stride=2, padding=1), (8, 13, 12)),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 11, 12)),
        (nn.ConvTranspose2d(12, 8, 4, 2, 1), (12, 8, 8)),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2), (4, 20, 22)),
        (nn.Conv1d(4, 4, 9, padding=4), (4, 220)),
        (nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular"), (6, 11, 11)),
        (nn.Linear(600, 560), (600,)),
    ],
)
def test_larger_layers_are_bracketed_without_their_matrix(module: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    for tensor in module.parameters():
        tensor.data.normal_()
    bracket = norms.spectral_norm(module, shape, memory=2**24)
    linear = norms.linear_map(module, shape)
    truth = float(torch.linalg.matrix_norm(linear.dense(torch.float32), 2))
    assert bracket.kind is Kind.EXACT and bracket.lower <= truth * (1 + 1e-5) and truth <= bracket.upper * (1 + 1e-5)
    assert bracket.upper <= bracket.lower * 1.05


def test_a_uniform_kernel_is_bounded_tightly_where_the_untwisted_circle_is_not() -> None:
    module = nn.Conv1d(1, 1, 3, padding=1, bias=False)
    module.weight.data.fill_(1.0)
    linear = norms.linear_map(module, (1, 4))
    truth = 1 + 2 * math.cos(math.pi / 5)
    assert isinstance(linear, Convolution)
    assert linear._circle(truth, 0.001, 2**20, frozenset()) == pytest.approx(truth, rel=1e-3)  # a plain circle gives 3


def test_the_grid_of_a_large_image_is_finite() -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(2, 3, 3, padding=1)
    small, large = norms.spectral_norm(module, (2, 64, 64)), norms.spectral_norm(module, (2, 300, 300))
    assert large.upper <= large.lower * 1.02 and small.lower <= large.upper


def test_a_wide_bracket_narrows_with_memory_or_with_delta() -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(40, 40, 3, padding=1)
    shape = (40, 4, 4)
    tight = norms.spectral_norm(module, shape)
    wide = norms.spectral_norm(module, shape, memory=2**18)
    probable = norms.spectral_norm(module, shape, memory=2**18, delta=1e-9)
    assert tight.upper <= tight.lower * 1.01 < wide.upper
    assert wide.kind is Kind.EXACT and probable.kind is Kind.CONFIDENCE and probable.delta == 1e-9
    assert tight.lower <= probable.upper <= tight.upper * 1.01


def test_the_probable_end_holds_over_random_starts() -> None:
    torch.manual_seed(0)
    weight = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64))[0] * torch.linspace(1, 2, 40, dtype=torch.float64)
    from nonvacuous.operators.krylov import golub_kahan, probable_upper, random_start
    from nonvacuous.operators.maps import Matrix

    linear = Matrix(weight)
    truth = float(torch.linalg.matrix_norm(weight, 2))
    runs = [golub_kahan(linear, random_start(linear, seed), 8, 0.0, torch.float64) for seed in range(300)]
    for delta in (0.5, 0.1):
        misses = sum(probable_upper(run, 40, delta) < truth for run in runs)
        assert misses <= 300 * delta + 3 * math.sqrt(300 * delta)
    assert any(probable_upper(run, 40, 0.9) < 1.3 * truth for run in runs)


def test_max_pooling_attains_its_constant() -> None:
    pool = nn.MaxPool2d(3, 2, 1)
    constant = norms.spectral_norm(pool, (1, 7, 7))
    assert constant == Measured.exact(2.0)
    x = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
    x[0, 0, 1, 1] = 1.0
    assert float((pool(2 * x) - pool(x)).norm() / x.norm()) == pytest.approx(constant.upper)
    assert norms.spectral_norm(nn.MaxPool2d(2), (3, 8, 8)) == Measured.exact(1.0)


def test_unfold_copies_pixels() -> None:
    bracket = norms.spectral_norm(nn.Unfold(3, padding=1), (2, 5, 5))
    assert bracket == Measured.exact(3.0)


def test_stable_rank() -> None:
    torch.manual_seed(0)
    module = nn.Linear(7, 5)
    values = torch.linalg.svdvals(module.weight.detach().double())
    measured = norms.stable_rank(module, (7,))
    assert measured.lower <= float(values.square().sum() / values[0] ** 2) <= measured.upper
    assert measured.lower >= 1 and measured.upper <= 5


def test_zero_weights_have_norm_zero_and_no_stable_rank() -> None:
    module = nn.Conv2d(2, 3, 3, padding=1)
    module.weight.data.zero_()
    assert norms.spectral_norm(module, (2, 5, 5)) == Measured.exact(0.0)
    assert norms.spectral_norm(module, (2, 50, 50)) == Measured.exact(0.0)
    with pytest.raises(InvalidInput, match="stable rank"):
        norms.stable_rank(module, (2, 5, 5))


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_weights_whose_squares_float64_does_not_hold_are_refused(scale: float) -> None:
    module = nn.Linear(3, 3).double()
    module.weight.data *= scale
    with pytest.raises(InvalidInput, match="rescale"):
        norms.spectral_norm(module, (3,))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(bad: float) -> None:
    module = nn.Conv2d(2, 3, 3)
    module.weight.data[0, 0, 0, 0] = bad
    with pytest.raises(InvalidInput, match="NaN"):
        norms.spectral_norm(module, (2, 5, 5))


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(3, 4, 3), (2, 5, 5)),
        (nn.Conv2d(3, 4, 3), (3, 5)),
        (nn.Conv2d(3, 4, 7), (3, 5, 5)),
        (nn.Linear(3, 4), (5,)),
        (nn.BatchNorm2d(3), (4, 5, 5)),
        (nn.Linear(3, 4), (0,)),
        (Residual(3), (4, 5, 5)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(module: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput):
        norms.spectral_norm(module, shape)


def test_zero_variance_is_refused_without_epsilon() -> None:
    module = nn.BatchNorm1d(3, eps=0.0)
    module.running_var[1] = 0.0
    with pytest.raises(InvalidInput, match="channel 1 has zero variance"):
        norms.spectral_norm(module, (3,))


@pytest.mark.parametrize("module", [nn.ReLU(), nn.LSTM(3, 3), nn.Sequential(nn.Linear(3, 3), nn.GELU()), nn.Embedding(3, 3)])
def test_what_has_no_rule_is_named_with_the_remedy(module: nn.Module) -> None:
    with pytest.raises(UnsupportedModule, match=r"norms\.register"):
        norms.spectral_norm(module, (3,))


def test_a_rule_of_ones_own() -> None:
    class Doubling(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu() * 2

    with pytest.raises(UnsupportedModule):
        norms.spectral_norm(Doubling(), (3,))
    norms.register(Doubling)(lambda module, shape: Measured.exact(2.0))
    try:
        assert norms.spectral_norm(Doubling(), (3,)) == Measured.exact(2.0)
    finally:
        del RULES[Doubling]


def test_the_reshaped_kernel_is_not_a_bound() -> None:
    torch.manual_seed(0)
    module = nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3, padding=1), n_power_iterations=100)
    module(torch.zeros(1, 4, 8, 8))
    module.eval()
    reshaped = float(torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2))
    assert reshaped == pytest.approx(1.0, rel=1e-3)
    assert norms.spectral_norm(module, (4, 8, 8)).lower > 1.3


def test_the_older_weight_norm_is_read_as_the_next_pass_would() -> None:
    with pytest.warns(FutureWarning):
        module = nn.utils.weight_norm(nn.Linear(4, 3))
    module.weight_g.data *= 2  # the weight is recomputed by a hook, when the module runs
    truth = float(
        torch.linalg.matrix_norm(module.weight_g.detach() * nn.functional.normalize(module.weight_v.detach(), dim=1), 2)
    )
    assert norms.spectral_norm(module, (4,)).midpoint == pytest.approx(truth, rel=1e-5)


def test_the_modules_are_left_alone() -> None:
    module = Residual(3).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    norms.spectral_norm(module, (3, 5, 5))
    assert module.training and module.norm.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


class Cancelling(nn.Module):
    """Two layers whose difference is smaller than they are by thirteen orders."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4, bias=False).double()
        self.inner.weight.data = (1 - 1e-13) * torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
        self.other = nn.Linear(4, 4, bias=False).double()
        self.other.weight.data = self.inner.weight.data / (1 - 1e-13)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) - self.other(x)


def test_parts_that_cancel_widen_the_bracket() -> None:
    torch.manual_seed(0)
    module = Cancelling()
    difference = module.inner.weight.detach() - module.other.weight.detach()  # exact: the two are within a factor of two
    truth = float(torch.linalg.matrix_norm(difference, 2))
    bracket = norms.spectral_norm(module, (4,))
    assert bracket.lower <= truth <= bracket.upper and bracket.width > 1e-16
