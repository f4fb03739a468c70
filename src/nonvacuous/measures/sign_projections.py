"""A network's weights as inner products with random sign matrices: Algorithm 1 of Arora et al. 2018, run, rounded and decoded.

What :class:`~nonvacuous.bounds.compression.CompressionBound` certifies is the network that comes out of :meth:`SignProjection.decoded`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nonvacuous.bounds.compression import CompressionBound
from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.measures.state import check_registered
from nonvacuous.measures.weight_chain import WEIGHT_LAYERS

FORMATS = {8: torch.float8_e4m3fn, 16: torch.float16, 32: torch.float32}
"""Number formats by their bits, fixed here once and for all."""


@dataclass(frozen=True)
class SignProjection:
    """All that is sent, besides what was fixed beforehand (architecture, number formats, generator and ``seed``).

    Attributes:
        projections: for each weight layer the kᵢ numbers ⟨Aᵢ, M⟩, of the format of ``bits``.
        biases: of the layers that have any, in the same format.
        bits: of every number.
    """

    projections: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    bits: int
    seed: int

    @property
    def numbers(self) -> int:
        """Σkᵢ and the biases."""
        return sum(part.numel() for part in (*self.projections, *self.biases))

    @property
    def depth(self) -> int:
        """Weight layers: counts kᵢ that are sent."""
        return len(self.projections)

    def to_bytes(self) -> bytes:
        """The numbers as they would be sent; ``numbers * bits`` bits."""
        return b"".join(bytes(part.view(torch.uint8).numpy().tobytes()) for part in (*self.projections, *self.biases))

    def evidence(self, risk: float, n: int) -> Any:
        """Of the compression bound, for the decoded network's mean loss ``risk`` on a training sample of ``n``."""
        return CompressionBound.Evidence(risk, self.numbers, self.bits, self.depth, n)

    def decoded(self, architecture: nn.Module) -> nn.Module:
        """The network the numbers describe; of ``architecture`` only the shapes matter, its weights are not read.

        Raises InvalidInput for another architecture's numbers.
        """
        network = copy.deepcopy(architecture)
        layers = _layers(network)
        biased = [layer for layer in layers if layer.bias is not None]
        if len(layers) != self.depth or [len(layer.bias) for layer in biased] != [len(bias) for bias in self.biases]:
            raise InvalidInput("the numbers are those of another architecture: layers or biases differ")
        with torch.no_grad():
            for i, (layer, sent) in enumerate(zip(layers, self.projections, strict=True)):
                layer.weight.copy_(_estimate(sent.double(), layer.weight.numel(), self.seed + i).reshape(layer.weight.shape))
            for layer, bias in zip(biased, self.biases, strict=True):
                layer.bias.copy_(bias)
        return network


def sign_projection(model: nn.Module, counts: Sequence[int], *, bits: int = 16, seed: int = 0) -> SignProjection:
    """Describe layer i's weight by ``counts[i]`` numbers Z = ⟨Aᵢ, M⟩, decoded as Âᵢ = (1/kᵢ)Σ Z M, and by ``bits`` a number.

    The matrices M are different rows of a Hadamard matrix of order N, the least power of 2 that holds the weights, whose columns have
    random signs.  So Âᵢ is unbiased as with independent signs, its mean square error is (N − kᵢ)/(N − 1) of theirs, (‖Aᵢ‖²_F − a²)/kᵢ for
    entry a, and it takes N ln N steps instead of N kᵢ.  The counts, the bits and any choice among them may be made after training: the
    bound's message holds them.

    Raises:
        InvalidInput: counts that are not one a layer and between 1 and N, unknown bits.
        UnsupportedModule: parameters or buffers other than weights and biases of linear layers and convolutions, or knowledge elsewhere.

    >>> model = nn.Linear(8, 4, bias=False)
    >>> whole = sign_projection(model, [32], bits=32).decoded(nn.Linear(8, 4, bias=False))
    >>> torch.allclose(whole.weight, model.weight, atol=1e-6), sign_projection(model, [5], bits=8).numbers
    (True, 5)
    """
    layers = _layers(model)
    most = [_padded(layer.weight.numel()) for layer in layers]
    if bits not in FORMATS:
        raise InvalidInput(f"bits must be one of {', '.join(map(str, FORMATS))}; got {bits}")
    if len(counts) != len(layers) or not all(1 <= k <= top for k, top in zip(counts, most, strict=True)):
        raise InvalidInput(f"counts must be {len(layers)} numbers, from 1 to {most}; got {list(counts)}")
    with torch.no_grad():
        projections = [_products(layer.weight, k, seed + i) for i, (layer, k) in enumerate(zip(layers, counts, strict=True))]
        biases = [layer.bias for layer in layers if layer.bias is not None]
        sent, kept = (tuple(_rounded(part, bits) for part in group) for group in (projections, biases))
    return SignProjection(sent, kept, bits, seed)


def _layers(model: nn.Module) -> list[Any]:
    """Weight layers in the order of the module's tree, which must hold everything the network knows."""
    check_registered(model)
    layers = [part for part in model.modules() if type(part) in WEIGHT_LAYERS]
    known = {id(t) for layer in layers for t in (layer.weight, layer.bias)}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if id(tensor) not in known or not tensor.is_floating_point():
            raise UnsupportedModule(
                f"{name} is no weight or bias of a plain linear layer or convolution: it has no place in the code"
            )
    if not layers:
        raise UnsupportedModule(f"{type(model).__name__} has no linear layer and no convolution to compress")
    return layers


def _padded(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _signs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Column signs [N] and the order of the rows [N], of one layer."""
    generator = torch.Generator().manual_seed(seed)
    size = _padded(count)
    return torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1, torch.randperm(size, generator=generator)


def _hadamard(x: Tensor) -> Tensor:
    """Sylvester's Hadamard matrix times x [N], N a power of 2, in N log N steps."""
    half = 1
    while half < len(x):
        pairs = x.reshape(-1, 2, half)
        x = torch.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).reshape(-1)
        half *= 2
    return x


def _products(weight: Tensor, k: int, seed: int) -> Tensor:
    """⟨A, M⟩ for the first k of the sign matrices."""
    signs, order = _signs(weight.numel(), seed)
    padded = torch.zeros(len(signs), dtype=torch.float64)
    padded[: weight.numel()] = weight.detach().cpu().double().flatten()
    return _hadamard(signs * padded)[order[:k]]


def _estimate(products: Tensor, count: int, seed: int) -> Tensor:
    """(1/k) Σ Z M, flat."""
    signs, order = _signs(count, seed)
    spread = torch.zeros(len(signs), dtype=torch.float64)
    spread[order[: len(products)]] = products / len(products)
    return (signs * _hadamard(spread))[:count]


def _rounded(numbers: Tensor, bits: int) -> Tensor:
    """In the format of these bits; what is beyond its range becomes its largest number."""
    largest = torch.finfo(FORMATS[bits]).max
    if not bool(torch.isfinite(numbers).all()):
        raise InvalidInput("the weights hold NaN or infinity: they cannot be coded")
    return numbers.detach().cpu().clamp(-largest, largest).to(FORMATS[bits])
