"""A network with one hidden layer of error functions, and the random networks it is the mean of."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ErfNetwork(nn.Module):
    """V erf(W x̂) with x̂ the input, less its mean, on the unit sphere: inputs [b, …] with ``inputs`` numbers each → [b, classes].

    It is the mean of random networks V′ sign(W′ x̂): every weight of W′ and V′ is an independent Gaussian around its own, with standard
    deviation 1/√2 in the first layer (where sign then has the mean erf) and 1/√width in the second (the scale of V is free, so this
    is no restriction). An input without any contrast becomes the first unit vector.
    """

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Parameter(torch.zeros(width, inputs))
        self.output = nn.Parameter(torch.zeros(classes, width))

    @staticmethod
    def on_sphere(x: Tensor) -> Tensor:
        """Inputs [b, …] as unit vectors [b, d], centred one by one: no statistics of any sample enter."""
        flat = x.flatten(1)
        centred = flat - flat.mean(1, keepdim=True)
        norm = centred.norm(dim=1, keepdim=True)
        first = torch.zeros_like(centred)
        first[:, 0] = 1
        return torch.where(norm > 1e-6, centred / norm.clamp_min(1e-6), first)

    def means(self, x: Tensor) -> Tensor:
        """Mean of the hidden signs, [b, width]."""
        return torch.erf(self.on_sphere(x) @ self.hidden.T)

    def forward(self, x: Tensor) -> Tensor:
        return self.means(x) @ self.output.T

    def drawn(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Outputs [b, classes] of random networks, one drawn anew for every input: exact in distribution."""
        preactivations = self.on_sphere(x) @ self.hidden.T
        noise = torch.empty_like(preactivations).normal_(std=0.5**0.5, generator=generator)
        signs = torch.where(preactivations + noise >= 0, 1.0, -1.0)
        answers = signs @ self.output.T
        return answers + torch.empty_like(answers).normal_(generator=generator)  # √width · 1/√width

    def blurred(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Outputs [b, classes] with the mean and, class by class, the variance of `drawn`: has a gradient."""
        means = self.means(x)
        variance = 1 + (1 - means**2) @ (self.output**2).T
        answers = means @ self.output.T
        return answers + variance.sqrt() * torch.empty_like(answers).normal_(generator=generator)

    def divergence(self, hidden: Tensor, output: Tensor) -> Tensor:
        """KL divergence in nats, a float64 scalar, from the same Gaussians around the weights ``hidden`` and ``output``."""
        moved = (self.hidden.double() - hidden.double()).square().sum()
        return moved + (self.output.double() - output.double()).square().sum() * self.output.shape[1] / 2

    def noise_ratio(self) -> Tensor:
        """Largest ‖V_k − V_j‖²/2 over pairs of classes: variance of the signs' part of a difference of outputs by the Gaussians'."""
        rows = self.output.double()
        return (rows[:, None] - rows[None]).square().sum(2).max() / 2
