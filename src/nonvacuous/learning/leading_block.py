"""Descent of a Gaussian network on its bound, in those directions alone that the data tell from the prior.

In the Kronecker eigenbases U (inputs) and V (outputs) a layer's curvature is λ_k^out λ_i^in: beyond a leading block of k output and r input
directions it is next to nothing, and there the best posterior is the prior.  So only the block's means and deviations are trained, and the
prior's deviation σ, on its grid.  With x̃ = (x, 1), z = U_rᵀx̃ and ε standard normal, the pre-activations of one draw an example are

    W⁰x̃ + σ‖x̃‖ε + V_k (ΔB z + (√(σ²‖x̃‖² + (S² − σ²) z²) − σ‖x̃‖) ∘ V_kᵀε),

the law of `StochasticLinear` with B⁰ and σ outside of the block: no product with the whole of U, V or of a matrix of deviations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nonvacuous.learning.stochastic import GRID, StochasticLinear, StochasticNetwork

HEADROOM, LEAST = 10.0, 0.2
"""Directions stay out whose n·λ·σ₀² is below `LEAST` even if σ₀² grows by `HEADROOM`: they would move by less than a sixth."""


class LeadingBlock(nn.Module):
    """One layer while it is trained.

    Args:
        layer: at its start. curvature: n·λ·σ₀² of every rotated weight, [out, in + 1], its leading directions last.
    """

    def __init__(self, layer: StochasticLinear, curvature: Tensor) -> None:
        super().__init__()
        outputs, inputs = layer.prior.shape
        if layer.basis_in is not None:
            felt = HEADROOM * curvature > LEAST
            outputs, inputs = max(1, int(felt.any(1).sum())), max(1, int(felt.any(0).sum()))
        rows, columns = slice(layer.prior.shape[0] - outputs, None), slice(layer.prior.shape[1] - inputs, None)
        self.block, self.width = (rows, columns), layer.prior.shape[1]
        self.register_buffer("prior", layer.prior.clone(), persistent=False)
        into = None if layer.basis_in is None else layer.basis_in[:, columns].contiguous()
        out = None if layer.basis_out is None else layer.basis_out[:, rows].contiguous()
        self.register_buffer("into", into, persistent=False)
        self.register_buffer("out", out, persistent=False)
        self.log_scale = nn.Parameter(torch.tensor(-0.5 * math.log(self.width), device=layer.prior.device))
        self.moved = nn.Parameter((layer.rotated_mean - layer.rotated_prior).detach()[self.block].clone())
        self.log_ratio = nn.Parameter(layer.log_std.detach()[self.block] - self.log_scale.detach())

    prior: Tensor
    into: Tensor | None
    out: Tensor | None

    def index(self) -> int:
        """The j with σ = 2^(j/4)/√(in + 1)."""
        return round(GRID / math.log(2) * (float(self.log_scale.detach()) + 0.5 * math.log(self.width)))

    def scale(self) -> Tensor:
        """σ on its grid; its gradient is that of the number that was rounded to it."""
        on_grid = self.index() * math.log(2) / GRID - 0.5 * math.log(self.width)
        return (self.log_scale + (on_grid - self.log_scale.detach())).exp()

    def forward(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        weight, bias, scale = self.prior[:, :-1], self.prior[:, -1], self.scale()
        if self.into is None:
            z = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
        else:
            z = torch.addmm(self.into[-1], inputs, self.into[:-1])
        squared = scale.square() * (inputs.square().sum(1, keepdim=True) + 1)
        beyond = scale.square() * torch.expm1(2 * self.log_ratio)
        std = (squared + z.square() @ beyond.T).clamp_min(1e-30).sqrt()
        root = squared.sqrt()
        noise = torch.randn(len(inputs), len(weight), generator=generator, dtype=inputs.dtype, device=inputs.device)
        known = torch.addmm(bias, inputs, weight.T)
        if self.out is None:
            return known + z @ self.moved.T + std * noise
        inside = z @ self.moved.T + (std - root) * (noise @ self.out)
        return torch.addmm(torch.addcmul(known, root, noise), inside, self.out.T)

    def kl_nats(self) -> Tensor:
        """KL from the prior, ½Σ(s²/σ² + ΔB²/σ² − 1 − ln s²/σ²) over the block: it is nothing outside."""
        moved = (self.moved / self.scale()).square()
        return 0.5 * (torch.expm1(2 * self.log_ratio) - 2 * self.log_ratio + moved).sum()

    @torch.no_grad()
    def written_into(self, layer: StochasticLinear) -> None:
        """Set the whole layer's means and deviations."""
        layer.rotated_mean.copy_(layer.rotated_prior)
        layer.rotated_mean[self.block] += self.moved
        layer.log_std.fill_(float(self.scale().log()))
        layer.log_std[self.block] += self.log_ratio


class LeadingBlocks(nn.Module):
    """The whole network while it is trained: one draw an example at every call."""

    def __init__(self, network: StochasticNetwork, curvatures: Sequence[Tensor]) -> None:
        super().__init__()
        rest = iter(curvatures)
        self.layers = nn.ModuleList(
            LeadingBlock(layer, next(rest)) if isinstance(layer, StochasticLinear) else layer for layer in network.layers
        )

    def forward(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        value = inputs.flatten(1)
        for layer in self.layers:
            value = layer(value, generator) if isinstance(layer, LeadingBlock) else layer(value)
        return value

    def blocks(self) -> list[LeadingBlock]:
        """The Gaussian layers, first to last."""
        return [layer for layer in self.layers if isinstance(layer, LeadingBlock)]

    def kl_nats(self) -> Tensor:
        """KL from the prior without the price of its indices, differentiable."""
        return torch.stack([block.kl_nats() for block in self.blocks()]).sum()

    def indices(self) -> tuple[int, ...]:
        """One prior index a layer."""
        return tuple(block.index() for block in self.blocks())

    def written_into(self, network: StochasticNetwork) -> None:
        """Set the means and deviations of the network that this was made from."""
        for block, layer in zip(self.blocks(), network.gaussian(), strict=True):
            block.written_into(layer)
