"""Feed-forward spiking networks over T steps of time, of snnTorch's leaky integrate-and-fire neurons.

One step of a neuron with leak β, threshold θ and current I (``snntorch.Leaky``, whose reset comes a step after the spike)::

    U[t + 1] = β U[t] + I[t + 1] − θ R[t]        R[t] = 1 if U[t] > θ, else 0        (reset by subtraction)
    U[t + 1] = β (1 − R[t]) U[t] + I[t + 1]                                          (reset to zero)
    S[t + 1] = 1 if U[t + 1] > θ, else 0,        U[0] = 0

Layer by layer, I = W S + b with the spikes S of the layer before at the same time; the outputs are affine in the firing rates of the
last spiking layer.  As a dynamical system: :mod:`networks.spiking_dynamics`, :mod:`networks.spiking_stability`.  A threshold jumps, so
there is no Lipschitz constant, and :mod:`measures.lipschitz` says so.  Matrix products over all steps are counted by
:func:`operators.cost.cost` as they are run, dense; what spikes would need is :func:`networks.spiking_dynamics.accumulates`.

snnTorch (Eshraghian et al. 2023) comes with ``pip install 'nonvacuous[spiking]'``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.measures.lipschitz import register
from nonvacuous.measures.walk import Unbounded

__all__ = ["Direct", "Encoding", "FiringRates", "Rate", "Reset", "Rows", "SpikingLayer", "SpikingNetwork", "Trajectory"]


class Reset(Enum):
    """What a spike does to its own membrane, one step later."""

    SUBTRACT = "subtract"
    ZERO = "zero"


class Trajectory(NamedTuple):
    """Membrane potentials and spikes (0 or 1) of a layer at t = 1 … T, ``[n, T, width]`` each."""

    membranes: Tensor
    spikes: Tensor


class Encoding(nn.Module):
    """Examples ``[n, …]`` to inputs over time ``[n, steps, d]``, or ``[n, 1, d]`` where they do not change.

    Raises InvalidInput for fewer than one step.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        if steps < 1:
            raise InvalidInput(f"{steps} steps of time: a spiking network takes at least one")
        self.steps = int(steps)

    def extra_repr(self) -> str:
        return f"steps={self.steps}"


