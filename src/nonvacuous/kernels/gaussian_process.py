"""Gaussian-process prediction: mean, variance, the noise by marginal likelihood or by validation, and intervals that are calibrated.

Prior a·k, noise variance a·λ: the mean is kernel ridge regression with ridge λ; the amplitude a has a closed-form optimum for each λ, so
only λ is searched for. Model intervals are right only if the model is; `conformal_factor` makes them right on average over exchangeable
examples, whatever the model.

Source: Rasmussen and Williams 2006, "Gaussian processes for machine learning", chapter 2 and section 5.4; conformal: Lei, G'Sell,
Rinaldo, Tibshirani and Wasserman 2018 (JASA), locally weighted split conformal inference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.optimize import minimize_scalar
from scipy.stats import beta, norm
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.kernels.block_gram import KernelFunction, checked_inputs, computed_block
from nonvacuous.kernels.cholesky import SingularGram
from nonvacuous.kernels.regression import BUDGET, Direct, Iterative, KernelRegression, fitted, refitted
from nonvacuous.runtime.tasks import Progress

DIAGONAL_AT_ONCE = 64


class Prediction(NamedTuple):
    """mean ``[m, k]``; variance of the function ``[m]``, the same for every output; noise: variance of an observation around it."""

    mean: Tensor
    variance: Tensor
    noise: float

    def deviation(self) -> Tensor:
        """Of a new observation ``[m, 1]``."""
        return (self.variance + self.noise).sqrt()[:, None]


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """regression: with λ; amplitude: a. log_likelihood: ln p(Y) under the fitted prior, NaN where K was not factored."""

    regression: KernelRegression
    amplitude: float
    log_likelihood: float

    @property
    def noise(self) -> float:
        """Variance of the observation noise, a·λ."""
        return self.amplitude * self.regression.ridge

    def predicted(self, inputs: Tensor, progress: Progress | None = None) -> Prediction:
        """Mean and variance at inputs ``[m, …]``."""
        mean = self.regression.predicted(inputs, progress)
        left = prior_variance(self.regression.kernel, inputs) - self.regression.reduction(inputs, progress)
        return Prediction(mean, self.amplitude * left.clamp(min=0), self.noise)


def prior_variance(kernel: KernelFunction, inputs: Tensor) -> Tensor:
    """k(x, x) ``[m]``, float64, from small diagonal blocks."""
    checked_inputs(inputs)
    return torch.cat([computed_block(kernel, part, part).diagonal().double() for part in inputs.split(DIAGONAL_AT_ONCE)])


def posterior(
    kernel: KernelFunction,
    inputs: Tensor,
    targets: Tensor,
    *,
    ridge: float | None = None,
    solver: Direct | Iterative | None = None,
    budget: int = BUDGET,
    progress: Progress | None = None,
) -> GaussianProcess:
    """The process given Y. ridge: λ = noise/amplitude; None: the most likely one, for a Gram matrix that can be factored.

    The amplitude is the most likely one for that λ: tr Yᵀ(K + λI)⁻¹Y/(nk).

    Raises:
        InvalidInput: as `fitted`; or no ridge with a solver that cannot give the likelihood.
    """
    if ridge is None and isinstance(solver, Iterative):
        raise InvalidInput(
            "the likelihood needs a factored Gram matrix: give ridge=, for instance by `most_likely` on a part of the data"
        )
    first = float(prior_variance(kernel, inputs[:DIAGONAL_AT_ONCE]).mean()) if ridge is None else ridge
    start = fitted(kernel, inputs, targets, ridge=first, solver=solver, budget=budget, progress=progress)
    return _process(start) if ridge is None else process(start)


def process(regression: KernelRegression) -> GaussianProcess:
    """The Gaussian process whose mean is a given regression, with the most likely amplitude."""
    Y = regression.targets
    amplitude = float((Y * regression.coefficients).sum()) / Y.numel()
    return GaussianProcess(regression, amplitude, likelihood(regression))


def likelihood(regression: KernelRegression) -> float:
    """ln p(Y | λ) at the most likely amplitude, all outputs together; NaN where K was not factored."""
    if regression.factor is None:
        return math.nan
    Y = regression.targets
    amplitude = float((Y * regression.coefficients).sum()) / Y.numel()
    return (
        -0.5 * Y.numel() * (math.log(2 * math.pi * max(amplitude, 1e-300)) + 1)
        - 0.5 * Y.shape[1] * regression.factor.log_determinant()
    )


def _process(start: KernelRegression) -> GaussianProcess:
    assert start.factor is not None
    scale = float(start.factor.diagonal.double().mean())
    lowest = 4 * torch.finfo(start.factor.dtype).eps * len(start.inputs) ** 0.5

    def misfit(ridge: float) -> float:
        try:
            return -likelihood(refitted(start, ridge))
        except SingularGram:  # too small a ridge for this type: no candidate
            return math.inf

    best = _searched(misfit, scale * max(lowest, 1e-9), 10 * scale)
    return process(refitted(start, best))


def _searched(objective: Callable[[float], float], low: float, high: float) -> float:
    """The ridge of least objective between two, on a logarithmic scale: a coarse scan, then Brent's method around its best."""
    grid = torch.linspace(math.log(low), math.log(high), 7).tolist()
    values = [objective(math.exp(t)) for t in grid]
    i = min(range(len(grid)), key=values.__getitem__)
    ends = grid[max(i - 1, 0)], grid[min(i + 1, len(grid) - 1)]
    found = minimize_scalar(lambda t: objective(math.exp(t)), bounds=ends, method="bounded", options={"xatol": 0.1})
    return math.exp(float(found.x) if found.fun < values[i] else grid[i])


