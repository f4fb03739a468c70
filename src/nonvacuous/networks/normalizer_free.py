"""Residual networks without normalizers whose signal keeps its size (Brock, De and Smith 2021; Brock, De, Smith and Simonyan 2021).

Three constants do what batch norm did: every activation φ is followed by γ = 1/√Var φ(z), z ~ N(0, 1); every weight is standardized and
scaled (:class:`networks.normalizers.ScaledWeightStandardization`); block i is ``h + α f(h/β_i)`` with β_i² the variance of h that the
recursion foretells.  Only torch's layers, constants and sums occur, so that norms, Lipschitz bounds and costs are those of the library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.networks.normalizers import scaled_weight_standardized

__all__ = ["BlockSignal", "NormalizerFreeBlock", "NormalizerFreeNet", "ScaledActivation", "activation_gain", "signal_by_block"]


PaddingMode = Literal["zeros", "circular"]


class Stage(NamedTuple):
    """Blocks of one width; a stride above 1 makes the image smaller in the first."""

    channels: int
    blocks: int
    stride: int = 1


class BlockSignal(NamedTuple):
    """Mean square of what block ``name`` returns, over examples, channels and positions, and what the recursion foretells."""

    name: str
    measured: float
    predicted: float


def activation_gain(activation: Callable[[Tensor], Tensor]) -> float:
    """γ = 1/√Var φ(z) for z ~ N(0, 1), by the trapezoidal rule on [−12, 12] in float64 (to about 1e-9 where φ has a kink at 0).

    Raises InvalidInput where φ is constant, or not finite there.

    >>> round(activation_gain(torch.relu), 4)  # √(2/(1 − 1/π))
    1.7129
    """
    z = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
    with torch.no_grad():
        values = activation(z)
    weight = (-z.square() / 2).exp()
    weight = weight / weight.sum()
    if values.shape != z.shape or not bool(torch.isfinite(values).all()):
        raise InvalidInput("the activation must act number by number and be finite on [−12, 12]")
    variance = float((weight * values.square()).sum() - (weight * values).sum() ** 2)
    if not variance > 1e-12:
        raise InvalidInput(f"the activation's variance on N(0, 1) is {variance:.3g}: no scale makes it 1")
    return 1 / math.sqrt(variance)


class ScaledActivation(nn.Module):
    """x ↦ γ φ(x), of variance 1 for standard Gaussian x."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.gain = activation_gain(activation)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(x) * self.gain
        return out