class Direct(Encoding):
    """The example itself as a constant input, at every one of ``steps`` steps: ``[n, …]`` to ``[n, 1, d]``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).unsqueeze(1)


class Rows(Encoding):
    """One row of the example a step: ``[n, …]`` of steps · d numbers to ``[n, steps, d]``.

    >>> Rows(8)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 8, 8])
    """

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        if flat.shape[1] % self.steps:
            raise InvalidInput(
                f"{flat.shape[1]} numbers an example are not {self.steps} rows of one length: give as many steps as rows"
            )
        return flat.unflatten(1, (self.steps, -1))


class Rate(Encoding):
    """Spikes whose rate is the number: at each step 1 where x > u, with u uniform in [0, 1], drawn once and kept with the weights.

    Drawn once, so that the network is one predictor and not a random one; numbers outside [0, 1] always or never spike.

    Args:
        steps: T. inputs: d, numbers an example. seed: of the ``[steps, d]`` uniform numbers.
    """

    uniform: Tensor

    def __init__(self, steps: int, inputs: int, seed: int) -> None:
        super().__init__(steps)
        drawn = torch.rand(steps, inputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.register_buffer("uniform", drawn.to(torch.get_default_dtype()))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1).unsqueeze(1)
        if flat.shape[2] != self.uniform.shape[1]:
            raise InvalidInput(f"{flat.shape[2]} numbers an example, {self.uniform.shape[1]} expected by the rate encoding")
        return spike(flat - self.uniform)


class SpikingLayer(nn.Module):
    """Currents ``[n, steps, width]`` (``[n, 1, width]``: the same at every step) to spikes ``[n, steps, width]``.

    The neurons are one ``snntorch.Leaky``, ``self.neuron``, whose state is made anew for every call: nothing is kept between calls.

    Args:
        leak: β in [0, 1), one number or one a neuron, ``[width]``. threshold: θ > 0. learn_leak: β is a parameter; snnTorch clips it to
            [0, 1], where 1 means no leak.

    Raises:
        InvalidInput: snnTorch is not installed; arguments out of range; at a call, a shape that does not fit.
    """

    def __init__(
        self,
        width: int,
        steps: int,
        *,
        leak: float | Tensor = 0.9,
        threshold: float = 1.0,
        reset: Reset = Reset.SUBTRACT,
        learn_leak: bool = False,
    ) -> None:
        super().__init__()
        beta = torch.as_tensor(leak, dtype=torch.get_default_dtype())
        if beta.shape not in ((), (width,)) or not bool(((beta >= 0) & (beta < 1)).all()):
            raise InvalidInput(f"leak β = {leak}: give one number in [0, 1), or {width} of them, one a neuron")
        if width < 1 or steps < 1 or not 0 < threshold < math.inf:
            raise InvalidInput(f"width {width}, {steps} steps, threshold θ = {threshold!r}: each is positive and finite")
        self.width, self.steps, self.reset = int(width), int(steps), Reset(reset)
        snn = _snntorch()
        self.neuron = snn.Leaky(
            beta=beta.expand(width).clone(),
            threshold=float(threshold),
            spike_grad=spike,
            learn_beta=learn_leak,
            reset_mechanism=self.reset.value,
        )
        snn.SpikingNeuron.instances.remove(self.neuron)  # snnTorch would keep every neuron ever made alive

    @property
    def leak(self) -> Tensor:
        """β in effect, ``[width]``."""
        return self.neuron.beta.clamp(0, 1)

    @property
    def threshold(self) -> float:
        """θ."""
        return float(self.neuron.threshold)

    def forward(self, current: Tensor) -> Tensor:
        return self.trajectory(current).spikes

    def trajectory(self, current: Tensor, membrane: Tensor | None = None, steps: int | None = None) -> Trajectory:
        """Membranes and spikes from an initial ``membrane`` ``[n, width]`` (0 without), over ``steps`` (the layer's own without).

        A membrane above θ at the start resets at the first step, as after a spike.
        """
        steps = self.steps if steps is None else steps
        if current.dim() != 3 or current.shape[1] not in (1, steps) or current.shape[2] != self.width:
            raise InvalidInput(f"currents of shape {tuple(current.shape)}: give [n, {steps} or 1, {self.width}]")
        if membrane is None:
            membrane = torch.zeros_like(current[:, 0])
        if membrane.shape != current[:, 0].shape:
            raise InvalidInput(
                f"a state of shape {tuple(membrane.shape)} for {len(current)} examples: give membranes [{len(current)}, {self.width}]"
            )
        membranes, spikes = [], []
        try:
            for t in range(steps):
                fired, membrane = self.neuron(current[:, t if current.shape[1] > 1 else 0], membrane)
                membranes.append(membrane)
                spikes.append(fired)
        finally:  # a state left inside would be part of copies, and hold the whole graph
            self.neuron.mem, self.neuron.reset = current.new_zeros(0), None
        return Trajectory(torch.stack(membranes, 1), torch.stack(spikes, 1))

    def extra_repr(self) -> str:
        return f"width={self.width}, steps={self.steps}, reset={self.reset.value}"


class FiringRates(nn.Module):
    """Spikes ``[n, steps, width]`` to the fraction of steps with one, ``[n, width]``."""

    def forward(self, spikes: Tensor) -> Tensor:
        return spikes.mean(1)


class SpikingNetwork(nn.Sequential):
    """Encoding, then (linear, spiking) a hidden layer, then a linear readout of firing rates: ``[n, …]`` to ``[n, k]``.

    Args:
        widths: inputs a step, hidden widths (at least one), outputs. encoding: :class:`Direct`, :class:`Rows` or :class:`Rate`.
        leak: β of all hidden layers, or one a layer. threshold, reset, learn_leak: as :class:`SpikingLayer`.

    Raises:
        InvalidInput: fewer than one hidden layer; as :class:`SpikingLayer`.

    >>> net = SpikingNetwork((64, 32, 10), Direct(12), leak=0.8)
    >>> net(torch.rand(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        widths: Sequence[int],
        encoding: Encoding,
        *,
        leak: float | Sequence[float | Tensor] = 0.9,
        threshold: float = 1.0,
        reset: Reset = Reset.SUBTRACT,
        learn_leak: bool = False,
    ) -> None:
        hidden = len(widths) - 2
        if hidden < 1 or min(widths) < 1:
            raise InvalidInput(f"widths {tuple(widths)}: give inputs, at least one hidden width, and outputs, all positive")
        leaks = list(leak) if isinstance(leak, Sequence) else [leak] * hidden
        if len(leaks) != hidden:
            raise InvalidInput(f"{len(leaks)} leaks for {hidden} hidden layers: give one, or one a layer")
        parts: list[nn.Module] = [encoding]
        for (fan_in, width), beta in zip(pairwise(widths[:-1]), leaks, strict=True):
            layer = SpikingLayer(width, encoding.steps, leak=beta, threshold=threshold, reset=reset, learn_leak=learn_leak)
            parts += [nn.Linear(fan_in, width), layer]
        super().__init__(*parts, FiringRates(), nn.Linear(widths[-2], widths[-1]))

    @property
    def encoding(self) -> Encoding:
        """What turns examples into inputs over time."""
        return self[0]  # type: ignore[return-value]

    @property
    def hidden(self) -> list[tuple[nn.Linear, SpikingLayer]]:
        """The hidden layers, in order."""
        return [(self[k], self[k + 1]) for k in range(1, len(self) - 2, 2)]  # type: ignore[misc]

    @property
    def readout(self) -> nn.Linear:
        """From firing rates to outputs."""
        return self[-1]  # type: ignore[return-value]


def spike(x: Tensor) -> Tensor:
    """1 where x > 0, else 0, in x's own type, NaN for NaN; its derivative stands in as that of arctan(πx)/π (Fang et al. 2021).

    The same as ``snntorch.surrogate.atan()``, which knows no float64 and no ``torch.func``, and takes NaN for silence.
    """
    return _Spike.apply(x)


def surrogate_slope(x: Tensor) -> Tensor:
    """1/(1 + (πx)²), what stands in for the derivative of the step at distance x from it."""
    return 1 / (1 + (math.pi * x).square())


class _Spike(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.where(x.isnan(), x, (x > 0).to(x.dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * surrogate_slope(ctx.saved_tensors[0])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return tangents[0] * surrogate_slope(ctx.saved_tensors[0])


def _snntorch() -> Any:
    try:
        import snntorch
    except ImportError:
        raise InvalidInput("spiking neurons are snnTorch's, which is missing: pip install 'nonvacuous[spiking]'") from None
    return snntorch


@register(SpikingLayer, Rate)
def _no_constant(module: nn.Module, input_shape: tuple[int, ...]) -> Measured:
    raise Unbounded(
        f"{type(module).__name__}: spikes jump from 0 to 1 at the threshold, however small the change of the input, so there is no "
        "Lipschitz constant. networks.spiking_stability.stability gives the radius around an input in which no spike changes"
    )


@register(Direct, Rows)
def _rearranged(module: nn.Module, input_shape: tuple[int, ...]) -> Measured:
    return Measured.exact(1.0)  # the same numbers in another order
