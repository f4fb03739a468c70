"""Coordinates on the levels −L … L, trained as probabilities that are annealed into a choice.

Every coordinate has a distribution q over its levels. What is minimised is E[loss] + price · E[−ln p(level)] − T · entropy(q), where p
is the mean of all q: the length of an entropy code in which it costs nothing to leave a level open while T = 1 (bits-back), and in
which every coordinate is decided once T = 0. At T = 1 this is a PAC-Bayes objective, at T = 0 the code that is really written.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput

LEAST_SHARE = 1e-4
"""Probability that every level keeps in p, so that no logarithm diverges."""


class AnnealedLevels(nn.Module):
    """``dimension`` coordinates on the integers −levels … levels, most of them 0 at first (``active``: the share that is not).

    ``generator`` breaks the symmetry between the signs.
    """

    grid: Tensor

    def __init__(self, dimension: int, levels: int, active: float, generator: torch.Generator) -> None:
        super().__init__()
        if dimension < 1 or levels < 1 or not 0 < active < 1:
            raise InvalidInput(
                f"{dimension} coordinates on {levels} levels each side, a share {active} of them in use at first: at least 1, at least 1, "
                "and strictly between 0 and 1"
            )
        self.register_buffer("grid", torch.arange(-levels, levels + 1).float())
        start = 0.01 * torch.randn(dimension, 2 * levels + 1, generator=generator)
        start[:, levels] += math.log(2 * levels * (1 - active) / active)
        self.scores = nn.Parameter(start)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of every coordinate, each ``[dimension]``."""
        q = self.scores.softmax(1)
        mean = q @ self.grid
        return mean, (q @ self.grid**2 - mean**2).clamp_min(0)

    def nats(self, temperature: float) -> Tensor:
        """Σ E[−ln p] − temperature · entropy, in nats; p is the mean of q, symmetric in sign, and takes no gradient."""
        log_q = self.scores.log_softmax(1)
        q = log_q.exp()
        p = q.detach().mean(0)
        p = (p + p.flip(0)) / 2 + LEAST_SHARE
        return (q * (temperature * log_q - (p / p.sum()).log())).sum().clamp_min(0)

    def decided(self) -> Tensor:
        """The likeliest level of every coordinate, int64 ``[dimension]``."""
        return self.grid[self.scores.argmax(1)].long()
