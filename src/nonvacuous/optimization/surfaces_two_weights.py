"""The two-weight network of the optimization lecture, f(x) = w₂ relu(w₁ x) with squared error: its whole loss surface, and of mini-batches.

On x ≥ 0 and w₁ > 0 the loss depends on the product p = w₁ w₂ alone: L = E[x²] (p − c)² + const with c = E[xy]/E[x²].  Its minima fill the
hyperbola w₁ w₂ = c, on which the Hessian is 2 E[x²] (w₂, w₁)(w₂, w₁)ᵀ: one eigenvalue is 0, the other 2 E[x²] (w₁² + w₂²) ≥ 4 E[x²] |c|
grows without bound towards the ends though the function never changes (Dinh et al. 2017, Sharp Minima Can Generalize For Deep Nets, in its
smallest case).  For w₁ ≤ 0 every unit is dead: a plateau of height E[y²] without gradient.  A mini-batch has a hyperbola of its own.

The slide's code does not run as printed: it calls ``sq_loss(yi - mlp(w1, w2, xi))`` with one argument of two, and ``mlp(x, w1, w2)`` with
its arguments rotated.  Meant is ``sq_loss(yi, mlp(xi, w1, w2))``, which is what stands here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput


class Points(NamedTuple):
    """Inputs ``x`` and targets ``y``, each [n] in float64."""

    x: Tensor
    y: Tensor


def lecture_points(n: int = 30, seed: int = 42) -> Points:
    """The slide's sample: x = |z + 1|, y = 2x + z'/2, z and z' standard normal, drawn in this order by numpy's ``RandomState(42)``."""
    rng = np.random.RandomState(seed)
    x = np.abs(rng.randn(n) + 1)
    return Points(torch.from_numpy(x), torch.from_numpy(2 * x + 0.5 * rng.randn(n)))


class TwoWeights(nn.Module):
    """x [b] (or [b, 1]) → w₂ relu(w₁ x) [b]."""

    def __init__(self, w1: float, w2: float) -> None:
        super().__init__()
        self.w1, self.w2 = (nn.Parameter(torch.tensor(w, dtype=torch.float64)) for w in (w1, w2))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [b]."""
        return self.w2 * (self.w1 * x.reshape(len(x))).relu()


@dataclass(frozen=True)
class TwoWeightLoss:
    """L(w₁, w₂) = mean (y − w₂ relu(w₁ x))² in closed form, from the moments of the positive and the negative inputs.

    >>> loss = TwoWeightLoss.of(*lecture_points())
    >>> bool(loss(torch.tensor(2.0), torch.tensor(loss.product / 2)) <= loss(torch.tensor(2.0), torch.tensor(1.0)))
    True
    """

    squares: float
    """E[y²], the height of the plateau where the unit is dead."""
    positive: tuple[float, float]
    """E[x²; x > 0] and E[xy; x > 0]."""
    negative: tuple[float, float]
    """E[x²; x < 0] and E[xy; x < 0]."""

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> TwoWeightLoss:
        """The loss on inputs and targets [n].

        :raises InvalidInput: no example, unequal shapes, NaN or infinite numbers.
        """
        if x.shape != y.shape or x.ndim != 1 or not len(x):
            raise InvalidInput(f"x {tuple(x.shape)} and y {tuple(y.shape)}: two vectors of one length, at least 1")
        x, y = x.double(), y.double()
        if not bool(torch.isfinite(x).all() & torch.isfinite(y).all()):
            raise InvalidInput("x or y holds NaN or infinite numbers")
        up, down = x > 0, x < 0
        halves = [(float((x * x * half).mean()), float((x * y * half).mean())) for half in (up, down)]
        return cls(float((y * y).mean()), halves[0], halves[1])

    def __call__(self, w1: Tensor, w2: Tensor) -> Tensor:
        """The loss at weights of any shape that broadcast, in float64."""
        w1, w2 = w1.double(), w2.double()
        p = (w1 * w2).broadcast_to(torch.broadcast_shapes(w1.shape, w2.shape))
        up = (w1 > 0).broadcast_to(p.shape)
        dead = (w1 == 0).broadcast_to(p.shape)
        (up_xx, up_xy), (down_xx, down_xy) = (w1.new_tensor(half).unbind() for half in (self.positive, self.negative))
        xx, xy = torch.where(up, up_xx, down_xx), torch.where(up, up_xy, down_xy)
        return torch.where(dead, w1.new_tensor(self.squares), self.squares - 2 * p * xy + p * p * xx)

    @property
    def product(self) -> float:
        """c: for w₁ > 0 the minima are the weights with w₁ w₂ = c.

        :raises InvalidInput: no positive input, hence no such minima.
        """
        xx, xy = self.positive
        if not xx > 0:
            raise InvalidInput("no input is positive: for w₁ > 0 the unit is always dead")
        return xy / xx

    @property
    def floor(self) -> float:
        """The loss on the hyperbola w₁ w₂ = c."""
        return self.squares - self.positive[1] * self.product

    def sharpness(self, w1: float) -> float:
        """Largest Hessian eigenvalue at the minimum (w₁, c/w₁): 2 E[x²] (w₁² + c²/w₁²).

        :raises InvalidInput: w₁ ≤ 0, where there is no such minimum.
        """
        if not w1 > 0:
            raise InvalidInput(f"w1 = {w1}: the minima of this branch have w1 > 0")
        return 2 * self.positive[0] * (w1**2 + (self.product / w1) ** 2)
