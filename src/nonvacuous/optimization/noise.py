"""The noise of mini-batch gradients: its covariance, its scale against the gradient, and the batch at which more examples stop paying."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp, vmap

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured

__all__ = ["ExampleLosses", "GradientNoise", "NoiseCovariance", "example_losses", "gradient_noise"]

Losses = Callable[[Tensor], Tensor]
HELD = 20_000_000
"""Numbers of per-example gradients held at once."""


@dataclass(frozen=True, eq=False)
class ExampleLosses:
    """θ ↦ the loss of each example: flat parameters ``[P]`` to ``[n]``; also for examples ``rows`` alone.

    start: the parameters where the model is, ``[P]``; n: examples.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    start: Tensor
    n: int

    def __call__(self, parameters: Tensor, rows: Tensor | None = None) -> Tensor:
        return self.function(parameters, torch.arange(self.n, device=self.start.device) if rows is None else rows)

    def mean_gradient(self, parameters: Tensor) -> Tensor:
        """Gradient of the mean loss ``[P]``."""
        return grad(lambda p: self(p).mean())(parameters)


def example_losses(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor
) -> ExampleLosses:
    """The losses of a model in evaluation mode (a copy of its parameters is taken; trainable ones move).

    Args:
        loss: (outputs, targets) → mean over the batch, applied to each example alone.
        inputs, targets: ``[n, …]``, ``[n, …]``.

    Raises:
        InvalidInput: no example, counts that differ, or a loss that is not finite at the start.
    """
    if not len(inputs) or len(inputs) != len(targets):
        raise InvalidInput(f"{len(inputs)} inputs and {len(targets)} targets: give as many targets as inputs, at least one")
    if any(m.training for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        raise InvalidInput(
            "batch normalisation is in training mode: an example's loss then depends on the others, and has no noise of its own."
            " Call model.eval()"
        )
    fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad} | dict(model.named_buffers())
    moving = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not moving:
        raise InvalidInput("the model has no trainable parameter, so its gradients have no noise. Unfreeze some")
    sizes, shapes = [p.numel() for p in moving.values()], [p.shape for p in moving.values()]

    def one(parameters: Tensor, x: Tensor, y: Tensor) -> Tensor:
        parts = [part.view(shape) for part, shape in zip(parameters.split(sizes), shapes, strict=True)]
        state = fixed | dict(zip(moving, parts, strict=True))
        return loss(functional_call(model, state, (x[None],)), y[None])

    def function(parameters: Tensor, rows: Tensor) -> Tensor:
        return vmap(one, in_dims=(None, 0, 0))(parameters, inputs[rows], targets[rows])

    start = torch.cat([p.reshape(-1) for p in moving.values()]).clone()
    found = ExampleLosses(function, start, len(inputs))
    with torch.no_grad():
        if not bool(found(start).isfinite().all()):
            raise InvalidInput(
                "the loss of an example is not finite at the start: check weights and inputs for NaN or overflow"
            )
    return found


@dataclass(frozen=True)
class GradientNoise:
    """What a mini-batch drawn with replacement adds to the gradient g of the mean loss; all indicators, at 90 %, by the delta method.

    trace: tr Σ, Σ the covariance of one example's gradient (divisor n: the examples are the population); squared_norm: ‖g‖²;
    scale: tr Σ/‖g‖², the simple noise scale, in examples; n: examples.

    Source: McCandlish, Kaplan, Amodei et al. 2018, "An empirical model of large-batch training", section 2.2, for the scale.
    """

    trace: Measured
    squared_norm: Measured
    scale: Measured
    n: int

    def relative_noise(self, batch: int) -> float:
        """E‖g_B − g‖²/‖g‖² for batches of a size: scale/batch."""
        return self.scale.midpoint / batch

    def efficiency(self, batch: int) -> float:
        """Progress an example of a batch of this size makes, in that of an example alone in a batch much smaller than the scale.

        Near 1 below the scale and 1/2 at it: 1/(1 + batch/scale), on a quadratic with an optimal step and the scale of identity.
        """
        return 1 / (1 + batch / max(self.scale.midpoint, 1e-300))


def gradient_noise(losses: ExampleLosses, parameters: Tensor | None = None) -> GradientNoise:
    """Measured in two passes: the mean gradient, then each example's squared norm and its product with the mean.

    Never more than a few million gradient entries at once.
    """
    theta = losses.start if parameters is None else parameters
    mean = losses.mean_gradient(theta)
    squares, products = [], []
    for rows in torch.arange(losses.n, device=theta.device).split(max(1, HELD // len(theta))):
        gradients = vmap(grad(lambda p, row: losses(p, row[None])[0]), in_dims=(None, 0))(theta, rows)
        squares.append(gradients.double().square().sum(1))
        products.append((gradients @ mean).double())
    s, p = torch.cat(squares), torch.cat(products)
    norm = float(mean.double().square().sum())
    trace = max(float(s.mean()) - norm, 0.0)
    if norm == 0:
        raise InvalidInput("the mean gradient is exactly 0: the scale of its noise is infinite. Measure before the minimum")
    of_norm = 2 * (p - norm)
    of_trace = (s - s.mean()) - of_norm
    of_scale = of_trace / norm - trace / norm**2 * of_norm
    return GradientNoise(_around(trace, of_trace), _around(norm, of_norm), _around(trace / norm, of_scale), losses.n)


def _around(value: float, influences: Tensor) -> Measured:
    """The estimate with its influence function's deviation, as if the examples were a draw of many."""
    reach = 1.645 * float(influences.std()) / math.sqrt(len(influences)) if len(influences) > 1 else math.inf
    return Measured.indicator(max(0.0, value - reach), value + reach)


class NoiseCovariance:
    """Σ = (1/n) Σ_i g_i g_iᵀ − g gᵀ ``[P, P]`` as an operator: ``@`` on ``[P]`` or ``[P, k]``, without any example's gradient kept.

    Two derivative passes a product: g_i·v forward, then the weighted sum of g_i backward.
    """

    def __init__(self, losses: ExampleLosses, parameters: Tensor | None = None) -> None:
        self._losses = losses
        self._theta = losses.start if parameters is None else parameters
        self.shape = (len(self._theta), len(self._theta))
        self.dtype, self.device = self._theta.dtype, self._theta.device

    def __matmul__(self, right: Tensor) -> Tensor:
        if right.ndim == 2:
            return torch.stack([self @ column for column in right.T], 1)
        if right.shape != (self.shape[0],):
            raise InvalidInput(f"a vector of shape {tuple(right.shape)}: the covariance takes [{self.shape[0]}]")
        along = jvp(self._losses, (self._theta,), (right,))[1]
        back = vjp(self._losses, self._theta)[1]
        return back((along - along.mean()) / self._losses.n)[0]

    def draw(self, generator: torch.Generator) -> Tensor:
        """A Gaussian vector ``[P]`` with this covariance: (1/√n) Σ ξ_i (g_i − g), ξ standard normal."""
        n = self._losses.n
        xi = torch.randn(n, generator=generator, dtype=self.dtype).to(self.device)
        back = vjp(self._losses, self._theta)[1]
        return back((xi - xi.mean()) / math.sqrt(n))[0]
