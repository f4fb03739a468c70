"""Max-pools as comparisons: which entries each window looks at, and their maximum by ReLUs of differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nonvacuous.core.errors import UnsupportedModule

MODULES: dict[type[nn.Module], int] = {
    nn.MaxPool1d: 1,
    nn.MaxPool2d: 2,
    nn.MaxPool3d: 3,
}
_ADAPTIVE = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
FUNCTIONS: dict[Any, int] = {
    F.max_pool1d: 1,
    F.max_pool2d: 2,
    F.max_pool3d: 3,
    torch.max_pool1d: 1,
    torch.max_pool2d: 2,
    torch.max_pool3d: 3,
}
_NAMES = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")


def of_module(layer: nn.Module, x: Any) -> Any | None:
    """The pooled ``x`` (a proxy of torch.fx) if ``layer`` is a max-pool, else None."""
    if isinstance(layer, _ADAPTIVE):
        kind = type(layer).__name__
        raise UnsupportedModule(f"{kind}: its windows depend on the input's size; write it as a MaxPool with kernel_size")
    dimension = next((d for kind, d in MODULES.items() if isinstance(layer, kind)), None)
    if dimension is None:
        return None
    if getattr(layer, "return_indices", False):
        raise UnsupportedModule(f"{type(layer).__name__} with return_indices: indices are not piecewise linear")
    return largest(x, dimension, {name: getattr(layer, name) for name in _NAMES})


def of_function(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any | None:
    """The pooled ``args[0]`` (a proxy of torch.fx) if ``function`` is a max-pool, else None."""
    dimension = next((d for f, d in FUNCTIONS.items() if f is function), None)
    if dimension is None or not args:
        return None
    given = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, **kwargs}
    return largest(args[0], dimension, given | dict(zip(_NAMES, args[1:], strict=False)))


def largest(x: Any, dimension: int, settings: dict[str, Any]) -> Any:
    """The largest entry of each window, candidate by candidate: max(a, b) = b + relu(a − b)."""
    kernel = settings["kernel_size"]
    names = [settings[name] if settings[name] is not None else kernel for name in _NAMES]
    shown = x.tracer.create_proxy("call_function", windows, (x, dimension, *names), {})
    best = shown[..., 0]
    for j in range(1, math.prod(_each(kernel, dimension))):
        other = shown[..., j]
        best = F.relu(best - other) + other
    return best


def windows(x: Tensor, dimension: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Tensor:
    """What each window of a max-pool looks at: ``[n, channels, *sides]`` → ``[n, channels, *outputs, candidates]``.

    Where a window reaches into the padding, or beyond it by ``ceil_mode``, one of its true entries is repeated: a maximum does not
    change.

    >>> windows(torch.tensor([[[1.0, 2.0, 3.0]]]), 1, 3, 2, 1, 1, False)
    tensor([[[[2., 1., 2.],
              [2., 3., 3.]]]])
    """
    sides = x.shape[2:]
    settings = zip(
        sides,
        _each(kernel, dimension),
        _each(stride, dimension),
        _each(padding, dimension),
        _each(dilation, dimension),
        strict=True,
    )
    return gathered(x, [_along(*one, ceil_mode) for one in settings])


def gathered(x: Tensor, axes: Sequence[np.ndarray]) -> Tensor:
    """Entries of ``x`` by windows along each axis ``[outputs, candidates]`` (−1: none); holes repeat an entry of their window."""
    sides = x.shape[2:]
    outputs = [len(axis) for axis in axes]
    index = np.zeros((*outputs, 0), dtype=np.int64)
    columns = []
    for picks in product(*(range(axis.shape[1]) for axis in axes)):
        grids = np.meshgrid(*(axis[:, j] for axis, j in zip(axes, picks, strict=True)), indexing="ij")
        flat = np.ravel_multi_index([np.maximum(grid, 0) for grid in grids], sides)
        columns.append(np.where(np.all([grid >= 0 for grid in grids], axis=0), flat, -1))
    index = np.stack(columns, -1)
    index = np.where(index < 0, index.max(-1, keepdims=True), index)
    return x.flatten(2)[:, :, torch.from_numpy(index).to(x.device)]


def _along(n: int, k: int, s: int, p: int, d: int, ceil_mode: bool) -> np.ndarray:
    """Indices that each output looks at along one axis, −1 outside; sizes as torch computes them."""
    room = n + 2 * p - d * (k - 1) - 1
    count = (-(-room // s) if ceil_mode else room // s) + 1
    if ceil_mode and (count - 1) * s >= n + p:
        count -= 1  # a window must start inside the input or its left padding
    index = np.arange(count)[:, None] * s - p + np.arange(k) * d
    return np.where((index >= 0) & (index < n), index, -1)


def _each(value: Any, dimension: int) -> tuple[Any, ...]:
    """One number for each axis."""
    if isinstance(value, tuple | list):
        return tuple(value) * (dimension if len(value) == 1 else 1)
    return (value,) * dimension
