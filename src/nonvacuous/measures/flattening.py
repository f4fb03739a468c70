"""How steep the training loss is in the weights, layer by layer, with normalizers and without: proved near given weights, and measured.

The slides have ∂f/∂W_i = ∂f/∂h · ∂h/∂y_i · h_{i−1} with y_i = W_i h_{i−1}, and read the steepness off ‖h‖_Lip. For the mean loss F over n
examples, with H_{i−1} [n, d] what layer i receives and f Lipschitz in the outputs with constant ℓ,

    ‖∂F/∂W_i‖_F ≤ ℓ/√n · ∏_{k > i} ‖W_k‖₂ ∏_{k ≥ i} ‖NO_k‖ · ‖H_{i−1}‖₂,

‖NO_k‖ the normalizer's constant *where its inputs are*: max|γ|/σ for batch norm, ‖diag(γ)(I − 11ᵀ/m)‖₂/σ for layer and group norm, σ the
least standard deviation (the slides' (1 − 1/m)‖γ/σ‖₂ is no bound; see ``operators.normalizers``). Over all inputs σ may be √ε, and nothing
is flattened. Here weights stay within ``radius``: Δ_i = radius · ‖H_{i−1}‖ + (‖W_i‖ + radius) · ‖change of h_{i−1}‖ bounds the change of
y_i, and σ ≥ σ₀ − Δ_i/√m, since a standard deviation of m numbers is 1/√m-Lipschitz. So the bound holds on the ball, which is convex, and
is a Lipschitz constant of F there.

For a convolution y_i = W_i h_{i−1} with the patches of h_{i−1} for its rows, so that ‖H_{i−1}‖₂ is the norm of the matrix of all patches
[n · places, channels · kernel], and ‖W_k‖₂ the operator norm of the convolution on these pictures. A change e of h_{i−1} changes the
patches by at most √q ‖e‖_F, q the largest number of patches that a pixel is in; the same √q turns ‖ΔW‖_F into a bound of ΔW as an
operator. Batch norm's statistics then run over examples and places. Pooling enters by its Lipschitz constant. Not covered: groups of
channels, padding by other than zeros or by a word, normalization over instances, and anything that is no chain (residual connections).

A normalizer flattens where σ > γ, and steepens where σ < γ: both are shown by `gradient_bounds` of the network with and without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.operators.copies import float64_copy
from nonvacuous.operators.normalizers import centred_scale_norm
from nonvacuous.operators.norms import spectral_norm

__all__ = ["CROSS_ENTROPY", "LayerBound", "SteepnessBounds", "gradient_bounds", "steepest_seen"]

CROSS_ENTROPY = math.sqrt(2)
"""Lipschitz constant of the cross entropy of one example by its scores, in ℓ2: ‖p − e_y‖₂ < √2."""
CONTRACTIONS = (nn.ReLU, nn.Tanh, nn.Identity, nn.ReLU6, nn.Softsign)
"""Activations with slope at most 1 that keep 0."""
NORMALIZERS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
WEIGHTED = (nn.Linear, nn.Conv2d)
MARGIN = 1 + 1e-9


@dataclass(frozen=True)
class LayerBound:
    """A layer: ``gradient`` ≥ ‖∂F/∂W‖_F on the ball; ``normalizer``, the constant of those behind it until the next (1 without)."""

    name: str
    gradient: float
    normalizer: float


@dataclass(frozen=True)
class SteepnessBounds:
    """Layers in order, for weights each within ``radius`` (Frobenius) of the given ones."""

    layers: tuple[LayerBound, ...]
    radius: float

    @property
    def lipschitz(self) -> Measured:
        """[0, L]: F is L-Lipschitz in all weight matrices together on the ball, L² = Σ of the squared layers' bounds."""
        return Measured(0.0, math.sqrt(math.fsum(layer.gradient**2 for layer in self.layers)) * MARGIN, Kind.EXACT)

    @property
    def normalizers(self) -> float:
        """∏ of the normalizers' constants: what the network would be flattened by if nothing else changed."""
        return math.prod(layer.normalizer for layer in self.layers)


@dataclass
class _Stage:
    """A layer with weights on its way: its name, bounds of ‖W‖₂ on the ball and of ‖H‖, the matrix that it receives, and the constants
    of the normalizers and of the pooling until the next one.
    """

    name: str
    norm: float
    received: float
    normalizer: float = 1.0
    pooling: float = 1.0


