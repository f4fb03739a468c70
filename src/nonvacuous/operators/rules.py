"""From a module to its linear map: one rule a layer, and a registry for layers of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.core.measured import Measured
from nonvacuous.operators.convolution import Convolution
from nonvacuous.operators.linear_map import LinearMap
from nonvacuous.operators.maps import AxisMaps, Chain, ChannelScale, Matrix, Padding, Rearrangement
from nonvacuous.operators.stencil import Axis

Shape = tuple[int, ...]
Rule = Callable[[Any, Shape], LinearMap | Measured]
RuleT = TypeVar("RuleT", bound=Rule)
RULES: dict[type[nn.Module], Rule] = {}

SAFE = (1e-120, 1e120)
"""Sizes of weights whose squares and sums of squares neither vanish nor overflow; rounding is counted, underflow is not."""
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
PADS = tuple(
    getattr(nn, f"{kind}Pad{d}d") for kind in ("Zero", "Constant", "Reflection", "Replication", "Circular") for d in (1, 2, 3)
)


def register(*kinds: type[nn.Module]) -> Callable[[RuleT], RuleT]:
    """Give layer classes a rule ``(module, input_shape) → LinearMap``, or → Measured, a bracket of their Lipschitz constant.

    A subclass that overrides ``forward`` does not inherit its parent's rule.

    >>> class Doubling(nn.Module):
    ...     def forward(self, x):
    ...         return 2 * x
    >>> @register(Doubling)
    ... def exactly_two(module, shape):
    ...     return Measured.exact(2.0)
    """

    def enter(rule: RuleT) -> RuleT:
        RULES.update(dict.fromkeys(kinds, rule))
        return rule

    return enter


def rule_of(module: nn.Module) -> Rule | None:
    """The rule of the module's class, or of an ancestor whose computation it did not override."""
    for kind in type(module).__mro__:
        if kind in RULES:
            overridden = any(
                getattr(type(module), name, None) is not getattr(kind, name, None) for name in ("forward", "_conv_forward")
            )
            return None if overridden else RULES[kind]
    return None


def fits(module: nn.Module, condition: bool, shape: Shape, expected: str) -> None:
    """Raise InvalidInput unless the shape suits the module."""
    if not condition:
        raise InvalidInput(f"{type(module).__name__} expects an input of shape {expected} without the batch; got {shape}")


def checked(module: nn.Module, name: str, tensor: Tensor | None) -> Tensor:
    """The tensor, free of gradients, if its numbers are all finite and of a size that can be squared."""
    if tensor is None:
        raise InvalidInput(f"{type(module).__name__} has no {name}")
    tensor = tensor.detach()
    if not bool(torch.isfinite(tensor).all()):
        raise InvalidInput(f"{type(module).__name__}.{name} holds NaN or infinity: no norm can be given")
    largest = float(tensor.abs().max()) if tensor.numel() else 0.0
    if largest and not SAFE[0] < largest < SAFE[1]:
        raise InvalidInput(
            f"{type(module).__name__}.{name} is of size {largest:g}, whose square float64 does not hold: rescale it"
        )
    return tensor


