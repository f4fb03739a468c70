"""Deep linear networks x ↦ W_L ⋯ W_1 x under the squared error: loss, gradient and second derivatives by second moments.

Weights are tuples (W_1, …, W_L); each may carry the same leading batch dimensions, ``[…, d_l, d_{l−1}]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput

Weights = Sequence[Tensor]
UNIT = 2.0**-53


@dataclass(frozen=True)
class Moments:
    """All that ½‖WX − Y‖² depends on: XXᵀ ``[d_x, d_x]``, YXᵀ ``[d_y, d_x]``, ‖Y‖², and the number n of columns."""

    gram: Tensor
    cross: Tensor
    square: float
    n: int

    @classmethod
    def of(cls, X: Any, Y: Any) -> Moments:
        """Of inputs ``[d_x, n]`` and targets ``[d_y, n]``, columns being examples; float64.

        :raises InvalidInput: not two finite real matrices with the same number of columns.
        """
        inputs, targets = matrix(X, "X"), matrix(Y, "Y")
        if inputs.shape[1] != targets.shape[1]:
            raise InvalidInput(
                f"X has {inputs.shape[1]} columns and Y {targets.shape[1]}; a column is an example. Transpose the one that has"
                " examples in rows"
            )
        return cls(inputs @ inputs.T, targets @ inputs.T, float((targets**2).sum()), inputs.shape[1])

    def loss(self, product: Tensor) -> Tensor:
        """½‖WX − Y‖² for products W ``[…, d_y, d_x]``."""
        quadratic = ((product @ self.gram) * product).sum((-2, -1))
        return 0.5 * (quadratic - 2 * (product * self.cross).sum((-2, -1)) + self.square)

    def slope(self, product: Tensor) -> Tensor:
        """(WX − Y)Xᵀ, the derivative by W."""
        return product @ self.gram - self.cross


def matrix(values: Any, name: str) -> Tensor:
    """``values`` as a finite float64 matrix on the CPU."""
    try:
        found = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"{name} must be a real matrix; got a {type(values).__name__}: {error}") from error
    if found.is_complex() or found.dim() != 2 or not found.numel():
        raise InvalidInput(f"{name} must be a real matrix with two dimensions, none empty; got shape {tuple(found.shape)}")
    found = found.detach().to("cpu", torch.float64)
    if not found.isfinite().all():
        raise InvalidInput(f"{name} must be finite; {int((~found.isfinite()).sum())} entries are not")
    return found


def chain(weights: Weights) -> Tensor:
    """W_k ⋯ W_1 of a non-empty chain, multiplied from the thinner end."""
    if weights[0].shape[-1] <= weights[-1].shape[-2]:
        product = weights[0]
        for weight in weights[1:]:
            product = weight @ product
        return product
    product = weights[-1]
    for weight in reversed(weights[:-1]):
        product = product @ weight
    return product


def below(weights: Weights) -> list[Tensor | None]:
    """W_{l−1} ⋯ W_1 for every layer l; None for the identity in front of the first."""
    found: list[Tensor | None] = [None]
    for weight in weights[:-1]:
        last = found[-1]
        found.append(weight if last is None else weight @ last)
    return found


def above(weights: Weights) -> list[Tensor | None]:
    """W_L ⋯ W_{l+1} for every layer l; None for the identity behind the last."""
    found: list[Tensor | None] = [None]
    for weight in reversed(weights[1:]):
        last = found[-1]
        found.append(weight if last is None else last @ weight)
    return found[::-1]


def gradient(weights: Weights, moments: Moments, scale: float = 1.0) -> tuple[Tensor, ...]:
    """Derivatives of ½‖s·W_L⋯W_1 X − Y‖² by each layer, in the layers' shapes; ``scale`` is s."""
    down, up = below(weights), above(weights)
    last = down[-1]
    product = weights[-1] if last is None else weights[-1] @ last
    slope = scale * moments.slope(scale * product)
    return tuple(sandwiched(a, slope, b) for a, b in zip(up, down, strict=True))


def sandwiched(up: Tensor | None, slope: Tensor, down: Tensor | None) -> Tensor:
    """Uᵀ S Dᵀ, multiplied where it is thin."""
    right = slope if down is None else slope @ down.mT
    return right if up is None else up.mT @ right


def hessian(weights: Weights, gram: Tensor, slope: Tensor, *, absolute: bool = False) -> Tensor:
    """Second derivatives ``[…, P, P]`` over all entries, layer by layer, rows of a layer after one another.

    gram: XXᵀ; slope: (WX − Y)Xᵀ at the product W ``[…, d_y, d_x]``. With ``absolute``, every number is replaced by its modulus,
    which gives the factor of the rounding error of the plain call.
    """
    if absolute:
        weights, gram, slope = [w.abs() for w in weights], gram.abs(), slope.abs()
    down, up = below(weights), above(weights)
    batch = weights[0].shape[:-2]
    rows = []
    for k, wk in enumerate(weights):
        row = []
        for j, wj in enumerate(weights):
            left = _gram_of(up[k], up[j], wk.shape[-2])
            right = _through(down[k], gram, down[j])
            block = torch.einsum("...ab,...cd->...acbd", left.expand(*batch, *left.shape[-2:]), right)
            if j != k:
                high, low = max(j, k), min(j, k)
                outer = sandwiched(up[high], slope, down[low])  # [d_high, d_{low−1}]
                inner = _between(weights, low, high)
                if k == high:  # δW_k[i, a] · inner[a, b] · δW_j[b, c] · outer[i, c]
                    second = torch.einsum("...ic,...ab->...iabc", outer, inner)
                else:  # δW_k[b, c] and δW_j[i, a]
                    second = torch.einsum("...ic,...ab->...bcia", outer, inner)
                block = block + second
            row.append(block.reshape(*batch, wk.shape[-2] * wk.shape[-1], wj.shape[-2] * wj.shape[-1]))
        rows.append(torch.cat(row, -1))
    return torch.cat(rows, -2)


def _gram_of(first: Tensor | None, second: Tensor | None, size: int) -> Tensor:
    if first is None and second is None:
        return torch.eye(size, dtype=torch.float64)
    if first is None:
        return second  # type: ignore[return-value]
    return first.mT if second is None else first.mT @ second


def _through(first: Tensor | None, gram: Tensor, second: Tensor | None) -> Tensor:
    left = gram if first is None else first @ gram
    return left if second is None else left @ second.mT


def _between(weights: Weights, low: int, high: int) -> Tensor:
    """W_{high−1} ⋯ W_{low+1}: from the outputs of layer ``low`` to the inputs of layer ``high``."""
    if high == low + 1:
        size = weights[high].shape[-1]
        return torch.eye(size, dtype=torch.float64).expand(*weights[0].shape[:-2], size, size)
    return chain(weights[low + 1 : high])


def flat(weights: Weights) -> Tensor:
    """All entries ``[…, P]`` in the order of :func:`hessian`."""
    return torch.cat([weight.flatten(-2) for weight in weights], -1)


def shaped(entries: Tensor, like: Weights) -> tuple[Tensor, ...]:
    """The inverse of :func:`flat`, for layers shaped as ``like``."""
    sizes = [weight.shape[-1] * weight.shape[-2] for weight in like]
    parts = entries.split(sizes, -1)
    return tuple(part.unflatten(-1, (weight.shape[-2], weight.shape[-1])) for part, weight in zip(parts, like, strict=True))


def gamma(operations: int) -> float:
    """The relative rounding error of ``operations`` float64 operations in a row, N·u/(1 − N·u)."""
    return operations * UNIT / (1 - operations * UNIT)
