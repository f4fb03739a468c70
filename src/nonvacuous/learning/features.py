"""Features fixed before any data, each example's of length 1: energies of Gabor filters for pictures, random ReLUs for the rest."""

from __future__ import annotations

import math
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from nonvacuous.core.errors import InvalidInput
from nonvacuous.learning.compression_features import KERNEL_SIDES, ORIENTATIONS, gabor_filters

GRIDS = (10, 10, 7)
PIXEL_GRID = 9
LEAST_SIDE = 16
RANDOM = 512


class PictureFeatures(nn.Module):
    """Pictures ``[b, c, h, w]``, 16 ≤ h, w, to ``[b, size]``: log energies at three scales and eight orientations, and a small copy.

    mirrored: average with the features of the mirrored picture (garments, not digits). Source of the kind of feature: Bruna and Mallat 2013
    (IEEE PAMI 35), first order.
    """

    def __init__(self, channels: int, mirrored: bool) -> None:
        super().__init__()
        self.mirrored = mirrored
        self.size = channels * (PIXEL_GRID**2 + ORIENTATIONS * sum(grid**2 for grid in GRIDS))
        for scale, side in enumerate(KERNEL_SIDES):
            self.register_buffer(f"filters{scale}", gabor_filters(scale, side), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        found = self._blocks(x)
        if self.mirrored:
            found = (found + self._blocks(x.flip(3))) / 2
        return functional.normalize(found, dim=1)

    def _blocks(self, x: Tensor) -> Tensor:
        blocks = [functional.adaptive_avg_pool2d(x, PIXEL_GRID).flatten(1)]
        for scale, grid in enumerate(GRIDS):
            filters = getattr(self, f"filters{scale}")
            flat = functional.conv2d(x.flatten(0, 1)[:, None], filters, padding=KERNEL_SIDES[scale] // 2)
            energy = (flat[:, :ORIENTATIONS].square() + flat[:, ORIENTATIONS:].square() + 1e-8).sqrt()
            pooled = functional.adaptive_avg_pool2d(energy, grid).unflatten(0, x.shape[:2]).flatten(1)
            blocks.append(0.3 * torch.log1p(50 * pooled))
        return torch.cat(blocks, 1)


class VectorFeatures(nn.Module):
    """Inputs of any shape, flattened, with a constant and `RANDOM` ReLUs of fixed random projections, ``[b, size]``."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.size = inputs + 1 + RANDOM
        drawn = torch.randn(inputs + 1, RANDOM, generator=torch.Generator().manual_seed(0))
        self.register_buffer("projections", drawn / math.sqrt(RANDOM), persistent=False)

    projections: Tensor

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        flat = torch.cat([flat, flat.new_ones(len(flat), 1)], 1)
        flat = functional.normalize(flat, dim=1)
        return functional.normalize(torch.cat([flat, torch.relu(flat @ self.projections)], 1), dim=1)


Features = PictureFeatures | VectorFeatures


def features_for(shape: tuple[int, ...], mirrored: bool) -> Features:
    """The features for inputs of ``shape`` (without the batch): pictures of at least 16 × 16 pixels, or any other numbers.

    Raises :class:`InvalidInput` for inputs without a number.
    """
    if prod(shape) < 1:
        raise InvalidInput(f"inputs of shape {shape} hold no numbers: there is nothing to make features of")
    if len(shape) == 3 and min(shape[1:]) >= LEAST_SIDE:
        return PictureFeatures(shape[0], mirrored)
    return VectorFeatures(prod(shape))