def weight_of(module: Any) -> Tensor:
    """The weight as the next forward pass would use it: the older ``weight_norm`` recomputes it in a hook."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, torch.nn.utils.weight_norm.__globals__["WeightNorm"]) and hook.name == "weight":
            return checked(module, "weight", hook.compute_weight(module))
    return checked(module, "weight", module.weight)


@register(nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)
def linear(module: nn.Linear, shape: Shape) -> LinearMap:
    fits(module, bool(shape) and shape[-1] == module.in_features, shape, f"(…, {module.in_features})")
    return Matrix(weight_of(module), shape[:-1])


@register(*CONVOLUTIONS)
def convolution(module: Any, shape: Shape) -> LinearMap:
    dimensions = len(module.kernel_size)
    fits(module, len(shape) == dimensions + 1 and shape[0] == module.in_channels, shape, f"({module.in_channels}, sizes…)")
    axes = []
    for n in range(dimensions):
        kernel, stride, dilation = module.kernel_size[n], module.stride[n], module.dilation[n]
        span = dilation * (kernel - 1)
        if module.padding == "same":
            left, right = span // 2, span - span // 2
        else:
            left = right = 0 if module.padding == "valid" else module.padding[n]
        axes.append(axis_of(module, kernel, stride, dilation, left, right, shape[n + 1], module.padding_mode))
    return Convolution(weight_of(module), axes, module.groups)


def axis_of(
    module: nn.Module, kernel: int, stride: int, dilation: int, left: int, right: int, size: int, mode: str = "zeros"
) -> Axis:
    """One axis of a convolution over an image of ``size``; raises InvalidInput if the kernel or the padding does not fit."""
    count = (size + left + right - dilation * (kernel - 1) - 1) // stride + 1
    limit = {"reflect": size - 1, "circular": size}.get(mode)
    if count < 1 or (limit is not None and max(left, right) > limit):
        raise InvalidInput(f"{type(module).__name__}: an image of size {size} is too small for its kernel or padding")
    return Axis(kernel, stride, dilation, left, size, count, mode)


@register(*TRANSPOSED)
def transposed(module: Any, shape: Shape) -> LinearMap:
    dimensions = len(module.kernel_size)
    fits(module, len(shape) == dimensions + 1 and shape[0] == module.in_channels, shape, f"({module.in_channels}, sizes…)")
    axes = []
    for n in range(dimensions):
        kernel, stride, dilation, padding = (
            module.kernel_size[n],
            module.stride[n],
            module.dilation[n],
            module.padding[n],
        )
        size = (shape[n + 1] - 1) * stride - 2 * padding + dilation * (kernel - 1) + module.output_padding[n] + 1
        fits(module, size > 0, shape, "larger than its padding")
        axes.append(Axis(kernel, stride, dilation, padding, size, shape[n + 1]))
    return Convolution(weight_of(module), axes, module.groups, transposed=True)


@register(*BATCH_NORMS)
def batch_norm(module: Any, shape: Shape) -> LinearMap:
    if module.running_var is None:
        raise UnsupportedModule(
            f"{type(module).__name__} without running statistics normalizes by its batch: not linear. "
            "normalizers.batch_norm_local gives its Lipschitz constant at given data."
        )
    # a (length, channels)-less 1-D input has the channels alone; torch reads them from the first axis after the batch
    fits(module, bool(shape) and shape[0] == module.num_features, shape, f"({module.num_features}, …)")
    return ChannelScale(batch_norm_scale(module), shape)


def batch_norm_scale(module: Any) -> Tensor:
    """γ/√(σ² + ε) of every channel, float64.  Raises InvalidInput where a variance is zero and ε too."""
    variance = checked(module, "running_var", module.running_var).double() + module.eps
    if bool((variance <= 0).any()):
        channel = int((variance <= 0).nonzero()[0])
        raise InvalidInput(
            f"{type(module).__name__}: channel {channel} has zero variance and ε = {module.eps}: no finite norm"
        )
    scale = variance.rsqrt()
    return scale if module.weight is None else checked(module, "weight", module.weight).double() * scale


@register(*AVERAGES)
def average(module: Any, shape: Shape) -> LinearMap:
    dimensions = int(type(module).__name__[-2])
    fits(module, len(shape) == dimensions + 1, shape, f"(channels, {dimensions} sizes)")
    adaptive = isinstance(module, nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d)
    divisor = None if adaptive else getattr(module, "divisor_override", None)
    matrices = []
    for n in range(dimensions):
        size = shape[n + 1]
        if adaptive:
            target = per_axis(module.output_size, n)
            matrices.append(pooled(size, F.adaptive_avg_pool1d, size if target is None else target))
            continue
        kernel, stride, padding = (per_axis(value, n) for value in (module.kernel_size, module.stride, module.padding))
        if divisor is None:
            options = (kernel, stride, padding, module.ceil_mode, module.count_include_pad)
            matrices.append(pooled(size, F.avg_pool1d, *options))
        else:  # every window is divided by the same number
            windows = F.avg_pool1d(torch.zeros(1, 1, size), kernel, stride, padding, module.ceil_mode).shape[-1]
            matrices.append(Axis(kernel, stride, 1, padding, size, windows).dense(torch.float64).sum(0))
    return AxisMaps(matrices, shape[:1], 1.0 / divisor if divisor else 1.0)


def per_axis(value: Any, n: int) -> Any:
    """Entry n of a tuple, or the one value for all axes."""
    return value[n] if isinstance(value, tuple | list) else value


def pooled(size: int, function: Callable[..., Tensor], *options: Any) -> Tensor:
    """Matrix of a linear function of vectors, by applying it to unit vectors (batch, 1, size)."""
    return function(torch.eye(size, dtype=torch.float64).unsqueeze(1), *options).squeeze(1).mT


@register(*PADS)
def pad(module: Any, shape: Shape) -> LinearMap:
    dimensions = len(module.padding) // 2
    fits(module, len(shape) == dimensions + 1, shape, f"(channels, {dimensions} sizes)")
    kind = type(module).__name__
    mode = {"Refl": "reflect", "Repl": "replicate", "Circ": "circular"}.get(kind[:4], "zeros")
    pairs = [tuple(module.padding[2 * n : 2 * n + 2]) for n in reversed(range(dimensions))]
    return Padding(shape, pairs, mode)


@register(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)
def upsample(module: nn.Upsample, shape: Shape) -> LinearMap:
    mode = {"bilinear": "linear", "trilinear": "linear", "bicubic": "bicubic"}.get(module.mode, module.mode)
    if mode not in {"nearest", "nearest-exact", "linear"}:
        raise UnsupportedModule(f"Upsample(mode={module.mode!r}): no rule. Register one with @norms.register(nn.Upsample).")
    matrices = []
    for n, size in enumerate(shape[1:]):
        target = None if module.size is None else per_axis(module.size, n)
        scale = None if module.scale_factor is None else per_axis(module.scale_factor, n)
        corners = module.align_corners if mode == "linear" else None
        recompute = getattr(module, "recompute_scale_factor", None)
        matrices.append(pooled(size, F.interpolate, target, scale, mode, corners, recompute))
    return AxisMaps(matrices, shape[:1])


@register(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
def identity(module: nn.Module, shape: Shape) -> LinearMap:
    return Rearrangement(shape, shape)


@register(nn.Flatten)
def flatten(module: nn.Flatten, shape: Shape) -> LinearMap:
    if module.start_dim < 1 and module.start_dim + len(shape) + 1 < 1:
        raise UnsupportedModule("Flatten over the batch: not a map of one example")
    return Rearrangement(shape, tuple(module(torch.zeros(1, *shape, device="meta")).shape[1:]))


@register(nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle)
def rearrangement(module: nn.Module, shape: Shape) -> LinearMap:
    """Numbers keep their values: the adjoint is the inverse permutation."""
    count = torch.zeros(shape).numel()
    order = module(torch.arange(count, dtype=torch.float64).reshape(1, *shape))
    out = tuple(order.shape[1:])
    index = order.flatten().long()
    back = torch.argsort(index)
    return Rearrangement(
        shape,
        out,
        lambda x: x.flatten(1)[:, index.to(x.device)].reshape(-1, *out),
        lambda y: y.flatten(1)[:, back.to(y.device)].reshape(-1, *shape),
    )


@register(nn.Sequential)
def sequence(module: nn.Sequential, shape: Shape) -> LinearMap | Measured:
    """The product of the parts, folded where a fold is exact; parts that are not linear have no place here."""
    maps: list[LinearMap] = []
    for name, part in module.named_children():
        found = find(part, maps[-1].shape_out if maps else shape, name)
        if isinstance(found, Measured):
            raise UnsupportedModule(f"{name} ({type(part).__name__}): not linear, so the chain has no operator norm")
        maps.append(found)
    return Chain.folded(maps) if maps else Rearrangement(shape, shape)


def find(module: nn.Module, shape: Sequence[int], name: str = "") -> LinearMap | Measured:
    """The module's map, or its bracket, by rule or, where its forward is its own, by tracing it into affine parts.

    Raises UnsupportedModule, naming the module and how to register a rule for it.
    """
    shape = tuple(int(n) for n in shape)
    rule = rule_of(module)
    if rule is not None:
        return rule(module, shape)
    from nonvacuous.operators.affine import traced_map  # here, as affine builds on the rules

    traced = traced_map(module, shape)
    if traced is None:
        kind = type(module).__name__
        raise UnsupportedModule(
            f"{f'{name} ({kind})' if name else kind}: no rule for its norm, and its forward is not made of linear parts. "
            f"Register one with @norms.register({kind}) over a function (module, input_shape) → LinearMap or Measured."
        )
    return traced
