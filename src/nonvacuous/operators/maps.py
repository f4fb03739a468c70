"""The linear maps layers are made of: matrices, channel scales, axis-wise maps, rearrangements, and their chains and sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nonvacuous.operators.certified import UNIT, gamma, upper_end
from nonvacuous.operators.convolution import Convolution
from nonvacuous.operators.direct import upper_end_of_matrix
from nonvacuous.operators.linear_map import LinearMap
from nonvacuous.operators.norm_entries import EntryNorms
from nonvacuous.operators.stencil import Axis


class Matrix(LinearMap):
    """A matrix (out, in) on the last axis, the axes before it untouched (nn.Linear)."""

    def __init__(self, weight: Tensor, lead: Sequence[int] = ()) -> None:
        self.weight = weight
        self.lead = tuple(lead)
        self.device = weight.device
        self.shape_in = (*self.lead, weight.shape[1])
        self.shape_out = (*self.lead, weight.shape[0])

    def apply(self, x: Tensor) -> Tensor:
        return x @ self.weight.to(x.dtype).mT

    def adjoint(self, y: Tensor) -> Tensor:
        return y @ self.weight.to(y.dtype)

    def scaled(self, scale: Tensor) -> Matrix:
        """Every output times its scale."""
        return Matrix(self.weight.double() * scale.double().reshape(-1, 1), self.lead)

    def entry_norms(self) -> EntryNorms:
        return EntryNorms.of_matrix(self.weight).repeated(math.prod(self.lead))

    def upper(self, hint: float, tolerance: float, memory: int) -> float:
        """Cholesky certificate of the smaller Gram matrix; min(Frobenius, √(ℓ1·ℓ∞)) where that does not fit into memory."""
        thin, tall = sorted(self.weight.shape)
        if thin == 0:
            return 0.0
        norms = EntryNorms.of_matrix(self.weight)
        best = min(norms.frobenius.upper, math.sqrt(norms.l1.upper * norms.linf.upper) * (1 + 4 * UNIT))
        if best <= hint * (1 + tolerance) or 9 * thin**2 > memory or thin**2 * tall > 1e12:
            return best
        start, step = hint * (1 + tolerance / 2), tolerance / 4
        return min(best, upper_end_of_matrix(self.weight, norms.frobenius.upper, start, step))


class ChannelScale(LinearMap):
    """Channel c (the first axis of the shape) times scale c: batch norm in eval mode."""

    def __init__(self, scale: Tensor, shape: Sequence[int]) -> None:
        self.scale = scale
        self.device = scale.device
        self.shape_in = self.shape_out = tuple(shape)

    def _scale(self, x: Tensor) -> Tensor:
        return self.scale.to(x.dtype).reshape(-1, *[1] * (len(self.shape_in) - 1))

    def apply(self, x: Tensor) -> Tensor:
        return x * self._scale(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return y * self._scale(y)

    def entry_norms(self) -> EntryNorms:
        return EntryNorms.of_matrix(torch.diag(self.scale.double())).repeated(math.prod(self.shape_in[1:]))

    def upper(self, hint: float, tolerance: float, memory: int) -> float:
        return float(self.scale.double().abs().max()) if self.columns else 0.0


class AxisMaps(LinearMap):
    """One small matrix (n_out, n_in) along each of the last axes: average pooling, padding, interpolation."""

    def __init__(self, matrices: Sequence[Tensor], lead: Sequence[int], factor: float = 1.0) -> None:
        self.matrices = tuple(matrix.double() for matrix in matrices)
        self.lead = tuple(lead)
        self.factor = factor
        self.device = self.matrices[0].device
        self.shape_in = (*self.lead, *(m.shape[1] for m in self.matrices))
        self.shape_out = (*self.lead, *(m.shape[0] for m in self.matrices))

    def _each(self, x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
        first = x.dim() - len(matrices)
        for number, matrix in enumerate(matrices, first):
            x = torch.movedim(torch.movedim(x, number, -1) @ matrix.to(x.dtype), -1, number)
        return self.factor * x

    def apply(self, x: Tensor) -> Tensor:
        return self._each(x, [matrix.mT for matrix in self.matrices])

    def adjoint(self, y: Tensor) -> Tensor:
        return self._each(y, self.matrices)

    def entry_norms(self) -> EntryNorms:
        norms = EntryNorms.of_matrix(self.matrices[0])
        for matrix in self.matrices[1:]:
            norms = norms.kronecker(EntryNorms.of_matrix(matrix))
        return norms.scaled(abs(self.factor)).repeated(math.prod(self.lead))

    def upper(self, hint: float, tolerance: float, memory: int) -> float:
        """A Kronecker product's norm is the product of the norms."""
        share = min(tolerance, 1e-3) / (4 * len(self.matrices))
        total = abs(self.factor) if math.prod(self.lead) else 0.0
        for matrix in self.matrices:
            found = float(torch.linalg.matrix_norm(matrix, 2)) if matrix.numel() else 0.0
            total *= upper_end(matrix.unsqueeze(0), found * (1 + share), share)
        return total * (1 + gamma(2 * len(self.matrices) + 2))