@torch.no_grad()
def gradient_bounds(model: nn.Sequential, x: Tensor, lipschitz: float = CROSS_ENTROPY, radius: float = 0.0) -> SteepnessBounds:
    """Bounds for a chain of dense layers, convolutions, normalizers, pooling and contractions on inputs x [n, …], in their modes.

    Args:
        lipschitz: ℓ of one example's loss in its outputs; the mean over x of that is F.
        radius: ‖W_k − W_k⁰‖_F ≤ radius for every layer's matrix or kernel; biases and the normalizers' own parameters stay.

    Batch norm in training mode takes its statistics from x, in evaluation mode its running ones. Raises UnsupportedModule for other
    parts, InvalidInput for x that is empty or not finite, and numbers out of range.
    """
    x = _checked(model, x)
    if not 0 <= lipschitz < math.inf or not 0 <= radius < math.inf:
        raise InvalidInput(f"a Lipschitz constant {lipschitz!r} and radius {radius!r}: both are finite and at least 0")
    stages: list[_Stage] = []
    pictures = any(isinstance(part, nn.Conv2d) for part in model)
    values, change = x if pictures else x.flatten(1), 0.0
    for name, part in float64_copy(model).named_children():
        part.train(model.get_submodule(name).training)
        if isinstance(part, WEIGHTED):
            size, overlap, norm = _received(name, part, values)
            norm += overlap * radius
            stages.append(_Stage(name, norm * MARGIN, (size + overlap * change) * MARGIN))
            change = radius * size + norm * change
        elif isinstance(part, NORMALIZERS):
            if not stages:
                raise UnsupportedModule(f"{name}: a normalizer before the first dense layer; apply it to x beforehand")
            constant = _constant(part, values, change) * MARGIN
            stages[-1].normalizer *= constant
            change = change * constant if change else 0.0
        elif isinstance(part, POOLS):
            constant = spectral_norm(part, values.shape[1:]).upper * MARGIN
            if stages:
                stages[-1].pooling *= constant
            change *= constant
        elif not isinstance(part, (*CONTRACTIONS, nn.Flatten)):
            raise UnsupportedModule(f"{name} is a {type(part).__name__}: chains of Linear, Conv2d, {_known()} only")
        values = part(values)
    if not stages:
        raise InvalidInput("the model has no dense layer or convolution: there are no weights to bound gradients of")
    slope, found = lipschitz / math.sqrt(len(x)), []
    for stage in reversed(stages):
        slope *= stage.normalizer * stage.pooling
        found.append(LayerBound(stage.name, slope * stage.received * MARGIN, stage.normalizer))
        slope *= stage.norm
    return SteepnessBounds(tuple(reversed(found)), radius)


def steepest_seen(
    model: nn.Sequential,
    loss: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    radius: float,
    *,
    starts: int = 4,
    steps: int = 8,
    seed: int = 0,
) -> Measured:
    """[g, ∞]: the largest ‖∂F/∂(W_1, …)‖₂ found with every ‖W_k − W_k⁰‖_F ≤ radius; F's Lipschitz constant there is at least g.

    From random points of the ball's boundary, ascent on the gradient's norm, each layer moved to the boundary. An indicator of the constant
    itself; g is a lower end up to rounding. The model is left as it is.
    """
    x = _checked(model, x)
    if not 0 <= radius < math.inf or starts < 1 or steps < 0:
        raise InvalidInput(f"radius {radius!r}, {starts} starts, {steps} steps: give a radius ≥ 0, 1 start or more, steps ≥ 0")
    own = float64_copy(model)
    for name, part in own.named_modules():
        part.train(model.get_submodule(name).training)
    own.requires_grad_(False)
    weights = [part.weight.requires_grad_(True) for part in own.modules() if isinstance(part, WEIGHTED)]
    if not weights:
        raise InvalidInput("the model has no dense layer or convolution: there are no weights to move")
    centres = [w.detach().clone() for w in weights]
    generator = torch.Generator().manual_seed(seed)
    best = _slope(own, loss, x, y, weights)[0]
    for _ in range(starts if radius else 0):
        directions = [torch.randn(w.shape, generator=generator, dtype=torch.float64).to(w) for w in weights]
        for _ in range(steps + 1):
            with torch.no_grad():
                for w, centre, direction in zip(weights, centres, directions, strict=True):
                    length = float(direction.norm())
                    w.copy_(centre + direction * (radius * (1 - 1e-12) / length) if length else centre)
            value, rises = _slope(own, loss, x, y, weights)
            best = max(best, value)
            directions = [
                (w.detach() - centre) / radius + (rise / rise.norm() if float(rise.norm()) else rise)
                for w, centre, rise in zip(weights, centres, rises, strict=True)
            ]
    return Measured(best, math.inf, Kind.INDICATOR)


