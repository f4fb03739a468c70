"""Norms of a feed-forward network as the norm-based bounds take them: biases as an appended coordinate, two classes as one row.

Conventions of :mod:`nonvacuous.core.networks`: hidden layers are ``Ã = [[A, b], [0, 1]]``, the last is ``[A, b]`` and for two classes the
row ``a₁ − a₀``; without any bias nothing is appended.  A convolution is the linear map of whole feature maps: its norms are computed,
its matrix is not.  Batch norm, average pooling and views are folded into the layer beside them.  Every number is rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.measures.logs import log_of, total
from nonvacuous.measures.ranges import mapped
from nonvacuous.measures.relaxation import dense
from nonvacuous.operators.appended import Appended
from nonvacuous.operators.certified import gamma
from nonvacuous.operators.convolution import Convolution
from nonvacuous.operators.linear_map import LinearMap
from nonvacuous.operators.maps import Chain as Product
from nonvacuous.operators.maps import ChannelScale, Matrix, Rearrangement, Sum
from nonvacuous.operators.norms import entries_error, spectral_norm_of
from nonvacuous.operators.row_squares import row_squares


@dataclass(frozen=True)
class Layer:
    """One layer Ã.

    Attributes:
        map: Ã as a linear map.
        slack: norms of what rounding may have changed in Ã, as computed: (Frobenius, sum of the rows' norms).
        parameters: dimensions of the linear space that Ã ranges over, the appended row not counted; None where it is no such space.
    """

    map: LinearMap
    slack: tuple[float, float] = (0.0, 0.0)
    parameters: int | None = None

    @cached_property
    def row_squares(self) -> Tensor:
        """Squared ℓ2 norms of Ã's rows, to within rounding."""
        return _row_squares(self.map)

    @property
    def frobenius(self) -> float:
        """‖Ã‖_F, above."""
        wrong = _counting_error(self.map) + self.slack[0]
        return math.sqrt(float(self.row_squares.sum())) * (1 + self._relative) + wrong

    @cached_property
    def spectral(self) -> float:
        """‖Ã‖₂, above: the upper end of a certified bracket."""
        return min(spectral_norm_of(self.map).upper + self.slack[0], self.frobenius)

    def linear_spectral(self, tolerance: float) -> float:
        """‖A‖₂ without the bias, above."""
        inner = self.map.linear_upper(tolerance) if isinstance(self.map, Appended) else spectral_norm_of(self.map).upper
        return inner + self.slack[0]

    def distance(self, other: Layer | None, rows: int) -> float:
        """Σ over the first ``rows`` rows of the ℓ2 norm of Ã's less the other's, above; None stands for zero."""
        if other is None:
            squares, wrong = self.row_squares, self.slack[1]
        else:
            difference = _difference(self.map, other.map)
            slack = 1e-13 * sum(float(layer.row_squares.sqrt().sum()) for layer in (self, other))
            squares, wrong = _row_squares(difference), self.slack[1] + other.slack[1] + slack
        wrong += math.sqrt(self.map.rows) * _counting_error(self.map) * (1 if other is None else 2)
        return float(squares[:rows].sqrt().sum()) * (1 + self._relative) + wrong

    @property
    def largest_row_sum(self) -> float:
        """Largest Σ|w| + |b| of a row, above; for a product of layers that of the entries' absolute values."""
        inner, offset = (self.map.linear, self.map.offset.abs()) if isinstance(self.map, Appended) else (self.map, 0.0)
        sums = mapped(inner, torch.abs).apply(torch.ones(1, *inner.shape_in, dtype=torch.float64)).flatten() + offset
        least = 1.0 if isinstance(self.map, Appended) and not self.map.is_last else 0.0
        return max(least, float(sums.max())) * (1 + self._relative) + self.slack[1]

    @cached_property
    def matrix(self) -> Tensor:
        """Ã written out.  Raises UnsupportedModule beyond 2,048 rows."""
        inner = self.map.linear if isinstance(self.map, Appended) else self.map
        weight = dense(inner)
        if weight is None:
            raise UnsupportedModule(f"a layer of {self.map.rows} × {self.map.columns} numbers is not written out as a matrix")
        if not isinstance(self.map, Appended):
            return weight
        matrix = torch.cat([weight, self.map.offset.unsqueeze(1)], 1)
        if self.map.is_last:
            return matrix
        last = torch.zeros(1, matrix.shape[1], dtype=torch.float64)
        last[0, -1] = 1.0
        return torch.cat([matrix, last])

    @property
    def _relative(self) -> float:
        return gamma(self.map.rows + self.map.columns + 64) + 1e-13


@dataclass(frozen=True)
class Chain:
    """The layers Ã of a chain, first one first, and the Lipschitz constants of the activations between them.

    Attributes:
        layers: the layers; matrices will do.
        constants: one a hidden layer, at least 1, max pooling included.
        biased: whether the architecture can add constants, whatever they are in these weights.
        elementwise: whether all activations act on each coordinate by itself, and alike (max pooling does not).
        homogeneous: whether all have σ(cv) = cσ(v) for c ≥ 0; all vanish at 0.
    """

    layers: tuple[Layer, ...]
    constants: tuple[float, ...]
    biased: bool
    elementwise: bool = True
    homogeneous: bool = True

    def __post_init__(self) -> None:
        layers: Sequence[Layer | Tensor] = self.layers
        made = (layer if isinstance(layer, Layer) else Layer(Matrix(layer), parameters=layer.numel()) for layer in layers)
        object.__setattr__(self, "layers", tuple(made))

    @property
    def matrices(self) -> tuple[Tensor, ...]:
        """The layers written out, for theorems on matrices and activations of one coordinate.

        Raises UnsupportedModule for layers of more than 2,048 rows, max pooling and activations that are not homogeneous.
        """
        self._require_elementwise()
        return tuple(layer.matrix for layer in self.layers)

    @property
    def depth(self) -> int:
        """Linear layers."""
        return len(self.layers)

    @property
    def widest(self) -> int:
        """Largest dimension of an input or output of a layer, the appended 1 included."""
        return max(max(layer.map.rows, layer.map.columns) for layer in self.layers)

    @property
    def inputs(self) -> int:
        """Coordinates of an input, the appended 1 not counted."""
        return self.layers[0].map.columns - self.biased

    @property
    def classes(self) -> int:
        """K; a last layer of one row speaks of two classes."""
        return max(2, self.layers[-1].map.rows)

    @property
    def parameters(self) -> int:
        """Dimensions of the layers' linear spaces (a convolution: its kernel once), one more for every appended row."""
        counts = [layer.parameters for layer in self.layers]
        if None in counts:
            raise UnsupportedModule("a layer is a product of several with weights: its matrices form no linear space")
        return sum(count for count in counts if count is not None) + (self.depth - 1 if self.biased else 0)

    @property
    def log_frobenius_product_nats(self) -> float:
        """Σ ln ‖Ãᵢ‖_F + Σ ln ρᵢ, above.

        Raises UnsupportedModule for activations that the theorem does not know: its peeling step is for one coordinate at a time.
        """
        self._require_homogeneous()
        if not self.elementwise:
            raise UnsupportedModule(
                "max pooling reads several coordinates: products of Frobenius norms prove nothing about it"
            )
        return total(0.0, *[log_of(layer.frobenius) for layer in self.layers], *map(log_of, self.constants))

    @property
    def spectral_norms(self) -> tuple[float, ...]:
        """‖Ãᵢ‖₂, above."""
        return tuple(layer.spectral for layer in self.layers)

    @property
    def log_spectral_product_nats(self) -> float:
        """Σ ln ρᵢ‖Ãᵢ‖₂, above."""
        self._require_homogeneous()
        return total(0.0, *[log_of(norm) for norm in (*self.spectral_norms, *self.constants)])

    @property
    def stable_rank_sum(self) -> float:
        """Σ ‖Ãᵢ‖_F²/sᵢ² with the same upper ends sᵢ as the product; ∞ for a zero layer."""
        self._require_homogeneous()
        ranks = [(layer.frobenius / layer.spectral) ** 2 if layer.spectral > 0 else math.inf for layer in self.layers]
        return sum(ranks) * (1 + 1e-14 * (1 + len(ranks)))

    def distances(self, reference: Chain | None = None) -> tuple[float, ...]:
        """‖Ãᵢᵀ − Mᵢᵀ‖₂,₁, above: the sum over the units of the norms of what they differ by from those of a reference.

        None is the reference whose units are zero; the appended rows are the same in both, and cost nothing.
        Raises InvalidInput for a reference of another architecture.
        """
        if reference is not None and [layer.map.shape_in for layer in reference.layers] != [
            layer.map.shape_in for layer in self.layers
        ]:
            raise InvalidInput("the reference's layers are not those of the network: no distance between them is defined")
        others: Sequence[Layer | None] = (None,) * self.depth if reference is None else reference.layers
        hidden = [layer.map.rows - (1 if self.biased and n < self.depth - 1 else 0) for n, layer in enumerate(self.layers)]
        return tuple(layer.distance(o, rows) for layer, o, rows in zip(self.layers, others, hidden, strict=True))

    def _require_elementwise(self) -> None:
        self._require_homogeneous()
        if not self.elementwise:
            raise UnsupportedModule("max pooling reads several coordinates at once: this theorem does not know it")

    def _require_homogeneous(self) -> None:
        if not self.homogeneous:
            raise UnsupportedModule("an activation is not positively homogeneous, as the theorem needs: no rule for it")


def frobenius(matrix: Tensor) -> float:
    """‖A‖_F, rounded up, with room for the rounding of folded parts."""
    return float(torch.linalg.vector_norm(matrix)) * (1 + gamma(matrix.numel() + 8) + 1e-13)


def _row_squares(linear: LinearMap) -> Tensor:
    if not isinstance(linear, Appended):
        return row_squares(linear).flatten()
    squares = row_squares(linear.linear).flatten() + linear.offset.square()
    return squares if linear.is_last else torch.cat([squares, squares.new_ones(1)])


def _counting_error(linear: LinearMap) -> float:
    """Frobenius norm of the rounding in the entries of a product of maps, which may cancel; none for a single layer."""
    return entries_error(linear) * math.sqrt(linear.smaller_side)


def _difference(first: LinearMap, second: LinearMap) -> LinearMap:
    if isinstance(first, Appended) and isinstance(second, Appended):
        return Appended(_difference(first.linear, second.linear), first.offset - second.offset, first.is_last)
    if isinstance(first, Matrix) and isinstance(second, Matrix):
        return Matrix(first.weight.double() - second.weight.double(), first.lead)
    if isinstance(first, Convolution) and isinstance(second, Convolution) and first.axes == second.axes:
        return Convolution(first.kernel.double() - second.kernel.double(), first.axes, first.groups, first.transposed)
    if isinstance(first, ChannelScale) and isinstance(second, ChannelScale):
        return ChannelScale(first.scale - second.scale, first.shape_in)
    if isinstance(first, Product) and isinstance(second, Product) and len(first.maps) == len(second.maps) == 2:
        for moved, kept in ((0, 1), (1, 0)):  # a view before or after
            if isinstance(first.maps[kept], Rearrangement):
                parts = [first.maps[kept]] * 2
                parts[moved] = _difference(first.maps[moved], second.maps[moved])
                return Product(parts)
    return Sum([first, second], [1.0, -1.0])
