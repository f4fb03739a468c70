"""Batch norms of a whole model: what each scales by, and the products over depth, beside the norms of the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.operators.cost import call_arguments, in_eval
from nonvacuous.operators.norms import spectral_norm
from nonvacuous.operators.rules import BATCH_NORMS, CONVOLUTIONS, TRANSPOSED, batch_norm_scale


@dataclass(frozen=True)
class NormalizerRow:
    """One batch norm: ``largest`` = max|γ/σ| is its norm, ``euclidean`` = ‖γ/σ‖₂ the slide's bound of it."""

    name: str
    channels: int
    largest: float
    euclidean: float


@dataclass(frozen=True)
class WeightRow:
    """One convolution or linear layer and its operator norm at the shape it is used at; None where there is no rule."""

    name: str
    kind: str
    norm: Measured | None


@dataclass(frozen=True)
class NormalizerTable:
    """Rows in the order of the model's modules, and products as decimal logarithms (0 for no rows, −∞ if a factor is 0).

    The product of batch norms alone says little: in real networks it lies between 10⁻⁸ and 10⁺⁴⁷, and the weights' norms make
    up for it.  ``log10_weights`` is there to be read beside it.
    """

    rows: tuple[NormalizerRow, ...]
    weights: tuple[WeightRow, ...]

    @property
    def log10_largest(self) -> float:
        """log₁₀ Π max|γ/σ|."""
        return _log10_product([row.largest for row in self.rows])

    @property
    def log10_euclidean(self) -> float:
        """log₁₀ Π ‖γ/σ‖₂, the slide's product."""
        return _log10_product([row.euclidean for row in self.rows])

    @property
    def log10_weights(self) -> Measured:
        """log₁₀ Π of the weights' operator norms, those without a rule left out."""
        known = [row.norm for row in self.weights if row.norm is not None]
        low, high = _log10_product([n.lower for n in known]), _log10_product([n.upper for n in known])
        slack = 1e-12 * (1 + len(known))
        kind = max((n.kind for n in known), default=Kind.EXACT)
        return Measured(low - slack, high + slack, kind, min(0.5, math.fsum(n.delta for n in known)))

    def __str__(self) -> str:
        lines = [f"{'batch norm':<40} {'channels':>8} {'max|γ/σ|':>12} {'‖γ/σ‖₂':>12}"]
        lines += [f"{r.name:<40} {r.channels:>8} {r.largest:>12.4g} {r.euclidean:>12.4g}" for r in self.rows]
        lines += [f"{'product, log10':<40} {'':>8} {self.log10_largest:>12.2f} {self.log10_euclidean:>12.2f}"]
        lines += [f"{r.name:<40} {r.kind:>20} {r.norm if r.norm is not None else 'no rule'}" for r in self.weights]
        return "\n".join([*lines, f"{'product of the weights, log10':<61} {self.log10_weights}"] if self.weights else lines)


def _log10_product(values: list[float]) -> float:
    return -math.inf if any(v == 0 for v in values) else math.fsum(math.log10(v) for v in values)


def normalizer_table(model: nn.Module, example_input: Any = None, *, tolerance: float = 0.05) -> NormalizerTable:
    """The table of a model's batch norms in eval mode; with an example input, also of its weights' operator norms.

    A layer used at several shapes is listed once, at the first.  Batch norms without running statistics are left out.

    Raises InvalidInput for NaN, or a channel of zero variance with ε = 0.
    """
    rows = []
    for name, module in model.named_modules():
        if isinstance(module, BATCH_NORMS) and module.running_var is not None:
            scale = batch_norm_scale(module)
            largest = float(scale.abs().max())
            rows.append(NormalizerRow(name, module.num_features, largest, float(torch.linalg.vector_norm(scale))))
    return NormalizerTable(tuple(rows), () if example_input is None else _weights(model, example_input, tolerance))


def _weights(model: nn.Module, example_input: Any, tolerance: float) -> tuple[WeightRow, ...]:
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def remember(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            shapes.setdefault(module, tuple(inputs[0].shape[1:]))

    parts = {m: name for name, m in model.named_modules() if isinstance(m, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear))}
    hooks = [module.register_forward_pre_hook(remember) for module in parts]
    arguments, keywords = call_arguments(example_input)
    try:
        with in_eval(model), torch.no_grad():
            model(*arguments, **keywords)
    except RuntimeError as error:
        raise InvalidInput(f"{type(model).__name__} cannot be run on this example input: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    rows = []
    for module, name in parts.items():
        try:
            norm = spectral_norm(module, shapes[module], tolerance=tolerance) if module in shapes else None
        except UnsupportedModule:
            norm = None
        rows.append(WeightRow(name, type(module).__name__, norm))
    return tuple(rows)
