"""Certified upper ends of the largest singular value: a Cholesky factor that exists proves ``‖A‖₂ ≤ t``.

``t²I − AᴴA`` is positive semidefinite exactly when ``‖A‖₂ ≤ t``, and a Cholesky factorisation that runs to completion in
floating point shows that it is so up to a backward error known beforehand.  The search for t (power iteration, Lanczos) is not
trusted.

Rounding, u = 2⁻⁵³, γ_k = ku/(1 − ku), A of m rows and n ≤ m columns, whatever the order of summation:

* the Gram matrix as computed is off by at most ``γ_m‖A‖_F²`` in norm (Higham 2002, section 3.5);
* a completed factorisation of M has ``RᴴR = M + E``, ``‖E‖₂ ≤ γ_{n+1}/(1 − γ_{n+1}) · tr M`` (Demmel 1989; Rump 2006,
  "Verification of positive definiteness"), and ``tr M ≤ n t²``;
* complex arithmetic multiplies the number of roundings by at most 4 (Higham 2002, Lemma 3.5).

Underflow is covered by scaling A to about unit size first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput

UNIT = 2.0**-53


def gamma(operations: int) -> float:
    """γ_k = ku/(1 − ku), rounded up."""
    product = operations * UNIT
    return math.inf if product >= 0.5 else product / (1 - product) * (1 + 8 * UNIT)


def is_certified(blocks: Tensor, limit: float) -> Tensor:
    """For a batch (B, m, n) of float64 or complex128 matrices: whether ``t²I − AᴴA`` factorises (of the smaller side).

    True proves ``‖A‖₂ ≤ proved(limit, …)`` for that block.
    """
    tall = blocks if blocks.shape[-2] >= blocks.shape[-1] else blocks.mH
    gram = tall.mH @ tall
    gram.neg_().diagonal(dim1=-2, dim2=-1).add_(limit**2)
    return torch.linalg.cholesky_ex(gram).info == 0


def proved(limit: float, rows: int, columns: int, frobenius: float, complex_: bool) -> float:
    """What a success of :func:`is_certified` at ``limit`` proves: ``limit`` enlarged by all rounding errors."""
    tall, thin = max(rows, columns), min(rows, columns)
    each = 4 if complex_ else 1
    product = gamma(each * (tall + 2)) * frobenius**2
    factor = gamma(each * (thin + 3))
    trace = thin * limit**2 * (1 + 4 * UNIT)
    excess = product + factor / (1 - factor) * trace + 4 * UNIT * (limit**2 + frobenius**2)
    return math.sqrt(limit**2 + excess) * (1 + 4 * UNIT)


def frobenius_norms(blocks: Tensor) -> Tensor:
    """Frobenius norm of every block, rounded up."""
    return torch.linalg.vector_norm(blocks, dim=(-2, -1)) * (1 + gamma(2 * blocks.shape[-1] * blocks.shape[-2] + 8))


def largest_of(blocks: Tensor, steps: int = 12) -> Tensor:
    """Estimates of ‖A‖₂ from below for every block of a batch (B, m, n), by power iteration; trusted by nobody."""
    if min(blocks.shape[-2:]) == 1:
        return torch.linalg.vector_norm(blocks, dim=(-2, -1))
    generator = torch.Generator(device=blocks.device).manual_seed(0)
    vector = torch.randn(blocks.shape[0], blocks.shape[-1], 1, dtype=blocks.dtype, device=blocks.device, generator=generator)
    tiny = torch.finfo(blocks.dtype).tiny
    size = torch.zeros(blocks.shape[0], device=blocks.device)
    for _ in range(steps):
        vector = vector / torch.linalg.vector_norm(vector, dim=(-2, -1), keepdim=True).clamp_min(tiny)
        image = blocks @ vector
        size = torch.linalg.vector_norm(image, dim=(-2, -1))
        vector = (image.mH @ blocks).mH  # conjugates the vector, not the blocks
    return size


def upper_end(blocks: Tensor, start: float, step: float, scale: float = 1.0) -> float:
    """A proved upper end of ``max ‖A‖₂`` over a batch (B, m, n): the first of start, start·(1 + step), … that all blocks pass.

    Blocks whose Frobenius norm lies below the trial value pass at once; after each failure the steps double.
    """
    if blocks.numel() == 0:
        return 0.0
    frobenius = frobenius_norms(blocks)
    if not bool(torch.isfinite(frobenius).all()):
        raise InvalidInput("the weights hold NaN or infinity, or overflow: no norm can be given")
    most = float(frobenius.max())
    if most == 0.0 or min(blocks.shape[-2:]) == 1:
        return most
    rows, columns = blocks.shape[-2:]
    trial = max(start, most / math.sqrt(min(rows, columns)) * 0.5)
    while True:
        if trial >= most:
            return most
        unit = blocks / trial if not 1e-60 < trial < 1e60 else blocks
        size = 1.0 if unit is not blocks else trial
        open_ = frobenius > trial
        passed = is_certified(unit[open_], size)
        if bool(passed.all()):
            return min(most, proved(trial, rows, columns, float(frobenius[open_].max()), blocks.is_complex()))
        trial *= 1 + step
        step *= 2
