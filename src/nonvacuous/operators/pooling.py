"""Lipschitz constants of layers that are not linear but select: max pooling; and of overlapping copies: fold and unfold."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nonvacuous.core.measured import Kind, Measured
from nonvacuous.operators.rules import Shape, fits, per_axis, register


def _root(count: int) -> Measured:
    root = math.isqrt(count)
    if root * root == count:
        return Measured.exact(float(root))
    return Measured(math.nextafter(math.sqrt(count), 0.0), math.nextafter(math.sqrt(count), math.inf), Kind.EXACT)


@register(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
def max_pool(module: Any, shape: Shape) -> Measured:
    """√(largest number of windows a pixel is in).

    ``|max_w x − max_w y|² ≤ Σ_{i∈w} (x_i − y_i)²``, and a pixel counts once for each of its windows; a pixel above all others moves
    all its windows' maxima, so that the constant is attained.
    """
    dimensions = int(type(module).__name__[-2]) if type(module).__name__[-2].isdigit() else len(shape) - 1
    fits(module, len(shape) == dimensions + 1, shape, f"(channels, {dimensions} sizes)")
    count = 1
    for n, size in enumerate(shape[1:]):
        kernel, stride, padding, dilation = (
            per_axis(value, n) for value in (module.kernel_size, module.stride, module.padding, module.dilation)
        )
        windows = F.max_pool1d(torch.zeros(1, 1, size), kernel, stride, padding, dilation, module.ceil_mode).shape[-1]
        hits = torch.zeros(size, dtype=torch.long)
        for i in range(windows):
            inside = [t for j in range(kernel) if 0 <= (t := i * stride - padding + j * dilation) < size]
            hits[inside] += 1
        count *= int(hits.max())
    return _root(count)


@register(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
def adaptive_max_pool(module: Any, shape: Shape) -> Measured:
    """As :func:`max_pool`, with windows from ``⌊i·n/m⌋`` to ``⌈(i + 1)·n/m⌉``."""
    count = 1
    for n, size in enumerate(shape[1:]):
        target = per_axis(module.output_size, n) or size
        hits = torch.zeros(size, dtype=torch.long)
        for i in range(target):
            hits[i * size // target : -(-(i + 1) * size // target)] += 1
        count *= int(hits.max())
    return _root(count)


@register(nn.Unfold)
def unfold(module: nn.Unfold, shape: Shape) -> Measured:
    """√(largest number of patches a pixel is in): AᵀA is diagonal."""
    patches = module(torch.ones(1, *shape, dtype=torch.float64))
    options = (module.kernel_size, module.dilation, module.padding, module.stride)
    return _root(round(float(F.fold(patches, shape[1:], *options).max())))
