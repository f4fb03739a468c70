"""Fixed features of small grey pictures, and a linear head on them whose weights are few bits.

Energies of Gabor filters at three scales and eight orientations, and energies of these energies at coarser scales, averaged over a
grid and put through a logarithm; then a cosine transform over the grid and a Fourier transform over orientation, each coordinate
weighted by (1 + frequency)^power. Nothing is estimated from any data, so a code for the head needs no bit for the features: they are
part of the program. The weights say beforehand that fine detail has less energy and as much to say, which a code cannot learn for
free. Source of the kind of feature: Bruna and Mallat 2013 (IEEE PAMI 35).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nonvacuous.core.errors import InvalidInput

ORIENTATIONS, SCALES, GRID, COARSE_GRID = 8, 3, 7, 4
KERNEL_SIDES = (7, 13, 21)
SPACE_POWER, ORIENTATION_POWER, SECOND_ORDER = 0.5, 1.0, 4.0
"""Powers of the frequencies' weights, and the factor on energies of energies."""


class EnergyFeatures(nn.Module):
    """Pictures ``[b, 1, h, w]``, 16 ≤ h, w, to features ``[b, size]``.

    mirrored: average the energies with those of the mirrored picture (garments, not digits), and leave out the coordinates that change
    sign in a mirror.
    """

    def __init__(self, mirrored: bool) -> None:
        super().__init__()
        self.mirrored = mirrored
        for scale, side in enumerate(KERNEL_SIDES):
            self.register_buffer(f"filters{scale}", gabor_filters(scale, side))
        self.register_buffer("cosines", cosines(GRID))
        self.register_buffer("coarse_cosines", cosines(COARSE_GRID))
        self.register_buffer("waves", waves(ORIENTATIONS))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != 1 or min(x.shape[2:]) < 16:
            raise InvalidInput(
                f"these features are made for grey pictures [b, 1, h, w] of at least 16 × 16 pixels; got {list(x.shape)}"
            )
        blocks = self._blocks(x)
        if self.mirrored:
            blocks = [(a + b) / 2 for a, b in zip(blocks, self._blocks(x.flip(3)), strict=True)]
        return torch.cat([self._transformed(block).flatten(1) for block in blocks], 1)

    @property
    def size(self) -> int:
        """Number of features."""
        return int(self(torch.zeros(1, 1, 28, 28)).shape[1])

    def _blocks(self, x: Tensor) -> list[Tensor]:
        blocks = [functional.adaptive_avg_pool2d(x, GRID)[:, 0]]
        for scale in range(SCALES):
            energy = self._energy(x, scale, 1)
            blocks.append(0.3 * torch.log1p(30 * functional.adaptive_avg_pool2d(energy, GRID)))
            for coarser in range(scale + 1, SCALES):
                again = functional.adaptive_avg_pool2d(self._energy(energy, coarser, 2), COARSE_GRID)
                blocks.append(0.15 * torch.log1p(60 * again).unflatten(1, (ORIENTATIONS, ORIENTATIONS)))
        return blocks

    def _energy(self, x: Tensor, scale: int, stride: int) -> Tensor:
        """Moduli of the complex responses, ``[b, channels · orientations, h, w]``."""
        filters = getattr(self, f"filters{scale}")
        flat = functional.conv2d(x.flatten(0, 1)[:, None], filters, stride=stride, padding=KERNEL_SIDES[scale] // 2)
        modulus = (flat[:, :ORIENTATIONS] ** 2 + flat[:, ORIENTATIONS:] ** 2 + 1e-8).sqrt()
        return modulus.unflatten(0, x.shape[:2]).flatten(1, 2)

    def _transformed(self, block: Tensor) -> Tensor:
        """The block in frequencies, weighted, ``[b, coordinates]``."""
        sizes = block.shape[1:]
        for axis, size in enumerate(sizes, start=1):
            basis = self.waves if size == ORIENTATIONS else self.cosines if size == GRID else self.coarse_cosines
            block = torch.tensordot(block, basis, ([axis], [1])).movedim(-1, axis)
        weighted = (block * frequency_weights(sizes)).flatten(1)
        return weighted[:, ~odd_in_a_mirror(sizes).flatten()] if self.mirrored else weighted


def _frequencies(sizes: Sequence[int]) -> list[Tensor]:
    """Frequency along every axis of a block (orientations first, two axes of space last), each shaped to be broadcast."""
    steps = [(torch.arange(n) + 1) // 2 if n == ORIENTATIONS else torch.arange(n) * GRID / n for n in sizes]
    return [f.float().reshape(-1, *[1] * (len(sizes) - 1 - axis)) for axis, f in enumerate(steps)]


def frequency_weights(sizes: Sequence[int]) -> Tensor:
    """Weight of every coordinate of a block ``[*sizes]``."""
    squares = [f**2 for f in _frequencies(sizes)]
    space = (1 + torch.sqrt(squares[-1] + squares[-2])) ** SPACE_POWER
    orientation = (1 + torch.sqrt(sum(squares[:-2], torch.zeros(1)))) ** ORIENTATION_POWER
    return space * orientation * (SECOND_ORDER if len(sizes) == 4 else 1.0)


def odd_in_a_mirror(sizes: Sequence[int]) -> Tensor:
    """Which coordinates of a block ``[*sizes]`` change sign with the picture's mirror image: sines of orientation, odd cosines across."""
    axes = [torch.arange(n) for n in sizes]
    signs = [
        (i % 2 == 0) & (i > 0) if n == ORIENTATIONS else torch.zeros(n, dtype=torch.bool)
        for i, n in zip(axes, sizes, strict=True)
    ]
    signs[-1] = axes[-1] % 2 == 1
    odd = torch.zeros(tuple(sizes), dtype=torch.bool)
    for axis, sign in enumerate(signs):
        odd ^= sign.reshape(-1, *[1] * (len(sizes) - 1 - axis))
    return odd


def gabor_filters(scale: int, side: int) -> Tensor:
    """Even and odd parts of `ORIENTATIONS` Gabor filters, ``[2 · ORIENTATIONS, 1, side, side]``: octave ``scale``, no response to grey."""
    place = torch.arange(side, dtype=torch.float64) - side // 2
    down, right = torch.meshgrid(place, place, indexing="ij")
    width, wave_number = 0.8 * 2**scale, 0.75 * math.pi / 2**scale
    even, odd = [], []
    for index in range(ORIENTATIONS):
        angle = math.pi * index / ORIENTATIONS
        along = right * math.cos(angle) + down * math.sin(angle)
        across = down * math.cos(angle) - right * math.sin(angle)
        window = torch.exp(-(along**2 + across**2 / 4) / (2 * width**2))
        window = window / window.sum()
        real = window * torch.cos(wave_number * along)
        even.append(real - window * real.sum())
        odd.append(window * torch.sin(wave_number * along))
    return torch.stack([*even, *odd])[:, None].float()


def cosines(size: int) -> Tensor:
    """The orthonormal cosine basis ``[frequency, place]`` (DCT-II)."""
    frequency, place = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64) + 0.5
    basis = torch.cos(math.pi * frequency * place / size) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis.float()


def waves(size: int) -> Tensor:
    """The orthonormal real Fourier basis ``[frequency, place]``, size even: 1, cos, sin, cos 2, sin 2, …"""
    place = torch.arange(size, dtype=torch.float64) * (2 * math.pi / size)
    rows = [torch.ones(size, dtype=torch.float64) / math.sqrt(2)]
    for frequency in range(1, size // 2):
        rows += [torch.cos(frequency * place), torch.sin(frequency * place)]
    rows.append(torch.cos(size // 2 * place) / math.sqrt(2))
    return (torch.stack(rows) * math.sqrt(2 / size)).float()


def mirrored_energy_head() -> nn.Module:
    """A linear head of ten classes, all zero, on the features of 28 × 28 pictures that may be mirrored: garments."""
    return _head(EnergyFeatures(mirrored=True))


def energy_head() -> nn.Module:
    """The same for pictures that may not be mirrored: digits."""
    return _head(EnergyFeatures(mirrored=False))


def _head(features: EnergyFeatures) -> nn.Module:
    with torch.no_grad():
        head = nn.Linear(features.size, 10, bias=False)
        nn.init.zeros_(head.weight)
    return nn.Sequential(features, head)
