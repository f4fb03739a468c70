"""A fully connected network as its kernels see it: a depth, an activation, three variances; and samples as matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.activations import dual
from nonvacuous.kernels.duals import Dual
from nonvacuous.kernels.kernel import Kernel
from nonvacuous.kernels.layers import check_deviations

Activation = str | Dual | nn.Module | Callable[[Tensor], Tensor]


class Deviations(NamedTuple):
    """Of the weights (before division by √fan_in), of the biases, and of the first layer's weights where it differs."""

    weight_std: float
    bias_std: float = 0.0
    input_weight_std: float | None = None


class Rows(NamedTuple):
    """A sample as a matrix, x [n, d], and the norms of its rows, float64."""

    x: Tensor
    norms: Tensor


def rows(x: Tensor, name: str) -> Rows:
    """A sample, images flattened; raises ``InvalidInput`` where it is none."""
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
        what = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise InvalidInput(f"{name} is {what}: give a float32 or float64 tensor [n, d]")
    if x.ndim < 2 or not x.numel():
        raise InvalidInput(f"{name} has shape {tuple(x.shape)}: give [n, d] with at least one sample and one feature")
    flat = x.detach().reshape(len(x), -1)
    norms = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64)
    if not norms.square().isfinite().all():
        bad = torch.nonzero(~norms.square().isfinite()).ravel()[:5].tolist()
        raise InvalidInput(
            f"{name} holds NaN, infinity or numbers whose squares overflow, first in samples {bad}: remove or replace them"
        )
    return Rows(flat, norms)


class Recursion(NamedTuple):
    """depth: hidden layers; activation: between them; the three variances: of first-layer weights, of later weights, of biases."""

    depth: int
    activation: Dual
    input_variance: float
    weight_variance: float
    bias_variance: float

    @classmethod
    def of(cls, depth: int, activation: Activation, deviations: Deviations) -> Recursion:
        """Checked; raises ``InvalidInput``."""
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
            raise InvalidInput(f"depth={depth!r} counts hidden layers: a whole number, 0 (a linear model) or more")
        weight, bias, first = deviations
        check_deviations(weight, bias)
        check_deviations(weight if first is None else first, bias)
        return cls(depth, dual(activation), (weight if first is None else first) ** 2, weight**2, bias**2)

    def first(self, covariance: Tensor) -> Tensor:
        """K_0 from x·x'/d."""
        return covariance * self.input_variance + self.bias_variance

    def variances(self, sample: Rows) -> tuple[list[Tensor], Kernel]:
        """Of each hidden layer's pre-activations, and the kernels at x = x', from x·x in float64: vectors [n]."""
        k = self.first(sample.norms.square() / sample.x.shape[1])
        t, met = k, []
        for _ in range(self.depth):
            met.append(k)
            value, slope = self.activation.diagonal(k)
            k = self.weight_variance * value + self.bias_variance
            t = k + self.weight_variance * slope * t
        return met, Kernel(k, t)
