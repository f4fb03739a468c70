"""The spectrum of a tangent kernel, and what it says of training: how fast each direction is learnt, and how many there are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.layer_check import check_mode
from nonvacuous.measures.linearisation import pulled, pushed
from nonvacuous.runtime.models import outputs
from nonvacuous.runtime.values import Inputs


@dataclass(frozen=True)
class Eigenpairs:
    """values ``[m]`` from the largest down and unit vectors ``[N, m]``, float64 on the CPU. whole: these are all (m = N).

    trace: Σλ over all N, known even where only the leading pairs are; None where it is not.
    """

    values: Tensor
    vectors: Tensor
    whole: bool
    trace: float | None = None


def matrix_of(kernel: Tensor) -> Tensor:
    """A kernel ``[n, n]``, or ``[n, n, k, k]`` unrolled to ``[nk, nk]`` (example by example), float64 on the CPU.

    :raises InvalidInput: another shape, an entry that is not finite, or not symmetric to 1e-4 of its largest entry.
    """
    K = kernel.detach().double().cpu()
    if K.dim() == 4 and K.shape[0] == K.shape[1] and K.shape[2] == K.shape[3]:
        K = K.permute(0, 2, 1, 3).reshape(K.shape[0] * K.shape[2], -1)
    if K.dim() != 2 or K.shape[0] != K.shape[1] or not len(K):
        raise InvalidInput(f"a kernel of one sample is [n, n] or [n, n, k, k]; got {tuple(kernel.shape)}")
    if not bool(torch.isfinite(K).all()):
        raise InvalidInput("the kernel has entries that are not finite. Check the model's outputs and the inputs")
    if float((K - K.mT).abs().max()) > 1e-4 * float(K.abs().max()):
        raise InvalidInput("the kernel is not symmetric: take it of one sample with itself")
    return (K + K.mT) / 2


def eigenpairs(kernel: Tensor) -> Eigenpairs:
    """All of a kernel ``[n, n]`` or ``[n, n, k, k]``.

    >>> eigenpairs(torch.tensor([[2.0, 1.0], [1.0, 2.0]])).values
    tensor([3., 1.], dtype=torch.float64)
    """
    K = matrix_of(kernel)
    values, vectors = torch.linalg.eigh(K)
    return Eigenpairs(values.flip(0), vectors.flip(1), True, float(K.trace()))


class TangentOperator(LinearOperator):
    """v ↦ Θv = J(Jᵀv) for the empirical tangent kernel of ``inputs`` ``[N, N]``, N = n·k, without the kernel: one backward and one
    forward-mode pass over the sample a product, memory for one batch and two copies of the weights.

    Args:
        model: as for :func:`~nonvacuous.kernels.empirical.empirical_ntk`. batch: examples at a time.

    Raises:
        InvalidInput: batch norm or dropout in training mode.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, batch: int = 256) -> None:
        check_mode(model)
        self._model, self._inputs = model, inputs
        self._n = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
        if not self._n or batch < 1:
            raise InvalidInput(f"{self._n} inputs in batches of {batch}: both must be at least 1")
        self._chunks = [slice(i, min(self._n, i + batch)) for i in range(0, self._n, batch)]
        self._device = next(model.parameters()).device
        with torch.no_grad():
            self._k = outputs(model, self._part(slice(0, 1))).numel()
        super().__init__(np.dtype(np.float64), (self._n * self._k,) * 2)  # type: ignore[call-arg]

    def _part(self, chunk: slice) -> Inputs:
        if isinstance(self._inputs, dict):
            return {name: value[chunk].to(self._device) for name, value in self._inputs.items()}
        return self._inputs[chunk].to(self._device)

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        v = torch.as_tensor(np.ascontiguousarray(x)).reshape(self._n, self._k)
        total: dict[str, Tensor] = {}
        for chunk in self._chunks:
            for name, slope in pulled(self._model, self._part(chunk), v[chunk]).items():
                total[name] = slope if name not in total else total[name].add_(slope)
        parts = [pushed(self._model, self._part(chunk), total).double().cpu() for chunk in self._chunks]
        return torch.cat(parts).reshape(-1).numpy()

    def _adjoint(self) -> TangentOperator:
        return self


def leading_eigenpairs(operator: LinearOperator, count: int, *, seed: int = 0, tolerance: float = 1e-6) -> Eigenpairs:
    """The ``count`` largest eigenvalues of a symmetric operator and their vectors, by implicitly restarted Lanczos.

    Args:
        operator: for instance a :class:`TangentOperator`. tolerance: relative accuracy of the values.

    Raises:
        InvalidInput: count is not between 1 and N − 1, or the iteration did not converge (float32 products limit the accuracy).
    """
    size = operator.shape[0]
    if not 1 <= count < size:
        raise InvalidInput(f"{count} leading eigenvalues of {size}: ask for 1 to {size - 1}, or form the kernel for all")
    start = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()
    try:
        values, vectors = eigsh(operator, k=count, which="LA", v0=start, tol=tolerance)
    except ArpackNoConvergence as error:
        raise InvalidInput(
            f"Lanczos found {len(error.eigenvalues)} of {count} eigenvalues to {tolerance:g}. Raise tolerance, ask for fewer,"
            " or use a float64 model"
        ) from error
    order = np.argsort(-values)
    return Eigenpairs(torch.as_tensor(values[order].copy()), torch.as_tensor(vectors[:, order].copy()), False)


def effective_dimension(values: Tensor, ridge: float) -> float:
    r"""Σ λ/(λ + ρ): how many directions kernel regression with ridge ρ (not divided by n) fits.

    Source: Zhang 2005, "Learning bounds for kernel regression using effective data dimensionality".

    >>> effective_dimension(torch.tensor([9.0, 1.0, 0.0]), 1.0)
    1.4
    """
    if not ridge > 0 or not math.isfinite(ridge):
        raise InvalidInput(f"ridge {ridge!r}: give a positive number")
    kept = values.double().clamp(min=0)
    return float((kept / (kept + ridge)).sum())


def participation(values: Tensor) -> float:
    """(Σλ)²/Σλ²: how many equal eigenvalues would have this sum and this sum of squares."""
    values = values.double()
    return float(values.sum() ** 2 / values.square().sum().clamp(min=1e-300))


def residual_factors(values: Tensor, step: float) -> Tensor:
    """|1 − ηλ| ``[m]``: what remains of each eigendirection's error after a step of gradient descent on ½Σ(f − y)², kernel constant.

    :raises InvalidInput: η ≥ 2/λ_max, from where the linearised descent diverges.
    """
    largest = float(values.max())
    if not 0 < step < 2 / max(largest, 1e-300):
        raise InvalidInput(f"step size {step:g}: descent diverges from 2/λ_max = {2 / max(largest, 1e-300):.6g} on")
    return (1 - step * values.double()).abs()


def halving_steps(values: Tensor, step: float) -> Tensor:
    """Steps of gradient descent until each eigendirection's error is halved, ln 2/−ln|1 − ηλ| ``[m]``; infinite for λ ≤ 0."""
    factors = residual_factors(values, step)
    return torch.where(values.double() > 0, math.log(2) / -factors.clamp(max=1.0).log(), torch.inf)
