"""From what went into a layer and what came back to its output, the gradients of every example by the layer's parameters.

Rules: dense layers, convolutions, embeddings, normalization with an affine part whose statistics are fixed or of one example. A layer
has one only if it is exactly torch's own class; everything else is differentiated as a whole (:mod:`.parameter_jacobian`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nonvacuous.measures.gradient_factors import Factor, Outer, Rows, Scaled

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
LAYER_NORMS = (nn.LayerNorm, nn.RMSNorm)
NARROW = 32
"""Keys of fewer numbers are slow on the right of a product."""
RULED = frozenset((nn.Linear, nn.Embedding, nn.GroupNorm, *CONVOLUTIONS, *BATCH_NORMS, *INSTANCE_NORMS, *LAYER_NORMS))
"""Layers with a rule, by exact class."""


class Use(NamedTuple):
    """One call of a layer: its input ``[n, …]`` and the cotangents of its output ``[n, m, …]``, one for each direction."""

    inputs: Tensor
    cotangents: Tensor


@dataclass(frozen=True)
class Task:
    """What the inner products will be: ``directions`` of the outputs at a time, traced or not, each example with about ``examples``
    others; ``most`` bytes one example's factor should not exceed; ``dtype`` of the products.
    """

    directions: int
    traced: bool
    examples: int
    most: int
    dtype: torch.dtype


def has_rule(module: nn.Module) -> bool:
    """Whether the layer's class has a rule, in the state it is in."""
    if type(module) not in RULED:
        return False
    if isinstance(module, nn.Embedding):
        return module.max_norm is None and not module.scale_grad_by_freq
    return True


def factors(module: nn.Module, uses: list[Use], wanted: tuple[str, ...], task: Task) -> list[Factor]:
    """The gradients by the layer's parameters named in ``wanted`` (``weight``, ``bias``), summed over its calls.

    For two parameters of a dense layer or convolution the columns of the weight are followed by one for the bias.
    """
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Embedding):
        if isinstance(module, CONVOLUTIONS) and module.groups > 1:
            return [Rows(sum_of([_grouped(module, use, wanted, task.dtype) for use in uses]))]
        keyed = [_keyed(module, use, wanted, task.dtype) for use in uses]
        keys = keyed[0][0] if len(uses) == 1 else torch.cat([k for k, _ in keyed], 1)
        cotangents = keyed[0][1] if len(uses) == 1 else torch.cat([c for _, c in keyed], 3)
        return [_cheapest(keys, cotangents, task, module.num_embeddings if isinstance(module, nn.Embedding) else 0)]
    return [Rows(sum_of([_affine(module, use, wanted, task.dtype) for use in uses]))]


def sum_of(parts: list[Tensor]) -> Tensor:
    """Their sum."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _keyed(module: nn.Module, use: Use, wanted: tuple[str, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys ``[n, S, in]`` (whole numbers ``[n, S]`` for an embedding) and cotangents ``[n, m, out, S]``."""
    n, m = use.cotangents.shape[:2]
    if isinstance(module, CONVOLUTIONS):
        cotangents = use.cotangents.reshape(n, m, module.out_channels, -1)
        keys = patches(module, use.inputs)[:, 0] if "weight" in wanted else None
    else:
        cotangents = use.cotangents.reshape(n, m, -1, use.cotangents.shape[-1]).transpose(2, 3)
        if isinstance(module, nn.Embedding):
            numbers = use.inputs.reshape(n, -1)
            if module.padding_idx is not None:
                numbers = torch.where(numbers == module.padding_idx, -1, numbers)
            return numbers, cotangents.to(dtype)
        keys = use.inputs.reshape(n, -1, use.inputs.shape[-1]) if "weight" in wanted else None
    cotangents = cotangents.to(dtype)
    ones = cotangents.new_ones(n, cotangents.shape[3], 1)
    if keys is None:
        return ones, cotangents
    return torch.cat([keys.to(dtype), ones], 2) if "bias" in wanted else keys.to(dtype), cotangents


def _cheapest(keys: Tensor, cotangents: Tensor, task: Task, size: int) -> Factor:
    """The form with the fewest multiplications that is small enough; the smallest where none is."""
    n, made_for, out, s = cotangents.shape
    m = task.directions
    width = keys.shape[2] if keys.dim() == 3 else size
    entries, item = out * width, cotangents.element_size()
    blocks = m if task.traced else m * m
    read = width if keys.dim() == 3 else 0
    if s == 1:
        constant = bool((cotangents == cotangents[:1]).all())
        outer = read + out * blocks
    else:
        constant = False
        outer = s * s * (read + out * m) + (0 if task.traced else s * out * blocks)
    made = 2 * s * entries / task.examples if keys.dim() == 3 else 2 * entries / task.examples
    costs = {
        Outer: (outer * (1 if s == 1 else 1.5), s * ((width if keys.dim() == 3 else 1) + out * m)),
        Rows: (blocks * entries + m * made, m * entries),
    }
    split = None
    if s > 1 and made_for > 1 and keys.dim() == 3 and entries < min(cost for cost, _ in costs.values()):
        split = _one_mask(cotangents)
        if split is not None:
            costs[Scaled] = (entries + (0 if task.traced else m * m * out) + made, entries)
    fitting = {form: cost for form, (cost, held) in costs.items() if held * item <= task.most}
    form = min(fitting, key=lambda f: fitting[f]) if fitting else min(costs, key=lambda f: costs[f][1])
    if form is Scaled and split is not None:
        scales, masks = split
        return Scaled(masks @ keys, scales)
    if form is Outer or keys.dim() == 2:
        own = cotangents.permute(0, 3, 2, 1).clone(memory_format=torch.contiguous_format)
        held = Outer(keys.contiguous(), own, constant, size)
        return held if form is Outer else Rows(held.rows())
    flat = cotangents.reshape(n, made_for * out, s)
    narrow = width < NARROW
    return Rows(((keys.mT @ flat.mT).mT if narrow else flat @ keys).reshape(n, made_for, -1))


