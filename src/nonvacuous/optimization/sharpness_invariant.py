"""Measures of flatness that a change of the parameterisation leaves as they are: Fisher–Rao norm and relative flatness.

A ReLU network with a layer multiplied by α and the next by 1/α is the same function; what can be said of the function must not change with
α (Dinh et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.optimization.directions import trainable
from nonvacuous.optimization.slices_objective import Objective, Statistics
from nonvacuous.optimization.slices_restored import batch_norms, restored
from nonvacuous.runtime.models import outputs
from nonvacuous.runtime.values import Batch


def fisher_rao_norm(objective: Objective) -> Measured:
    """√ of the mean over examples of ⟨θ, ∇ℓ⟩²: the Fisher–Rao norm of the network, exact on these examples up to rounding.

    ⟨θ, ∇ℓ⟩ is how fast the example's loss changes when all weights grow by the same factor; two backward passes give it for a batch.  For a
    network of L weight layers, homogeneous in each (ReLU, no biases), it is L · ⟨∂ℓ/∂f, f⟩.  Source: Liang, Poggio, Rakhlin and Stokes
    2019, Fisher–Rao Metric, Geometry, and Complexity of Neural Networks, Theorem 3.1 for the second form.

    INDICATOR, both ends the number.  Batch-norm with frozen statistics only.

    :raises UnsupportedModule: a layer whose backward pass cannot be differentiated.
    """
    _check_frozen(objective)
    total = 0.0
    with _differentiable(objective) as weights, _named_refusal():
        for batch in objective.batches:
            losses = _losses(objective, batch)
            dual = torch.zeros_like(losses, requires_grad=True)
            parts = torch.autograd.grad(losses, list(weights.values()), dual, create_graph=True, allow_unused=True)
            _check_twice(parts)
            product = sum(
                ((g * w.detach()).sum() for g, w in zip(parts, weights.values(), strict=True) if g is not None), dual.sum() * 0
            )
            slopes = torch.autograd.grad(product, dual)[
                0
            ]  # linear in dual, so the derivative is the Jacobian times the weights
            total += float((slopes.double() ** 2).sum())
    if not math.isfinite(total):
        raise InvalidInput("the derivative of the loss is not finite. Check the weights and the scale of the inputs")
    return Measured.indicator(math.sqrt(total / objective.n))


@dataclass(frozen=True)
class RelativeFlatness:
    """``layers``: κ of each weight by name; ``total``: their sum, with intervals of two standard errors over the probes."""

    layers: dict[str, Measured]
    total: Measured


def relative_flatness(objective: Objective, *, probes: int = 30, seed: int = 0) -> RelativeFlatness:
    """κ_l = Σ_{s,s'} ⟨w_s, w_s'⟩ tr H_{s,s'} for each layer with weight rows w_s, H_{s,s'} the block of the Hessian of the mean loss.

    Invariant when factors are moved between layers.  Estimated without the Hessian: with independent standard normal Ξ, the entries of
    V = WΞ have just that covariance, so the mean of ⟨V, HV⟩ is κ, at one product with the Hessian a probe.

    Source: Petzka, Kamp, Adilova, Sminchisescu and Boley 2021, Relative Flatness and Generalization, Definition of relative flatness (there
    for one layer, the last hidden one in their experiments; a smaller κ is flatter).

    :raises InvalidInput: fewer than two probes.
    :raises UnsupportedModule: a layer whose backward pass cannot be differentiated.
    """
    if probes < 2:
        raise InvalidInput(f"{probes} probes: an interval needs at least 2")
    _check_frozen(objective)
    generator = torch.Generator().manual_seed(seed)
    with _differentiable(objective) as weights, _named_refusal():
        matrices = {name: w for name, w in weights.items() if w.ndim >= 2}
        if not matrices:
            raise InvalidInput("the model has no weight matrix, and relative flatness is of those")
        directions = {name: [_mixed(w, generator) for _ in range(probes)] for name, w in matrices.items()}
        samples = {name: torch.zeros(probes, dtype=torch.float64) for name in matrices}
        for batch in objective.batches:
            loss = _losses(objective, batch).sum() / objective.n
            slopes = torch.autograd.grad(loss, list(matrices.values()), create_graph=True, allow_unused=True)
            _check_twice(slopes)
            for (name, w), slope in zip(matrices.items(), slopes, strict=True):
                if slope is not None and slope.requires_grad:
                    samples[name] += torch.tensor([_curvature(slope, w, v) for v in directions[name]], dtype=torch.float64)
    if not all(bool(torch.isfinite(found).all()) for found in samples.values()):
        raise InvalidInput("a second derivative of the loss is not finite. Check the weights and the scale of the inputs")
    layers = {name: _interval(found) for name, found in samples.items()}
    total = _interval(torch.stack(list(samples.values())).sum(0))
    return RelativeFlatness(layers, total)


def _mixed(weight: Tensor, generator: torch.Generator) -> Tensor:
    """The rows of a weight mixed by a standard normal matrix: V = WΞ."""
    rows = weight.detach().reshape(len(weight), -1)
    return (rows @ torch.randn(rows.shape[1], rows.shape[1], generator=generator).to(rows)).reshape(weight.shape)


def _curvature(slope: Tensor, weight: Tensor, direction: Tensor) -> float:
    """⟨v, Hv⟩ from the graph of the gradient."""
    product = torch.autograd.grad((slope * direction).sum(), weight, retain_graph=True, allow_unused=True)[0]
    return 0.0 if product is None else float((product * direction).sum())


def _interval(samples: Tensor) -> Measured:
    reach = 2 * float(samples.std()) / math.sqrt(len(samples))
    centre = float(samples.mean())
    return Measured(centre - reach, centre + reach, Kind.INDICATOR)


def _losses(objective: Objective, batch: Batch) -> Tensor:
    return objective.losses(outputs(objective.model, batch.inputs), batch.targets)


@contextmanager
def _differentiable(objective: Objective) -> Iterator[Mapping[str, Tensor]]:
    """The parameters by name, asking for gradients inside; the model is restored."""
    names = set(trainable(objective.model))
    with restored(objective.model), torch.enable_grad():
        weights = {name: p for name, p in objective.model.named_parameters() if name in names}
        for p in weights.values():
            p.requires_grad_(True)
        yield weights


@contextmanager
def _named_refusal() -> Iterator[None]:
    """A backward pass that torch cannot differentiate becomes an `UnsupportedModule`."""
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:
        text = str(error).strip().splitlines()
        raise UnsupportedModule(
            f"second derivatives do not go through this model: {text[0] if text else type(error).__name__}. Replace the layer, or use "
            "ball_sharpness(adaptive=True), which needs gradients alone"
        ) from error


def _check_twice(gradients: Iterable[Tensor | None]) -> None:
    """torch cuts a graph at functions that say they are differentiable once, and would silently leave their share out."""
    waiting, seen = [g.grad_fn for g in gradients if g is not None and g.grad_fn is not None], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.name().endswith("::Error"):
            raise RuntimeError("an operation is marked as differentiable once")
        waiting += [following for following, _ in node.next_functions if following is not None]


def _check_frozen(objective: Objective) -> None:
    if batch_norms(objective.model) and objective.statistics is not Statistics.FROZEN:
        raise InvalidInput(
            "with batch-norm, this measure is of the network with frozen statistics. Pass Statistics.FROZEN to the objective"
        )
