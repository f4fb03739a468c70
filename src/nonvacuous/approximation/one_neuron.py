"""Residual networks whose hidden layers have one neuron each: still universal, where plain networks of that width are not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nonvacuous.approximation.built import Built
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured


class OneNeuronResNet(nn.Module):
    """z ← z + v_i relu(u_i z + b_i) for i = 1 … B, then z + shift: ``[n, 1]`` or ``[n]`` → ``[n]``; Parameters u, b, v [B], shift []."""

    def __init__(self, blocks: Sequence[tuple[float, float, float]], shift: float) -> None:
        super().__init__()
        table = torch.tensor(blocks, dtype=torch.float64).reshape(-1, 3)
        self.inner, self.bias, self.outer = (nn.Parameter(column.clone()) for column in table.unbind(1))
        self.shift = nn.Parameter(torch.tensor(shift, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        z = x.squeeze(-1) if x.dim() > 1 else x
        for u, b, v in zip(self.inner, self.bias, self.outer, strict=True):
            z = z + v * (u * z + b).relu()
        return z + self.shift


def one_neuron_resnet(edges: Sequence[float], heights: Sequence[float], eps: float) -> Built:
    """A one-neuron ResNet with ∫ |h − network| ≤ eps over [edges[0], edges[-1]], h = heights[k] on [edges[k], edges[k+1]).

    The error is in the *mean*, as in the theorem; in the sup norm no continuous network comes closer to h than half its
    largest jump.

    The state z is one number, so a block acts on all points with z above (or below) a threshold.  *First sweep*, left to
    right: what is done lies in [0, c_k), the rest of the line on one rising branch.  Bend that branch at c_k into a nearly level
    plateau, fold it down at the plateau's end, and fold it up again where it falls below 0: three blocks a cell leave a
    trapezoid, higher than all before it.  *Second sweep*, from the highest: level the plateau, z ← min(z, c_k), and send it to its
    own final value, below all thresholds still to come: two blocks a cell.  With the first block, which places the domain, that
    is 5M − 1 blocks of three numbers.  Plateaus are exact up to rounding; the error is on the ramps.

    ``error`` is EXACT: the ramps' total width times the largest deviation possible there, and rounding; its lower end is 0.

    Args:
        edges: M + 1 increasing numbers.
        heights: M finite numbers, at most 64.
        eps: error in the mean over the domain, ∫ |h − network| dx.

    Raises:
        InvalidInput: edges out of order, numbers that are not finite, eps not positive, or more than float64 can resolve (64
            cells; ramps narrower than some 2⁻²¹·√M of the domain, since each cell spends that many bits of x).

    Source: Lin and Jegelka 2018 (NeurIPS), Theorem 3.1 at d = 1, with trapezoids as in their Section 4; constants and the
    order of the blocks are this file's.

    >>> built = one_neuron_resnet([0.0, 1.0, 2.0, 3.0], [1.0, -2.0, 0.5], eps=0.01)
    >>> [round(v, 6) for v in built.module(torch.tensor([0.5, 1.5, 2.5])).tolist()]
    [1.0, -2.0, 0.5]
    """
    knots, wanted = _checked(edges, heights, eps)
    cells, scale = len(wanted), (max(wanted) - min(wanted)) or 1.0
    shift = min(wanted) + 3 * scale  # plateaus lie in [1, 2)·scale, final values in [−3, −2]·scale
    ramp = min(eps / (16 * cells * scale), min(b - a for a, b in pairwise(knots)) / 8)
    span = max(knots[-1] - knots[0], 2.0**-12 * max(map(abs, knots)))
    drift = 2.0**-48 * cells * span**2 / ramp  # of where ramps lie: levelling a branch of slope 1/ramp takes away span/ramp
    if drift > ramp / 64:
        raise InvalidInput(
            f"eps = {eps:g} takes ramps of width {ramp:.3g}, which float64 cannot place in {cells} cells: at least "
            f"{16 * cells * scale * 2.0**-21 * math.sqrt(cells) * span:.3g}, if no cell is as narrow"
        )
    levels = [scale * (1 + k / cells) for k in range(cells)]
    rise = scale / (4 * cells)
    start = 2 * (abs(knots[0]) + levels[0]) + 1
    slope = 1 + (placing := (levels[0] - knots[0]) / (knots[0] + start))
    blocks = [(1.0, start, placing)]
    for k in range(cells):
        left, right = knots[k] + (ramp if k else 0.0), knots[k + 1] - ramp
        level_slope, top = rise / (right - left), levels[k] + rise
        blocks += [(1.0, -levels[k], level_slope / slope - 1)]
        if k + 1 < cells:
            fall, slope = top / ramp, levels[k + 1] / ramp
            blocks += [(1.0, -top, -1 - fall / level_slope), (-1.0, 0.0, 1 + slope / fall)]
    for k in reversed(range(cells)):
        threshold = (levels[k - 1] + rise + levels[k]) / 2 if k else levels[0] / 2
        goal = wanted[k] - shift
        blocks += [(1.0, -levels[k], -1.0), (1.0, -threshold, (goal - levels[k]) / (levels[k] - threshold))]
    module = OneNeuronResNet(blocks, shift)
    rounding = 2.0**-44 * cells * scale + 2.0**-50 * max(map(abs, wanted))
    upper = 10 * scale * ((cells - 1) * ramp + cells * drift) + (knots[-1] - knots[0]) * rounding
    if upper > eps:
        raise InvalidInput(f"eps = {eps:g} is below what float64 can prove here: {upper:g}")
    return Built.counted(module, Measured(0.0, upper, Kind.EXACT), weights=2 * len(blocks), units=len(blocks) + 1)


def _checked(edges: Sequence[float], heights: Sequence[float], eps: float) -> tuple[list[float], list[float]]:
    knots, wanted = [float(v) for v in edges], [float(v) for v in heights]
    if not (math.isfinite(eps) and eps > 0):
        raise InvalidInput(
            f"eps is a positive finite number; got {eps}: a continuous network reaches a step in the limit only"
        )
    if len(knots) != len(wanted) + 1 or not 1 <= len(wanted) <= 64:
        raise InvalidInput(f"1 to 64 cells have one edge more than heights; got {len(knots)} edges and {len(wanted)} heights")
    if not all(math.isfinite(v) for v in [*knots, *wanted]):
        raise InvalidInput("edges and heights are finite numbers")
    for a, b in pairwise(knots):
        if not a < b:
            raise InvalidInput(f"edges increase; got {a} before {b}")
    return knots, wanted
