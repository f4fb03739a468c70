"""Lower ends of ‖A‖₂ by Golub–Kahan bidiagonalisation, and an upper end that holds with probability 1 − δ.

The lower end is a Rayleigh quotient ``‖Av‖/‖v‖`` of one vector, evaluated in float64; how v was found does not matter to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from nonvacuous.operators.certified import gamma
from nonvacuous.operators.linear_map import LinearMap


@dataclass(frozen=True)
class Krylov:
    """What a run of Golub–Kahan found: the largest Ritz value, the vector behind it, and BᵀB of the bidiagonal matrix B."""

    ritz: float
    vector: Tensor
    squared: np.ndarray


def golub_kahan(linear: LinearMap, start: Tensor, most: int, tolerance: float, dtype: torch.dtype = torch.float32) -> Krylov:
    """Golub–Kahan–Lanczos with full reorthogonalisation of the right vectors, from ``start`` (shape_in).

    Stops when the residual of the largest Ritz value and its change over two steps are below ``tolerance`` of it, or after
    ``most`` steps.
    """
    right = [torch.nn.functional.normalize(start.to(dtype).flatten(), dim=0)]
    alphas: list[float] = []
    betas: list[float] = []
    ritz, before = 0.0, math.inf
    previous = torch.zeros(linear.rows, dtype=dtype, device=linear.device)
    weights = np.ones(1)
    for step in range(min(most, linear.columns)):
        left = linear.apply(right[-1].reshape(1, *linear.shape_in)).flatten() - (betas[-1] if betas else 0.0) * previous
        alpha = float(torch.linalg.vector_norm(left))
        alphas.append(alpha)
        if alpha > 0:
            left = left / alpha
        following = linear.adjoint(left.reshape(1, *linear.shape_out)).flatten()
        basis = torch.stack(right)
        for _ in range(2):
            following = following - basis.mT @ (basis @ following)
        beta = float(torch.linalg.vector_norm(following))
        bidiagonal = np.diag(alphas) + np.diag(betas, 1)
        _, sizes, rows = np.linalg.svd(bidiagonal)
        ritz, weights = float(sizes[0]), rows[0]
        residual = beta * abs(float(np.linalg.svd(bidiagonal)[0][-1, 0]))
        if not alpha > 0 or not beta > 1e-6 * ritz:
            break
        if step > 2 and residual <= math.sqrt(tolerance) * 0.5 * ritz and abs(ritz - before) <= tolerance / 4 * ritz:
            break
        before = ritz
        betas.append(beta)
        previous = left
        right.append(following / beta)
    squared = np.diag(alphas) + np.diag(betas[: len(alphas) - 1], 1)
    vector = torch.stack(right[: len(weights)]).double().mT @ torch.as_tensor(weights, device=linear.device).double()
    return Krylov(ritz, vector.reshape(linear.shape_in), squared.T @ squared)


def rayleigh(linear: LinearMap, vector: Tensor, terms: int, size: float) -> float:
    """``‖Av‖/‖v‖`` in float64, rounded down.

    Every entry of Av is a sum of at most ``terms`` products, off by ``γ_terms · |A||v|``; ``size`` bounds ``‖|A|‖₂``.
    """
    vector = vector.double()
    length = float(torch.linalg.vector_norm(vector))
    if not length > 0:
        return 0.0
    image = float(torch.linalg.vector_norm(linear.apply(vector.unsqueeze(0))))
    error = gamma(linear.rows + linear.columns + 8)
    return max(0.0, (image * (1 - error) / length - gamma(terms + 4) * size) * (1 - error))


def random_start(linear: LinearMap, seed: int | torch.Generator = 0) -> Tensor:
    """A standard Gaussian vector of the input space."""
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    return torch.randn(linear.shape_in, generator=generator, dtype=torch.float64).to(linear.device)


def probable_upper(run: Krylov, columns: int, delta: float) -> float:
    """An upper end of ‖A‖₂ that a *Gaussian* start makes true with probability at least 1 − δ.

    With p the monic Lanczos polynomial of degree k, ``p(AᵀA)v₀ = β₁…β_k v_k`` for the unit start v₀, so the component of v₀
    along the top singular vector is at most ``Πβ/|p(λ₁)|``.  That component is below ε with probability at most
    ``ε·√(2 columns/π)``, hence λ₁ is at most the largest λ with ``|p(λ)| = Πβ/ε`` (Hochstenbach 2013, "Probabilistic upper
    bounds for the matrix two-norm", J. Sci. Comput. 57; Dixon 1983).  ``run`` must come from float64.
    """
    tridiagonal = run.squared
    nodes = np.linalg.eigvalsh(tridiagonal[:-1, :-1])
    if len(nodes) == 0:
        return math.inf
    log_betas = float(np.log(np.abs(np.diag(tridiagonal, 1))).sum())
    level = math.log(math.sqrt(2 * columns / math.pi) / delta) + log_betas
    top = float(nodes[-1])

    def excess(log_gap: float) -> float:
        return float(np.log(top - nodes + math.exp(log_gap)).sum()) - level

    low, high = math.log(top) - 80, math.log(top) + 80
    if excess(low) > 0:
        return math.sqrt(top) * (1 + 1e-9)
    return math.sqrt(top + math.exp(brentq(excess, low, high))) * (1 + 1e-9)
