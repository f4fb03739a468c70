"""Noise stability from its definitions: one input at a time, dense Jacobians by autograd, layers applied by hand; slow, and readable."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian


class Definitions:
    """Of an ``nn.Sequential`` whose weight layers are its linear layers and convolutions; float64."""

    def __init__(self, model: nn.Sequential) -> None:
        self.parts = list(copy.deepcopy(model).double().eval().requires_grad_(False))
        self.places = [k for k, part in enumerate(self.parts) if hasattr(part, "weight")]

    def output(self, x: Tensor, i: int) -> Tensor:
        """x^i for one input."""
        return self.between(x[None].double(), 0, self.places[i] + 1)[0]

    def between(self, x: Tensor, start: int, stop: int) -> Tensor:
        for part in self.parts[start:stop]:
            x = part(x)
        return x

    def read(self, x: Tensor, i: int) -> Tensor:
        """φ(x^(i−1))."""
        return self.between(x[None].double(), 0, self.places[i])[0]

    def later(self, i: int, j: int) -> Callable[[Tensor], Tensor]:
        """M^{i,j} on one input."""
        return lambda x: self.between(x[None], self.places[i] + 1, self.places[j] + 1)[0]

    def layer_cushion(self, x: Tensor, i: int) -> float:
        layer, before = self.parts[self.places[i]], self.read(x, i)
        moved = layer(before[None]) - layer(torch.zeros_like(before)[None])
        return float(moved.norm() / (layer.weight.norm() * before.norm()))

    def matrix(self, x: Tensor, i: int, j: int) -> Tensor:
        """J^{i,j} at x^i: (outputs, *shape of x^i)."""
        at = self.output(x, i)
        return jacobian(self.later(i, j), at).reshape(-1, *at.shape)

    def interlayer_cushion(self, x: Tensor, i: int, j: int) -> float:
        at, matrix = self.output(x, i), self.matrix(x, i, j)
        return float((matrix.flatten(1) @ at.flatten()).norm() / (matrix.norm() * at.norm()))

    def concentration(self, x: Tensor, i: int, j: int) -> float:
        """max over positions of ‖J at that position‖_F √positions/‖J‖_F, layer i a convolution."""
        matrix = self.matrix(x, i, j)
        positions = matrix.flatten(2)  # outputs, channels, positions
        return float(positions.norm(dim=(0, 1)).max() / matrix.norm() * positions.shape[2] ** 0.5)

    def contraction(self, x: Tensor, i: int) -> float:
        return float(self.output(x, i).norm() / self.read(x, i + 1).norm())

    def smoothness(self, x: Tensor, moves: list[Tensor]) -> float:
        """The smallest ρ of Definition 7 over i < j, for noise η that weights Aᵢ + moves[i] of the layers up to i put on x^i."""
        noisy, best, depth = Definitions(nn.Sequential(*self.parts)), float("inf"), len(self.places)
        for place, move in zip(noisy.places, moves, strict=True):
            noisy.parts[place].weight += move
        for i in range(depth):
            at = self.output(x, i)
            eta = noisy.output(x, i) - at
            for j in range(i + 1, depth):
                there = self.later(i, j)
                bent = there(at + eta).flatten() - there(at).flatten() - self.matrix(x, i, j).flatten(1) @ eta.flatten()
                best = min(best, float(eta.norm() * there(at).norm() / (at.norm() * bent.norm())))
        return best
