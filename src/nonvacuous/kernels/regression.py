"""Kernel (ridge) regression: f(x) = k(x, X)(K + λI)⁻¹Y, for one output or many, and classification as regression on one-hot labels.

Where the Gram matrix fits the memory budget it is factored (Cholesky, in its own memory); where it does not, it lies on disk or is
computed anew, and conjugate gradients preconditioned by a matrix of low rank solve the same system. The result says which was used and
how large the true residual is.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.block_gram import (
    ROWS,
    KernelFunction,
    MemoryGram,
    RecomputedGram,
    StripedGram,
    checked_inputs,
    computed_block,
    gram,
)
from nonvacuous.kernels.block_gram_disk import bytes_needed, gram_on_disk
from nonvacuous.kernels.cholesky import Cholesky
from nonvacuous.kernels.conjugate_gradients import solution
from nonvacuous.kernels.preconditioner import Preconditioner, pivoted_cholesky
from nonvacuous.runtime.tasks import Progress

BUDGET = 4 * 2**30
"""Bytes that a Gram matrix may take in memory, unless told otherwise."""

POINTS_AT_ONCE = 1024


@dataclass(frozen=True)
class Direct:
    """Solve by Cholesky factorisation."""


@dataclass(frozen=True)
class Iterative:
    """Solve by conjugate gradients. rank: of the preconditioner (0: none); tolerance: of the true residual; most: passes over K.

    directory: where the Gram matrix is kept (None: in memory if it fits the budget, else computed anew at every pass); name: which
    kernel it is, so that a directory is never used for another.
    """

    rank: int = 500
    tolerance: float = 1e-6
    most: int = 1000
    directory: Path | None = None
    name: str = "kernel"
    seed: int = 0


class Solved(NamedTuple):
    """How a system was solved. method: in words; residual: ‖Y − (K + λI)α‖/‖Y‖, largest over outputs, true; iterations: passes over K of
    conjugate gradients (0: factored); converged: within the tolerance; gram_seconds, solve_seconds: wall time.
    """

    method: str
    residual: float
    iterations: int
    converged: bool
    gram_seconds: float
    solve_seconds: float


@dataclass(frozen=True, eq=False)
class KernelRegression:
    """A fitted regression. coefficients: α ``[n, k]``, float64; ridge: λ; solved: how.

    >>> x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    >>> r = fitted(lambda a, b: (-(a - b.T) ** 2).exp(), x, x**2, ridge=1e-9)
    >>> round(float(r.predicted(torch.tensor([[0.5]], dtype=torch.float64))), 3)
    0.25
    """

    kernel: KernelFunction
    inputs: Tensor
    targets: Tensor
    coefficients: Tensor
    ridge: float
    solved: Solved
    factor: Cholesky | None
    gram: StripedGram
    solver: Direct | Iterative
    preconditioner: Preconditioner | None

    def predicted(self, inputs: Tensor, progress: Progress | None = None) -> Tensor:
        """f(x) ``[m, k]`` in the inputs' type."""
        checked_inputs(inputs, "inputs to predict")
        parts = []
        with (progress or Progress()).task("predictions", len(inputs)) as advance:
            for start in range(0, len(inputs), POINTS_AT_ONCE):
                x = inputs[start : start + POINTS_AT_ONCE]
                parts.append(
                    (computed_block(self.kernel, x, self.inputs, start).double() @ self.coefficients).to(inputs.dtype)
                )
                advance(len(x))
        return torch.cat(parts)

    def reduction(self, inputs: Tensor, progress: Progress | None = None) -> Tensor:
        """k(x, X)(K + λI)⁻¹k(X, x) ``[m]``, float64: by how much knowing Y lowers the prior variance at x.

        One triangular solve a point where K was factored; a solve by conjugate gradients a point where not.
        """
        checked_inputs(inputs, "inputs to predict")
        parts = []
        with (progress or Progress()).task("variances", len(inputs)) as advance:
            for start in range(0, len(inputs), POINTS_AT_ONCE):
                x = inputs[start : start + POINTS_AT_ONCE]
                cross = computed_block(self.kernel, x, self.inputs, start).T.contiguous()
                if self.factor is not None:
                    parts.append(self.factor.half_solved(cross).double().square().sum(0))
                else:
                    assert isinstance(self.solver, Iterative)
                    inverse = solution(
                        self.gram,
                        cross,
                        self.ridge,
                        preconditioner=self.preconditioner,
                        tolerance=max(self.solver.tolerance, 1e-4),
                        most=self.solver.most,
                    )
                    parts.append((cross.double() * inverse.values).sum(0))
                advance(len(x))
        return torch.cat(parts)


