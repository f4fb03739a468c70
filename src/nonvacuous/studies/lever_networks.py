"""The networks that the practical levers change: a dense and a convolutional one, with room for dropout and normalizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput

Factory = Callable[[], nn.Module]
Extra = Callable[[int, int], nn.Module]
"""From (channels, spatial dimensions: 0 or 2) to a module that stands before or after a ReLU."""


def dense(
    shape: Sequence[int], classes: int, before: Extra | None = None, after: Extra | None = None, hidden: int = 64
) -> Factory:
    """Two hidden layers of ``hidden`` units on flattened inputs."""
    pixels = int(torch.tensor(shape).prod())

    def make() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in in (pixels, hidden):
            layers += [nn.Linear(fan_in, hidden), *_around(hidden, 0, before, after)]
        return nn.Sequential(*layers, nn.Linear(hidden, classes))

    return make


def convolutional(
    shape: Sequence[int], classes: int, before: Extra | None = None, after: Extra | None = None, channels: int = 8
) -> Factory:
    """Two 5 × 5 convolutions of stride 2 with ``channels`` and twice as many outputs, then a linear layer; no pooling.

    :raises InvalidInput: inputs that are no pictures ``[c, h, w]``.
    """
    if len(shape) != 3:
        raise InvalidInput(f"inputs of shape {tuple(shape)}: a convolutional network takes pictures [c, h, w]")
    sides = [shape[1:], [(side + 1) // 2 for side in shape[1:]]]
    sides.append([(side + 1) // 2 for side in sides[1]])

    def make() -> nn.Module:
        layers: list[nn.Module] = []
        for fan_in, fan_out in ((shape[0], channels), (channels, 2 * channels)):
            layers += [nn.Conv2d(fan_in, fan_out, 5, stride=2, padding=2), *_around(fan_out, 2, before, after)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * channels * sides[2][0] * sides[2][1], classes))

    return make


NETWORKS = {"dense": dense, "convolutional": convolutional}


def _around(channels: int, spatial: int, before: Extra | None, after: Extra | None) -> list[nn.Module]:
    first = [] if before is None else [before(channels, spatial)]
    return [*first, nn.ReLU(), *([] if after is None else [after(channels, spatial)])]


def batch_norm(channels: int, spatial: int) -> nn.Module:
    """Over the batch (and positions)."""
    return nn.BatchNorm2d(channels) if spatial else nn.BatchNorm1d(channels)


def layer_norm(channels: int, spatial: int) -> nn.Module:
    """Over all of an example's units."""
    return nn.GroupNorm(1, channels) if spatial else nn.LayerNorm(channels)


def group_norm(channels: int, spatial: int) -> nn.Module:
    """Over groups of an example's units: 8, or 4 of channels."""
    return nn.GroupNorm(4 if spatial else 8, channels)


def dropout(channels: int, spatial: int) -> nn.Module:
    """Of 30 % of the units."""
    return nn.Dropout(0.3)


class Ensemble(nn.Module):
    """The logarithm of the mean of its members' probabilities, ``[b, k]``."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x).softmax(-1) for member in self.members]).mean(0).clamp_min(1e-30).log()
