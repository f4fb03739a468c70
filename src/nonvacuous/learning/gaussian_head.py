r"""A Gaussian posterior over the weights of a linear head, diagonal in an orthonormal basis that the data may choose.

Prior: every weight N(0, σ₀²).  It looks the same in every orthonormal basis, so the posterior may be diagonal in the eigenbasis of the
features' second moment at no cost.  In the first r directions class k's coordinate i is :math:`N(σ_0 μ_{ik}, σ_0² d_{ik}²)`; in all others
it keeps the prior.  Logits of features φ, with z = Bᵀφ, are then *independent* Gaussians with mean σ₀ zᵀμₖ and variance
:math:`σ_0²(‖φ‖² - ‖z‖² + \sum_i d_{ik}² z_i²)`.

A classifier does not change when all classes' weights move together, so the divergence counts only the weights' differences: the Gaussians
are projected on the vectors that add up to zero over the K classes.  For one coordinate, with P that projection and
:math:`D = \mathrm{diag}(d_k²)`, :math:`\det(PDP)|_{1^⊥} = \prod d_k² · \frac1K\sum d_k^{-2}` and tr PDP = (1 − 1/K) Σ d², whence

.. math:: KL = \frac12 \sum_i \left[(1 - \tfrac1K)\sum_k d_k² - (K - 1) - \sum_k \ln d_k² - \ln(\tfrac1K\sum_k d_k^{-2})
          + \sum_k(μ_k - \bar μ)²\right].

The posterior is defined with the orthonormal polar factor of the stored basis; `least_lead` covers what that and rounding change.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.core.measured import Kind, Measured

DEFECT = 1e-9
LEAD = 2.0**-17
SLACK = 2.0**-36


class Draw(NamedTuple):
    """One network drawn: its weights ``[p, K]``, and ln dQ/dP of their differences, in nats."""

    weights: Tensor
    log_ratio: Measured


class GaussianHead(nn.Module):
    """The posterior; ``features`` p, ``directions`` r, ``classes`` K, ``scale`` σ₀. Float64 throughout."""

    def __init__(self, features: int, directions: int, classes: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("basis", torch.eye(features, directions, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(directions, classes, dtype=torch.float64))
        self.register_buffer("log_std", torch.zeros(directions, classes, dtype=torch.float64))

    basis: Tensor
    mean: Tensor
    log_std: Tensor

    def law(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations of the logits, each [b, K], from features [b, p]."""
        wide = features.double()
        z = wide @ self.basis
        rest = (wide.square().sum(1) - z.square().sum(1)).clamp_min(0)
        variance = rest[:, None] + z.square() @ (2 * self.log_std).exp()
        return self.scale * (z @ self.mean), self.scale * (variance + 1e-24).sqrt()

    def least_lead(self, features: Tensor) -> Tensor:
        """By how much the right logit must lead to count as right, [b]: far more than rounding moves a logit, fixed by prior and input."""
        return LEAD * self.scale * features.double().square().sum(1).sqrt()

    def check_basis(self) -> None:
        """Raise :class:`InvalidEvidence` unless the columns are orthonormal to within float64 rounding."""
        gram = self.basis.T @ self.basis
        defect = float(torch.linalg.matrix_norm(gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)))
        if not defect <= DEFECT:
            raise InvalidEvidence(
                f"the posterior's basis is not orthonormal (‖BᵀB − I‖ = {defect:g}): orthonormalise it in float64"
            )

    def kl_nats(self) -> Measured:
        """KL(Q‖P) of the differences between classes, rounded outward."""
        self.check_basis()
        terms = torch.stack(divergence_terms(self.mean, self.log_std))
        return _enclosed(float(terms.sum()) / 2, float(terms.abs().sum()) + 10 * self.mean.numel())

    def draw(self, generator: torch.Generator) -> Draw:
        """One network from the posterior. Every direction is drawn, the unused ones from the prior."""
        self.check_basis()
        k = self.mean.shape[1]
        prior = torch.randn(len(self.basis), k, generator=generator, dtype=torch.float64)
        noise = torch.randn(self.mean.shape, generator=generator, dtype=torch.float64)
        inverse = (-2 * self.log_std).exp()
        moved = self.log_std.exp() * noise
        drawn = self.mean + moved
        own = noise.square().sum() - ((moved * inverse).sum(1).square() / inverse.sum(1)).sum()
        under_prior = (drawn - drawn.mean(1, keepdim=True)).square().sum()
        log_det = 2 * self.log_std.sum() + inverse.mean(1).log().sum()
        value = float(under_prior - own - log_det) / 2
        size = float(under_prior + noise.square().sum() + (moved * inverse).abs().sum() + self.log_std.abs().sum())
        weights = self.scale * (prior + self.basis @ (drawn - self.basis.T @ prior))
        return Draw(weights, _enclosed(value, size + 10 * noise.numel()))


def divergence_terms(mean: Tensor, log_std: Tensor) -> tuple[Tensor, ...]:
    """The pieces of twice the divergence, differentiable; their sum is 2 KL."""
    r, k = mean.shape
    square = (2 * log_std).exp()
    centred = mean - mean.mean(1, keepdim=True)
    return (
        (1 - 1 / k) * square.sum(),
        square.new_tensor(-(k - 1.0) * r),
        -2 * log_std.sum(),
        -(-2 * log_std).exp().mean(1).log().sum(),
        centred.square().sum(),
    )


def _enclosed(value: float, size: float) -> Measured:
    return Measured(max(0.0, value - SLACK * size), max(0.0, value + SLACK * size), Kind.EXACT)
