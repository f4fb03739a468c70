"""K-FAC: the generalised Gauss–Newton matrix's block of each dense or convolutional layer as a Kronecker product, inverted.

A layer's block is E[Σ δδᵀ ⊗ ââᵀ] with â its input (and a 1 for the bias) and δ what comes back to its output from the columns of a square
root of the loss's Hessian by the outputs. K-FAC takes E[δδᵀ] ⊗ E[ââᵀ] for it, which is exact for one example without weight sharing.

Source: Martens and Grosse 2015; Grosse and Martens 2016 for convolutions (positions treated as examples; the "expand" setting of
Eschenhagen et al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.operators.mean_loss import Batch, Loss, MeanLoss
from nonvacuous.optimization.preconditioners import Block, Preconditioner, damped_inverses

__all__ = ["Factors", "kfac", "kronecker_factors"]


FLAT = "the loss is piecewise linear in the outputs, so that its Gauss–Newton matrix is zero: take another loss"


@dataclass(frozen=True)
class Factors:
    """One layer: ``outputs`` E[Σ δδᵀ] [out, out], ``inputs`` E[ââᵀ] [in (+ 1), in (+ 1)], and where its entries lie in the flat vector,
    ``places`` [out, in (+ 1)]; the layer's block of G is approximately ``outputs`` ⊗ ``inputs``.
    """

    name: str
    outputs: Tensor
    inputs: Tensor
    places: Tensor


def kronecker_factors(model: nn.Module, loss: Loss, batches: Iterable[Any]) -> tuple[Factors, ...]:
    """The factors of every Linear and Conv2d layer, over all examples; arguments as in ``curvature.ggn``.

    The loss must be a mean of one term an example (rows of the outputs [n, k]) that is convex in the outputs, as cross entropy and the
    squared error are.

    Raises UnsupportedModule for trainable parameters outside such layers, grouped convolutions, padding by anything but zeros, and layers
    called twice; InvalidInput for outputs that are not [n, k].
    """
    mean = MeanLoss(model, loss, batches)
    layers = _layers(model, mean)
    sums: dict[str, list[Tensor]] = {}
    for batch in mean:
        for name, pair in _of_batch(model, mean, batch, layers).items():
            scaled = [batch.share * factor for factor in pair]
            sums[name] = [a + b for a, b in zip(sums[name], scaled, strict=True)] if name in sums else scaled
    places = dict(zip(mean.names, zip(mean.offsets, mean.sizes, strict=True), strict=True))
    return tuple(Factors(name, sums[name][0], sums[name][1], _places(name, layers[name], places)) for name in layers)


def kfac(model: nn.Module, loss: Loss, batches: Iterable[Any], *, damping: float = 1e-3) -> Preconditioner:
    """P = ⊕ over layers of (E[δδᵀ] + √λ/π)⁻¹ ⊗ (E[ââᵀ] + π√λ)⁻¹, λ = ``damping``; arguments and errors as `kronecker_factors`."""
    if not 0 < damping < math.inf:
        raise InvalidInput(f"damping {damping!r}: a positive number")
    found = kronecker_factors(model, loss, batches)
    blocks = tuple(Block(f.places, damped_inverses(f.outputs, f.inputs, damping)) for f in found)
    return Preconditioner("K-FAC", blocks, sum(f.places.numel() for f in found))


def _layers(model: nn.Module, mean: MeanLoss) -> dict[str, Any]:
    layers: dict[str, Any] = {}
    covered: set[str] = set()
    for name, part in model.named_modules():
        own = {f"{name}.{p}" if name else p for p, _ in part.named_parameters(recurse=False)} & set(mean.names)
        if not own:
            continue
        if type(part) not in (nn.Linear, nn.Conv2d):
            raise UnsupportedModule(
                f"K-FAC knows Linear and Conv2d; {name or 'the model'} is a {type(part).__name__}: freeze it"
            )
        if isinstance(part, nn.Conv2d) and (part.groups > 1 or part.padding_mode != "zeros" or isinstance(part.padding, str)):
            raise UnsupportedModule(f"{name}: K-FAC knows convolutions of one group with padding by numbers of zeros")
        wanted = {f"{name}.{p}" if name else p for p, _ in part.named_parameters(recurse=False)}
        if own != wanted:
            raise UnsupportedModule(f"{name}: its weight and bias must both be trainable, and tied to nothing")
        layers[name], covered = part, covered | own
    left = [name for name in mean.names if name not in covered]
    if left:
        raise UnsupportedModule(f"{left[0]} is in no Linear or Conv2d layer of its own: freeze it")
    return layers


def _places(name: str, layer: Any, places: dict[str, tuple[int, int]]) -> Tensor:
    prefix = f"{name}." if name else ""
    offset, size = places[f"{prefix}weight"]
    found = torch.arange(offset, offset + size).reshape(layer.weight.shape[0], -1)
    if layer.bias is None:
        return found
    offset, size = places[f"{prefix}bias"]
    return torch.cat([found, torch.arange(offset, offset + size)[:, None]], 1)


def _of_batch(model: nn.Module, mean: MeanLoss, batch: Batch, layers: dict[str, Any]) -> dict[str, list[Tensor]]:
    """E over the batch of ΣδΔᵀ and ââᵀ."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...], result: Tensor) -> None:
            if name in seen:
                raise UnsupportedModule(f"{name} is called twice in one pass: K-FAC here knows layers called once")
            seen[name] = (given[0].detach(), result)

        return hook

    hooks = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        outputs = mean.outputs(batch)
    finally:
        for hook in hooks:
            hook.remove()
    missed = [name for name in layers if name not in seen]
    if missed:
        raise UnsupportedModule(f"{missed[0]} was not called: freeze it")
    roots = _output_roots(mean, outputs, batch)
    found = {name: [torch.zeros(()), _input_factor(layers[name], seen[name][0])] for name in layers}
    for column in range(roots.shape[-1]):
        slopes = torch.autograd.grad(outputs, [seen[name][1] for name in layers], roots[..., column], retain_graph=True)
        for name, slope in zip(layers, slopes, strict=True):
            rows = _positions(layers[name], slope).double()
            found[name][0] = found[name][0].to(rows) + rows.mT @ rows / len(outputs)
    return found