class Validated(NamedTuple):
    """The chosen regression; ridges tried and their mean squared errors on the validation part."""

    regression: KernelRegression
    ridges: tuple[float, ...]
    errors: tuple[float, ...]


def by_validation(regression: KernelRegression, inputs: Tensor, targets: Tensor, ridges: Sequence[float]) -> Validated:
    """The ridge of least squared error on a validation sample, among those given; the Gram matrix is factored again for each.

    The validation sample has been used: errors reported as a test need another one.
    """
    if not ridges:
        raise InvalidInput("no ridge to try: give at least one")
    Y = (targets[:, None] if targets.ndim == 1 else targets).double()
    cross = [computed_block(regression.kernel, part, regression.inputs) for part in checked_inputs(inputs).split(1024)]
    errors = []
    for ridge in ridges:
        now = refitted(regression, ridge)
        guess = torch.cat([part.double() @ now.coefficients for part in cross])
        errors.append(float((guess - Y).square().mean()))
    best = min(range(len(errors)), key=errors.__getitem__)
    return Validated(refitted(regression, ridges[best]), tuple(ridges), tuple(errors))


def conformal_factor(prediction: Prediction, targets: Tensor, level: float) -> float:
    """q such that mean ± q·deviation holds all k outputs of a further exchangeable example with probability at least ``level``.

    The ⌈(m + 1)·level⌉-th smallest of max_k |y − mean|/deviation on m calibration examples that were not fitted to.

    Raises:
        InvalidInput: a level outside (0, 1), or too few examples for it (then no finite q is valid).
    """
    if not 0 < level < 1:
        raise InvalidInput(f"level {level!r}: it lies in (0, 1)")
    scores = standardised(prediction, targets).abs().amax(1).sort().values
    rank = math.ceil((len(scores) + 1) * level)
    if rank > len(scores):
        least = math.ceil(level / (1 - level))
        raise InvalidInput(f"{len(scores)} calibration examples are too few for level {level:g}: take {least} or more")
    return float(scores[rank - 1])


def standardised(prediction: Prediction, targets: Tensor) -> Tensor:
    """(y − mean)/deviation ``[m, k]``, float64."""
    Y = (targets[:, None] if targets.ndim == 1 else targets).double()
    if Y.shape != prediction.mean.shape or not bool(torch.isfinite(Y).all()):
        raise InvalidInput(
            f"targets {tuple(targets.shape)} for predictions {tuple(prediction.mean.shape)}: give finite ones, as many"
        )
    deviation = prediction.deviation().double()
    if not bool((deviation > 0).all()):
        raise InvalidInput(
            "a predicted deviation is 0: without noise the process is certain at its own inputs. Take a ridge above 0"
        )
    return (Y - prediction.mean.double()) / deviation


class Coverage(NamedTuple):
    """level: promised; fraction: of examples inside, with a 95 % Clopper–Pearson interval (an indicator); width: mean interval width."""

    level: float
    fraction: Measured
    width: float


def coverage(prediction: Prediction, targets: Tensor, level: float, factor: float | None = None) -> Coverage:
    """How often held-out targets lie within mean ± factor·deviation (all k outputs at once).

    factor: None: the Gaussian quantile of ``level`` for one output, with a union over k.
    """
    if not 0 < level < 1:
        raise InvalidInput(f"level {level!r}: it lies in (0, 1)")
    scores = standardised(prediction, targets)
    q = float(norm.ppf(1 - (1 - level) / (2 * scores.shape[1]))) if factor is None else factor
    inside, m = int((scores.abs().amax(1) <= q).sum()), len(scores)
    low = float(beta.ppf(0.025, inside, m - inside + 1)) if inside else 0.0
    high = float(beta.ppf(0.975, inside + 1, m - inside)) if inside < m else 1.0
    return Coverage(level, Measured.indicator(low, high), 2 * q * float(prediction.deviation().mean()))
