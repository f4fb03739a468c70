"""Kronecker eigenbases: for each linear layer the eigenvectors of its inputs' and of its output gradients' second moments.

Source: Martens and Grosse 2015 (K-FAC); George et al. 2018 (its eigenbasis).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class KroneckerBasis:
    """Eigenvectors (columns) and eigenvalues (ascending) of E[x̃x̃ᵀ] and E[ggᵀ]."""

    basis_in: Tensor
    values_in: Tensor
    basis_out: Tensor
    values_out: Tensor

    def curvature(self) -> Tensor:
        """λ_k^out λ_i^in, [out, in + 1]: the curvature of the mean loss along each rotated weight."""
        return torch.outer(self.values_out.clamp_min(0), self.values_in.clamp_min(0))


def kronecker_bases(layers: list[nn.Module], batches: Iterable[Tensor], generator: torch.Generator) -> list[KroneckerBasis]:
    """One basis a linear layer of the chain ``layers``, over ``batches`` of inputs [b, in]; labels are drawn from the model (Fisher)."""
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    inputs = [torch.zeros(layer.in_features + 1, layer.in_features + 1, dtype=torch.float64) for layer in linear]
    gradients = [torch.zeros(layer.out_features, layer.out_features, dtype=torch.float64) for layer in linear]
    n = 0
    for batch in batches:
        value, seen, outputs = batch.flatten(1), [], []
        for layer in layers:
            if isinstance(layer, nn.Linear):
                seen.append(torch.cat([value.detach(), value.new_ones(len(value), 1)], 1))
                value = layer(value)
                outputs.append(value)
            else:
                value = layer(value)
        drawn = torch.multinomial(value.detach().softmax(1).cpu(), 1, generator=generator).squeeze(1).to(value.device)
        loss = nn.functional.cross_entropy(value, drawn, reduction="sum")
        for k, (x, g) in enumerate(zip(seen, torch.autograd.grad(loss, outputs), strict=True)):
            inputs[k] += (x.T @ x).cpu().double()
            gradients[k] += (g.T @ g).cpu().double()
        n += len(batch)
    bases = []
    for a, g in zip(inputs, gradients, strict=True):
        values_in, basis_in = torch.linalg.eigh(a / n)
        values_out, basis_out = torch.linalg.eigh(g / n)
        bases.append(KroneckerBasis(basis_in.float(), values_in.float(), basis_out.float(), values_out.float()))
    return bases
