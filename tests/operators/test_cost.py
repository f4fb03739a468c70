"""Costs against closed forms and counts by hand."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.operators.cost import cost
from nonvacuous.operators.cost_rules import HEAVY, RULES, Products, register


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "groups"), list(itertools.product((1, 3, (3, 5)), (1, 2), (1, 2), (1, 2, 4)))
)
def test_convolution_by_the_closed_form(kernel: Any, stride: int, dilation: int, groups: int) -> None:
    module = nn.Conv2d(4, 8, kernel, stride, 2, dilation, groups)
    x = torch.zeros(3, 4, 13, 12)
    _, out, height, width = module(x).shape
    terms = (4 // groups) * module.kernel_size[0] * module.kernel_size[1]
    outputs = 3 * out * height * width
    measured = cost(module, x)
    assert measured.macs == terms * outputs
    assert measured.flops == 2 * measured.macs
    assert measured.operations == (2 * terms - 1) * outputs
    assert measured.parameters == 8 * terms + 8


def test_the_slide_is_off_by_one_sum_an_output() -> None:
    """An inner product of N terms written out: N products, N − 1 sums, so 2N − 1 and not 2(N − 1) operations."""
    channels, side = 2, 3
    products = sums = 0
    total = None
    for _ in range(channels * side * side):
        products += 1
        sums += total is not None
        total = 0.0
    measured = cost(nn.Conv2d(channels, 1, side), torch.zeros(1, channels, side, side))
    assert measured.operations == products + sums == 2 * channels * side * side - 1
    assert measured.operations != 2 * (channels * side * side - 1)


def test_transposed_convolution_counts_an_input() -> None:
    module = nn.ConvTranspose2d(6, 4, 3, 2, 1, 1, groups=2)
    assert cost(module, torch.zeros(2, 6, 5, 5)).macs == 2 * 6 * 25 * (4 // 2) * 9


@pytest.mark.parametrize("dimensions", [1, 3])
def test_other_dimensions(dimensions: int) -> None:
    module = {1: nn.Conv1d, 3: nn.Conv3d}[dimensions](2, 3, 3)
    assert cost(module, torch.zeros(1, 2, *[5] * dimensions)).macs == 3 * 2 * 3**dimensions * 3**dimensions


def test_linear_norm_and_activation() -> None:
    model = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.LayerNorm(5), nn.Softmax(-1))
    measured = cost(model, torch.zeros(11, 7))
    assert (measured.macs, measured.parameters) == (11 * 7 * 5, 7 * 5 + 5 + 10 + 10)
    assert measured.per_layer["0"].macs == measured.macs
    assert measured.per_layer["1"].macs == measured.per_layer["2"].macs == 0


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.skip = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(3, 8, 1, 2)
        self.head = nn.Parameter(torch.zeros(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.second(F.relu(self.first(x))) + self.skip(x))
        return F.linear(y.mean((2, 3)), self.head)


def test_a_residual_net_by_hand_and_by_layer() -> None:
    measured = cost(Block(), torch.zeros(2, 3, 8, 8))
    by_hand = {"first": 2 * 16 * 8 * 27, "second": 2 * 16 * 8 * 72, "skip": 2 * 16 * 8 * 3, "": 2 * 8 * 4}
    assert {name: layer.macs for name, layer in measured.per_layer.items()} == by_hand
    assert measured.macs == sum(by_hand.values())
    assert measured.per_layer["first"].parameters == 8 * 27 + 8 and measured.per_layer[""].parameters == 32
    assert "second" in str(measured)


def attention_macs(batch: int, queries: int, keys: int, width: int) -> int:
    return batch * (2 * queries * width**2 + 2 * keys * width**2 + 2 * queries * keys * width)


class Attend(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, **self.options)


class WrittenOut(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT).softmax(-1) @ v


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"attn_mask": torch.ones(5, 5, dtype=torch.bool)}])
def test_fused_attention_counts_like_the_same_written_out(options: dict[str, Any]) -> None:
    x = torch.randn(2, 3, 5, 8)
    assert cost(Attend(**options), (x, x, x)).macs == cost(WrittenOut(), (x, x, x)).macs == 2 * 3 * 5 * 5 * 16
    assert cost(Attend(**options), (x, x, x)).operations == cost(WrittenOut(), (x, x, x)).operations


def test_values_may_be_narrower_and_keys_more() -> None:
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 9, 8), torch.randn(2, 3, 9, 4)
    assert cost(Attend(), (q, k, v)).macs == 2 * 3 * 5 * 9 * (8 + 4)


@pytest.mark.parametrize("backend", ["MATH", "FLASH_ATTENTION"])
def test_attention_in_both_kernels(backend: str) -> None:
    x = torch.randn(2, 3, 5, 8)
    with torch.nn.attention.sdpa_kernel(getattr(torch.nn.attention.SDPBackend, backend)):
        assert cost(Attend(), (x, x, x)).macs == 2 * 3 * 5 * 5 * 16


def test_grouped_queries() -> None:
    q, k = torch.randn(2, 6, 5, 8), torch.randn(2, 3, 5, 8)
    assert cost(Attend(enable_gqa=True), (q, k, k)).macs == 2 * 6 * 5 * 5 * 16


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("cross", [True, False])
def test_multi_head_attention(need_weights: bool, batch_first: bool, cross: bool) -> None:
    module = nn.MultiheadAttention(16, 4, batch_first=batch_first)
    q = torch.randn(2, 5, 16) if batch_first else torch.randn(5, 2, 16)
    k = (torch.randn(2, 7, 16) if batch_first else torch.randn(7, 2, 16)) if cross else q
    measured = cost(module, {"query": q, "key": k, "value": k, "need_weights": need_weights})
    assert measured.macs == attention_macs(2, 5, 7 if cross else 5, 16)


def test_fast_and_slow_path_of_multi_head_attention_agree_to_the_sum() -> None:
    module, x = nn.MultiheadAttention(16, 4, batch_first=True), torch.randn(2, 5, 16)
    fast = cost(module, (x, x, x))
    slow = cost(module, (x, x.clone(), x))  # the fast path wants one and the same tensor
    assert (fast.macs, fast.operations) == (slow.macs, slow.operations)


def encoder_macs(batch: int, length: int) -> int:
    return attention_macs(batch, length, length, 16) + 2 * batch * length * 16 * 32


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_encoder_layers_fast_path_counts_like_its_slow_path(norm_first: bool) -> None:
    layer, x = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=norm_first), torch.randn(2, 5, 16)
    fast = cost(layer, x)
    hook = layer.linear1.register_forward_hook(lambda *_: None)  # hooks switch the fast path off
    slow = cost(layer, x)
    hook.remove()
    assert fast.macs == slow.macs == encoder_macs(2, 5)
    assert fast.operations == slow.operations
    assert slow.per_layer["linear1"].macs == 2 * 5 * 16 * 32


def test_a_padded_batch_in_the_fast_path_costs_what_is_computed() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    measured = cost(encoder, {"src": torch.randn(2, 5, 16), "src_key_padding_mask": mask})
    assert measured.macs == 2 * (encoder_macs(1, 5) + encoder_macs(1, 3))


def test_functional_multi_head_attention() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            m = self.inner
            arguments = (16, 4, m.in_proj_weight, m.in_proj_bias, None, None, False, 0.0, m.out_proj.weight, m.out_proj.bias)
            return F.multi_head_attention_forward(x, x, x, *arguments)[0]

    assert cost(Functional(), torch.randn(5, 2, 16)).macs == attention_macs(2, 5, 5, 16)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_count_every_gate_at_every_step(kind: Any) -> None:
    module = kind(16, 8, 2, bidirectional=True, batch_first=True)
    weights = sum(p.numel() for name, p in module.named_parameters() if "weight" in name)
    assert cost(module, torch.randn(2, 5, 16)).macs == 2 * 5 * weights


def test_bilinear() -> None:
    assert cost(nn.Bilinear(4, 5, 3), (torch.randn(2, 4), torch.randn(2, 5))).macs == 2 * (3 * 4 * 5 + 3 * 5)


@pytest.mark.parametrize(
    ("equation", "macs"), [("bij,bkj->bik", 2 * 3 * 3 * 4), ("bij,bij->b", 2 * 3 * 4), ("bij,bij->bij", 0)]
)
def test_einsum(equation: str, macs: int) -> None:
    class Einsum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum(equation, x, x)

    assert cost(Einsum(), torch.randn(2, 3, 4)).macs == macs


class SamePadded(nn.Conv2d):
    """As EfficientNet-Lite has it: a convolution with a child that pads."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.static_padding = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.static_padding(x), self.weight, self.bias, self.stride)