class NormalizerFreeBlock(nn.Module):
    """h ↦ h + α f(h/β), f = activation, 3 × 3 convolution, activation, 3 × 3 convolution.

    A transition (another width, or a stride) sends the activation through a 1 × 1 convolution instead of h past f: the variance starts
    again at 1 + α².
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        *,
        beta: float,
        alpha: float,
        stride: int = 1,
        transition: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        if not (0 < beta < math.inf and math.isfinite(alpha)):
            raise InvalidInput(f"β = {beta!r}, α = {alpha!r}: β is a positive standard deviation, α a finite number")
        if padding_mode not in ("zeros", "circular"):
            raise InvalidInput(f"padding_mode={padding_mode!r}: give 'zeros' or 'circular'")
        if not transition and (channels != channels_in or stride != 1):
            raise InvalidInput(f"from {channels_in} to {channels} channels with stride {stride}: say transition=True")
        self.beta, self.alpha, self.transition = float(beta), float(alpha), transition
        self.first_activation, self.second_activation = ScaledActivation(activation()), ScaledActivation(activation())
        first = nn.Conv2d(channels_in, channels, 3, stride, 1, padding_mode=padding_mode)
        second = nn.Conv2d(channels, channels, 3, padding=1, padding_mode=padding_mode)
        self.first, self.second = scaled_weight_standardized(first), scaled_weight_standardized(second)
        past = scaled_weight_standardized(nn.Conv2d(channels_in, channels, 1, stride)) if transition else nn.Identity()
        self.shortcut: nn.Module = past

    def forward(self, h: Tensor) -> Tensor:
        active = self.first_activation(h * (1 / self.beta))
        past: Tensor = self.shortcut(active if self.transition else h)
        return past + self.second(self.second_activation(self.first(active))) * self.alpha

    def variance_after(self, variance: float) -> float:
        """E h² after the block from that before it, at initialization and wide, for activations with φ(cx) = cφ(x), c > 0 (ReLU).

        The branch returns E h²/β²; for other activations this holds where E h² = β², as is foretold.
        """
        branch = variance / self.beta**2
        return (branch if self.transition else variance) + self.alpha**2 * branch


class NormalizerFreeNet(nn.Module):
    """Images ``[n, channels, height, width]`` → class scores ``[n, classes]``: a stem, blocks, a last activation, the mean, a layer.

    Args:
        channels, classes: of the input and output.
        stages: at least one; the first block of every stage is a transition.
        alpha: how fast the variance grows, by α² a block.
        padding_mode: ``"zeros"``, or ``"circular"``, with which no border takes from the signal and the recursion has no error from it.
        seed: of the initial weights: N(0, 1/fan-in), standardized (their scale sets how fast they turn, not what the net computes); N(0,
            10⁻⁴) in the last layer.

    Raises InvalidInput for no stage, sizes below 1, and as :class:`NormalizerFreeBlock`.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        stages: Sequence[Stage | tuple[int, int] | tuple[int, int, int]],
        *,
        alpha: float = 0.2,
        activation: Callable[[], nn.Module] = nn.ReLU,
        padding_mode: PaddingMode = "zeros",
        seed: int | torch.Generator = 0,
    ) -> None:
        super().__init__()
        planned = [Stage(*stage) for stage in stages]
        if not planned or min(channels, classes, *(n for stage in planned for n in stage)) < 1:
            raise InvalidInput(
                f"channels {channels}, classes {classes}, stages {list(stages)}: at least one stage, all sizes ≥ 1"
            )
        width = planned[0].channels
        self.stem = scaled_weight_standardized(nn.Conv2d(channels, width, 3, padding=1, padding_mode=padding_mode))
        blocks: list[nn.Module] = []
        variance = 1.0
        for stage in planned:
            for n in range(stage.blocks):
                block = NormalizerFreeBlock(
                    width,
                    stage.channels,
                    beta=math.sqrt(variance),
                    alpha=alpha,
                    stride=stage.stride if n == 0 else 1,
                    transition=n == 0,
                    activation=activation,
                    padding_mode=padding_mode,
                )
                variance, width = block.variance_after(variance), stage.channels
                blocks.append(block)
        self.blocks = nn.Sequential(*blocks)
        self.end = nn.Sequential(
            ScaledActivation(activation()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
        )
        self._initialise(seed)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.end(self.blocks(self.stem(x)))
        return out

    def _initialise(self, seed: int | torch.Generator) -> None:
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("original"):
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / math.sqrt(parameter[0].numel()))
                elif name.endswith("end.3.weight"):
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.01)
                elif name.endswith("bias"):
                    parameter.zero_()


def signal_by_block(net: NormalizerFreeNet, inputs: Tensor) -> tuple[BlockSignal, ...]:
    """Mean square after the stem and every block on a batch ``[n, channels, height, width]``, beside the recursion from the stem's.

    At initialization, in the limit of wide layers, the outputs of one position are independent Gaussians over the channels, whatever
    the picture; so the two agree, but for what borders padded with zeros take away.

    Raises InvalidInput for inputs that the net does not take, or NaN.
    """
    if not inputs.is_floating_point() or inputs.dim() != 4 or not len(inputs) or not bool(torch.isfinite(inputs).all()):
        raise InvalidInput(
            f"inputs of shape {tuple(inputs.shape)}: give finite floating-point images [n ≥ 1, channels, height, width]"
        )
    found: list[BlockSignal] = []
    with torch.no_grad():
        try:
            h = net.stem(inputs)
        except RuntimeError as error:
            raise InvalidInput(f"the net does not take inputs of shape {tuple(inputs.shape)}: {error}") from error
        predicted = float(h.square().mean())
        found.append(BlockSignal("stem", predicted, predicted))
        for number, block in enumerate(net.blocks):
            h, predicted = block(h), block.variance_after(predicted)  # type: ignore[operator]
            found.append(BlockSignal(f"blocks.{number}", float(h.square().mean()), predicted))
    return tuple(found)
