"""Lipschitz constants of normalizers, each beside the formula of the slides (Than 2023, "Normalization: Lipschitz continuity").

A normalizer over n numbers with standard deviation ``σ = √(variance + ε)`` and scales γ has, with ``x̂ = (x − μ)/σ`` and
``P = I − 11ᵀ/n``, the derivative ``diag(γ/σ)·(P − x̂x̂ᵀ/n)`` (RMS norm: I for P, no μ).  Hence, in the ℓ2 norm,

* **batch norm** in eval mode, σ fixed: exactly ``max|γ/σ|``.  The slide's ``‖γ/σ‖₂`` is a bound, up to √channels too large.
* **layer, group, instance norm**, locally: at most ``‖diag(γ)P‖/σ``; globally exactly ``‖diag(γ)P‖/√ε``, attained at constant x.
  The slide's ``(1 − 1/n)‖γ/σ‖₂`` is *not* a bound: with γ = (1, 0, …, 0) and x̂₁ = 0 the derivative has norm ``√(1 − 1/n)/σ``,
  which is larger.  1 − 1/n is the largest *diagonal* entry of P, not its norm, which is 1.
* **RMS norm**: globally exactly ``max|γ|/√ε``.
* **weight norm**: rows of norms g, so ``‖W‖_F = ‖g‖₂``; the norm of a convolution may be larger (√taps times at most).
* **spectral norm** (torch's): σ of the reshaped kernel is 1, the convolution's norm is not; :func:`norms.spectral_norm` has it.
* **weight standardization**: rows of mean 0 and variance at most 1 over fan-in numbers, so ``‖W‖_F ≤ √(outputs · fan-in)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.operators.rules import BATCH_NORMS, Shape, batch_norm_scale, checked, fits, register

INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
MARGIN = 1e-10
"""Relative rounding error allowed for: all sums here are of fewer than 10⁵ float64 numbers."""
DENSE = 512


@dataclass(frozen=True)
class _Groups:
    """What one normalizer normalizes: ``scale`` (groups, n) repeats with every example; centred or not."""

    scale: Tensor
    eps: float
    centred: bool


def _ones(shape: Shape, module: nn.Module) -> Tensor:
    tensor = next(iter(module.parameters()), torch.zeros(()))
    return torch.ones(shape, dtype=torch.float64, device=tensor.device)


def _groups(module: Any, shape: Shape) -> _Groups:
    """γ laid out as the groups over which mean and variance are taken."""
    kind = type(module).__name__
    weight = None if module.weight is None else checked(module, "weight", module.weight).double()
    if isinstance(module, nn.LayerNorm) or kind == "RMSNorm":
        expected = tuple(module.normalized_shape)
        fits(module, tuple(shape[len(shape) - len(expected) :]) == expected, shape, f"(…, {expected})")
        scale = _ones(expected, module) if weight is None else weight
        eps = module.eps if module.eps is not None else torch.finfo(torch.float32).eps
        return _Groups(scale.reshape(1, -1), float(eps), kind != "RMSNorm")
    channels = module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features
    fits(module, bool(shape) and (channels in (0, shape[0]) or not module.affine), shape, f"({channels}, …)")
    scale = _ones((shape[0],), module) if weight is None else weight
    positions = math.prod(shape[1:])
    count = module.num_groups if isinstance(module, nn.GroupNorm) else shape[0]
    return _Groups(scale.reshape(-1, 1).expand(-1, positions).reshape(count, -1), float(module.eps), True)


def centred_scale_norm(scale: Tensor) -> Measured:
    """``‖diag(γ)(I − 11ᵀ/n)‖₂``, between the second largest and the largest |γ|.

    Its square is the largest root of ``Σ_i 1/(γ_i² − λ) = 0`` (a rank-one compression of diag(γ²)); 0 for n = 1.

    >>> centred_scale_norm(torch.tensor([1.0, 0.0, 0.0, 0.0])).upper  # √(1 − 1/4)
    0.866...
    """
    squares, _ = scale.double().flatten().square().sort(descending=True)
    if len(squares) < 2:
        return Measured.exact(0.0)
    low, high = float(squares[1]), float(squares[0])
    unit = high
    if high > 0 and high - low > 1e-13 * high:
        values = (squares / unit).tolist()
        low, high = values[1], 1.0
        for _ in range(200):
            middle = (low + high) / 2
            if not low < middle < high:
                break
            if any(v == middle for v in values) or math.fsum(1 / (v - middle) for v in values) > 0:
                high = middle
            else:
                low = middle
        low, high = low * unit, high * unit
    return Measured(math.sqrt(low) * (1 - MARGIN), math.sqrt(high) * (1 + MARGIN), Kind.EXACT)


def global_lipschitz(module: nn.Module, input_shape: Shape) -> Measured:
    """The Lipschitz constant over all inputs of a shape (without the batch) in eval mode.

    Batch norm, and instance norm with running statistics: ``max|γ/σ|``.  The others are steepest where their input does not vary,
    ``σ = √ε``; the constant is ``‖diag(γ)P‖/√ε`` and is attained there.

    Raises InvalidInput for ε = 0 (no constant) or zero variance, UnsupportedModule for other layers.

    >>> global_lipschitz(nn.LayerNorm(8, eps=1e-4), (8,)).upper
    100.0000...
    """
    if isinstance(module, BATCH_NORMS) or (isinstance(module, INSTANCE_NORMS) and module.running_var is not None):
        scale = batch_norm_scale(module).abs().max()
        return _around(float(scale), 1e-14)
    groups = _groups(_known(module), tuple(input_shape))
    if not groups.eps > 0:
        raise InvalidInput(
            f"{type(module).__name__} with ε = {groups.eps} has no Lipschitz constant: steep without limit near 0"
        )
    return _largest_scale(groups) * _around(1 / math.sqrt(groups.eps), 1e-14)


def _largest_scale(groups: _Groups) -> Measured:
    if groups.scale.shape[1] == 0:
        return Measured.exact(0.0)
    if not groups.centred:
        return _around(float(groups.scale.abs().max()), 1e-15)
    norms = [centred_scale_norm(row) for row in groups.scale]
    return Measured(max(n.lower for n in norms), max(n.upper for n in norms), Kind.EXACT)


def _known(module: Any) -> Any:
    if isinstance(
        module, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm | nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d
    ):
        return module
    raise UnsupportedModule(f"{type(module).__name__} is not a normalizer known here; give it a rule with @norms.register(…)")


def _around(value: float, error: float) -> Measured:
    return Measured(value * (1 - error), value * (1 + error), Kind.EXACT)


def local_lipschitz(module: nn.Module, x: Tensor) -> Measured:
    """Largest ℓ2 norm of the derivative at the given batch x of inputs.

    Batch norm is taken as in training: its statistics are x's own, and the derivative is that of the whole batch.  A
    derivative's norm at points says nothing of the points between; :func:`global_lipschitz` does.

    Groups of up to 512 numbers are solved in full; of larger ones the bracket is by interlacing, from the third largest |γ|/σ
    to ``‖diag(γ)P‖/σ``.
    """
    x = x.detach().double()
    shape = tuple(x.shape[1:])
    if isinstance(module, BATCH_NORMS):
        rows = x.movedim(1, 0).flatten(1)
        scale = _ones((rows.shape[0],), module) if module.weight is None else checked(module, "weight", module.weight).double()
        groups = _Groups(scale.reshape(-1, 1).expand_as(rows), float(module.eps), True)
    else:
        groups = _groups(_known(module), shape)
        rows = x.reshape(-1, *groups.scale.shape)
    rows = rows.reshape(-1, *groups.scale.shape)
    n = groups.scale.shape[1]
    centre = rows - rows.mean(-1, keepdim=True) if groups.centred else rows
    spread = (centre.square().mean(-1, keepdim=True) + groups.eps).sqrt()
    if bool((spread == 0).any()):
        raise InvalidInput(f"{type(module).__name__} with ε = 0 has no derivative where its input does not vary")
    if n <= DENSE:
        hat = centre / spread
        inner = torch.eye(n, dtype=x.dtype, device=x.device) - hat.unsqueeze(-1) * hat.unsqueeze(-2) / n
        if groups.centred:
            inner = inner - 1 / n
        steep = torch.linalg.matrix_norm(groups.scale.unsqueeze(-1) / spread.unsqueeze(-1) * inner, 2)
        top = float(steep.max())
        size = float((groups.scale.abs() / spread).max())
        return Measured(max(0.0, top - 1e-12 * n * size), top + 1e-12 * n * size, Kind.EXACT)
    third = groups.scale.abs().topk(3, dim=-1).values[:, 2]
    lower = float((third / spread.squeeze(-1)).max()) * (1 - MARGIN)
    if not groups.centred:
        return Measured(lower, float((groups.scale.abs() / spread).max()) * (1 + MARGIN), Kind.EXACT)
    tops = torch.tensor([centred_scale_norm(row).upper for row in groups.scale], dtype=x.dtype, device=x.device)
    return Measured(lower, float((tops / spread.squeeze(-1)).max()) * (1 + MARGIN), Kind.EXACT)


def slide_formula(module: nn.Module, x: Tensor | None = None) -> float:
    """The slides' number for a normalizer: ``‖γ/σ‖₂`` for batch norm, ``(1 − 1/n)‖γ/σ‖₂`` over the numbers of a group otherwise.

    Batch norm in eval mode needs no x; the others take σ from x (the largest value over examples and groups is returned).  Only
    batch norm's is a bound of the ℓ2 Lipschitz constant.
    """
    if x is None:
        if isinstance(module, BATCH_NORMS):
            return float(torch.linalg.vector_norm(batch_norm_scale(module)))
        raise InvalidInput(f"the slides' formula for {type(module).__name__} needs σ, and so the inputs x")
    x = x.detach().double()
    groups = _groups(_known(module), tuple(x.shape[1:]))
    rows = x.reshape(-1, *groups.scale.shape)
    centre = rows - rows.mean(-1, keepdim=True) if groups.centred else rows
    spread = (centre.square().mean(-1, keepdim=True) + groups.eps).sqrt()
    n = groups.scale.shape[1]
    return (1 - 1 / n) * float(torch.linalg.vector_norm(groups.scale / spread, dim=-1).max())


def standardized(weight: Tensor, eps: float = 1e-10) -> Tensor:
    """Weight standardization (Qiao et al. 2019): every output's weights less their mean, over √(their variance + ε).

    The Frobenius norm is at most √(number of weights), ε > 0 or not.
    """
    flat = weight.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    return (centred / (centred.square().mean(1, keepdim=True) + eps).sqrt()).reshape(weight.shape)


def weight_norm_frobenius(gains: Tensor) -> Measured:
    """``‖W‖_F = ‖g‖₂`` of a weight-normalized weight ``g·v/‖v‖``, one gain an output: an upper end for linear layers only."""
    return _around(float(torch.linalg.vector_norm(checked(nn.Module(), "gains", gains).double())), 1e-13)


@register(nn.LayerNorm, nn.GroupNorm, *INSTANCE_NORMS, *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []))
def _rule(module: nn.Module, shape: Shape) -> Measured:
    return global_lipschitz(module, shape)
