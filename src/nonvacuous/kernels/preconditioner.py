"""A matrix of low rank close to K, and its use as a preconditioner for K + λI.

P = F Fᵀ + λI with F ``[n, r]`` from a pivoted Cholesky factorisation; P⁻¹ costs O(n r) a vector by Woodbury's identity.

Source: Chen, Epperly, Tropp and Webber 2024, "Randomly pivoted Cholesky" (block variant: pivots drawn in blocks from the residual's
diagonal). A preconditioner changes the number of iterations, never the solution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.block_gram import StripedGram
from nonvacuous.runtime.tasks import Progress


class LowRank:
    """K ≈ F Fᵀ. factor: F ``[n, r]``, float64; pivots: the rows it interpolates ``[r]``; left: trace of what remains over K's trace."""

    def __init__(self, factor: Tensor, pivots: Tensor, left: float) -> None:
        self.factor, self.pivots, self.left = factor, pivots, left


def pivoted_cholesky(
    gram: StripedGram, rank: int, *, seed: int = 0, block: int = 64, progress: Progress | None = None
) -> LowRank:
    """F with F Fᵀ equal to K on the pivots' rows and columns, K − F Fᵀ positive semi-definite; rank may be smaller where K's is.

    Pivots are drawn ``block`` at a time in proportion to the residual's diagonal; one pass over the Gram matrix a block.
    """
    if not rank >= 1 or block < 1:
        raise InvalidInput(f"rank {rank}, blocks of {block}: both at least 1")
    generator = torch.Generator().manual_seed(seed)
    left = gram.diagonal().double().cpu()
    total = float(left.sum())
    tolerance = 8 * torch.finfo(gram.dtype).eps * float(left.max())
    parts: list[Tensor] = []
    chosen: list[Tensor] = []
    held = 0
    with (progress or Progress()).task("preconditioner", min(rank, gram.n)) as advance:
        while held < min(rank, gram.n):
            candidates = left.clamp(min=0)
            alive = int((candidates > tolerance).sum())
            count = min(block, rank - held, alive)
            if not count:
                break
            candidates[candidates <= tolerance] = 0
            pivots = torch.multinomial(candidates, count, generator=generator)
            columns = gram.columns(pivots).double().cpu()
            for part in parts:
                columns -= part @ part[pivots].T
            core = columns[pivots]
            core = (core + core.T) / 2
            values, vectors = torch.linalg.eigh(core)
            good = values > max(tolerance, 1e-12 * float(values[-1]))
            if not bool(good.any()):
                break
            part = columns @ (vectors[:, good] / values[good].sqrt())
            parts.append(part)
            chosen.append(pivots)
            left = left - part.square().sum(1)
            left[pivots] = 0.0
            held += int(good.sum())
            advance(count)
    if not parts:
        raise InvalidInput("the Gram matrix is zero: no input has a feature")
    return LowRank(torch.cat(parts, 1), torch.cat(chosen), float(left.clamp(min=0).sum()) / total)


class Preconditioner:
    """V ↦ (F Fᵀ + λI)⁻¹ V, for λ > 0."""

    def __init__(self, low_rank: LowRank, ridge: float) -> None:
        if not ridge > 0:
            raise InvalidInput(f"ridge {ridge!r}: a preconditioner of low rank needs a positive one")
        self.low_rank, self.ridge = low_rank, ridge
        F = low_rank.factor
        inner = F.T @ F
        inner.diagonal().add_(ridge)
        self._inner = torch.linalg.cholesky(inner)

    def applied(self, vectors: Tensor) -> Tensor:
        """P⁻¹ V ``[n, k]``."""
        F = self.low_rank.factor.to(vectors.device)
        return (vectors - F @ torch.cholesky_solve(F.T @ vectors, self._inner.to(vectors.device))) / self.ridge


class NoPreconditioner:
    """V ↦ V."""

    def applied(self, vectors: Tensor) -> Tensor:
        """V itself."""
        return vectors