def fitted(
    kernel: KernelFunction,
    inputs: Tensor,
    targets: Tensor,
    *,
    ridge: float,
    solver: Direct | Iterative | None = None,
    budget: int = BUDGET,
    progress: Progress | None = None,
) -> KernelRegression:
    """Kernel ridge regression of the targets on the inputs. ridge: λ ≥ 0 in units of the kernel (not multiplied by n).

    Args:
        inputs: X ``[n, …]``, float32 or float64: the Gram matrix has their type. targets: Y ``[n]`` or ``[n, k]``.
        solver: None: factor where that fits the budget, and say what to do where it does not.
        budget: bytes that the Gram matrix may take in memory.

    Raises:
        InvalidInput: unusable inputs or targets, a Gram matrix above the budget (the message has its size and the alternatives).
        SingularGram: K + λI is not positive definite; the message says which rows repeat.
    """
    checked_inputs(inputs)
    Y = _targets(targets, len(inputs))
    bar = progress or Progress()
    if not (math.isfinite(ridge) and ridge >= 0):
        raise InvalidInput(f"ridge {ridge!r}: 0 or more, and finite")
    needed = len(inputs) ** 2 * inputs.element_size()
    if needed > budget and (solver is None or isinstance(solver, Direct)):
        raise InvalidInput(_too_large(len(inputs), inputs.element_size(), budget))
    begun = time.perf_counter()
    if isinstance(solver, Iterative):
        striped = _striped(kernel, inputs, solver, needed <= budget, bar)
        formed = time.perf_counter()
        low = pivoted_cholesky(striped, solver.rank, seed=solver.seed, progress=bar) if solver.rank and ridge > 0 else None
        helper = None if low is None else Preconditioner(low, ridge)
        found = solution(striped, Y, ridge, preconditioner=helper, tolerance=solver.tolerance, most=solver.most, progress=bar)
        how = f"conjugate gradients, preconditioner of rank {0 if low is None else low.factor.shape[1]}, {_where(striped)}"
        spent = time.perf_counter() - formed
        record = Solved(how, found.residual, found.iterations, found.converged, formed - begun, spent)
        return KernelRegression(kernel, inputs, Y, found.values, ridge, record, None, striped, solver, helper)
    matrix = gram(kernel, inputs, progress=bar)
    formed = time.perf_counter()
    factor = Cholesky(matrix, ridge, bar)
    record, alpha = _solved(factor, Y, formed - begun, formed)
    return KernelRegression(kernel, inputs, Y, alpha, ridge, record, factor, factor.gram, Direct(), None)


def refitted(regression: KernelRegression, ridge: float) -> KernelRegression:
    """The same regression with another λ, in the same memory: the former one must not be used again.

    Raises:
        InvalidInput: it was not solved by factorisation.
    """
    if regression.factor is None:
        raise InvalidInput("only a factored Gram matrix can be factored again: fit with solver=Direct()")
    begun = time.perf_counter()
    factor = regression.factor
    factor.refactored(ridge)
    record, alpha = _solved(factor, regression.targets, 0.0, begun)
    return KernelRegression(
        regression.kernel, regression.inputs, regression.targets, alpha, ridge, record, factor, factor.gram, Direct(), None
    )


def _solved(factor: Cholesky, Y: Tensor, gram_seconds: float, begun: float) -> tuple[Solved, Tensor]:
    alpha, residual = factor.solution(Y)
    kind = str(factor.dtype).removeprefix("torch.")
    how = f"Cholesky in {kind}, in memory, refined in float64"
    return Solved(how, residual, 0, residual <= 1e-3, gram_seconds, time.perf_counter() - begun), alpha


def _targets(targets: Tensor, n: int) -> Tensor:
    Y = targets[:, None] if targets.ndim == 1 else targets
    if Y.ndim != 2 or len(Y) != n or not Y.shape[1]:
        raise InvalidInput(f"targets of shape {tuple(targets.shape)} for {n} inputs: give [n] or [n, k]")
    if not (Y.is_floating_point() and bool(torch.isfinite(Y).all())):
        raise InvalidInput("targets must be floating and finite; class labels go through `one_hot_targets`")
    return Y.double()


def _striped(kernel: KernelFunction, inputs: Tensor, solver: Iterative, fits: bool, bar: Progress) -> StripedGram:
    if solver.directory is not None:
        return gram_on_disk(kernel, inputs, solver.directory, name=solver.name, progress=bar)
    return MemoryGram(gram(kernel, inputs, progress=bar), whole=True) if fits else RecomputedGram(kernel, inputs)


def _where(striped: StripedGram) -> str:
    return {"MemoryGram": "in memory", "RecomputedGram": "recomputed at each pass"}.get(type(striped).__name__, "on disk")


def _too_large(n: int, itemsize: int, budget: int) -> str:
    return (
        f"the Gram matrix of {n} inputs takes {n * n * itemsize / 2**30:.2f} GiB and the budget is {budget / 2**30:.2f} GiB. Raise budget=,"
        f" or keep it on disk ({bytes_needed(n, itemsize, ROWS) / 2**30:.2f} GiB): solver=Iterative(directory=…); or keep it nowhere:"
        " solver=Iterative()" + (", or halve it with float32 inputs" if itemsize == 8 else "")
    )


def one_hot_targets(labels: Tensor, classes: int) -> Tensor:
    """1 − 1/k for the own class, −1/k for the others ``[n, k]``, float64: what classification regresses on."""
    if labels.ndim != 1 or labels.is_floating_point() or not len(labels):
        raise InvalidInput(f"labels of shape {tuple(labels.shape)}, {labels.dtype}: give whole numbers [n]")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise InvalidInput(f"labels from {int(labels.min())} to {int(labels.max())}: they must lie in 0 … {classes - 1}")
    return one_hot(labels.long(), classes).double() - 1 / classes
