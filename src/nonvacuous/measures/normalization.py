"""What normalizers do to a network's Lipschitz bound: deck T's Lemma 4, with and without, and what that means for sample sizes.

Lemma 4: ``‖h‖_Lip ≤ ∏ s_k`` without normalizers and ``‖h_no‖_Lip ≤ ∏ s_k ‖NO_k‖_Lip`` with them, s_k ≥ ‖W_k‖₂.  In a bound of the form
``risk ≤ empirical risk + C·L/√m`` the sample size for a given excess grows with L²: the ratio of the sizes is the square of the
product of the normalizers' constants.  **That product is not a property of normalization**: in trained networks it lies between 10⁻⁸
and 10⁺⁴⁷, and a network trained with normalizers has weights that fit them; dropping the normalizers gives another function, which
nobody trained.  So the weights' product stands beside it in every row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.measures.logs import CONSTANT, log_of, total
from nonvacuous.operators.graph import Node, graph
from nonvacuous.operators.linear_map import LinearMap
from nonvacuous.operators.norms import spectral_norm_of
from nonvacuous.operators.rules import BATCH_NORMS, batch_norm_scale, find

NORMALIZERS = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"}
WEIGHTS = {"linear", "convolution", "transposed_convolution"}
LN10 = math.log(10)


@dataclass(frozen=True)
class GainRow:
    """A weight layer or normalizer, as often as it is used: its constant, and for batch norm the slide's ‖γ/σ‖₂ (None otherwise)."""

    name: str
    type_name: str
    normalizes: bool
    lipschitz: Measured
    euclidean: float | None = None


@dataclass(frozen=True)
class NormalizationGain:
    """The rows in the order of the computation, and their products as decimal logarithms, upper ends rounded up."""

    rows: tuple[GainRow, ...]

    @property
    def log10_weights(self) -> float:
        """log₁₀ ∏ s_k: Lemma 4's bound of the version without normalizers."""
        return self._product(row.lipschitz.upper for row in self.rows if not row.normalizes)

    @property
    def log10_normalizers(self) -> float:
        """log₁₀ ∏ ‖NO_k‖_Lip: the gain, where it is negative; the loss, where it is positive."""
        return self._product(row.lipschitz.upper for row in self.rows if row.normalizes)

    @property
    def log10_euclidean(self) -> float:
        """log₁₀ of the slide's product, ‖γ/σ‖₂ for batch norms (the true constant for others)."""
        return self._product(
            row.lipschitz.upper if row.euclidean is None else row.euclidean for row in self.rows if row.normalizes
        )

    @property
    def log10_normalized(self) -> float:
        """log₁₀ ∏ s_k ‖NO_k‖_Lip: Lemma 4's bound of the network as it is."""
        logs = [self.log10_weights, self.log10_normalizers]
        return CONSTANT if CONSTANT in logs else math.fsum(logs)

    @property
    def log10_sample_ratio(self) -> float:
        """log₁₀ of (samples with normalizers / samples without) for the same excess C·L/√m: twice the normalizers' product."""
        return 2 * self.log10_normalizers

    @staticmethod
    def _product(values: object) -> float:
        log = total(*[log_of(float(value)) for value in values], 0.0)  # type: ignore[attr-defined]
        return log if math.isinf(log) else log / LN10

    def __str__(self) -> str:
        lines = [f"{'layer':<40} {'type':<18} {'Lipschitz':>12} {'‖γ/σ‖₂':>12}"]
        for row in self.rows:
            slide = "" if row.euclidean is None else f"{row.euclidean:.4g}"
            lines.append(f"{row.name:<40} {row.type_name:<18} {row.lipschitz.upper:>12.4g} {slide:>12}")
        return "\n".join([
            *lines,
            f"weights            log10 {self.log10_weights:10.2f}",
            f"normalizers        log10 {self.log10_normalizers:10.2f}   (slide's norm {self.log10_euclidean:.2f})",
            f"as it is           log10 {self.log10_normalized:10.2f}",
            f"samples, ratio     log10 {self.log10_sample_ratio:10.2f}",
        ])  # fmt: skip


def normalization_gain(model: nn.Module, input_shape: Sequence[int], *, tolerance: float = 0.05) -> NormalizationGain:
    """Lemma 4's two products for a model in eval mode, on inputs of ``input_shape`` without the batch.

    Layers are taken as often as the traced graph uses them.  Residual sums are left out, as in the lemma, which is about chains;
    :func:`lipschitz.global_upper` counts them.

    Raises:
        UnsupportedModule: a normalizer or weight layer without a rule (named).
        InvalidInput: no normalizer in the model, NaN in the weights, a shape that does not fit.

    >>> model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, eps=0.0))
    >>> _ = model[1].running_var.fill_(100.0)
    >>> f"{normalization_gain(model, (3,)).log10_normalizers:.2f}"
    '-1.00'
    """
    tensor = next(iter(model.parameters()), torch.zeros(()))
    example = torch.zeros(1, *input_shape, dtype=tensor.dtype, device=tensor.device)
    rows, norms = [], {}
    for node in graph(model, example):
        if node.operation not in NORMALIZERS | WEIGHTS:
            continue
        if node.module is None:
            raise UnsupportedModule(f"{node.name} ({node.type_name}): a functional call has no rule here; use the module")
        key = (node.module, node.shapes_in[0])
        if key not in norms:
            norms[key] = _row(node, tolerance)
        rows.append(norms[key])
    if not any(row.normalizes for row in rows):
        raise InvalidInput(f"{type(model).__name__} has no normalizer: there is nothing to compare")
    return NormalizationGain(tuple(rows))


def _row(node: Node, tolerance: float) -> GainRow:
    assert node.module is not None
    normalizes = node.operation in NORMALIZERS
    found = find(node.module, node.shapes_in[0][1:], node.module_name)
    norm = spectral_norm_of(found, tolerance=tolerance) if isinstance(found, LinearMap) else found
    euclidean = None
    if isinstance(node.module, BATCH_NORMS):
        scale = batch_norm_scale(node.module)
        largest = float(scale.abs().max())
        norm = Measured(largest * (1 - 1e-14), largest * (1 + 1e-14), Kind.EXACT)
        euclidean = float(torch.linalg.vector_norm(scale))
    return GainRow(node.module_name, type(node.module).__name__, normalizes, norm, euclidean)