def _slope(model: nn.Module, loss: Any, x: Tensor, y: Tensor, weights: list[Any]) -> tuple[float, list[Tensor]]:
    """The gradient's norm and its own gradient."""
    slopes = torch.autograd.grad(loss(model(x), y), weights, create_graph=True)
    norm = torch.stack([s.square().sum() for s in slopes]).sum().sqrt()
    if not bool(torch.isfinite(norm)):
        raise InvalidInput("the loss's gradient is not finite in that ball: take a smaller radius")
    rises = (
        torch.autograd.grad(norm, weights, allow_unused=True)
        if norm.requires_grad and float(norm.detach())
        else [None] * len(weights)
    )
    return float(norm.detach()), [torch.zeros_like(w) if r is None else r for w, r in zip(weights, rises, strict=True)]


def _received(name: str, part: Any, values: Tensor) -> tuple[float, float, float]:
    """‖H‖₂ of the rows that the layer multiplies, how much a change of its input may grow in them, and the layer's operator norm."""
    if isinstance(part, nn.Linear):
        if values.ndim != 2:
            raise UnsupportedModule(f"{name}: a dense layer on {tuple(values.shape[1:])}; put a Flatten before it")
        return float(torch.linalg.matrix_norm(values, 2)), 1.0, float(torch.linalg.matrix_norm(part.weight, 2))
    if part.groups != 1 or isinstance(part.padding, str) or part.padding_mode != "zeros":
        raise UnsupportedModule(
            f"{name}: {part}; only convolutions of all channels (groups=1) with zeros for padding, given as numbers, are covered"
        )
    if values.ndim != 4 or values.shape[1] != part.in_channels:
        raise InvalidInput(
            f"{name}: a convolution of {part.in_channels} channels receives {tuple(values.shape)}, not [n, c, h, w]"
        )
    patches = nn.Unfold(part.kernel_size, part.dilation, part.padding, part.stride)
    gram = torch.zeros(part.weight[0].numel(), part.weight[0].numel(), dtype=torch.float64, device=values.device)
    for some in values.split(max(1, (1 << 22) // max(1, values[0].numel() * part.kernel_size[0] * part.kernel_size[1]))):
        rows = patches(some)
        gram += torch.einsum("nil,njl->ij", rows, rows)
    size = math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[-1]))) * MARGIN
    shape = tuple(values.shape[1:])
    return size, spectral_norm(patches, shape).upper, spectral_norm(part, shape).upper


def _constant(part: Any, values: Tensor, change: float) -> float:
    """The normalizer's Lipschitz constant on the ball of radius ``change`` about the batch ``values`` [n, d], as a map of batches."""
    width, places = values.shape[1], math.prod(values.shape[2:])
    gamma = torch.ones(width, dtype=torch.float64, device=values.device) if part.weight is None else part.weight.double()
    if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
        if part.training or part.running_var is None:
            rows = values.movedim(1, -1).reshape(-1, width)
            deviation = rows.std(0, correction=0) - change / math.sqrt(len(rows))
            return float((gamma.abs() / (deviation.clamp_min(0.0).square() + part.eps).sqrt()).max())
        return float((gamma.abs() / (part.running_var + part.eps).sqrt()).max())
    if isinstance(part, nn.LayerNorm) and part.normalized_shape != tuple(values.shape[1:]):
        whole = tuple(values.shape[1:])
        raise UnsupportedModule(f"LayerNorm over {tuple(part.normalized_shape)} of {whole} features: over all of them only")
    groups = part.num_groups if isinstance(part, nn.GroupNorm) else 1
    rows = values.reshape(len(values), groups, -1)
    deviation = rows.std(-1, correction=0) - change / math.sqrt(rows.shape[-1])
    spread = (deviation.clamp_min(0.0).square() + part.eps).sqrt().amin(0)
    each = gamma.reshape(groups, -1)
    scales = [centred_scale_norm(row).upper if places == 1 else float(row.abs().max()) for row in each]
    constants = [s / float(d) if float(d) else math.inf for s, d in zip(scales, spread, strict=True)]
    return max(constants)


def _known() -> str:
    return ", ".join(kind.__name__ for kind in (*NORMALIZERS, *POOLS, *CONTRACTIONS))


def _checked(model: Any, x: Any) -> Tensor:
    if not isinstance(model, nn.Sequential):
        raise UnsupportedModule(f"{type(model).__name__}: the bound is for chains, nn.Sequential")
    if not isinstance(x, Tensor) or x.ndim < 2 or not len(x) or not bool(torch.isfinite(x).all()):
        raise InvalidInput("x is a tensor [n, …] of at least one example, without NaN or infinity")
    return x.detach().double()
