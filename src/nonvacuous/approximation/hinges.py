"""One hidden layer on the line, as the sum of hinges that it is, evaluated in O(log N) a point without cancellation."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class HingeSum(nn.Module):
    r"""x ↦ offset + :math:`\sum_i w_i` relu(x − t_i): a ReLU network with one hidden layer of N units, input weights 1.

    ``[n]`` or ``[n, 1]`` → ``[n]``; Parameters ``knots`` [N], ``weight`` [N] and ``offset`` [] where asked for.

    *Forward.* Between neighbouring knots the network is affine: slope S_k = w_1 + … + w_k, and value
    V_k = V_{k−1} + S_{k−1}(t_k − t_{k−1}) at the knot.  With both summed once, a point costs a binary search, and the answer
    V_k + S_k(x − t_k) is the same function of x and of the Parameters (gradients too).  It is also the better arithmetic: the
    plain sum adds terms w_i(x − t_i) far larger than their total, and loses |w_i||x − t_i| / |total| of its digits.  The
    builders of this package choose knots and weights on dyadic grids, so that S_k is exact in float64.

    >>> tent = HingeSum(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([2.0, -4.0, 2.0]))
    >>> tent(torch.tensor([-1.0, 0.25, 0.5, 2.0], dtype=torch.float64)).tolist()
    [0.0, 0.5, 1.0, 0.0]
    """

    def __init__(self, knots: Tensor, weight: Tensor, offset: float | None = None) -> None:
        super().__init__()
        self.knots = nn.Parameter(knots.to(torch.float64))
        self.weight = nn.Parameter(weight.to(torch.float64))
        self.offset = None if offset is None else nn.Parameter(torch.tensor(offset, dtype=torch.float64))

    def pieces(self) -> tuple[Tensor, Tensor, Tensor]:
        """Knots in order, the value at each (offset included), and the slope to the right of each."""
        knots, order = self.knots.sort(stable=True)
        slopes = self.weight[order].cumsum(0)
        start = knots.new_zeros(1) if self.offset is None else self.offset.reshape(1)
        values = torch.cat([start, slopes[:-1] * knots.diff()]).cumsum(0)
        return knots, values, slopes

    def forward(self, x: Tensor) -> Tensor:
        x = x.squeeze(-1) if x.dim() > 1 else x
        knots, values, slopes = self.pieces()
        last = torch.searchsorted(knots.detach(), x.detach().contiguous(), right=True) - 1
        inside = last.clamp_min(0)
        rise = torch.where(last >= 0, slopes[inside] * (x - knots[inside]), 0.0)
        return values[inside] + rise

    def plain(self) -> nn.Sequential:
        """The same network as ``Linear(1, N)``, ``ReLU``, ``Linear(N, 1)``, ``Flatten(0)``."""
        count = len(self.knots)
        hidden, out = nn.Linear(1, count, dtype=torch.float64), nn.Linear(count, 1, dtype=torch.float64)
        with torch.no_grad():
            hidden.weight.fill_(1.0)
            hidden.bias.copy_(-self.knots)
            out.weight.copy_(self.weight[None])
            out.bias.fill_(0.0 if self.offset is None else float(self.offset))
        return nn.Sequential(hidden, nn.ReLU(), out, nn.Flatten(0))

    def narrow(self) -> NarrowHinges:
        """The same function by a network of width 3 and depth N + 1."""
        return NarrowHinges(self)


class NarrowHinges(nn.Module):
    """A `HingeSum` turned on its side: N hidden layers of width 3, which hand on x, the hinge, and the sum so far.

    ``[n, 1]`` → ``[n]``, for x up to 1 outside the knots (the sum is kept positive by a constant that the last layer removes).
    Layer i maps (x⁺, h, s) to relu of (x⁺, x⁺ − t_i, s + w_{i−1} h).  Kidger and Lyons 2020 (COLT), Theorem 3.2: width
    d + d_out + 2 suffices for any continuous activation with a point of non-zero derivative; for ReLU, d + d_out does (Hanin
    and Sellke 2017, Theorem 1), by a construction less plain than this one.
    """

    def __init__(self, hinges: HingeSum) -> None:
        super().__init__()
        with torch.no_grad():
            knots, values, slopes = hinges.pieces()
            weight = torch.cat([slopes[:1], slopes.diff()])
        self.knots, self.weight = nn.Parameter(knots.clone()), nn.Parameter(weight)
        self.offset = nn.Parameter(values[0].clone())
        margin = float(values.detach().abs().max()) + float(slopes.detach().abs().max()) * float(knots[-1] - knots[0] + 1)
        self.lowest, self.lift = float(knots[0].detach()), margin + 1.0

    def forward(self, x: Tensor) -> Tensor:
        x = x.squeeze(-1) if x.dim() > 1 else x
        origin = (x - self.lowest + 1.0).relu()
        hinge, total = torch.zeros_like(x), torch.full_like(x, self.lift)
        previous = self.weight.new_zeros(())
        for knot, weight in zip(self.knots, self.weight, strict=True):
            hinge, total = (origin - (knot - self.lowest + 1.0)).relu(), (total + previous * hinge).relu()
            previous = weight
        return total + previous * hinge - self.lift + cast(Tensor, self.offset)
