r"""The kernels of an infinitely wide fully connected network, exactly and tile by tile.

With φ between the layers, σ_w and σ_b the deviations and d the number of inputs, pre-activations have covariance
:math:`K_0 = σ_w^2 x·x'/d + σ_b^2`, :math:`K_{l+1} = σ_w^2 E[φ(u)φ(v)] + σ_b^2` for (u, v) ~ N(0, K_l); their gradients have
inner product :math:`Θ_0 = K_0`, :math:`Θ_{l+1} = K_{l+1} + σ_w^2 E[φ'(u)φ'(v)] Θ_l`. After L hidden layers and the readout: K_L, Θ_L.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.activations import dual
from nonvacuous.kernels.dense_tiles import tiles
from nonvacuous.kernels.fully_connected import Activation, Deviations, Recursion, Rows, rows
from nonvacuous.kernels.kernel import Kernel
from nonvacuous.runtime.tasks import Progress


def unit_deviations(activation: Activation, features: int) -> Deviations:
    r"""Deviations under which inputs of norm 1 keep pre-activations of variance 1 in every layer: weight_std² = c_σ = 1/E[φ(z)²] for
    z ~ N(0, 1), and no division by the inputs' number in the first: :math:`f = W^{L+1}\sqrt{c_σ/d_L}\,φ(W^L … \sqrt{c_σ/d_1}\,φ(W^1x))`.

    Source: Arora et al. 2019 (On exact computation with an infinitely wide neural net), Section 3.

    >>> unit_deviations("relu", 4)
    Deviations(weight_std=1.414..., bias_std=0.0, input_weight_std=2.0)
    """
    if features < 1:
        raise InvalidInput(f"features={features}: give the number of inputs, 1 or more")
    square = float(dual(activation).diagonal(torch.ones(1, dtype=torch.float64)).value)
    if not 0 < square < math.inf:
        raise InvalidInput(f"{activation!r} has mean square {square} over N(0, 1): no scaling gives it variance 1")
    return Deviations(1 / math.sqrt(square), 0.0, math.sqrt(features))


def _matched(x1: Tensor, x2: Tensor | None) -> tuple[Rows, Rows | None]:
    first = rows(x1, "x1")
    if x2 is None:
        return first, None
    second = rows(x2, "x2")
    if x1.shape[1:] != x2.shape[1:]:
        raise InvalidInput(f"x1 has samples of shape {tuple(x1.shape[1:])}, x2 of {tuple(x2.shape[1:])}: they must agree")
    if (x1.dtype, x1.device) != (x2.dtype, x2.device):
        raise InvalidInput(f"x1 is {x1.dtype} on {x1.device}, x2 {x2.dtype} on {x2.device}: bring them together")
    return first, second


@torch.no_grad()
def nngp_ntk(
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    depth: int,
    activation: Activation = "relu",
    weight_std: float = math.sqrt(2),
    bias_std: float = 0.0,
    input_weight_std: float | None = None,
    progress: Progress | None = None,
) -> Kernel:
    """Both kernels of a fully connected network with ``depth`` hidden layers, between the samples of ``x1`` and of ``x2`` (``x1`` if None).

    ``x1`` [n1, d], ``x2`` [n2, d], float32 or float64 (more dimensions are flattened) → matrices [n1, n2] of the same type. Weights are
    N(0, weight_std²/fan_in), the first layer's N(0, input_weight_std²/d) if given, biases N(0, bias_std²); the readout is such a layer
    too. Without ``x2`` the result is exactly symmetric and its diagonal is that of x = x'. For rectifiers in float32, pairs whose
    pre-activations have a correlation beyond ±0.999, where arccos loses digits, are recomputed in float64. Beside the two results
    memory is one copy of the inputs and a few tiles; :mod:`~nonvacuous.kernels.block_gram` is for what does not fit.

    Raises ``InvalidInput`` for ranks, types, sizes or numbers that do not fit. An activation without closed form warns
    :class:`~nonvacuous.kernels.activations.NoClosedForm`.

    Source: Lee et al. 2018 (nngp), Jacot, Gabriel and Hongler 2018 (ntk).

    >>> x = torch.eye(2, dtype=torch.float64) * math.sqrt(2)  # orthogonal, of mean square 1; E[relu(u)relu(v)] = 1/π for N(0, 2·I)
    >>> kernel = nngp_ntk(x, depth=1)
    >>> torch.allclose(kernel.nngp, torch.tensor([[2.0, 2 / math.pi], [2 / math.pi, 2.0]], dtype=torch.float64))
    True
    """
    recursion = Recursion.of(depth, activation, Deviations(weight_std, bias_std, input_weight_std))
    first, second = _matched(x1, x2)
    made = tiles(recursion)(recursion, first, second)
    if not all(end.to(x1.dtype).isfinite().all() for side in (made.first, made.second) for end in side.ends):
        raise InvalidInput(
            f"the kernel overflows {x1.dtype} on its diagonal after {depth} layers: take smaller deviations or inputs"
        )
    return made.kernel(progress or Progress())


@torch.no_grad()
def diagonal(
    x: Tensor,
    *,
    depth: int,
    activation: Activation = "relu",
    weight_std: float = math.sqrt(2),
    bias_std: float = 0.0,
    input_weight_std: float | None = None,
) -> Kernel:
    """The diagonals of :func:`nngp_ntk` alone: vectors [n] of the samples' type."""
    recursion = Recursion.of(depth, activation, Deviations(weight_std, bias_std, input_weight_std))
    _, ends = recursion.variances(rows(x, "x"))
    return Kernel(ends.nngp.to(x.dtype), ends.ntk.to(x.dtype))
