"""Over-parameterised networks: the rate that the tangent kernel's smallest eigenvalue gives."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.deep_linear import matrix
from nonvacuous.optimization.hypotheses import Condition
from nonvacuous.optimization.trajectories import Envelope


def spectrum(kernel: Any) -> Tensor:
    """Eigenvalues ``[N]``, ascending, of a tangent kernel ``[N, N]`` (N outputs on the sample).

    :raises InvalidInput: not square, or not symmetric to 1e-6 of its norm.
    """
    K = matrix(kernel, "the kernel")
    if K.shape[0] != K.shape[1] or float((K - K.T).norm()) > 1e-6 * float(K.norm()):
        raise InvalidInput(
            f"a kernel matrix is square and symmetric; got shape {tuple(K.shape)}. Pass JJᵀ of the sample's outputs"
        )
    return torch.linalg.eigvalsh((K + K.T) / 2)


def envelope(kernel: Any, start: float, step: float) -> Envelope:
    """½‖u(t) − y‖² ≤ (1 − ηλ₀/2)^t ½‖u(0) − y‖² for gradient descent on a two-layer ReLU network, λ₀ = λ_min(H^∞).

    The theorem asks for a width of order n⁶/(λ₀⁴δ³) and a step size of order λ₀/n² without stating either constant: neither is
    ever called met. The kernel is an argument: the infinite-width one, or the empirical one at initialisation as a stand-in.

    Args:
        kernel: ``[n, n]``. start: ½‖u(0) − y‖².

    Source: Du, Zhai, Póczos and Singh 2019, "Gradient descent provably optimizes over-parameterized neural networks", Theorem 4.1.
    """
    values = spectrum(kernel)
    n, least = len(values), float(values[0])
    conditions = (
        Condition.checked(
            "λ_min > 0", least > 1e-12 * float(values[-1]), f"λ_min = {least:.4g}, λ_max = {float(values[-1]):.4g}"
        ),
        Condition.unknown(
            "width",
            f"of order n⁶/λ₀⁴ = {n**6 / least**4 if least > 1e-60 else math.inf:.3g} is asked; the constant is not stated",
        ),
        Condition.unknown("step size", f"of order λ₀/n² = {least / n**2:.3g} is asked; the constant is not stated"),
    )
    return Envelope("Du, Zhai, Póczos and Singh 2019, Theorem 4.1", 1 - step * max(least, 0.0) / 2, start, 0.0, conditions)


def linearised(kernel: Any, residual: Any, step: float, steps: int) -> Tensor:
    """½‖(I − ηK)^t r‖² ``[steps + 1]``: the exact losses of gradient descent on the network linearised at its start.

    Args:
        kernel: K ``[N, N]``. residual: u(0) − y ``[N]``.

    Raises:
        InvalidInput: η ≥ 2/λ_max, above which the linearised descent diverges; the limit is said.
    """
    K = matrix(kernel, "the kernel")
    values, vectors = torch.linalg.eigh((K + K.T) / 2)
    if not 0 < step < 2 / float(values[-1]):
        raise InvalidInput(
            f"step size {step:g}: descent on the linearised network diverges from 2/λ_max = {2 / float(values[-1]):.6g} on"
        )
    parts = (vectors.T @ torch.as_tensor(residual, dtype=torch.float64)) ** 2
    t = torch.arange(steps + 1, dtype=torch.float64)
    return 0.5 * ((1 - step * values).abs() ** (2 * t[:, None]) * parts).sum(1)


def linearised_envelope(kernel: Any, start: float, step: float) -> Envelope:
    """½‖r(t)‖² ≤ max|1 − ηλ|^{2t} ½‖r(0)‖² on the linearised network: a promise about that, a prediction about the network itself."""
    values = spectrum(kernel)
    factor = max(abs(1 - step * float(values[0])), abs(1 - step * float(values[-1]))) ** 2
    condition = Condition.checked(
        "step size", factor < 1 or math.isclose(factor, 1), f"η = {step:.4g} < 2/λ_max = {2 / float(values[-1]):.4g}"
    )
    lazy = Condition.unknown(
        "the kernel does not change", "true of the linearised network; of the network itself only in the limit"
    )
    return Envelope("linear convergence at a constant tangent kernel", factor, start, 0.0, (condition, lazy))
