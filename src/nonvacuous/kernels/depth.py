r"""Gaussian processes by increasing depth: the sum over layers of a network with shortcuts, its kernel by simulation and by its limits.

f(x) = (1/√M_z) Σ_{κ=0}^{K} 1ᵀ z^{l₁ + κħ}, z⁰ = x, z^l = σ(W^l z^{l−1} + b^l), M_z = (K + 1)·width: the deck's network, of bounded width
and growing depth. Weights here are N(0, σ_w²/fan_in), biases N(0, σ_b²); the readout's ones may be signs drawn at random.

**What holds, what is claimed.** The paper claims, for layers that contract (C_σ‖W‖ < 1, C_σ the Lipschitz constant of σ), that f tends
to a Gaussian process as K → ∞ whose kernel has λ_min(K) = Θ(d) for inputs of norm √d. A central limit theorem for weakly dependent
layers is right at one input. But layers that contract also forget: ‖z^l(x) − z^l(x')‖ ≤ ρ^l ‖x − x'‖, so for all inputs at once

    |f(x) − f(x')| ≤ √width · ρ^{l₁} / (1 − ρ^ħ) · ‖x − x'‖ / √M_z → 0        (`forgetting`)

and the limit kernel of centred values is one constant on every pair, of rank one: λ_min → 0 as depth grows, for every d. The slope of
λ_min in d at a fixed depth is real and is what can be measured; it collapses with depth. Both are in `smallest_eigenvalue_slope`.

The limit that does distinguish inputs is that of width → ∞ at a fixed number of terms (`wide_limit`): the mean of the layers' kernels.

Source: Zhang, Wang and Fan 2021 ("Neural network Gaussian processes by increasing depth", arXiv 2108.12862), as the deck quotes it. The
forgetting bound and the wide limit are worked out here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.kernels.activations import dual
from nonvacuous.kernels.block_gram import checked_inputs
from nonvacuous.kernels.fully_connected import Activation
from nonvacuous.runtime.tasks import Progress

DRAWS_AT_ONCE = 64


@dataclass(frozen=True)
class ShortcutNetwork:
    """width: neurons a layer; first: l₁ ≥ 1; spacing: ħ ≥ 1; terms: K + 1 layers that are summed; activation: σ, by name or as a
    function.

    weight_std: σ_w; bias_std: σ_b; unscaled_input: its weights are N(0, σ_w²),
    not divided by d, as where λ_min is claimed to grow with d. random_signs: the readout's ones get independent fair signs, the same for
    all inputs: the mean is 0 for every σ.
    """

    width: int
    terms: int
    activation: Activation = "erf"
    first: int = 1
    spacing: int = 1
    weight_std: float = 1.0
    bias_std: float = 0.0
    unscaled_input: bool = False
    random_signs: bool = True

    def __post_init__(self) -> None:
        if min(self.width, self.terms, self.first, self.spacing) < 1:
            raise InvalidInput(
                f"width {self.width}, terms {self.terms}, first {self.first}, spacing {self.spacing}: whole numbers, 1 or more"
            )
        if not (0 < self.weight_std < math.inf and 0 <= self.bias_std < math.inf):
            raise InvalidInput(
                f"weight_std={self.weight_std!r}, bias_std={self.bias_std!r}: positive, and 0 or more; both finite"
            )

    @property
    def depth(self) -> int:
        """Layers in all, l₁ + Kħ."""
        return self.first + (self.terms - 1) * self.spacing

    def summed(self, layer: int) -> bool:
        """Whether that layer is among those summed."""
        return layer >= self.first and (layer - self.first) % self.spacing == 0


def values(
    network: ShortcutNetwork, inputs: Tensor, draws: int, *, generator: torch.Generator, progress: Progress | None = None
) -> Tensor:
    """f(x) for independent draws of all weights, ``[draws, n]``; each draw is one network, the same for all inputs ``[n, d]``."""
    x = checked_inputs(inputs)
    if x.ndim != 2 or draws < 1:
        raise InvalidInput(f"inputs {tuple(x.shape)}, {draws} draws: give [n, d], and a draw or more")
    parts = []
    with (progress or Progress()).task("networks", draws) as advance:
        for start in range(0, draws, DRAWS_AT_ONCE):
            count = min(DRAWS_AT_ONCE, draws - start)
            parts.append(_drawn(network, x, count, generator))
            advance(count)
    return torch.cat(parts)


def _layers(network: ShortcutNetwork, x: Tensor, count: int, generator: torch.Generator) -> Iterator[tuple[int, Tensor]]:
    """z^l ``[count, n, width]`` for l = 1, 2, …"""
    activation, z = dual(network.activation).module(), x.expand(count, *x.shape)
    for layer in range(1, network.depth + 1):
        fan_in = z.shape[2]
        scale = network.weight_std / (1 if layer == 1 and network.unscaled_input else math.sqrt(fan_in))
        W = _normal(x, generator, count, fan_in, network.width) * scale
        z = activation(z @ W + network.bias_std * _normal(x, generator, count, 1, network.width))
        yield layer, z


def _normal(like: Tensor, generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=like.dtype, device=like.device)


def _drawn(network: ShortcutNetwork, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    total = torch.zeros(count, len(x), dtype=x.dtype, device=x.device)
    for layer, z in _layers(network, x, count, generator):
        if network.summed(layer):
            ones = torch.ones(count, network.width, 1, dtype=x.dtype, device=x.device)
            readout = torch.sign(_normal(x, generator, count, network.width, 1)) if network.random_signs else ones
            total += (z @ readout).squeeze(2)
    return total / math.sqrt(network.terms * network.width)


class Simulated(NamedTuple):
    """kernel: covariance over the draws ``[n, n]``; error: standard deviation of each entry's estimate ``[n, n]``; draws."""

    kernel: Tensor
    error: Tensor
    draws: int