def _one_mask(cotangents: Tensor) -> tuple[Tensor, Tensor] | None:
    """Scales ``[m, out]`` and masks ``[n, out, S]`` whose products are the cotangents ``[n, m, out, S]`` to rounding; None if none are."""
    n, _, out, s = cotangents.shape
    if n > 1 and _one_mask(cotangents[:1]) is None:
        return None
    sizes = cotangents.abs().amax(3).amax(0)  # [m, out]
    most, chosen = sizes.max(0)
    masks = cotangents.gather(1, chosen[None, None, :, None].expand(n, 1, -1, s))[:, 0]
    peaks = masks.transpose(0, 1).reshape(out, -1).abs().argmax(1)  # where a channel's mask is largest
    at = cotangents[peaks // s, :, torch.arange(out, device=peaks.device), peaks % s].mT  # [m, out]
    largest = at.gather(0, chosen[None])
    scales = torch.where(largest != 0, at / torch.where(largest != 0, largest, 1.0), 0.0)
    tolerance = 32 * torch.finfo(cotangents.dtype).eps
    off = torch.empty_like(masks)
    for a, scale in enumerate(scales):
        torch.addcmul(cotangents[:, a], scale[:, None], masks, value=-1, out=off)
        if bool((off.abs_().amax(2).amax(0) > tolerance * most).any()):
            return None
    return scales, masks


def patches(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """What each output position of a convolution sees: ``[n, groups, S, in/groups · kernel]``."""
    axes = len(module.kernel_size)
    sides = module._reversed_padding_repeated_twice
    if any(sides):
        x = F.pad(x, sides) if module.padding_mode == "zeros" else F.pad(x, sides, mode=module.padding_mode)
    n, channels = x.shape[:2]
    for axis, (kernel, stride, dilation) in enumerate(zip(module.kernel_size, module.stride, module.dilation, strict=True)):
        x = x.unfold(2 + axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    order = (0, 1, *range(3, 3 + axes), 2, *range(3 + axes, 3 + 2 * axes))
    x = x.reshape(n, module.groups, channels // module.groups, *x.shape[2:]).permute(order)
    return x.reshape(n, module.groups, -1, channels // module.groups * torch.Size(module.kernel_size).numel())


def _grouped(module: nn.Module, use: Use, wanted: tuple[str, ...], dtype: torch.dtype) -> Tensor:
    """Gradients ``[n, m, P]`` of a convolution in groups: of the weight, then of the bias."""
    assert isinstance(module, CONVOLUTIONS)
    n, m = use.cotangents.shape[:2]
    groups, out = module.groups, module.out_channels // module.groups
    cotangents = use.cotangents.reshape(n, m, groups, out, -1).to(dtype)
    parts = []
    if "weight" in wanted:
        seen = patches(module, use.inputs).to(dtype)
        each = cotangents.transpose(1, 2).reshape(n, groups, m * out, -1) @ seen
        parts.append(each.view(n, groups, m, -1).transpose(1, 2).reshape(n, m, -1))
    if "bias" in wanted:
        parts.append(cotangents.sum(4).reshape(n, m, -1))
    return torch.cat(parts, 2)


def _affine(module: nn.Module, use: Use, wanted: tuple[str, ...], dtype: torch.dtype) -> Tensor:
    """Gradients ``[n, m, P]`` by the weight, then the bias, of a normalizer's affine part."""
    n, m = use.cotangents.shape[:2]
    last = isinstance(module, LAYER_NORMS)
    size = (
        torch.Size(module.normalized_shape).numel() if isinstance(module, nn.LayerNorm | nn.RMSNorm) else use.inputs.shape[1]
    )
    form = (-1, size) if last else (size, -1)
    cotangents = use.cotangents.reshape(n, m, *form).to(dtype)
    parts = []
    if "weight" in wanted:
        plain = _normalised(module, use.inputs).reshape(n, *form).to(dtype)
        product = torch.empty_like(
            plain
        )  # a direction's, while it is in the cache; a batched product would copy the cotangents
        each = [torch.mul(cotangents[:, a], plain, out=product).sum(1 if last else 2) for a in range(m)]
        parts.append(torch.stack(each, 1))
    if "bias" in wanted:
        parts.append(cotangents.sum(2 if last else 3))
    return torch.cat(parts, 2)


def _normalised(module: nn.Module, x: Tensor) -> Tensor:
    """The layer's output without its affine part."""
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(x, module.normalized_shape, eps=module.eps)
    if isinstance(module, nn.RMSNorm):
        return F.rms_norm(x, list(module.normalized_shape), eps=module.eps)
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(x, module.num_groups, eps=module.eps)
    assert isinstance(module, nn.modules.batchnorm._NormBase)
    mean, variance = module.running_mean, module.running_var
    if isinstance(module, INSTANCE_NORMS):
        return F.instance_norm(x, mean, variance, use_input_stats=module.training or mean is None, eps=module.eps)
    return F.batch_norm(x, mean, variance, eps=module.eps)
