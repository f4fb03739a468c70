"""Predictors that are fixed features and a Gaussian linear head: one that draws weights at every call, and one drawn once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nonvacuous.learning.features import Features
from nonvacuous.learning.gaussian_head import GaussianHead


class GibbsLinear(nn.Module):
    """The Gibbs classifier: every call draws a fresh network for every example (its logits, from their exact law)."""

    def __init__(self, features: Features, head: GaussianHead) -> None:
        super().__init__()
        self.features, self.head = features, head

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean, std = self.head.law(self.features(x))
        return mean + std * torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)


class DrawnLinear(nn.Module):
    """One network drawn from the posterior, which is kept beside it so that the draw can be checked."""

    def __init__(self, features: Features, head: GaussianHead) -> None:
        super().__init__()
        self.features, self.head = features, head
        self.register_buffer("weights", torch.zeros(len(head.basis), head.mean.shape[1], dtype=torch.float64))

    weights: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).double() @ self.weights