def test_a_convolution_with_a_child_module_is_seen() -> None:
    measured = cost(nn.Sequential(SamePadded(3, 8, 3, 2)), torch.zeros(1, 3, 16, 16))
    assert measured.per_layer["0"].macs == 64 * 8 * 27
    assert measured.per_layer["0.static_padding"].macs == 0


def test_tied_parameters_count_once_and_calls_are_counted() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4, bias=False)
            self.outer = nn.Linear(4, 4, bias=False)
            self.outer.weight = self.inner.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(self.inner(self.inner(x)))

    measured = cost(Tied(), torch.zeros(1, 4))
    assert (measured.parameters, measured.macs) == (16, 48)
    assert measured.per_layer["inner"].calls == 2 and measured.per_layer["inner"].macs == 32


def test_modes_are_restored_and_statistics_untouched() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 3))
    model.train()
    model[1].eval()
    cost(model, torch.randn(5, 3))
    assert [part.training for part in model] == [True, False, True]
    assert int(model[0].num_batches_tracked) == 0
    assert all(p.grad is None for p in model.parameters())


def test_inference_mode_inside_is_seen_through() -> None:
    class Inference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            with torch.inference_mode():
                return self.inner(x) @ torch.ones(5, 2)

    assert cost(Inference(), torch.zeros(3, 4)).macs == 3 * 20 + 3 * 10


