"""Skip connections from hidden neurons to the output: from every point a path leads to a loss below any ε."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.hooks import RemovableHandle

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.hypotheses import Condition
from nonvacuous.runtime.models import outputs

#: Strictly increasing, real analytic, and bounded or of at most linear growth with an exponentially falling left tail.
ANALYTIC = (nn.Sigmoid, nn.Tanh, nn.Softplus)
RADII = tuple(10.0**k for k in range(-4, 3))
Loss = Callable[[Tensor, Tensor], Tensor]


class OutputSkips(nn.Module):
    """f(x) + V·(all outputs of chosen activation layers), V trainable and zero at first.

    Theorem. Let the inputs be distinct, the activations real analytic, strictly increasing and of the paper's growth (sigmoid,
    tanh, softplus; ReLU is not among them), and at least as many neurons skip to the output as there are examples. Then there are
    uncountably many weights of zero training error, the cross-entropy has no bad local valley (from every point a path leads to a
    loss below any ε > 0 on which the loss does not rise), no strict local minimum that is not global, and no local maximum.

    The least loss, zero, need not be attained: for cross-entropy it never is, and the path's end moves away as ε → 0.

    Args:
        model: any classifier with outputs ``[n, k]``; the layers must each be called once a forward pass.
        example: an input batch, from which the neurons are counted.
        layers: the layers whose outputs skip; by default every activation in :data:`ANALYTIC`.

    Raises:
        InvalidInput: no such layer.

    Source: Nguyen, Mukkamala and Hein 2019, "On the loss landscape of a class of deep neural networks with no bad local valleys",
    Assumption 3.1 and Theorem 3.4.
    """

    def __init__(self, model: nn.Module, example: Tensor, layers: Sequence[nn.Module] | None = None):
        super().__init__()
        self.model = model
        self.sources = tuple(layers) if layers is not None else tuple(m for m in model.modules() if isinstance(m, ANALYTIC))
        if not self.sources:
            raise InvalidInput(
                "no activation that the theorem allows was found (sigmoid, tanh, softplus). ReLU is not among them: it is not "
                "analytic, and dead units give no features; pass layers=… to skip from others all the same"
            )
        self._caught: dict[int, Tensor] = {}
        self._handles: list[RemovableHandle] = [
            layer.register_forward_hook(self._catcher(k)) for k, layer in enumerate(self.sources)
        ]
        with torch.no_grad():
            plain = outputs(model, example)
            neurons = self.features(example).shape[1]
        self.skip = nn.Linear(neurons, plain.shape[1], bias=False, dtype=plain.dtype)
        nn.init.zeros_(self.skip.weight)

    def _catcher(self, k: int) -> Callable[[nn.Module, Any, Tensor], None]:
        def catch(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._caught[k] = output

        return catch

    def forward(self, x: Tensor) -> Tensor:
        """``[n, k]``."""
        plain = outputs(self.model, x)
        return plain + self.skip(self._joined())

    def features(self, x: Tensor) -> Tensor:
        """Ψ: outputs of the neurons that skip, ``[n, N]``."""
        outputs(self.model, x)
        return self._joined()

    def _joined(self) -> Tensor:
        joined = torch.cat([self._caught[k].flatten(1) for k in range(len(self.sources))], 1)
        self._caught.clear()
        return joined

    def conditions(self, x: Tensor) -> tuple[Condition, ...]:
        """The theorem's hypotheses on the training inputs ``[n, …]``."""
        distinct = len(torch.unique(x.flatten(1), dim=0))
        names = sorted({type(layer).__name__ for layer in self.sources})
        neurons = self.skip.in_features
        return (
            Condition.checked("inputs are distinct", distinct == len(x), f"{distinct} distinct among {len(x)}"),
            Condition.checked(
                "activations are analytic and strictly increasing",
                all(isinstance(layer, ANALYTIC) for layer in self.sources),
                ", ".join(names),
            ),
            Condition.checked("at least n neurons skip to the output", neurons >= len(x), f"N = {neurons}, n = {len(x)}"),
        )


