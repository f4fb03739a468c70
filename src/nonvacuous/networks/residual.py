"""Residual networks whose blocks stay close to the identity: ‖h_i − Id‖_L ≤ ε, enforced by the weights and proved by the measures.

h_i(x) = x + g_i(x) with the Lipschitz constant of g_i at most ε: every linear layer of g_i has its operator norm limited
(:class:`networks.spectral.NormLimit`), so that the product with the activations' constants is at most ε.  For ε < 1 every block is a
bijection with Lipschitz inverse, found by iteration (Banach; Behrmann et al. 2019).  Bartlett, Evans and Long 2018 show which maps are
compositions of such blocks (:mod:`approximation.near_identity_maps`), and what their landscape is
(:func:`optimization.near_identity.sides`).  Only torch's layers and a sum occur: Lipschitz bounds and costs are those of the library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.measures.lipschitz import global_upper, sampled_lower
from nonvacuous.networks.spectral import norm_limited

__all__ = ["Inverse", "NearIdentityBlock", "NearIdentityNet", "dense_branch"]

SLACK = 2e-3
"""Relative part of ε that the limits leave to the width of the proved bracket, so that its upper end is at most ε too."""


class Inverse(NamedTuple):
    """x with ‖h⁻¹(y) − x‖₂ ≤ error for every example, ``[n]``; ``steps`` of the iteration were taken."""

    x: Tensor
    error: Tensor
    steps: int


class NearIdentityBlock(nn.Module):
    """h(x) = x + g(x), Lipschitz constant of g at most ε on all inputs of ``input_shape`` (without the batch), in every step of training.

    Args:
        branch: g, layers in sequence; linear layers and convolutions get limits (their own weights are scaled down only where they
            exceed them), all other layers need a Lipschitz rule. Changed in place.
        input_shape: of one example; g must return the same shape.
        epsilon: ε > 0.

    Raises:
        InvalidInput: no linear layer in the branch, ε not positive or not finite, shapes that do not fit, layers parametrized already,
            or a layer without a constant over all inputs (a normalizer with ε = 0, say).
        UnsupportedModule: a layer without a rule.

    >>> block = NearIdentityBlock(dense_branch(3, 8), (3,), epsilon=0.5)
    >>> block.distance_from_identity().upper <= 0.5
    True
    """

    def __init__(self, branch: nn.Sequential, input_shape: Sequence[int], epsilon: float) -> None:
        super().__init__()
        if not 0 < epsilon < math.inf:
            raise InvalidInput(f"ε = {epsilon!r}: the distance from the identity is limited by a positive finite number")
        self.epsilon, self.input_shape = float(epsilon), tuple(int(n) for n in input_shape)
        shapes = _shapes(branch, self.input_shape)
        if shapes[-1] != self.input_shape:
            raise InvalidInput(f"the branch returns {shapes[-1]} for {self.input_shape}: only equal shapes can be added")
        linear = [part for part in branch if isinstance(part, nn.Linear | _ConvNd)]
        if not linear:
            raise InvalidInput("the branch has no linear layer or convolution whose norm could be limited")
        others = 1.0
        for part, shape in zip(branch, shapes, strict=False):
            if not isinstance(part, nn.Linear | _ConvNd):
                constant = global_upper(part, shape).upper
                if not constant < math.inf:
                    raise InvalidInput(f"{type(part).__name__} has no Lipschitz constant, so the branch cannot be limited")
                others *= constant
        limit = (self.epsilon * (1 - SLACK) / max(others, 1e-30)) ** (1 / len(linear))
        for part, shape in zip(branch, shapes, strict=False):
            if isinstance(part, nn.Linear | _ConvNd):
                norm_limited(part, shape, limit)
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.branch(x)
        return out

    def distance_from_identity(self, inputs: Tensor | None = None) -> Measured:
        """A proved bracket of ‖h − Id‖_L; its lower end is the steepest slope of g at ``inputs`` ``[n, *input_shape]``, 0 without."""
        upper = global_upper(self.branch, self.input_shape, tolerance=SLACK / (2 * len(self.branch)))
        if inputs is None:
            return upper
        lower = sampled_lower(self.branch, inputs).lower
        return Measured(min(max(lower, upper.lower), upper.upper), upper.upper, Kind.EXACT)

    def inverse(self, y: Tensor, *, tolerance: float = 1e-6, most_steps: int = 1000) -> Inverse:
        """h⁻¹(y) for ``[n, *input_shape]`` by x ← y − g(x), with the error bound ‖x + g(x) − y‖/(1 − ε), rounding apart.

        Stops where the bound is at most ``tolerance`` for every example, or no longer falls.  Raises InvalidInput for ε ≥ 1, where
        there may be no inverse, and inputs of another shape or with NaN.
        """
        if self.epsilon >= 1:
            raise InvalidInput(f"ε = {self.epsilon}: only blocks with ε < 1 are known to be invertible")
        if tuple(y.shape[1:]) != self.input_shape or not len(y) or not bool(torch.isfinite(y).all()):
            raise InvalidInput(
                f"y of shape {tuple(y.shape)}: give finite numbers [n ≥ 1, {', '.join(map(str, self.input_shape))}]"
            )
        with torch.no_grad():
            x, error = y.clone(), torch.full((len(y),), math.inf, dtype=y.dtype, device=y.device)
            for step in range(most_steps + 1):
                image = self.branch(x)
                found = (x + image - y).flatten(1).norm(dim=1) / (1 - self.epsilon)
                if bool((found <= tolerance).all()) or step == most_steps or float(found.max()) >= float(error.max()):
                    break
                error, x = found, y - image
        return Inverse(x, found, step)


class NearIdentityNet(nn.Sequential):
    """h_m ∘ … ∘ h_1 with ‖h_i − Id‖_L ≤ ε_i: Lipschitz constant at most ∏(1 + ε_i), and for ε_i < 1 at least ∏(1 − ε_i) apart.

    Raises InvalidInput for no block, or blocks of different shapes.

    >>> net = NearIdentityNet([NearIdentityBlock(dense_branch(2, 4), (2,), 0.1) for _ in range(3)])
    >>> net.expansion().upper <= 1.1**3
    True
    """

    def __init__(self, blocks: Sequence[NearIdentityBlock]) -> None:
        shapes = {block.input_shape for block in blocks}
        if len(shapes) != 1:
            raise InvalidInput(f"blocks of shapes {sorted(shapes)}: give at least one block, all of one shape")
        super().__init__(*blocks)

    def distances(self, inputs: Tensor | None = None) -> tuple[Measured, ...]:
        """:meth:`NearIdentityBlock.distance_from_identity` of every block, at ``inputs`` as they arrive there."""
        found = []
        for block in self:
            found.append(block.distance_from_identity(inputs))  # type: ignore[operator]
            inputs = None if inputs is None else block(inputs).detach()
        return tuple(found)

    def expansion(self) -> Measured:
        """``[∏(1 − ε_i), ∏(1 + ε_i)]``: ‖h(x) − h(y)‖/‖x − y‖ lies there for all x ≠ y, ε_i the proved distances (0 where ≥ 1)."""
        distances = [distance.upper for distance in self.distances()]
        low = math.prod(max(0.0, 1 - d) for d in distances) * (1 - 1e-12)
        return Measured(low, math.prod(1 + d for d in distances) * (1 + 1e-12), Kind.EXACT)

    def inverse(self, y: Tensor, *, tolerance: float = 1e-6) -> Inverse:
        """The blocks inverted from the last to the first; each error is carried through the inverses that follow.  Raises as theirs."""
        error, steps = torch.zeros(len(y), dtype=y.dtype, device=y.device), 0
        for block in reversed(list(self)):
            found = block.inverse(y, tolerance=tolerance)  # type: ignore[operator]
            error = error / (1 - block.epsilon) + found.error  # type: ignore[operator]
            y, steps = found.x, steps + found.steps
        return Inverse(y, error, steps)


def dense_branch(width: int, hidden: int, activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    """Linear, activation, linear, on vectors of ``width`` numbers."""
    if min(width, hidden) < 1:
        raise InvalidInput(f"width {width}, hidden {hidden}: both are at least 1")
    return nn.Sequential(nn.Linear(width, hidden), activation(), nn.Linear(hidden, width))


def _shapes(branch: nn.Sequential, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes before every layer, and after the last."""
    first = next(iter(branch.parameters()), torch.zeros(()))
    x, found = torch.zeros(1, *shape, dtype=first.dtype, device=first.device), [shape]
    training = branch.training
    branch.eval()
    try:
        with torch.no_grad():
            for part in branch:
                x = part(x)
                found.append(tuple(x.shape[1:]))
    except (RuntimeError, TypeError, IndexError) as error:
        raise InvalidInput(f"the branch cannot be run on inputs of shape {shape}: {error}") from error
    finally:
        branch.train(training)
    return found