def test_scripted_and_compiled_models() -> None:
    module = nn.Linear(4, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, torch.zeros(3, 4))
    assert cost(traced, torch.zeros(3, 4)).macs == cost(torch.compile(module), torch.zeros(3, 4)).macs == 60


def test_a_kernel_nobody_knows_is_refused_by_name() -> None:
    library = torch.library.Library("nonvacuous_test", "DEF")
    library.define("blur(Tensor x) -> Tensor")
    library.impl("blur", lambda x: x.clone(), "CPU")

    class Custom(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.nonvacuous_test.blur(x)

    try:
        with pytest.raises(UnsupportedModule, match=r'register\("nonvacuous_test::blur"\)'):
            cost(Custom(), torch.zeros(3))
        register("nonvacuous_test::blur")(lambda arguments, result: Products(7, 1))
        assert cost(Custom(), torch.zeros(3)).macs == 7
    finally:
        RULES.pop("nonvacuous_test::blur", None)
        library._destroy()


@pytest.mark.parametrize("function", [torch.linalg.cholesky, torch.linalg.inv, torch.linalg.svdvals])
def test_products_without_a_rule_are_refused(function: Any) -> None:
    class Custom(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    with pytest.raises(UnsupportedModule):
        cost(Custom(), torch.eye(4))


@pytest.mark.parametrize("name", ["sqrt", "add", "_softmax", "summary", "native_batch_norm", "_convert_weight"])
def test_harmless_names_do_not_look_heavy(name: str) -> None:
    assert not HEAVY.search(name)


def test_bad_inputs() -> None:
    with pytest.raises(InvalidInput, match="cannot be run"):
        cost(nn.Linear(3, 4), torch.zeros(2, 5))
    with pytest.raises(InvalidInput, match="not initialised"):
        cost(nn.LazyLinear(3), torch.zeros(2, 5))


def test_a_rule_needs_a_namespace() -> None:
    with pytest.raises(InvalidInput, match="namespace"):
        register("blur")
        register("blur")(lambda arguments, result: Products(0, 0))


def test_double_backward_hooks_are_gone() -> None:
    before = len(torch.nn.modules.module._global_forward_hooks)
    with pytest.raises(InvalidInput):
        cost(nn.Linear(3, 4), torch.zeros(2, 5))
    assert len(torch.nn.modules.module._global_forward_hooks) == before