def simulated(
    network: ShortcutNetwork, inputs: Tensor, draws: int, *, generator: torch.Generator, progress: Progress | None = None
) -> Simulated:
    """The kernel of the finite network: E f(x)f(x') with random signs (whose mean is 0), else the covariance."""
    if draws < 2:
        raise InvalidInput(f"{draws} draws: a covariance needs two")
    f = values(network, inputs, draws, generator=generator, progress=progress)
    if not network.random_signs:
        f = (f - f.mean(0)) * math.sqrt(draws / (draws - 1))
    K = f.T @ f / draws
    square = (f.square().T @ f.square()) / draws
    return Simulated(K, ((square - K.square()).clamp(min=0) / draws).sqrt(), draws)


def averaged_over_signs(
    network: ShortcutNetwork, inputs: Tensor, draws: int, *, generator: torch.Generator, progress: Progress | None = None
) -> Tensor:
    """The kernel of the finite network with random signs, averaged exactly over the signs and over ``draws`` of all else ``[n, n]``.

    E[f(x)f(x') | layers] = Σ_κ z_κ(x)·z_κ(x')/M_z: the same expectation as `simulated` with far less noise, and positive semi-definite.
    """
    if not network.random_signs:
        raise InvalidInput("the readout has no signs to average over: take random_signs=True, or `simulated`")
    x = checked_inputs(inputs)
    K = torch.zeros(len(x), len(x), dtype=x.dtype, device=x.device)
    with (progress or Progress()).task("networks", draws) as advance:
        for start in range(0, draws, DRAWS_AT_ONCE):
            count = min(DRAWS_AT_ONCE, draws - start)
            for layer, z in _layers(network, x, count, generator):
                if network.summed(layer):
                    flat = z.transpose(0, 1).reshape(len(x), -1)
                    K.addmm_(flat, flat.T)
            advance(count)
    return K / (draws * network.terms * network.width)


def wide_limit(network: ShortcutNetwork, inputs: Tensor) -> Tensor:
    """The kernel as width → ∞ at fixed terms ``[n, n]``, float64: the mean over summed layers of E[σ(u)σ(v)]. Layers become independent
    of each other, each a Gaussian process of covariance

    C_{l+1} = σ_w² E[σ(u)σ(v)] + σ_b², (u, v) ~ N(0, C_l): closed forms, or a series (which warns), of `activations.dual`.

    A readout of ones needs a σ of mean 0 (odd: erf, tanh). Otherwise the sum over a layer reads off that layer's random scale, which all
    later layers inherit: layers stay correlated, at any width.

    Raises:
        InvalidInput: such a σ without random signs, or unusable inputs.

    >>> network = ShortcutNetwork(width=8, terms=1, activation="relu")
    >>> round(float(wide_limit(network, torch.ones(1, 4))), 6)  # E relu(u)² = 1/2
    0.5
    """
    x = checked_inputs(inputs).double()
    function = dual(network.activation)
    points = torch.linspace(0, 8, 50, dtype=torch.float64)
    sigma = function.module()
    if not network.random_signs and float((sigma(points) + sigma(-points)).abs().max()) > 1e-12:
        raise InvalidInput(
            "a readout of ones has no such limit unless the activation is odd: take random_signs=True, or erf or tanh"
        )
    C = network.weight_std**2 * (x @ x.T) / (1 if network.unscaled_input else x.shape[1]) + network.bias_std**2
    total = torch.zeros_like(C)
    for layer in range(1, network.depth + 1):
        variance = C.diagonal().clone()
        product = function.moments(variance[:, None].expand_as(C), C, variance.expand_as(C)).value
        product = (product + product.T) / 2
        product.diagonal().copy_(function.diagonal(variance).value)
        if network.summed(layer):
            total += product
        C = network.weight_std**2 * product + network.bias_std**2
    return total / network.terms


