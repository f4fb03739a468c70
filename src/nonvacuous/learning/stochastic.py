"""Fully connected networks whose every weight is Gaussian, drawn afresh for every example.

A layer's weights, its bias as a last column, are W = V(B + S∘Z)Uᵀ with Z standard normal: mean VBUᵀ, and a covariance that is diagonal in
the product basis of U (inputs) and V (outputs).  An isotropic prior N(W⁰, σ²I) looks the same in every orthogonal basis, so U and V may be
chosen by the data at no cost; their departure from orthogonality, by rounding, is part of the divergence below.

A layer is applied once to an example, so its pre-activations, given its input x, are V·N(B Uᵀx, (S∘S)(Uᵀx)²): sampling them is sampling one
network an example, without ever forming its weights (local reparameterisation; for layers whose weights meet an example once it is exact).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.core.measured import Kind, Measured

GRID = 4
"""Prior deviations an octave."""

ELEMENTWISE = nn.ReLU | nn.LeakyReLU | nn.Tanh | nn.Sigmoid | nn.GELU | nn.SiLU | nn.ELU | nn.Softplus

_PRICE = math.log(math.pi**2 / 3 - 1)


class Law(NamedTuple):
    """Means and deviations, each [b, out]."""

    mean: Tensor
    std: Tensor


class StochasticLinear(nn.Module):
    """One Gaussian layer, R^in → R^out.

    Args:
        prior: W⁰ with the bias as last column, shape [out, in + 1].
        mean: the posterior's mean in the same form.
        std: deviation of every entry in the rotated coordinates, a number or [out, in + 1].
        basis_in, basis_out: U [in + 1, in + 1] and V [out, out], orthogonal up to rounding; None is the identity.
    """

    def __init__(
        self,
        prior: Tensor,
        mean: Tensor,
        std: Tensor | float,
        basis_in: Tensor | None = None,
        basis_out: Tensor | None = None,
    ) -> None:
        super().__init__()
        if prior.ndim != 2 or prior.shape != mean.shape:
            raise InvalidInput(
                f"prior {tuple(prior.shape)} and mean {tuple(mean.shape)} of a layer have one shape [out, in + 1]"
            )
        self.register_buffer("basis_in", basis_in)
        self.register_buffer("basis_out", basis_out)
        self.register_buffer("rotated_prior", torch.empty_like(prior), persistent=False)
        self.register_buffer("prior", torch.empty_like(prior), persistent=False)
        self.set_prior(prior)
        self.rotated_mean = nn.Parameter(self.rotated(mean.detach()))
        self.log_std = nn.Parameter(torch.as_tensor(std, dtype=prior.dtype).log().expand(prior.shape).clone())

    prior: Tensor
    rotated_prior: Tensor
    basis_in: Tensor | None
    basis_out: Tensor | None

    def set_prior(self, prior: Tensor) -> None:
        """Put W⁰ [out, in + 1] in place. It is not part of the saved weights: whoever checks the divergence makes it again."""
        with torch.no_grad():
            self.prior.copy_(prior)
            self.rotated_prior.copy_(self.rotated(self.prior))

    def rotated(self, matrix: Tensor) -> Tensor:
        """Vᵀ A U."""
        if self.basis_in is not None:
            matrix = matrix @ self.basis_in
        return matrix if self.basis_out is None else self.basis_out.T @ matrix

    def mean(self) -> Tensor:
        """V B Uᵀ in float64, [out, in + 1]."""
        matrix = self.rotated_mean.detach().double()
        if self.basis_in is not None:
            matrix = matrix @ self.basis_in.double().T
        return matrix if self.basis_out is None else self.basis_out.double() @ matrix

    def coordinates(self, inputs: Tensor) -> Tensor:
        """Uᵀ(x, 1) for every row x: [b, in] → [b, in + 1]."""
        appended = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
        return appended if self.basis_in is None else appended @ self.basis_in

    def law(self, coordinates: Tensor) -> Law:
        """Means and deviations of the rotated pre-activations, each [b, out], from :meth:`coordinates` [b, in + 1]."""
        variance = coordinates.square() @ (2 * self.log_std).exp().T
        return Law(coordinates @ self.rotated_mean.T, (variance + 1e-30).sqrt())

    def drawn(self, law: Law, generator: torch.Generator | None = None) -> Tensor:
        """Pre-activations [b, out] of one fresh draw a row."""
        mean, std = law
        drawn = mean + std * torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return drawn if self.basis_out is None else drawn @ self.basis_out.T

    def outputs(self, coordinates: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pre-activations [b, out] of one fresh draw a row, from :meth:`coordinates` [b, in + 1]."""
        return self.drawn(self.law(coordinates), generator)

    def forward(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.outputs(self.coordinates(inputs), generator)

    def kl_nats(self, index: int) -> Measured:
        """KL(Q‖P) for P = N(W⁰, σ²I), σ = 2^(index/4)/√(in + 1), with the price of the index in a union over all integers.

        Σ = (U⊗V) diag(s²) (U⊗V)ᵀ: its trace is Σ s²‖u_i‖²‖v_k‖², its log-determinant Σ ln s² + out·ln det UᵀU + (in+1)·ln det VᵀV, and
        for UᵀU = I + E with ‖E‖_F = e < 1 it is ln det(I + E) ≥ tr E − e²/(2(1 − e)), since ln(1 + x) ≥ x − x²/(2(1 − e)) for x ≥ −e.
        """
        rows, columns = self.prior.shape
        d, variance = rows * columns, 2.0 ** (2 * index / GRID) / columns
        squares = (2 * self.log_std.detach().double()).exp()
        left, right = _squared_norms(self.basis_out, rows), _squared_norms(self.basis_in, columns)
        spread = float(left @ squares.cpu() @ right)
        distance = float((self.mean() - self.prior.double()).square().sum())
        log_determinant = 2 * float(self.log_std.detach().double().sum())
        log_determinant += rows * _log_gram(self.basis_in) + columns * _log_gram(self.basis_out)
        log_variance = 2 * index / GRID * math.log(2) - math.log(columns)
        gaussian = 0.5 * ((spread + distance) / variance - d + d * log_variance - log_determinant)
        value = gaussian + _PRICE + 2 * math.log(abs(index) + 1)
        size = (spread + distance) / variance + d * (1 + abs(log_variance)) + float(self.log_std.detach().abs().double().sum())
        slack = 2.0**-38 * size
        return Measured(max(0.0, value - slack), max(0.0, value) + slack, Kind.EXACT)


def _squared_norms(basis: Tensor | None, size: int) -> Tensor:
    """‖u_i‖² of the columns."""
    return torch.ones(size, dtype=torch.float64) if basis is None else basis.double().square().sum(0).cpu()


def _log_gram(basis: Tensor | None) -> float:
    """A lower bound of ln det UᵀU; raises InvalidInput for a basis that is far from orthogonal."""
    if basis is None:
        return 0.0
    wide = basis.double()
    error = wide.T @ wide - torch.eye(len(wide), dtype=torch.float64, device=wide.device)
    size = float(torch.linalg.vector_norm(error)) * (1 + 1e-9)
    if not size < 0.5:
        raise InvalidInput(f"a basis is not orthogonal: ‖UᵀU − I‖_F = {size:g}; compute it in double precision")
    return float(error.diagonal().sum()) - size**2 / (2 * (1 - size)) - 1e-12 * len(wide)


class StochasticNetwork(nn.Module):
    """A chain of Gaussian layers and activations: the Gibbs classifier itself, which draws a network an example at every call."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        value = inputs.flatten(1)
        for layer in self.layers:
            value = layer(value, generator) if isinstance(layer, StochasticLinear) else layer(value)
        return value

    def draws(self, inputs: Tensor, count: int, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """``count`` times what :meth:`forward` gives, the first Gaussian layer's law being worked out once for all of them."""
        at = next((i for i, layer in enumerate(self.layers) if isinstance(layer, StochasticLinear)), len(self.layers))
        value = inputs.flatten(1)
        for layer in self.layers[:at]:
            value = layer(value)
        first = self.layers[at]
        assert isinstance(first, StochasticLinear)
        law = first.law(first.coordinates(value))
        for _ in range(count):
            drawn = first.drawn(law, generator)
            for layer in self.layers[at + 1 :]:
                drawn = layer(drawn, generator) if isinstance(layer, StochasticLinear) else layer(drawn)
            yield drawn

    def gaussian(self) -> Iterator[StochasticLinear]:
        """The Gaussian layers, first to last."""
        return (layer for layer in self.layers if isinstance(layer, StochasticLinear))

    def kl_nats(self, indices: Sequence[int]) -> Measured:
        """KL of the whole posterior from the prior of these indices, their price included."""
        parts = [layer.kl_nats(index) for layer, index in zip(self.gaussian(), indices, strict=True)]
        return sum(parts[1:], parts[0])


def chain(model: nn.Module) -> list[nn.Module]:
    """The linear layers and activations of a fully connected model, in order.

    Raises UnsupportedModule for anything else: a convolution meets one example many times with the same weights, and a normalizer
    with running statistics is no part of the posterior.
    """
    if isinstance(model, nn.Sequential):
        return [part for child in model for part in chain(child)]
    if isinstance(model, nn.Linear | ELEMENTWISE):
        return [model]
    if isinstance(model, nn.Flatten | nn.Dropout | nn.Identity):
        return []
    raise UnsupportedModule(
        f"{type(model).__name__}: this method takes chains (nn.Sequential) of nn.Linear and element-wise activations, where one draw an "
        "example can be made exactly. Use the method data-dependent, for any network with a linear last layer"
    )


def matrices(model: nn.Module) -> list[Tensor]:
    """The weights of a chain's linear layers, each with its bias (zero where there is none) as last column, [out, in + 1]."""
    linear = [layer for layer in chain(model) if isinstance(layer, nn.Linear)]
    biases = [layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in linear]
    return [torch.cat([layer.weight, bias[:, None]], 1).detach() for layer, bias in zip(linear, biases, strict=True)]
