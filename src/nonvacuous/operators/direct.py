"""Upper ends for large blocks written out in space: the Gram matrix from products of taps, factorised in place.

For ``A = Σ_τ K_τ ⊗ T_τ`` the Gram matrix is ``Σ_{τ,σ} (K_τ K_σᴴ) ⊗ (T_τ T_σᵀ)``: as many small products as there are pairs of
taps, and A itself is never formed.  It costs one n × n array, in which LAPACK's Cholesky then works.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nonvacuous.operators.certified import proved


def gram(taps: Tensor, places: Tensor) -> Tensor:
    """``Σ (K_τ K_σᴴ) ⊗ (T_τ T_σᵀ)`` for taps (τ, m, c) and 0–1 matrices (τ, a, b); rows in the order (place, channel)."""
    count, channels, _ = taps.shape
    size = places.shape[1]
    out = torch.zeros(size, channels, size, channels, dtype=taps.dtype, device=taps.device)
    for first in range(count):
        for second in range(first, count):
            times = places[first] @ places[second].mT
            rows, columns = times.nonzero(as_tuple=True)
            if not len(rows):
                continue
            block = taps[first] @ taps[second].mH
            for i, j in zip(rows.tolist(), columns.tolist(), strict=True):
                out[i, :, j, :] += float(times[i, j]) * block
                if first != second:
                    out[j, :, i, :] += float(times[i, j]) * block.mH
    return out.reshape(size * channels, size * channels)


def estimate(matrix: Tensor, steps: int = 20) -> float:
    """√ of the largest eigenvalue of a Gram matrix, from below, by Lanczos; trusted by nobody."""
    generator = torch.Generator(device=matrix.device).manual_seed(0)
    vector = torch.randn(len(matrix), dtype=matrix.dtype, device=matrix.device, generator=generator)
    basis = [vector / torch.linalg.vector_norm(vector)]
    images = []
    for _ in range(min(steps, len(matrix))):
        images.append(matrix @ basis[-1])
        rest = images[-1]
        for _ in range(2):
            frame = torch.stack(basis)
            rest = rest - frame.mT @ (frame.conj() @ rest)
        length = torch.linalg.vector_norm(rest)
        if not float(length) > 1e-10 * float(torch.linalg.vector_norm(images[-1])):
            break
        basis.append(rest / length)
    frame = torch.stack(basis[: len(images)])
    small = frame.conj() @ torch.stack(images).mT
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh((small + small.mH) / 2)[-1])))


def absolute_frobenius(taps: Tensor, places: Tensor) -> float:
    """An upper end of ``‖Σ |K_τ| ⊗ T_τ‖_F``, by Cauchy and Schwarz."""
    squares = torch.linalg.vector_norm(taps, dim=(1, 2)).square() * places.square().sum((1, 2))
    return math.sqrt(len(taps) * float(squares.sum())) * (1 + 1e-12)


def factorises(matrix: Tensor, limit: float) -> bool:
    """Whether ``limit²·I − matrix`` has a Cholesky factor; the matrix is overwritten."""
    matrix.neg_().diagonal().add_(limit**2)
    # The transpose of a Hermitian matrix has the same eigenvalues, and is laid out as LAPACK wants it: no copy is made.
    info = torch.empty((), dtype=torch.int32, device=matrix.device)
    torch.linalg.cholesky_ex(matrix.mT, out=(matrix.mT, info))
    return int(info) == 0


def upper_end_of_taps(taps: Tensor, places: Tensor, start: float, step: float) -> float:
    """A proved upper end of ``‖Σ K_τ ⊗ T_τ‖₂``."""
    rows, columns = taps.shape[1] * places.shape[1], taps.shape[2] * len(taps) * places.shape[2]
    size = absolute_frobenius(taps, places)
    return _search(lambda: gram(taps, places), size, columns, rows, start, step)


def upper_end_of_matrix(weight: Tensor, frobenius: float, start: float, step: float) -> float:
    """A proved upper end of the ℓ2 norm of a matrix, without a second copy of it."""
    tall = weight if weight.shape[0] >= weight.shape[1] else weight.mT
    columns = tall.shape[1]

    def squared() -> Tensor:
        total = torch.zeros(columns, columns, dtype=torch.float64, device=weight.device)
        for first in range(0, tall.shape[0], 1024):
            part = tall[first : first + 1024].double()
            total.addmm_(part.mT, part)
        return total

    return _search(squared, frobenius, tall.shape[0], columns, start, step)


def _search(squared: Callable[[], Tensor], most: float, tall: int, thin: int, start: float, step: float) -> float:
    """The first of start, start·(1 + step), … whose square less the Gram matrix factorises; steps double after a failure."""
    matrix = squared()
    trial = max(start, estimate(matrix) * (1 + step))
    while trial < most:
        complex_ = matrix.is_complex()
        if factorises(matrix, trial):
            return min(most, proved(trial, tall, thin, most, complex_))
        trial *= 1 + step
        step *= 2
        del matrix  # before the next one: one array at a time
        matrix = squared()
    return most
