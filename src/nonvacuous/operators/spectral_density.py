"""Spectral density of a symmetric operator by stochastic Lanczos quadrature, and what can be said of its conditioning.

A random unit vector v and m Lanczos steps give a Gauss quadrature of vᵀ f(A) v, exact for polynomials f of degree below 2m; the mean
over vectors estimates tr f(A)/P. Every run is fully reorthogonalised, so that no eigenvalue is counted twice.

Source: Golub and Meurant 1994; Lin, Saad and Yang 2016 (SIAM Review 58); Ghorbani, Krishnan and Xiao 2019 for networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.operators.lanczos import Advance, Basis, bottom_eigenpairs, checked_operator, top_eigenpairs


@dataclass(frozen=True)
class Band:
    """A curve over a grid with its band of ± 2 standard errors over the probes."""

    values: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


@dataclass(frozen=True)
class SpectralDensity:
    """One quadrature a probe: ``nodes[i]`` (Ritz values, ascending) and ``weights[i]`` (they sum to 1) of probe i.

    ``size`` P; ``products`` spent.
    """

    nodes: tuple[np.ndarray, ...]
    weights: tuple[np.ndarray, ...]
    size: int
    products: int

    @property
    def extent(self) -> tuple[float, float]:
        """Least and largest node."""
        return min(float(n[0]) for n in self.nodes), max(float(n[-1]) for n in self.nodes)

    def grid(self, points: int = 400) -> np.ndarray:
        """An even grid over the nodes and a little beyond."""
        low, high = self.extent
        room = 0.05 * (high - low) or 0.05 * max(1.0, abs(high))
        return np.linspace(low - room, high + room, points)

    def density(self, grid: np.ndarray, width: float | None = None) -> Band:
        """The density convolved with a Gaussian of standard deviation ``width`` (by default 1 % of the extent)."""
        low, high = self.extent
        width = width if width is not None else 0.01 * (high - low) or 1e-3 * max(1.0, abs(high))
        if not width > 0:
            raise InvalidInput(f"width {width!r} of the smoothing Gaussian: give a positive number")
        bumps = [
            (np.exp(-0.5 * ((grid[:, None] - nodes) / width) ** 2) @ weights) / (width * (2 * np.pi) ** 0.5)
            for nodes, weights in zip(self.nodes, self.weights, strict=True)
        ]
        return self._band(np.stack(bumps))

    def cumulative(self, grid: np.ndarray) -> Band:
        """Fraction of the eigenvalues that are at most each point."""
        steps = [
            np.concatenate([[0.0], np.cumsum(weights)])[np.searchsorted(nodes, grid, side="right")]
            for nodes, weights in zip(self.nodes, self.weights, strict=True)
        ]
        return self._band(np.stack(steps))

    def trace(self) -> Measured:
        """tr A = P · mean of the quadratures of f(λ) = λ; ± 2 standard errors; an indicator."""
        return self.integral(lambda x: x)

    def integral(self, function: Any) -> Measured:
        """tr f(A) with its band, f taking an array of eigenvalues."""
        found = np.array([float(function(n) @ w) for n, w in zip(self.nodes, self.weights, strict=True)]) * self.size
        reach = 2 * _error(found)
        return Measured(float(found.mean() - reach), float(found.mean() + reach), Kind.INDICATOR)

    def quantile_of_magnitudes(self, share: float) -> Measured:
        """The ``share`` quantile of |λ| over all P eigenvalues: lowest and highest over the probes; an indicator."""
        if not 0 < share < 1:
            raise InvalidInput(f"share {share!r} of the eigenvalues: it lies strictly between 0 and 1")
        found = []
        for nodes, weights in zip(self.nodes, self.weights, strict=True):
            order = np.argsort(np.abs(nodes))
            place = int(np.searchsorted(np.cumsum(weights[order]), share * (1 - 1e-12)))
            found.append(float(np.abs(nodes)[order][min(place, len(order) - 1)]))
        return Measured(min(found), max(found), Kind.INDICATOR)

    def _band(self, curves: np.ndarray) -> Band:
        mean = curves.mean(0)
        reach = 2 * (curves.std(0, ddof=1) / len(curves) ** 0.5 if len(curves) > 1 else np.full_like(mean, np.inf))
        return Band(mean, np.maximum(mean - reach, 0.0), mean + reach)


def _error(found: np.ndarray) -> float:
    return float(found.std(ddof=1) / len(found) ** 0.5) if len(found) > 1 else float("inf")


def spectral_density(
    operator: Any, steps: int = 40, probes: int = 5, *, seed: int | torch.Generator = 0, advance: Advance | None = None
) -> SpectralDensity:
    """``probes`` runs of ``steps`` Lanczos steps: steps · probes products.

    Raises InvalidInput for fewer than one step or probe; one probe has no error band (infinite).
    """
    size = checked_operator(operator)
    if steps < 1 or probes < 1:
        raise InvalidInput(f"{steps} steps and {probes} probes: give at least 1 of each")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    nodes, weights, products = [], [], 0
    for _ in range(probes):
        basis = Basis(operator, generator, min(steps, size) + 1)
        basis.random()
        for step in range(min(steps, size)):
            going = basis.multiply(step)
            if advance is not None:
                advance(1)
            if not going:
                break
        ritz = basis.ritz()
        nodes.append(ritz.values[::-1].copy())
        weights.append((ritz.vectors[0] ** 2)[::-1].copy())
        products += basis.products
    return SpectralDensity(tuple(nodes), tuple(weights), size, products)


def condition_number(operator: Any, *, tolerance: float = 1e-2, seed: int = 0, most: int | None = None) -> Measured:
    """κ = λ_max/λ_min of a positive definite operator; an indicator.

    Raises InvalidInput where the smallest eigenvalue is not above zero by more than its error: an indefinite or singular matrix has no
    such number. Then :func:`quantile_ratio` says what can be said.
    """
    top = top_eigenpairs(operator, 1, tolerance=tolerance, seed=seed, most=most).measured()[0]
    bottom = bottom_eigenpairs(operator, 1, tolerance=tolerance, seed=seed, most=most).measured()[0]
    if not bottom.lower > 0:
        raise InvalidInput(
            f"the smallest eigenvalue is in {bottom}, not surely above 0: κ is not defined for a singular or indefinite matrix. Add a "
            "multiple of the identity, or use quantile_ratio"
        )
    return Measured(top.lower / bottom.upper, top.upper / bottom.lower, Kind.INDICATOR)


def quantile_ratio(top: Measured, density: SpectralDensity, share: float = 0.9) -> Measured:
    """Largest eigenvalue over the ``share`` quantile of |λ|: how far the sharpest direction stands out; an indicator.

    Defined where κ is not. Its upper end is infinite where that quantile may be 0.
    """
    quantile = density.quantile_of_magnitudes(share)
    if not top.lower > 0:
        raise InvalidInput(f"the largest eigenvalue is in {top}: without a positive one there is no ratio")
    ends = [end / q if q > 0 else float("inf") for end, q in ((top.lower, quantile.upper), (top.upper, quantile.lower))]
    return Measured(ends[0], ends[1], Kind.INDICATOR)
