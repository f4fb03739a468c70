"""Path norms: sums over all paths from an input to an output of products of weights, in the log domain."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.operators.certified import gamma
from nonvacuous.operators.convolution import Convolution
from nonvacuous.operators.linear_map import LinearMap
from nonvacuous.operators.maps import AxisMaps, Chain, ChannelScale, Matrix, Rearrangement
from nonvacuous.operators.rules import find

HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU)
"""Activations under which a path's product is what passes through it when it is open."""


def absolute(linear: LinearMap, power: float) -> tuple[LinearMap, int]:
    """The map with every edge's weight to |weight|^power, and how many terms an output sums at most.

    An edge is one use of a weight: two taps that read copies of one pixel are two edges.
    """
    if isinstance(linear, Matrix):
        return Matrix(linear.weight.double().abs() ** power, linear.lead), linear.weight.shape[1]
    if isinstance(linear, ChannelScale):
        return ChannelScale(linear.scale.double().abs() ** power, linear.shape_in), 1
    if isinstance(linear, Convolution):
        kernel = linear.kernel.double().abs() ** power
        copies = max(axis.n_out for axis in linear.axes) if any(axis.folds for axis in linear.axes) else 1
        return Convolution(kernel, linear.axes, linear.groups, linear.transposed), kernel.numel() * copies
    if isinstance(linear, AxisMaps):
        matrices = [matrix.abs() ** power for matrix in linear.matrices]
        terms = math.prod(matrix.shape[1] for matrix in matrices)
        return AxisMaps(matrices, linear.lead, abs(linear.factor) ** power), terms
    if isinstance(linear, Rearrangement):
        return linear, 1
    if isinstance(linear, Chain):
        parts = [absolute(part, power) for part in linear.maps]
        return Chain([part for part, _ in parts]), sum(terms for _, terms in parts)
    raise UnsupportedModule(f"{type(linear).__name__}: paths through it are not followed; ask for the path norm of its parts")


def log_path_norm(model: nn.Sequential, input_shape: Sequence[int], *, power: float = 2.0) -> Measured:
    """``ln (Σ_paths Π|w|^p)^{1/p}`` over all paths of a chain of layers, biases left out; −∞ where every path holds a 0.

    Neyshabur, Tomioka & Srebro 2015, "Norm-based capacity control in neural networks", ``φ_p``.  Computed layer by layer from a
    vector of ones, rescaled after each, so that no depth overflows; every number is a sum of positive terms, whose relative
    error is known.  Batch norms count as weights γ/σ, average pooling as weights 1/n.

    Raises UnsupportedModule for parts that are neither linear nor homogeneous (:data:`HOMOGENEOUS`), InvalidInput for a power
    that is not positive.

    >>> net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    >>> for layer in (net[0], net[2]):
    ...     _ = layer.weight.data.fill_(1.0)
    >>> round(math.exp(log_path_norm(net, (3,), power=1.0).upper), 6)  # 3 · 4 · 2 paths of weight 1
    24.0
    """
    if not power > 0:
        raise InvalidInput(f"the power of a path norm is positive; got {power}")
    shape = tuple(int(n) for n in input_shape)
    logs, terms, flow = [], 0, torch.ones(1, *shape, dtype=torch.float64)
    for name, part in model.named_children():
        if isinstance(part, HOMOGENEOUS):
            if isinstance(part, nn.LeakyReLU) and abs(part.negative_slope) > 1:
                raise UnsupportedModule(f"{name}: a LeakyReLU steeper than 1 below 0 adds to a path's weight")
            continue
        found = find(part, shape, name)
        if not isinstance(found, LinearMap):
            raise UnsupportedModule(f"{name} ({type(part).__name__}): paths through it are not followed")
        positive, count = absolute(found, power)
        flow, shape = positive.apply(flow.to(_device(positive, flow))), positive.shape_out
        terms += count + 8
        peak = float(flow.max())
        if peak == 0:
            return Measured(-math.inf, -math.inf, Kind.EXACT)
        logs.append(math.log(peak))
        flow = flow / peak
    logs.append(math.log(float(flow.sum())))
    total = math.fsum(logs) / power
    error = (gamma(terms + flow.numel() + 16) + 1e-15 * len(logs)) / power + 1e-15 * (1 + math.fsum(map(abs, logs)) / power)
    return Measured(total - error, total + error, Kind.EXACT)


def _device(linear: LinearMap, flow: Tensor) -> torch.device:
    return flow.device if isinstance(linear, Rearrangement) else linear.device
