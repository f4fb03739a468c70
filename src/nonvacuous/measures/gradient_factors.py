"""Gradients of every example by one layer's parameters, kept as factors, and the inner products of two samples' gradients.

For m directions of the outputs and n examples a layer's gradients are ``[n, m, P]``. A factored form serves where it is smaller or
cheaper: a sum of outer products over positions (dense layers, convolutions, embeddings), or one gradient an example whose rows are
scaled from direction to direction. Symbols: i, j examples; a, b directions; s, t positions; δ cotangent of a layer's output.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The gradients themselves ``[n, m, P]``."""

    gradients: Tensor

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return self.gradients.nbytes

    def rows(self) -> Tensor:
        """``[n, m, P]``."""
        return self.gradients


@dataclass(frozen=True)
class Outer:
    """Σ_s δ_s ⊗ key_s. keys: ``[n, S, in]``, or whole numbers ``[n, S]`` that stand for unit vectors of length ``size`` (−1: zero);
    cotangents ``[n, S, out, m]``. constant: S = 1 and every example has the same cotangents.
    """

    keys: Tensor
    cotangents: Tensor
    constant: bool = False
    size: int = 0

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return self.keys.nbytes + self.cotangents.nbytes

    def rows(self) -> Tensor:
        """``[n, m, P]``; for dense keys the gradient of an ``[out, in]`` matrix, for unit vectors that of ``[size, out]``."""
        n, _, out, m = self.cotangents.shape
        if self.keys.dim() == 3:
            return torch.einsum("nsom,nsi->nmoi", self.cotangents, self.keys).reshape(n, m, -1)
        whole = self.cotangents.new_zeros(n, self.size + 1, out * m)  # the last row takes what is masked
        index = torch.where(self.keys < 0, self.size, self.keys)
        whole.scatter_add_(1, index[..., None].expand(-1, -1, out * m), self.cotangents.flatten(2))
        return whole[:, :-1].reshape(n, self.size, out, m).permute(0, 3, 1, 2).reshape(n, m, -1)


@dataclass(frozen=True)
class Scaled:
    """Row c of direction a's gradient is ``scales[a, c]`` times row c of ``gradients`` ``[n, out, in]``; scales ``[m, out]``.

    So it is for the last convolution before a head that is linear given the active units, such as batch norm, ReLU, global pooling
    and a dense layer: δ_a of channel c is the head's weight times a mask that no direction changes.
    """

    gradients: Tensor
    scales: Tensor

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return self.gradients.nbytes + self.scales.nbytes

    def rows(self) -> Tensor:
        """``[n, m, P]``."""
        whole = self.gradients[:, None] * self.scales[None, :, :, None]
        return whole.flatten(2)


Factor = Rows | Outer | Scaled


def add_gram(total: Tensor, left: Factor, right: Factor, traced: bool) -> None:
    """Adds the inner products of two factors' gradients to ``total``: ``[i, a, j, b]``, or ``[i, j]`` summed over a = b."""
    if type(left) is not type(right) or (isinstance(left, Outer) and left.keys.dim() != right.keys.dim()):  # type: ignore[union-attr]
        left, right = Rows(left.rows()), Rows(right.rows())
    if isinstance(left, Rows) and isinstance(right, Rows):
        axes = (1, 2) if traced else (0, 1)
        flat = total if traced else total.view(total.shape[0] * total.shape[1], -1)
        flat.addmm_(left.gradients.flatten(*axes), right.gradients.flatten(*axes).mT)
    elif isinstance(left, Scaled) and isinstance(right, Scaled):
        _add_scaled(total, left, right, traced)
    elif isinstance(left, Outer) and isinstance(right, Outer):
        if left.keys.shape[1] == 1 == right.keys.shape[1]:
            _add_single(total, left, right, traced)
        else:
            _add_positions(total, left, right, traced)


def _add_scaled(total: Tensor, left: Scaled, right: Scaled, traced: bool) -> None:
    if traced:
        weights = (left.scales * right.scales).sum(0)
        total.addmm_((left.gradients * weights[:, None]).flatten(1), right.gradients.flatten(1).mT)
        return
    i, out, _ = left.gradients.shape
    j = len(right.gradients)
    products = torch.bmm(left.gradients.transpose(0, 1), right.gradients.permute(1, 2, 0))  # [out, i, j]
    scales = left.scales.mT[:, :, None] * right.scales.mT[:, None, :]  # [out, a, b]
    pairs = products.view(out, -1).mT @ scales.view(out, -1)
    total += pairs.view(i, j, *scales.shape[1:]).permute(0, 2, 1, 3)


def _similarities(left: Tensor, right: Tensor) -> Tensor:
    """Inner products of keys, ``[p, in] × [q, in]`` or whole numbers ``[p] × [q]``, as ``[p, q]``."""
    if left.dim() == 2:
        return left @ right.mT
    return (left[:, None] == right[None]) & (left[:, None] >= 0)


def _add_single(total: Tensor, left: Outer, right: Outer, traced: bool) -> None:
    near = _similarities(left.keys[:, 0], right.keys[:, 0]).to(total.dtype)
    one, other = left.cotangents[:, 0], right.cotangents[:, 0]  # [n, out, m]
    constant = left.constant and right.constant
    if constant:
        one, other = one[:1], other[:1]
    if traced:
        total += near * (one.flatten(1) @ other.flatten(1).mT)
        return
    m, q = one.shape[2], other.shape[2]
    products = one.mT.reshape(-1, one.shape[1]) @ other.mT.reshape(-1, one.shape[1]).mT
    products = products.view(len(one), m, len(other), q)
    if constant:
        total.addcmul_(near[:, None, :, None], products)
    else:
        total += products.mul_(near[:, None, :, None])


def _add_positions(total: Tensor, left: Outer, right: Outer, traced: bool) -> None:
    i, s, out, m = left.cotangents.shape
    keys = left.keys.flatten(0, 1)
    flat = left.cotangents.view(i * s, -1)
    for j, (key, cotangents) in enumerate(zip(right.keys, right.cotangents, strict=True)):
        near = _similarities(keys, key).to(total.dtype)  # [i·s, t]
        if traced:
            products = flat @ cotangents.flatten(1).mT
            total[:, j] += products.mul_(near).view(i, -1).sum(1)
        else:
            carried = (near @ cotangents.flatten(1)).view(i, s * out, -1)  # Σ_t (key_s·key_t) δ_t
            total[:, :, j] += torch.bmm(left.cotangents.view(i, s * out, m).mT, carried)