@dataclass(frozen=True)
class Valley:
    """A path from where the network stood: first a small move of the hidden weights, then a straight line in the skips' V.

    losses: at the start, after the move, and at evenly spaced points of the line ``[2 + T]``; convex along the line. moved: the
    radius of the first move, 0 if none was needed; rank: of Ψ after it. reached: the last loss.
    """

    losses: tuple[float, ...]
    moved: float
    rank: int

    @property
    def reached(self) -> float:
        """The loss at the end."""
        return self.losses[-1]

    def rises_by(self) -> float:
        """The largest rise of the loss along the line (rounding apart, 0), relative to its start."""
        line = self.losses[1:]
        return max(max(b - a for a, b in pairwise(line)), 0.0) / max(abs(line[0]), 1e-300)


def descend(
    wrapped: OutputSkips,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    *,
    loss: Loss = cross_entropy,
    slack: float = 0.01,
    seed: int = 0,
) -> Valley:
    """Walk the path of the theorem to a loss below ``epsilon``, in place; classes ``[n]``, mean cross-entropy (or a convex loss).

    If Ψ has rank n, some V gives any outputs on the sample. V moves on a straight line to margins so large that the loss is below
    ε, and the loss is convex on it. If the rank is lower, hidden weights are first moved at random, by as much as the slack allows
    (analytic activations: almost every move gives rank n); the slack is the fraction by which the loss may rise on the way.
    A path that does not rise at all exists by the theorem; this one stays in every valley whose rim is higher than the slack.

    Raises:
        InvalidInput: a hypothesis fails, ε is not positive, or float64 shows no full rank near by.
    """
    if not epsilon > 0:
        raise InvalidInput(f"ε = {epsilon!r} must be positive: the infimum need not be attained")
    failed = [str(c) for c in wrapped.conditions(x) if c.standing.value == "not met"]
    if failed:
        raise InvalidInput(f"the theorem does not apply: {'; '.join(failed)}. Add hidden neurons, or take a smaller sample")
    with torch.no_grad():
        start = float(loss(wrapped(x), y))
        moved = _make_independent(wrapped, x, y, loss, start * (1 + slack), seed)
        psi = wrapped.features(x)
        plain = outputs(wrapped.model, x)
        classes = plain.shape[1]
        begin = wrapped.skip.weight.clone()
        rank = int(torch.linalg.matrix_rank(psi))
        shape = torch.nn.functional.one_hot(y, classes).to(plain.dtype)
        size = 1.0
        while float(loss(size * shape, y)) > epsilon / 2:
            size *= 2
            if size > 1e6:
                raise InvalidInput(
                    f"no outputs give a loss below {epsilon:g}. Is the loss one that falls to zero with the margin?"
                )
        goal = torch.linalg.lstsq(psi, size * shape - plain, driver="gelsd").solution.T
        losses = [start, float(loss(wrapped(x), y))]
        for t in torch.linspace(0, 1, 41)[1:].tolist():
            wrapped.skip.weight.copy_(begin + t * (goal - begin))
            losses.append(float(loss(wrapped(x), y)))
    if not losses[-1] <= epsilon:
        raise InvalidInput(
            f"the features are so nearly dependent that float64 reaches {losses[-1]:.3g}, not {epsilon:g}. Spread the inputs"
        )
    return Valley(tuple(losses), moved, rank)


def _make_independent(wrapped: OutputSkips, x: Tensor, y: Tensor, loss: Loss, limit: float, seed: int) -> float:
    """Move the hidden weights by the largest of :data:`RADII` that makes Ψ's rank n and keeps the loss within ``limit``."""
    if _full(wrapped, x):
        return 0.0
    hidden = list(wrapped.model.parameters())
    old = [p.clone() for p in hidden]
    for radius in reversed(RADII):
        for draw in range(3):
            generator = torch.Generator().manual_seed(seed + draw)
            for p, before in zip(hidden, old, strict=True):
                p.copy_(before + radius * torch.randn(p.shape, dtype=p.dtype, generator=generator))
            if _full(wrapped, x) and float(loss(wrapped(x), y)) <= limit:
                return radius
    for p, before in zip(hidden, old, strict=True):
        p.copy_(before)
    raise InvalidInput(
        "no small move of the hidden weights made the features independent in float64. Scale the inputs to size one"
    )


def _full(wrapped: OutputSkips, x: Tensor) -> bool:
    singular = torch.linalg.svdvals(wrapped.features(x))
    return len(singular) >= len(x) and bool(singular[len(x) - 1] > 1e-9 * singular[0])
