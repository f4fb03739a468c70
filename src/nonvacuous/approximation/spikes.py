r"""Bumps in two and three dimensions: pyramids over the vertices of a grid, which add up to one.

The spike at vertex v of a grid of width w is

    φ((x − v)/w),   φ(u) = relu(1 − max(0, u_1, …, u_d) − max(0, −u_1, …, −u_d)),

the hat function of the Kuhn (Freudenthal) triangulation: it is 1 at its vertex, 0 at all others, and affine on each simplex.
So Σ_v f(v) φ((x − v)/w) interpolates f on the triangulation, and in a point with barycentric coordinates λ

    |f(x) − Σ_v λ_v f(v)| ≤ L Σ λ_v |x − v| ≤ L (Σ_v λ_v |x − v|²)^{1/2} ≤ L w √d / 2,

since each coordinate of v takes two values at distance w, with mean x and variance at most w²/4.  The two maxima take one
hidden layer in one dimension, two in two, three in three; the outer relu is one more.

Source: He, Li, Xu and Zheng 2020 (J. Comput. Math. 38), "ReLU deep neural networks and linear finite elements"; the estimate
above is complete.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nonvacuous.approximation.circuit import Affine, Circuit, UnitNetwork


def maximum(circuit: Circuit, terms: Sequence[Affine]) -> Affine:
    """max(0, terms…) by ``max(p, q) = p + relu(q − p)`` on positive parts, in a tree of depth 1 + ⌈log₂⌉ of their number."""
    parts = [circuit.relu(term) for term in terms]
    while len(parts) > 1:
        pairs = [parts[i] + circuit.relu(parts[i + 1] - parts[i]) for i in range(0, len(parts) - 1, 2)]
        parts = pairs + parts[len(pairs) * 2 :]
    return parts[0]


def spike(circuit: Circuit, u: Sequence[Affine]) -> Affine:
    """φ(u)."""
    return circuit.relu(1.0 - maximum(circuit, u) - maximum(circuit, [-coordinate for coordinate in u]))


def spike_cost(shape: Sequence[int]) -> tuple[int, int]:
    """Connections, and units with the output, of the plain network with one spike a vertex."""
    circuit = Circuit(len(shape))
    one = circuit.network(spike(circuit, circuit.inputs))
    return math.prod(shape) * one.connections, math.prod(shape) * one.units + 1


class SpikeGrid(nn.Module):
    """x ↦ Σ_v h_v φ((x − v)/w) over a grid of vertices: ``[n, d]`` → ``[n]``; Parameters ``heights`` [N_1, …, N_d].

    Forward looks up the one simplex that holds x: its cell, then the order of x's fractional parts, which costs d + 1 values
    a point whatever the size of the grid.  Outside the grid the network falls to 0 within one cell, as the sum does.
    """

    origin: Tensor
    step: Tensor

    def __init__(self, heights: Tensor, origin: Tensor, step: Tensor) -> None:
        super().__init__()
        self.heights = nn.Parameter(heights.to(torch.float64))
        self.register_buffer("origin", origin)
        self.register_buffer("step", step)

    def forward(self, x: Tensor) -> Tensor:
        dimension = self.heights.dim()
        padded = nn.functional.pad(self.heights, [1, 1] * dimension)
        sides = torch.tensor(padded.shape, device=x.device)
        u = (x - self.origin) / self.step + 1.0
        u = torch.minimum(u.clamp_min(0.0), (sides - 1).to(u))
        cell = torch.minimum(u.detach().floor().long(), sides - 2)
        part, order = (u - cell).sort(dim=1, descending=True)
        strides = torch.tensor(padded.stride(), device=x.device)
        node = (cell * strides).sum(1)
        flat = padded.reshape(-1)
        total = flat[node] * (1.0 - part[:, 0])
        for axis in range(dimension):
            node = node + strides[order[:, axis]]
            weight = part[:, axis] - part[:, axis + 1] if axis + 1 < dimension else part[:, axis]
            total = total + flat[node] * weight
        return total

    def plain(self) -> UnitNetwork:
        """The same network, unit by unit: for grids of a few hundred vertices."""
        circuit, total = Circuit(self.heights.dim()), Affine({})
        origin, step = self.origin.tolist(), self.step.tolist()
        for vertex in itertools.product(*(range(n) for n in self.heights.shape)):
            u = [x * (1 / w) - (o / w + i) for x, o, w, i in zip(circuit.inputs, origin, step, vertex, strict=True)]
            total = total + spike(circuit, u) * float(self.heights.detach()[vertex])
        return circuit.network(total)
