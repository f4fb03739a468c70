"""What a coded network is: a message of integers, and the network it decodes to."""

from __future__ import annotations

from dataclasses import dataclass
from math import ldexp

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.learning.coding import BitStream, DamagedStream, Decoder, Encoder, Frequencies
from nonvacuous.learning.subspace import Subspace

MOST_DIMENSION, MOST_LEVELS, MOST_OFFSET, MOST_EXPONENT = 1 << 22, 127, 1 << 16, 400


@dataclass(frozen=True)
class Message:
    """Everything about a network that was chosen after the data were seen.

    alternative: which of the networks and settings considered; seed: of initial weights and subspace; levels: the largest size of a
    coordinate; scale: the weights move by `quarter_octave(scale)` · P · coordinates; offsets: added to the outputs, in steps of
    2^offset_exponent; coordinates: int64 ``[dimension]``.
    """

    alternative: int
    seed: int
    levels: int
    scale: int
    offset_exponent: int
    offsets: tuple[int, ...]
    coordinates: Tensor


def written(message: Message, alternatives: int) -> BitStream:
    """The message as a self-delimiting stream; the number of outputs and of ``alternatives`` is the format's, not the message's."""
    encoder = Encoder()
    encoder.uniform(message.alternative, alternatives)
    encoder.natural(message.seed)
    encoder.natural(len(message.coordinates) - 1)
    encoder.natural(message.levels)
    encoder.integer(message.scale)
    encoder.integer(message.offset_exponent)
    reach = max(map(abs, message.offsets))
    encoder.natural(reach)
    for offset in message.offsets:
        encoder.uniform(offset + reach, 2 * reach + 1)
    model = Frequencies(2 * message.levels + 1)
    for symbol in (message.coordinates + message.levels).tolist():
        encoder.symbol(symbol, model)
    return encoder.finish()


def read(data: bytes, outputs: int, alternatives: int) -> tuple[Message, int]:
    """The message of a stream, and its length in bits; `DamagedStream` for anything that `written` does not write."""
    decoder = Decoder(data)
    alternative, seed = decoder.uniform(alternatives), decoder.natural(2**64 - 1)
    dimension, levels = decoder.natural(MOST_DIMENSION - 1) + 1, decoder.natural(MOST_LEVELS)
    scale, exponent = decoder.integer(4 * MOST_EXPONENT), decoder.integer(MOST_EXPONENT)
    reach = decoder.natural(MOST_OFFSET)
    offsets = tuple(decoder.uniform(2 * reach + 1) - reach for _ in range(outputs))
    model = Frequencies(2 * levels + 1)
    coordinates = torch.tensor([decoder.symbol(model) for _ in range(dimension)], dtype=torch.long) - levels
    bits = decoder.finish()
    if max(map(abs, offsets)) != reach:
        raise DamagedStream("the offsets do not reach as far as the stream says: no encoder writes this. Get the original")
    return Message(alternative, seed, levels, scale, exponent, offsets, coordinates), bits


def quarter_octave(step: int) -> float:
    """2^(step/4) to the nearest quarter, exactly representable: 1, 1¼, 1½, 1¾, 2, 2½, …

    >>> [quarter_octave(k) for k in (-1, 0, 1, 4, 6)]
    [0.875, 1.0, 1.25, 2.0, 3.0]
    """
    return ldexp(1 + (step % 4) / 4, step // 4)


class Coded(nn.Module):
    """A network with numbers added to its outputs: ``network(x) + offsets``, offsets ``[outputs]``."""

    offsets: Tensor

    def __init__(self, network: nn.Module, outputs: int) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("offsets", torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x) + self.offsets
        return out


def set_weights(network: nn.Module, start: Tensor, scale: int, coordinates: Tensor, seed: int) -> None:
    """Move the trainable weights ``start`` [m] of a network by the decoded step, in place."""
    subspace = Subspace(len(start), len(coordinates), seed)
    moved = start + quarter_octave(scale) * subspace.expand(coordinates.float())
    torch.nn.utils.vector_to_parameters(moved, [p for p in network.parameters() if p.requires_grad])


def start_of(network: nn.Module) -> Tensor:
    """The trainable weights of a network as one vector ``[m]``; :class:`InvalidInput` if there are none."""
    parameters = [p.detach() for p in network.parameters() if p.requires_grad]
    if not parameters:
        raise InvalidInput("the network has no trainable weights: there is nothing to learn. Name another network")
    return torch.nn.utils.parameters_to_vector(parameters).float()


def network_of(message: Message, network: nn.Module) -> Coded:
    """The network a message decodes to; ``network``, fresh from its seed, is changed in place."""
    start = start_of(network)
    set_weights(network, start, message.scale, message.coordinates, message.seed)
    coded = Coded(network.eval(), len(message.offsets))
    coded.offsets.copy_(torch.tensor([ldexp(float(offset), message.offset_exponent) for offset in message.offsets]))
    return coded.eval()
