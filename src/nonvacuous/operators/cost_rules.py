"""What one call of a torch operator costs: matrix products and convolutions, fused attention and recurrent kernels included.

A rule is a function of the operator's arguments and its result.  An operator without a rule costs nothing if it is one of
torch's own and its name is not that of a product; anything else is refused by name, never counted as 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput, UnsupportedModule


class Products(NamedTuple):
    """``macs`` products, summed into ``outputs`` numbers: an inner product of length N is ``Products(N, 1)``."""

    macs: int
    outputs: int

    def __add__(self, other: Products) -> Products:  # type: ignore[override]
        return Products(self.macs + other.macs, self.outputs + other.outputs)


NONE = Products(0, 0)
Rule = Callable[[Sequence[Any], Any], Products]
RULES: dict[str, Rule] = {}


def register(*operators: str) -> Callable[[Rule], Rule]:
    """Give operators (``"aten::mm"``, ``"mykernels::fused"``) a rule ``(arguments, result) → Products``.

    >>> @register("mykernels::gather")
    ... def nothing(arguments, result):
    ...     return NONE
    """

    def enter(rule: Rule) -> Rule:
        for name in operators:
            if "::" not in name:
                raise InvalidInput(f"an operator is named 'namespace::name'; got {name!r}")
            RULES[name] = rule
        return rule

    return enter


#: Words that make an operator of torch's own a product of some kind; one without a rule is refused.
HEAVY = re.compile(
    r"(?:^|_)(?:[a-z0-9]*(?:mm|mv)|v?dot|matmul|linear|conv(?!ert)[a-z0-9]*|attention|multi_head|encoder_layer|[a-z]*rnn|lstm|gru"
    r"|linalg|fft|[cp]dist|euclidean_dist|[a-z]*solve|cholesky|svd|eigh?|inverse|[a-z]*linear)(?:_|$)"
)
#: Element-wise or interpolating in spite of their names.
LIGHT = re.compile(r"^(?:upsample_|_upsample_|_thnn_fused_|_thnn_differentiable_|huber|_safe)")


def products_of(operator: torch._ops.OpOverload, arguments: Sequence[Any], result: Any) -> Products:
    """Cost of one call; raises UnsupportedModule for a kernel nobody gave a rule."""
    name = operator._schema.name
    rule = RULES.get(name)
    if rule is not None:
        return rule(arguments, result)
    namespace, _, short = name.partition("::")
    own = namespace in {"aten", "prim", "prims"}
    if own and (LIGHT.match(short) or not HEAVY.search(short)):
        return NONE
    raise UnsupportedModule(
        f"operator {name}: its cost is not known, and it is not counted as 0. Say what it costs with "
        f'@cost_rules.register("{name}") over a function (arguments, result) → Products(macs, outputs).'
    )


def rows(x: Tensor) -> int:
    """Vectors in x, its last axis being the vector; for ragged (nested) tensors the true number, without padding."""
    if x.is_nested:
        return sum(length for length, *_ in _lengths(x))
    return x.numel() // x.shape[-1] if x.shape[-1] else 0


def _lengths(x: Tensor) -> list[list[int]]:
    return [list(part.shape) for part in x.unbind()]


def matrix_product(rows_: int, inner: int, columns: int) -> Products:
    """(rows × inner) times (inner × columns)."""
    return Products(rows_ * inner * columns, rows_ * columns if inner else 0)


@register("aten::mm", "aten::bmm", "aten::_int_mm", "aten::_scaled_mm", "aten::mv", "aten::dot", "aten::vdot")
def _product(arguments: Sequence[Any], result: Any) -> Products:
    inner = arguments[0].shape[-1]
    return Products(inner * result.numel(), result.numel() if inner else 0)


@register("aten::addmm", "aten::baddbmm", "aten::addmv", "aten::_addmm_activation", "aten::addmm_", "aten::baddbmm_")
def _added_product(arguments: Sequence[Any], result: Any) -> Products:
    return _product(arguments[1:], result)


@register("aten::addbmm", "aten::addbmm_")
def _summed_product(arguments: Sequence[Any], result: Any) -> Products:
    _, left, right = arguments[:3]
    return matrix_product(left.shape[1], left.shape[0] * left.shape[2], right.shape[2])


@register("aten::_trilinear")
def _bilinear(arguments: Sequence[Any], result: Any) -> Products:
    """``xᵀ W_o y`` for every output o (nn.Bilinear), as the matrix product ``xᵀ W_o``, then one with y."""
    left, weight = arguments[:2]
    if weight.dim() != 3 or list(arguments[3:]) != [[1, 3], [0], [1, 2], [2, 3]]:
        raise UnsupportedModule("operator aten::_trilinear outside nn.Bilinear: its cost is not known; register a rule for it")
    out, first, second = weight.shape
    batch = rows(left)
    return matrix_product(batch, first, out * second) + matrix_product(batch * out, second, 1)


@register("aten::convolution", "aten::_convolution", "aten::convolution_overrideable")
def _convolution(arguments: Sequence[Any], result: Any) -> Products:
    """C_in/groups · ∏K products an output; transposed, C_out/groups · ∏K an input, as every input meets the whole kernel."""
    x, weight, transposed = arguments[0], arguments[1], arguments[6]
    each = weight.numel() // weight.shape[0] if weight.shape[0] else 0
    if transposed:
        macs = x.numel() * each
        return Products(macs, min(result.numel(), macs))
    return Products(result.numel() * each, result.numel() if each else 0)


def attention(queries: int, heads_times: int, keys: int, inner: int, outer: int) -> Products:
    """QKᵀ (inner = width of a key) and AV (outer = width of a value) for ``heads_times`` = batch × heads, mask or no mask."""
    scores = matrix_product(queries, inner, keys)
    values = matrix_product(queries, keys, outer)
    return Products((scores.macs + values.macs) * heads_times, (scores.outputs + values.outputs) * heads_times)


@register(
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_fused_attention_overrideable",
    "aten::_scaled_dot_product_attention_math_for_mps",
)
def _fused_attention(arguments: Sequence[Any], result: Any) -> Products:
    """Every query head counts, also where several share a key (grouped queries)."""
    q, k, v = arguments[:3]
    if q.is_nested:
        raise UnsupportedModule("fused attention on nested tensors: its cost is not known; pass a padded batch")
    return attention(q.shape[-2], prod(q.shape[:-2]), k.shape[-2], q.shape[-1], v.shape[-1])


def _attention_block(q: Tensor, k: Tensor, v: Tensor, width: int) -> Products:
    """Input projections, attention and output projection of one multi-head attention whose heads add up to ``width``."""
    projections = [matrix_product(rows(x), width, width) for x in (q, k, v, q)]
    if q.is_nested:
        lengths = [(n, m) for (n, *_), (m, *_) in zip(_lengths(q), _lengths(k), strict=True)]
    else:
        lengths = [(q.shape[1], k.shape[1])] * q.shape[0]
    total = NONE
    for part in projections:
        total = total + part
    for n, m in lengths:
        total = total + attention(n, 1, m, width, width)
    return total


def _per_head(block: Products, q: Tensor, k: Tensor, heads: int) -> Products:
    """The scores are heads × queries × keys numbers, not queries × keys; the products are the same in number."""
    pairs = (
        sum(n * m for (n, *_), (m, *_) in zip(_lengths(q), _lengths(k), strict=True))
        if q.is_nested
        else q.shape[0] * q.shape[1] * k.shape[1]
    )
    return Products(block.macs, block.outputs + (heads - 1) * pairs)


@register("aten::_native_multi_head_attention")
def _native_attention(arguments: Sequence[Any], result: Any) -> Products:
    q, k, v, width, heads = arguments[:5]
    return _per_head(_attention_block(q, k, v, width), q, k, heads)


@register("aten::_transformer_encoder_layer_fwd")
def _encoder_layer(arguments: Sequence[Any], result: Any) -> Products:
    x, width, heads = arguments[:3]
    block = _per_head(_attention_block(x, x, x, width), x, x, heads)
    for weight in (arguments[14], arguments[16]):
        block = block + matrix_product(rows(x), weight.shape[1], weight.shape[0])
    return block


@register("aten::mkldnn_rnn_layer")
def _recurrent_layer(arguments: Sequence[Any], result: Any) -> Products:
    """One layer, one direction: at every step all gates' input and hidden products."""
    return _recurrent(arguments[0], arguments[1:3])


@register("aten::_cudnn_rnn", "aten::miopen_rnn")
def _recurrent_stack(arguments: Sequence[Any], result: Any) -> Products:
    return _recurrent(arguments[0], [weight for weight in arguments[1] if weight.dim() == 2])


def _recurrent(x: Tensor, weights: Sequence[Tensor]) -> Products:
    steps = rows(x)
    total = NONE
    for weight in weights:
        total = total + matrix_product(steps, weight.shape[1], weight.shape[0])
    return total