class Padding(AxisMaps):
    """Borders added (zeros, or copies of pixels) or cropped, (left, right) an axis after the channels."""

    def __init__(self, shape: Sequence[int], pairs: Sequence[tuple[int, int]], mode: str) -> None:
        self.pairs, self.mode = tuple(pairs), mode
        matrices = []
        for size, (left, right) in zip(shape[1:], pairs, strict=True):
            axis = Axis(1, 1, 1, left, size, size + left + right, mode)
            matrices.append(axis.dense(torch.float64)[0])
        super().__init__(matrices, shape[:1])

    def then(self, following: Convolution) -> Convolution | None:
        """Padding and convolution as one convolution, where that is one."""
        if following.transposed or any(min(pair) < 0 for pair in self.pairs):
            return None
        axes = []
        for axis, (left, right), size in zip(following.axes, self.pairs, self.shape_in[1:], strict=True):
            own = axis.left > 0 or axis.last >= axis.n_in
            if own and (axis.mode != "zeros" or self.mode != "zeros") and (left or right):
                return None
            mode = self.mode if left or right else axis.mode
            axes.append(Axis(axis.kernel, axis.stride, axis.dilation, axis.left + left, size, axis.n_out, mode))
        return Convolution(following.kernel, axes, following.groups)


class Rearrangement(LinearMap):
    """Numbers moved without loss or copy (flatten, permute, pixel shuffle, identity): an isometry."""

    def __init__(
        self,
        shape_in: Sequence[int],
        shape_out: Sequence[int],
        forward: Callable[[Tensor], Tensor] | None = None,
        backward: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.shape_in, self.shape_out = tuple(shape_in), tuple(shape_out)
        self.forward, self.backward = forward, backward
        self.device = torch.device("cpu")

    def apply(self, x: Tensor) -> Tensor:
        return self.forward(x) if self.forward else x.reshape(-1, *self.shape_out)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.backward(y) if self.backward else y.reshape(-1, *self.shape_in)

    def entry_norms(self) -> EntryNorms:
        return EntryNorms.of_matrix(torch.ones(1, 1)).repeated(self.columns)

    def upper(self, hint: float, tolerance: float, memory: int) -> float:
        return 1.0 if self.columns else 0.0


class Chain(LinearMap):
    """One map after another."""

    def __init__(self, maps: Sequence[LinearMap]) -> None:
        self.maps = tuple(maps)
        self.device = next((m.device for m in maps if not isinstance(m, Rearrangement)), maps[0].device)
        self.shape_in, self.shape_out = maps[0].shape_in, maps[-1].shape_out

    @classmethod
    def folded(cls, maps: Sequence[LinearMap]) -> LinearMap:
        """The product, with identities dropped, channel scales and paddings folded into the convolution beside them."""
        flat = [part for m in maps for part in (m.maps if isinstance(m, Chain) else (m,))]
        kept: list[LinearMap] = []
        for part in flat:
            if isinstance(part, Rearrangement) and part.forward is None and part.shape_in == part.shape_out:
                continue
            merged = _fold(kept[-1], part) if kept else None
            if merged is not None:
                kept[-1] = merged
            else:
                kept.append(part)
        if not kept:
            return Rearrangement(flat[0].shape_in, flat[-1].shape_out)
        return kept[0] if len(kept) == 1 else cls(kept)

    def apply(self, x: Tensor) -> Tensor:
        for linear in self.maps:
            x = linear.apply(x)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        for linear in reversed(self.maps):
            y = linear.adjoint(y)
        return y


def _fold(first: LinearMap, second: LinearMap) -> LinearMap | None:
    if isinstance(second, ChannelScale):
        if isinstance(first, Convolution) or (isinstance(first, Matrix) and not first.lead):
            return first.scaled(second.scale)
        if isinstance(first, ChannelScale):
            return ChannelScale(first.scale.double() * second.scale.double(), first.shape_in)
    if isinstance(first, Padding) and isinstance(second, Convolution):
        return first.then(second)
    return None


class Sum(LinearMap):
    """Maps of the same shapes added up: a residual branch and its skip."""

    def __init__(self, maps: Sequence[LinearMap], factors: Sequence[float] | None = None) -> None:
        self.maps = tuple(maps)
        self.factors = tuple(factors) if factors is not None else (1.0,) * len(maps)
        self.device = next((m.device for m in maps if not isinstance(m, Rearrangement)), maps[0].device)
        self.shape_in, self.shape_out = maps[0].shape_in, maps[0].shape_out

    def apply(self, x: Tensor) -> Tensor:
        return torch.stack([f * m.apply(x) for f, m in zip(self.factors, self.maps, strict=True)]).sum(0)

    def adjoint(self, y: Tensor) -> Tensor:
        return torch.stack([f * m.adjoint(y) for f, m in zip(self.factors, self.maps, strict=True)]).sum(0)


class Stack(LinearMap):
    """Outputs of several maps of the same input, concatenated along an axis of the output shape."""

    def __init__(self, maps: Sequence[LinearMap], axis: int) -> None:
        self.maps, self.axis = tuple(maps), axis
        self.device = next((m.device for m in maps if not isinstance(m, Rearrangement)), maps[0].device)
        self.shape_in = maps[0].shape_in
        shape = list(maps[0].shape_out)
        shape[axis] = sum(m.shape_out[axis] for m in maps)
        self.shape_out = tuple(shape)

    def apply(self, x: Tensor) -> Tensor:
        return torch.cat([m.apply(x) for m in self.maps], self.axis + 1)

    def adjoint(self, y: Tensor) -> Tensor:
        parts = y.split([m.shape_out[self.axis] for m in self.maps], self.axis + 1)
        return torch.stack([m.adjoint(part) for m, part in zip(self.maps, parts, strict=True)]).sum(0)
