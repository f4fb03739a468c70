"""Conditioning of a curvature in the coordinates of an optimizer: the spectrum of P^{1/2} G P^{1/2}, and one ratio of it.

The condition number λ_max/λ_min is undefined here: networks' Gauss–Newton matrices are singular, their Hessians indefinite as well. What is
reported is the **quantile ratio**: the largest eigenvalue over the ``share`` quantile of all |eigenvalues|, zeros counted. Gradient descent
with the largest stable step, 2/λ_max, takes on the order of this many steps for directions at that quantile; so this ratio, like κ, does
not change when P is multiplied by a number. An indicator: of the curvature at one point.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.operators.lanczos import Advance, top_eigenpairs
from nonvacuous.operators.spectral_density import SpectralDensity, quantile_ratio, spectral_density
from nonvacuous.optimization.preconditioners import Preconditioned, Preconditioner, identity

__all__ = ["Conditioning", "compared", "conditioning", "spectrum_ratio"]

DENSE = 1_500
"""Largest number of parameters for which the spectrum is found in full by default."""


@dataclass(frozen=True)
class Conditioning:
    """A preconditioned curvature.

    Attributes: ``name`` of the optimizer; ``share`` of the quantile; ``ratio``, the quantile ratio, an indicator, infinite where the
    quantile is 0; ``top``, the largest eigenvalue; ``eigenvalues`` [P] ascending, float64, where found in full, else None; ``density`` by
    Lanczos quadrature otherwise.
    """

    name: str
    share: float
    ratio: Measured
    top: Measured
    eigenvalues: Tensor | None
    density: SpectralDensity | None


def spectrum_ratio(eigenvalues: Tensor, share: float = 0.5) -> float:
    """Largest eigenvalue over the ``share`` quantile of |eigenvalues|: the least value that at least ``share`` of them do not exceed.

    Magnitudes within rounding of 0 (P · ε · the largest) count as 0; then the ratio is infinite.

    >>> spectrum_ratio(torch.tensor([0.0, 1.0, 2.0, 8.0]), 0.5)
    8.0
    """
    if not isinstance(eigenvalues, Tensor) or eigenvalues.ndim != 1 or not len(eigenvalues):
        raise InvalidInput("eigenvalues of a spectrum are one tensor [P] with P ≥ 1")
    if not 0 < share < 1:
        raise InvalidInput(f"share {share!r} of the eigenvalues: it lies strictly between 0 and 1")
    if not bool(torch.isfinite(eigenvalues).all()):
        raise InvalidInput("the spectrum holds NaN or infinity")
    top = float(eigenvalues.max())
    if not top > 0:
        raise InvalidInput(f"the largest eigenvalue is {top}: without a positive one there is no ratio")
    sizes = eigenvalues.abs().sort().values
    place = math.ceil(share * len(sizes) * (1 - 1e-12)) - 1
    quantile = float(sizes[max(place, 0)])
    noise = len(sizes) * float(torch.finfo(eigenvalues.dtype).eps) * float(sizes[-1])
    return top / quantile if quantile > noise else math.inf


def conditioning(
    operator: Any,
    preconditioner: Preconditioner | None = None,
    *,
    share: float = 0.5,
    dense: int = DENSE,
    steps: int = 60,
    probes: int = 4,
    seed: int = 0,
    advance: Advance | None = None,
) -> Conditioning:
    """The spectrum of P^{1/2} A P^{1/2} and its quantile ratio, for ``operator`` A [P, P] (``curvature.ggn``) and P (by default I).

    Up to ``dense`` parameters the matrix is formed and solved in float64. Above, the largest eigenvalue is found by Lanczos and the
    quantile by ``probes`` Lanczos quadratures of ``steps`` steps, whose spread is the ratio's bracket; near a dense cluster at 0 the
    quantile is then coarse, since quadrature resolves the top of a spectrum best.

    Raises InvalidInput for sizes that do not match, a share outside (0, 1), or a spectrum without a positive eigenvalue.
    """
    if not 0 < share < 1:
        raise InvalidInput(f"share {share!r} of the eigenvalues: it lies strictly between 0 and 1")
    chosen = identity(int(operator.shape[0])) if preconditioner is None else preconditioner
    product = Preconditioned(operator, chosen)
    size = product.shape[0]
    if size <= dense:
        matrix = chosen.root(_formed(operator).double())
        matrix = chosen.root(matrix.mT.contiguous())
        eigenvalues = torch.linalg.eigvalsh((matrix + matrix.mT) / 2)
        ratio = spectrum_ratio(eigenvalues.to(operator.dtype), share)
        top = Measured.indicator(float(eigenvalues[-1]))
        return Conditioning(chosen.name, share, Measured.indicator(ratio), top, eigenvalues, None)
    found = top_eigenpairs(product, 1, seed=seed, advance=advance).measured()[0]
    density = spectral_density(product, steps, probes, seed=seed, advance=advance)
    return Conditioning(chosen.name, share, quantile_ratio(found, density, share), found, None, density)


def _formed(operator: Any) -> Tensor:
    if isinstance(operator, Tensor):
        return operator
    size = int(operator.shape[0])
    matrix: Tensor = operator @ torch.eye(size, dtype=operator.dtype, device=operator.device)
    return matrix


def compared(operator: Any, preconditioners: Iterable[Preconditioner], **options: Any) -> tuple[Conditioning, ...]:
    """`conditioning` for each, of one curvature, which is formed once where it is small; options as there."""
    chosen = tuple(preconditioners)
    if not chosen:
        raise InvalidInput("no preconditioner to compare: give at least one")
    size = int(operator.shape[0])
    whole = _formed(operator) if size <= options.get("dense", DENSE) else operator
    return tuple(conditioning(whole, each, **options) for each in chosen)
