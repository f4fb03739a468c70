"""The Flexible Transmitter: a neuron of two variables (stimulus, memory) and two values (signal, next memory).

With stimulus x_t, memory r_{t−1}, weights w, v and a conversion α + βi,

    s_t + i·r_t = σ((α + βi)(w·x_t + i·v·r_{t−1})),

that is, before a σ that acts on real and imaginary parts apart, s_t from α·w·x_t − β·v·r_{t−1} and r_t from β·w·x_t + α·v·r_{t−1}.  For
β = 0 the signal does not see the memory, and with α = 1 the neuron is McCulloch's and Pitts's σ(w·x_t): exactly, number by number.

In a layer W and V are matrices; ``exclusive`` keeps V diagonal, each neuron with a memory of its own as the single neuron has.  Biases are
added to both products (theirs are an input that is always 1).  α and β are chosen, not learned, as there.

**Lipschitz.**  Let L be the constant of σ on ℂⁿ, c = |α + βi|, κ = L·c·‖V‖.  Multiplication by α + βi scales every norm by c, so that two
runs from one memory differ by ‖δs_t‖² + ‖δr_t‖² ≤ (L·c·‖W‖)²·‖δx_t‖² + κ²·‖δr_{t−1}‖².  Summed over t with weights
max(1, κ²)^(T−t), what the memories gain on the right is at most what they have on the left, and cancels:

    ‖δs‖ ≤ L·c·‖W‖ · max(1, κ)^(T−1) · ‖δx‖,

over the whole sequence of T steps: for κ ≤ 1 it does not depend on time.  For β = 0 and a split σ, L·c·‖W‖ always.  The proof is ours.

**Cost.**  Products are torch's, counted by its rules: T·n·(inputs + n) a sequence for n neurons, T·n·inputs with exclusive memories.

**Source.**  Zhang and Zhou 2021, "Flexible Transmitter Network" (Neural Computation 33; arXiv:2004.03839); Wu, Zhang, Jiang and Zhou 2021
(arXiv:2111.06027).  The deck gives the words alone (two-variable two-valued, MP as special case), without a formula to check.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.measures.lipschitz import register
from nonvacuous.networks.complex_activations import CReLU, Split, SplitTanh, activation_constant, finite
from nonvacuous.operators.maps import Matrix
from nonvacuous.operators.norms import spectral_norm_of
from nonvacuous.operators.rules import checked, fits

__all__ = ["FlexibleTransmitter", "FlexibleTransmitterNet", "NetTransmission", "Transmission", "sawtooth_layer"]

BALANCED = complex(math.sqrt(0.5), math.sqrt(0.5))
"""Signal and memory hear stimulus and memory in equal parts, and nothing grows: |α + βi| = 1."""


class Transmission(NamedTuple):
    """Signals ``[n, steps, units]`` and the memory ``[n, units]`` after the last step."""

    signals: Tensor
    memory: Tensor


class NetTransmission(NamedTuple):
    """Outputs ``[n, steps, outputs]`` after every step, and every layer's memory ``[n, units]`` after the last."""

    outputs: Tensor
    memories: tuple[Tensor, ...]


