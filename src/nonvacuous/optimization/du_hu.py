"""Wide deep linear networks from Gaussian weights converge at a linear rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.deep_linear import Moments, chain, matrix
from nonvacuous.optimization.hypotheses import Condition
from nonvacuous.optimization.trajectories import Envelope

RELATIVE = 1e-10


@dataclass(frozen=True)
class WideLinear:
    """½‖(m^{L−1}d_out)^{−1/2} W_L⋯W_1 X − Y‖² reduced to what descent depends on.

    scale: (m^{L−1}d_out)^{−1/2}. reduced: moments of the data after a rotation of the inputs onto the r directions that occur, so
    that a step costs O(m²r), whatever n is; basis ``[d_in, r]`` that rotation. floor: the least loss, OPT. smallest, largest: of
    the positive eigenvalues of XᵀX. norm: ‖Φ‖ of the least-squares map Φ.
    """

    depth: int
    width: int
    scale: float
    reduced: Moments
    basis: Tensor
    floor: float
    smallest: float
    largest: float
    norm: float

    @classmethod
    def of(cls, X: Any, Y: Any, width: int, depth: int) -> WideLinear:
        """Inputs ``[d_in, n]``, targets ``[d_out, n]``, m = ``width``, L = ``depth`` layers.

        :raises InvalidInput: matrices that do not fit, all inputs zero, depth below 2 or width below 1.
        """
        if depth < 2 or width < 1:
            raise InvalidInput(f"the theorem is for at least 2 layers and a width of at least 1; got L = {depth}, m = {width}")
        whole = Moments.of(matrix(X, "X"), matrix(Y, "Y"))
        values, vectors = torch.linalg.eigh(whole.gram)
        kept = values > RELATIVE * values[-1]
        if not float(values[-1]) > 0:
            raise InvalidInput("all inputs are zero: there is nothing to learn from")
        values, basis = values[kept], vectors[:, kept]
        reduced = Moments(torch.diag(values), whole.cross @ basis, whole.square, whole.n)
        best = reduced.cross / values
        floor = max(0.0, float(reduced.loss(best)))
        scale = math.exp(-0.5 * ((depth - 1) * math.log(width) + math.log(len(whole.cross))))
        norm = float(torch.linalg.matrix_norm(best, 2))
        return cls(depth, width, scale, reduced, basis, floor, float(values[0]), float(values[-1]), norm)

    @property
    def d_out(self) -> int:
        """Outputs."""
        return len(self.reduced.cross)

    def step_limit(self) -> float:
        """d_out/(3L‖XᵀX‖), the largest step size of the theorem."""
        return self.d_out / (3 * self.depth * self.largest)

    def factor(self, step: float) -> float:
        """1 − ηLλ_r(XᵀX)/(4 d_out)."""
        return 1 - step * self.depth * self.smallest / (4 * self.d_out)

    def width_over_constant(self, delta: float) -> float:
        """L·max{rκ³d_out(1 + ‖Φ‖²), rκ³ log(r/δ), log L}: the theorem wants m ≥ C times this, C unspecified."""
        r, kappa = len(self.reduced.gram), self.largest / self.smallest
        return self.depth * max(
            r * kappa**3 * self.d_out * (1 + self.norm**2), r * kappa**3 * math.log(r / delta), math.log(self.depth)
        )

    def start(self, seed: int) -> tuple[Tensor, ...]:
        """Standard normal weights (W_1, …, W_L), the first already rotated onto the r directions."""
        generator = torch.Generator().manual_seed(seed)
        sizes = [len(self.reduced.gram), *[self.width] * (self.depth - 1), self.d_out]
        return tuple(torch.randn(sizes[k + 1], sizes[k], dtype=torch.float64, generator=generator) for k in range(self.depth))

    def loss(self, weights: tuple[Tensor, ...]) -> float:
        """The objective at ``weights``."""
        return float(self.reduced.loss(self.scale * chain(weights)))

    def descend(self, step: float, steps: int, *, seed: int = 0) -> list[float]:
        """Losses ``[steps + 1]`` of gradient descent from :meth:`start`.

        Two layers need no width at all: W_1's columns and W_2's rows never leave the d_in + d_out directions they start in, so the
        same losses come from layers of that width. Deeper networks are multiplied from their thin ends.

        :raises InvalidInput: a step size above the theorem's limit, which is said.
        """
        if not 0 < step <= self.step_limit() * (1 + 1e-12):
            raise InvalidInput(f"step size {step:g}: the theorem allows at most d_out/(3L‖XᵀX‖) = {self.step_limit():.6g}")
        weights = self.start(seed)
        if self.depth == 2 and sum(self.reduced.cross.shape) < self.width:
            triangle = torch.linalg.qr(torch.cat([weights[0], weights[1].mT], 1)).R
            weights = (triangle[:, : weights[0].shape[1]], triangle[:, weights[0].shape[1] :].mT)
        layers = [Accumulated(W) for W in weights]
        losses = []
        for t in range(steps + 1):
            down = [torch.eye(weights[0].shape[1], dtype=torch.float64)]
            for layer in layers:
                down.append(layer.times(down[-1]))
            product = self.scale * down[-1]
            losses.append(float(self.reduced.loss(product)))
            if t == steps:
                break
            up = self.scale * self.reduced.slope(product).mT  # [r, d_out], read from the right: slopeᵀ W_L ⋯ W_{l+1}
            back = [torch.eye(self.d_out, dtype=torch.float64)]
            for layer in reversed(layers[1:]):
                back.append(layer.from_left(back[-1]))
            for layer, before, after in zip(layers, down, reversed(back), strict=False):
                layer.add(after.mT, -step * before @ up)
        return losses


class Accumulated:
    """W_0 + Σ P Qᵀ: a layer whose changes have low rank, so that a step neither reads nor writes m² numbers more than twice."""

    def __init__(self, base: Tensor) -> None:
        self.base, self.left, self.right = base, base.new_zeros(base.shape[0], 0), base.new_zeros(base.shape[1], 0)

    def times(self, columns: Tensor) -> Tensor:
        """W · columns."""
        return self.base @ columns + self.left @ (self.right.mT @ columns)

    def from_left(self, rows: Tensor) -> Tensor:
        """rows · W."""
        return rows @ self.base + (rows @ self.left) @ self.right.mT

    def add(self, left: Tensor, right: Tensor) -> None:
        """W + left · rightᵀ; the changes are merged when they are no longer thin."""
        if 4 * (self.left.shape[1] + left.shape[1]) > min(self.base.shape):
            self.base = self.base + self.left @ self.right.mT + left @ right.mT
            self.left, self.right = self.left[:, :0], self.right[:, :0]
            return
        self.left, self.right = torch.cat([self.left, left], 1), torch.cat([self.right, right], 1)


def envelope(problem: WideLinear, step: float, start: float, *, delta: float = 0.05) -> Envelope:
    """ℓ(t) − OPT ≤ (1 − ηLλ_r(XᵀX)/(4d_out))^t (ℓ(0) − OPT), with probability 1 − δ over Gaussian weights.

    Needs m ≥ C·L·max{rκ³d_out(1 + ‖Φ‖²), rκ³ log(r/δ), log L} for a universal constant C that the theorem does not state, so that
    the width condition is never called met, and η ≤ d_out/(3L‖XᵀX‖).

    Args:
        step: η. start: ℓ(0).

    Source: Du and Hu 2019, "Width provably matters in optimization for deep linear neural networks", Theorem 4.1.
    """
    needed = problem.width_over_constant(delta)
    conditions = (
        Condition.unknown("width", f"m = {problem.width:,} ≥ C · {needed:.4g} is asked, and the theorem does not state C"),
        Condition.checked(
            "step size", 0 < step <= problem.step_limit() * (1 + 1e-12), f"η = {step:.4g}, limit {problem.step_limit():.4g}"
        ),
    )
    return Envelope("Du and Hu 2019, Theorem 4.1", problem.factor(step), start, problem.floor, conditions)
