"""Norms of a fully connected network as the norm-based bounds take them: biases as an appended coordinate, two classes as one row.

Conventions of :mod:`nonvacuous.core.networks`: hidden layers are ``[[A, b], [0, 1]]``, the last is ``[A, b]`` and for two classes the
row ``a₁ − a₀``; without any bias nothing is appended.  Batch norm and other affine parts are folded.  Every number is rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import UnsupportedModule
from nonvacuous.measures.lipschitz import RULES, traced
from nonvacuous.measures.logs import log_of, total
from nonvacuous.measures.relaxation import Layer, layers_of, linear_part
from nonvacuous.measures.walk import Unbounded, Walk
from nonvacuous.operators.certified import gamma
from nonvacuous.operators.maps import Matrix
from nonvacuous.operators.norms import spectral_norm_of

HOMOGENEOUS = {"relu", "leaky_relu", "absolute"}


@dataclass(frozen=True)
class Chain:
    """The matrices Ã of a chain, first layer first, and the Lipschitz constants of the activations between them."""

    matrices: tuple[Tensor, ...]
    constants: tuple[float, ...]
    biased: bool

    @property
    def depth(self) -> int:
        """Linear layers."""
        return len(self.matrices)

    @property
    def widest(self) -> int:
        """Largest dimension of an input or output of a layer, the appended 1 included."""
        return max(max(matrix.shape) for matrix in self.matrices)

    @property
    def log_frobenius_product_nats(self) -> float:
        """Σ ln ‖Ãᵢ‖_F, above."""
        return total(0.0, *[log_of(frobenius(matrix)) for matrix in self.matrices])

    @property
    def spectral_norms(self) -> tuple[float, ...]:
        """‖Ãᵢ‖₂, above."""
        return tuple(spectral_norm_of(Matrix(matrix)).upper for matrix in self.matrices)

    @property
    def log_spectral_product_nats(self) -> float:
        """Σ ln ρᵢ‖Ãᵢ‖₂, above."""
        return total(0.0, *[log_of(norm) for norm in (*self.spectral_norms, *self.constants)])

    @property
    def stable_rank_sum(self) -> float:
        """Σ ‖Ãᵢ‖_F²/sᵢ² with the same upper ends sᵢ as the product; ∞ for a zero layer."""
        pairs = zip(self.matrices, self.spectral_norms, strict=True)
        ranks = [(frobenius(matrix) / norm) ** 2 if norm > 0 else math.inf for matrix, norm in pairs]
        return sum(ranks) * (1 + 1e-14 * (1 + len(ranks)))


def frobenius(matrix: Tensor) -> float:
    """‖A‖_F, rounded up, with room for the rounding of folded parts."""
    return float(torch.linalg.vector_norm(matrix)) * (1 + gamma(matrix.numel() + 8) + 1e-13)


def chain_of(model: nn.Module, input_shape: Sequence[int]) -> Chain:
    """The chain a fully connected ReLU (leaky ReLU, |·|) network is.

    Raises UnsupportedModule for another network: convolutions larger than a dense matrix, pooling, branches, other activations.
    """
    exact, seen = traced(model, input_shape)
    try:
        walk = Walk(exact, seen, None, RULES, 1.0)
        layers = layers_of(walk, whole=True)
    except Unbounded as error:
        raise UnsupportedModule(str(error)) from error
    if layers is None:
        raise UnsupportedModule(
            f"{type(model).__name__} is no chain of affine layers and activations: no rule for its layer norms"
        )
    offsets, constants = _offsets(walk, input_shape)
    if len(offsets) != len(layers):
        raise UnsupportedModule(f"{type(model).__name__}: its affine parts could not be told apart")
    return _assembled(layers, offsets, constants)


def _offsets(walk: Walk, input_shape: Sequence[int]) -> tuple[list[Tensor], list[float]]:
    """What every affine part makes of 0, and the activations' constants."""
    value, offsets, constants = torch.zeros(1, *input_shape, dtype=torch.float64), [], []
    for node in walk.graph:
        if node.operation in ("input", "output", "parameter", "shape"):
            continue
        part = linear_part(node)
        if part is None:
            if node.operation not in HOMOGENEOUS or node.module is None:
                raise UnsupportedModule(f"{node.module_name or node.name} ({node.type_name}) is not positively homogeneous")
            offsets.append(value.flatten())
            constants.append(max(1.0, abs(float(getattr(node.module, "negative_slope", 0.0)))))
            value = torch.zeros(node.shape_out, dtype=torch.float64)
        elif node.module is not None:
            value = node.module(value)
        else:
            value = value.reshape(node.shape_out)
    return [*offsets, value.flatten()], constants


def _assembled(layers: list[Layer], offsets: list[Tensor], constants: list[float]) -> Chain:
    weights = [layer.weight for layer in layers]
    if len(weights[-1]) == 2:
        weights[-1], offsets[-1] = (weights[-1][1:] - weights[-1][:1]), offsets[-1][1:] - offsets[-1][:1]
    biased = any(bool(offset.any()) for offset in offsets)
    if not biased:
        return Chain(tuple(weights), tuple(constants), False)
    matrices = []
    for number, (weight, offset) in enumerate(zip(weights, offsets, strict=True)):
        matrix = torch.cat([weight, offset[:, None]], 1)
        if number < len(weights) - 1:
            last = torch.zeros(1, matrix.shape[1], dtype=torch.float64)
            last[0, -1] = 1.0
            matrix = torch.cat([matrix, last])
        matrices.append(matrix)
    return Chain(tuple(matrices), tuple(constants), True)