def _output_roots(mean: MeanLoss, outputs: Tensor, batch: Batch) -> Tensor:
    """Square roots S [n, k, k] with S Sᵀ the Hessian of each example's own loss by its outputs."""
    if outputs.ndim != 2 or len(outputs) != len(batch.targets):
        raise InvalidInput(f"outputs of shape {tuple(outputs.shape)} for {len(batch.targets)} targets: K-FAC needs [n, k]")
    leaf = outputs.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(mean.value(leaf, batch), leaf, create_graph=True)
        if not slope.requires_grad:
            raise InvalidInput(FLAT)
        columns = [torch.autograd.grad(slope[:, c].sum(), leaf, retain_graph=True)[0] for c in range(leaf.shape[1])]
    hessians = torch.stack(columns, -1) * len(leaf)
    if not bool((hessians != 0).any()):
        raise InvalidInput(FLAT)
    values, vectors = torch.linalg.eigh((hessians + hessians.mT) / 2)
    if float(values.min()) < -1e-4 * float(values.abs().max()):
        raise InvalidInput(
            "the loss is not convex in the outputs: its Gauss–Newton matrix is indefinite, and K-FAC has no inverse"
        )
    return vectors * values.clamp_min(0.0).sqrt()[:, None, :]


def _positions(layer: Any, values: Tensor) -> Tensor:
    """Outputs (or their gradients) as rows [n · positions, out]."""
    return values.movedim(1, -1).flatten(0, -2) if isinstance(layer, nn.Conv2d) else values.reshape(-1, values.shape[-1])


def _input_factor(layer: Any, inputs: Tensor) -> Tensor:
    """E[ââᵀ] over examples and positions."""
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        patches = unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        rows = patches.mT.flatten(0, 1)
    else:
        rows = inputs.reshape(-1, inputs.shape[-1])
    rows = rows.double()
    if layer.bias is not None:
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
    return rows.mT @ rows / len(rows)