def forgetting(network: ShortcutNetwork, ratio: float, distance: float) -> float:
    """An upper bound on |f(x) − f(x')| for every network whose layers all have C_σ‖W‖ ≤ ratio < 1, and ‖x − x'‖ ≤ distance.

    √width · ρ^{l₁}(1 + ρ^ħ + … )·‖x − x'‖/√M_z: a geometric sum over a root that grows with the number of terms.
    """
    if not 0 <= ratio < 1 or not 0 <= distance < math.inf:
        raise InvalidInput(
            f"ratio {ratio!r}, distance {distance!r}: the ratio lies in [0, 1), the distance is 0 or more and finite"
        )
    kept = sum(ratio ** (network.first + k * network.spacing) for k in range(network.terms))
    return math.sqrt(network.width) * kept * distance / math.sqrt(network.terms * network.width)


class Tightness(NamedTuple):
    """order: 2k; distances: ‖x − x'‖ ``[m]``; ratios: E|f(x) − f(x')|^{2k}/‖x − x'‖^{2k} ``[m]``, measured; worst: the largest with three
    standard errors added, an indicator.
    """

    order: int
    distances: Tensor
    ratios: Tensor
    worst: Measured


def tightness(
    network: ShortcutNetwork, first: Tensor, second: Tensor, draws: int, *, order: int, generator: torch.Generator
) -> Tightness:
    """Kolmogorov's moment condition, measured on pairs (first_i, second_i): E|f(x) − f(x')|^{2k} ≤ C‖x − x'‖^{2k} with one C for all depths
    and 2k > d makes the laws of f uniformly tight on compact sets of R^d (with tight f(0)). That C does not grow with depth is what to
    look for; no finite measurement proves it.

    Args:
        first, second: ``[m, d]`` each. order: 2k, even.
    """
    if first.shape != second.shape or order < 2 or order % 2:
        raise InvalidInput(
            f"pairs {tuple(first.shape)} and {tuple(second.shape)}, order {order}: as many of each, an even order"
        )
    distance = (first - second).norm(dim=1)
    if not bool((distance > 0).all()):
        raise InvalidInput("a pair holds the same input twice: take different ones")
    f = values(network, torch.cat([first, second]), draws, generator=generator)
    scaled = ((f[:, : len(first)] - f[:, len(first) :]) / distance) ** order
    ratios, error = scaled.mean(0), scaled.std(0) / math.sqrt(draws)
    at = int(ratios.argmax())
    return Tightness(order, distance, ratios, Measured.indicator(float(ratios[at]), float(ratios[at] + 3 * error[at])))


def smallest_eigenvalue(kernel: Tensor) -> float:
    """λ_min of a symmetric matrix, in float64."""
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not bool(torch.isfinite(kernel).all()):
        raise InvalidInput(f"a kernel of shape {tuple(kernel.shape)}: give a finite [n, n]")
    return float(torch.linalg.eigvalsh((kernel.double() + kernel.double().T) / 2)[0])


class Slope(NamedTuple):
    """dimensions; eigenvalues: λ_min at each; slope: least squares of λ_min on d; exponent: of λ_min as a power of d."""

    dimensions: tuple[int, ...]
    eigenvalues: tuple[float, ...]
    slope: float
    exponent: float


def smallest_eigenvalue_slope(
    kernel: Callable[[Tensor], Tensor], dimensions: Sequence[int], n: int, *, generator: torch.Generator
) -> Slope:
    """How λ_min of a kernel grows with the input's dimension, on n standard Gaussian inputs, whose ‖x‖² is about d.

    Args:
        kernel: inputs ``[n, d]`` to the Gram matrix ``[n, n]``, at a depth that is held fixed.
    """
    if len(set(dimensions)) < 2 or min(dimensions) < 1 or n < 2:
        raise InvalidInput(f"dimensions {tuple(dimensions)}, {n} inputs: give two dimensions and two inputs at least")
    found = [smallest_eigenvalue(kernel(torch.randn(n, d, generator=generator, dtype=torch.float64))) for d in dimensions]
    d, y = torch.tensor(dimensions, dtype=torch.float64), torch.tensor(found, dtype=torch.float64)

    def fit(a: Tensor, b: Tensor) -> float:
        return float(((a - a.mean()) * (b - b.mean())).sum() / (a - a.mean()).square().sum())

    positive = y.clamp(min=1e-300)
    return Slope(tuple(dimensions), tuple(found), fit(d, y), fit(d.log(), positive.log()))
