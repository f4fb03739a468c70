"""Losses to train with that speak of the whole distribution of margins."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput

__all__ = ["MarginDistributionLoss", "margin_ratio", "margins"]


def margins(outputs: Tensor, targets: Tensor) -> Tensor:
    """γ = f_y(x) − max_{j≠y} f_j(x) of every example: outputs ``[n, k]``, targets ``[n]`` in 0 … k − 1, result ``[n]``.

    Differentiable, and of no control flow that depends on data, so that ``torch.vmap`` takes it.

    Raises InvalidInput for shapes that do not fit, fewer than two classes, targets that are no whole numbers or (on a CPU) out of
    range.

    >>> margins(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([1]))
    tensor([-2.])
    """
    if outputs.dim() != 2 or outputs.shape[1] < 2 or targets.shape != outputs.shape[:1]:
        raise InvalidInput(
            f"outputs {tuple(outputs.shape)}, targets {tuple(targets.shape)}: a margin takes outputs [n, k ≥ 2] and targets [n]"
        )
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool or not outputs.is_floating_point():
        raise InvalidInput(
            f"outputs {outputs.dtype}, targets {targets.dtype}: give floating-point scores and whole class numbers"
        )
    own = targets[:, None] == torch.arange(outputs.shape[1], device=outputs.device)
    try:
        right = outputs.gather(1, targets[:, None].long()).squeeze(1)
    except RuntimeError as error:
        raise InvalidInput(f"targets are class numbers 0 … {outputs.shape[1] - 1}, one for each score: {error}") from error
    return right - torch.where(own, -torch.inf, outputs).amax(1)


def margin_ratio(outputs: Tensor, targets: Tensor) -> Tensor:
    """λ = standard deviation of the margins over their mean, a scalar free of the outputs' scale; ∞ where the mean is not positive.

    The quantity that the bound of Lyu, Wang and Zhou 2022 asks to be small.  Raises as :func:`margins`, and for no example.

    >>> margin_ratio(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 0]))
    tensor(0.5000)
    """
    found = margins(outputs, targets)
    if not len(found):
        raise InvalidInput("no example: a distribution of margins takes at least one")
    mean = found.mean()
    return torch.where(mean > 0, found.std(correction=0) / mean, torch.inf)


class MarginDistributionLoss(nn.Module):
    """(outputs, targets) → mean over the batch of ℓ(γ): margins are drawn into a band r ± θ from both sides.

    ::

        ℓ(γ) = ((r − θ − γ)/(r − θ))²       γ < r − θ
               0                            r − θ ≤ γ ≤ r + θ
               η ((γ − r − θ)/(r + θ))²     γ > r + θ

    Lyu, Wang and Zhou, "Improving generalization of deep neural networks by leveraging margin distribution", Neural Networks 2022
    (arXiv:1812.10761); after the optimal margin distribution machine of Zhang and Zhou.  ℓ is convex in γ and bounds the 0–1 loss
    (ℓ(γ) ≥ 1 for γ ≤ 0); as a function of the outputs it is convex for η = 0 only, as γ is concave in them.

    Args:
        mean: r, the margin aimed at. half_width: θ in [0, r), of the band without loss. trade_off: η ≥ 0, what a margin too large costs
            against one too small; 0 gives a squared hinge.

    Raises:
        InvalidInput: parameters out of range, here; outputs and targets that do not fit (:func:`margins`), or an empty batch, in a call.

    >>> loss = MarginDistributionLoss(mean=2.0, half_width=1.0, trade_off=0.5)
    >>> loss(torch.tensor([[0.0, 0.0], [2.0, 0.0], [6.0, 0.0]]), torch.tensor([0, 0, 0]))  # (1 + 0 + 0.5)/3
    tensor(0.5000)
    """

    def __init__(self, mean: float = 1.0, half_width: float = 0.3, trade_off: float = 0.5) -> None:
        super().__init__()
        if not (0 < mean < math.inf and 0 <= half_width < mean and 0 <= trade_off < math.inf):
            raise InvalidInput(
                f"mean r = {mean!r}, half_width θ = {half_width!r}, trade_off η = {trade_off!r}: give 0 ≤ θ < r and η ≥ 0, all finite"
            )
        self.mean, self.half_width, self.trade_off = float(mean), float(half_width), float(trade_off)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if not len(outputs):
            raise InvalidInput("an empty batch has no mean loss: give at least one example")
        return self.of_margins(margins(outputs, targets)).mean()

    def of_margins(self, margin: Tensor) -> Tensor:
        """ℓ(γ), number by number."""
        low, high = self.mean - self.half_width, self.mean + self.half_width
        below = ((low - margin) / low).clamp_min(0).square()
        above = ((margin - high) / high).clamp_min(0).square()
        return below + self.trade_off * above

    def extra_repr(self) -> str:
        return f"mean={self.mean:g}, half_width={self.half_width:g}, trade_off={self.trade_off:g}"