class FlexibleTransmitter(nn.Module):
    """A layer: ``[n, steps, inputs]`` → signals ``[n, steps, units]``, from a memory of zeros; :meth:`transmit` goes on from another.

    Args:
        inputs, units: numbers a step, neurons.
        conversion: α + βi, finite and not 0.
        activation: σ on complex tensors ``[n, units]``; :class:`SplitTanh` by default.
        exclusive: V diagonal.

    Raises InvalidInput for sizes below 1 or such a conversion; when run, for no step, other sizes, types, devices, NaN.

    >>> layer = FlexibleTransmitter(3, 5)
    >>> first = layer.transmit(torch.ones(2, 4, 3))
    >>> layer.transmit(torch.ones(2, 1, 3), first.memory).signals.shape
    torch.Size([2, 1, 5])
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        *,
        conversion: complex = BALANCED,
        activation: nn.Module | None = None,
        exclusive: bool = False,
    ) -> None:
        super().__init__()
        self.inputs, self.units, self.exclusive, self.conversion = (
            int(inputs),
            int(units),
            bool(exclusive),
            complex(conversion),
        )
        if min(self.inputs, self.units) < 1:
            raise InvalidInput(f"{inputs} inputs, {units} units: give at least one of each")
        if not 0 < abs(self.conversion) < math.inf:
            raise InvalidInput(f"conversion = {conversion!r}: give finite α + βi, not 0, or nothing is transmitted")
        self.activation = SplitTanh() if activation is None else activation
        self.weight = nn.Parameter(torch.randn(self.units, self.inputs) / math.sqrt(self.inputs))
        first = torch.ones(self.units) if self.exclusive else nn.init.orthogonal_(torch.empty(self.units, self.units))
        self.memory_weight = nn.Parameter(first)
        self.bias = nn.Parameter(torch.zeros(self.units))
        self.memory_bias = nn.Parameter(torch.zeros(self.units))

    def forward(self, x: Tensor) -> Tensor:
        return self.transmit(x).signals

    def transmit(self, x: Tensor, memory: Tensor | None = None) -> Transmission:
        """Signals of ``x`` ``[n, steps ≥ 1, inputs]`` from ``memory`` ``[n, units]`` (None: zeros), and the memory they leave."""
        x = self._stimuli(x)
        memory = x.new_zeros(len(x), self.units) if memory is None else self._state(memory, x)
        alpha, beta = self.conversion.real, self.conversion.imag
        stimuli = F.linear(x, self.weight, self.bias)
        signals = []
        for to_signal, to_memory in zip((alpha * stimuli).unbind(1), (beta * stimuli).unbind(1), strict=True):
            if self.exclusive:
                kept = self.memory_weight * memory + self.memory_bias
            else:
                kept = F.linear(memory, self.memory_weight, self.memory_bias)
            signal, memory = self._activated(to_signal.sub(kept, alpha=beta), to_memory.add(kept, alpha=alpha))
            signals.append(signal)
        return Transmission(torch.stack(signals, 1), memory)

    def _activated(self, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.activation, Split):  # the same numbers, without complex ones between
            return self.activation.part(real), self.activation.part(imaginary)
        both = self.activation(torch.complex(real, imaginary))
        return both.real, both.imag

    def _stimuli(self, x: Tensor) -> Tensor:
        if x.dim() != 3 or x.shape[2] != self.inputs or x.shape[1] < 1:
            raise InvalidInput(
                f"FlexibleTransmitter takes [n, steps ≥ 1, {self.inputs}]; got {tuple(x.shape)}: a sequence has one step or more"
            )
        if x.dtype != self.weight.dtype or x.device != self.weight.device:
            raise InvalidInput(f"the layer is of {self.weight.dtype} on {self.weight.device}; got {x.dtype} on {x.device}")
        return finite(x, "the sequence")

    def _state(self, memory: Tensor, x: Tensor) -> Tensor:
        if memory.shape != (len(x), self.units):
            raise InvalidInput(
                f"memory of shape {tuple(memory.shape)} for {len(x)} sequences of {self.units} units: give [{len(x)}, {self.units}], the "
                "memory that the same sequences left, or None to begin anew"
            )
        if memory.dtype != x.dtype or memory.device != x.device:
            raise InvalidInput(f"memory of {memory.dtype} on {memory.device}; the sequence is of {x.dtype} on {x.device}")
        return finite(memory, "the memory")

    def extra_repr(self) -> str:
        return f"{self.inputs}, {self.units}, conversion={self.conversion:g}, exclusive={self.exclusive}"


class FlexibleTransmitterNet(nn.Module):
    """Layers of transmitters, signals to the next layer's stimuli, and a linear readout of the last step: ``[n, steps, inputs]`` →
    ``[n, outputs]``.

    Args:
        inputs: numbers a step.
        widths: units of the layers, one or more.
        outputs: of the readout.
        conversion, exclusive: of every layer.

    Raises as :class:`FlexibleTransmitter`, and for no layer.

    >>> FlexibleTransmitterNet(8, [16, 16], 10)(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, inputs: int, widths: Sequence[int], outputs: int, *, conversion: complex = BALANCED, exclusive: bool = False
    ) -> None:
        super().__init__()
        if not widths or outputs < 1:
            raise InvalidInput(f"layers {list(widths)}, {outputs} outputs: give at least one of each")
        options = {"conversion": conversion, "exclusive": exclusive}
        sizes = (inputs, *widths)
        self.layers = nn.Sequential(
            *(FlexibleTransmitter(a, b, **options) for a, b in zip(sizes, widths, strict=False))  # type: ignore[arg-type]
        )
        self.readout = nn.Linear(sizes[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.readout(self.layers(x)[:, -1])
        return out

    def transmit(self, x: Tensor, memories: Sequence[Tensor] | None = None) -> NetTransmission:
        """Outputs after every step of ``x`` ``[n, steps ≥ 1, inputs]``, going on from the layers' memories (None: zeros)."""
        if memories is not None and len(memories) != len(self.layers):
            raise InvalidInput(
                f"{len(memories)} memories for {len(self.layers)} layers: give one a layer, or None to begin anew"
            )
        left: list[Tensor] = []
        given: Sequence[Tensor | None] = [None] * len(self.layers) if memories is None else memories
        for layer, memory in zip(self.layers, given, strict=True):
            x, kept = layer.transmit(x, memory)  # type: ignore[operator]
            left.append(kept)
        return NetTransmission(self.readout(x), tuple(left))


def sawtooth_layer() -> FlexibleTransmitter:
    """Two transmitters that fold: of x ∈ [0, 1] at the first step and zeros after it, the signals after step t ≥ 2 are tri^(t−1)(x).

    tri(x) = 2·ReLU(x) − 4·ReLU(x − ½) folded t − 1 times has 2^(t−1) pieces.  On a real network of one hidden layer with N ReLUs, which
    has at most N + 1 pieces on a line, sup |f − tri^k| ≥ ½ if N + 1 < 2^k, as f − ½ would have to change sign 2^k times (Telgarsky 2015):
    steps in time do what depth does, with 10 parameters for any number of steps.  That is the exponential advantage over one hidden layer
    that arXiv:2111.06027 states for other functions.  An ordinary recurrent network folds as well: it is the memory that does it.

    >>> x = torch.zeros(1, 4, 1)
    >>> x[0, 0] = 0.3
    >>> sawtooth_layer()(x)[0, 1:, 0]
    tensor([0.6000, 0.8000, 0.4000], grad_fn=<...>)
    """
    layer = FlexibleTransmitter(1, 2, conversion=1 - 1j, activation=CReLU())
    with torch.no_grad():
        layer.weight.fill_(-1.0)
        layer.memory_weight.copy_(torch.tensor([[2.0, -4.0], [2.0, -4.0]]))
        layer.memory_bias.copy_(torch.tensor([0.0, -0.5]))
    return layer


@register(FlexibleTransmitter)
def _constant(module: FlexibleTransmitter, shape: tuple[int, ...]) -> Measured:
    """The bound above; ∞ where σ has no constant, or beyond float64."""
    fits(module, len(shape) == 2 and shape[1] == module.inputs and shape[0] > 0, shape, f"(steps ≥ 1, {module.inputs})")
    steep = activation_constant(module.activation, module.units).upper * abs(module.conversion) * (1 + 1e-15)
    first = steep * spectral_norm_of(Matrix(checked(module, "weight", module.weight))).upper
    memory = checked(module, "memory_weight", module.memory_weight)
    kept = float(memory.double().abs().max()) if module.exclusive else spectral_norm_of(Matrix(memory)).upper
    split = module.conversion.imag == 0 and isinstance(module.activation, Split)
    grown = 0.0 if split else (shape[0] - 1) * max(0.0, math.log(steep * kept) if steep * kept > 0 else 0.0)
    if not math.isfinite(first) or grown > 700:
        return Measured(0.0, math.inf, Kind.EXACT)
    return Measured(0.0, first * math.exp(grown) * (1 + 1e-14 * (shape[0] + grown + 1)), Kind.EXACT)
