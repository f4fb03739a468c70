"""A spiking network as a discrete-time dynamical system: its state, where that can go, its eigenvalues, and when a neuron starts to fire.

The state is the membrane potential of every neuron.  Between spikes it moves by U ← β U + I, in which no neuron meets another: the
eigenvalues of the transition are the leaks β, whatever the weights.  What couples neurons are the jumps at the threshold: −θ for the
neuron itself, a column of weights for the next layer.  Zhang, Zhang and Zhou (arXiv:1909.08341) look at spiking networks this way, name
the leak ("control rate") as the parameter at which they bifurcate, and recommend that eigenvalues differ and adapt
(``SpikingNetwork(…, learn_leak=True)``, with leaks that differ).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.networks.spiking import Direct, Rate, Reset, SpikingLayer, SpikingNetwork, Trajectory
from nonvacuous.operators.copies import float64_copy
from nonvacuous.operators.cost import cost

__all__ = [
    "Accumulates",
    "MembraneRange",
    "accumulates",
    "critical_leak",
    "eigenvalues",
    "firing_rates",
    "first_spike",
    "membrane_limits",
    "membrane_ranges",
    "spectral_radius",
    "trajectories",
]


CHUNK = 256
"""Examples at a time."""


class MembraneRange(NamedTuple):
    """lower ≤ U[t] ≤ upper, ``[width]`` each."""

    lower: Tensor
    upper: Tensor


class Accumulates(NamedTuple):
    """Operations for one example.

    Attributes:
        dense: multiply-accumulates as the network is run here, every spike and every silence multiplied (:func:`operators.cost.cost`).
        spiking: additions that hardware driven by spikes needs, one for every spike and weight that it meets (mean over the sample, an
            indicator); inputs that are no spikes are multiplied, and counted as ``analog``.
        analog: multiply-accumulates of the first layer with inputs that are no spikes; 0 for rate-coded ones.
        updates: multiplications of a membrane by its leak, in neither of the others.
    """

    dense: int
    spiking: Measured
    analog: int
    updates: int


@torch.no_grad()
def trajectories(
    network: SpikingNetwork, inputs: Tensor, states: Sequence[Tensor] | None = None, steps: int | None = None
) -> tuple[Trajectory, ...]:
    """Membranes and spikes of every spiking layer for examples ``[n, …]``.

    Args:
        states: initial membranes ``[n, width]``, one a layer; 0 without. steps: other than the network's own for :class:`Direct` input.

    Raises:
        InvalidInput: inputs with NaN or infinity; another number of states than layers, or states of another shape; steps below 1, or
            other than the encoding's where the input is a sequence.
    """
    if not len(inputs) or not bool(torch.isfinite(inputs).all()):
        raise InvalidInput(f"inputs of shape {tuple(inputs.shape)}: give at least one example, without NaN or infinity")
    if steps is not None and (steps < 1 or (steps != network.encoding.steps and not isinstance(network.encoding, Direct))):
        raise InvalidInput(
            f"{steps} steps: give at least one; only a constant input (Direct) runs for other than {network.encoding.steps} steps"
        )
    given: list[Tensor | None] = [None] * len(network.hidden) if states is None else list(states)
    if len(given) != len(network.hidden) or not all(bool(torch.isfinite(s).all()) for s in given if s is not None):
        raise InvalidInput(
            f"{len(given)} states for {len(network.hidden)} spiking layers: give finite membranes [n, width], one a layer"
        )
    signal, found = network.encoding(inputs), []
    for (linear, layer), state in zip(network.hidden, given, strict=True):
        found.append(layer.trajectory(linear(signal), state, steps))
        signal = found[-1].spikes
    return tuple(found)


def eigenvalues(network: SpikingNetwork) -> tuple[Tensor, ...]:
    """Eigenvalues of the state's transition wherever no membrane is at the threshold: the leaks β, ``[width]`` a layer.

    There the map (all U[t]) → (all U[t + 1]) has the Jacobian diag(β) (reset to zero: β(1 − R)), since spikes and resets do not change
    nearby.  Differentiated by a surrogate with the reset held, as snnTorch trains, it is block triangular with the same diagonal, so
    that the eigenvalues are these for all weights; but it is not normal, and perturbations may grow before they decay.
    """
    return tuple(layer.leak.detach().clone() for _, layer in network.hidden)


def spectral_radius(network: SpikingNetwork) -> Measured:
    """max β: below 1 the state forgets, at the rate β^t, between two spikes that a perturbation changes."""
    return Measured.exact(max(float(leak.max()) for leak in eigenvalues(network)))


def membrane_limits(low: Tensor, high: Tensor, leak: Tensor, threshold: float, reset: Reset = Reset.SUBTRACT) -> MembraneRange:
    """Where U[t] stays for all t ≥ 0 and all currents in [a, c] = [low, high] (tensors that broadcast), from U[0] = 0, 0 ≤ β < 1.

    Silent: for c ≤ (1 − β)θ no spike can come, and min(0, a)/(1 − β) ≤ U ≤ max(0, c)/(1 − β).  Otherwise::

        subtract:  min(0, a/(1 − β), a − (1 − β)θ) ≤ U ≤ max(c + βθ, (c − θ)/(1 − β))
        zero:      min(0, a)/(1 − β)               ≤ U ≤ c + βθ

    Proof, for subtraction (L, B the two ends; 0 lies between them).  If L ≤ U ≤ θ: U' = βU + I ≥ βL + a ≥ L, as (1 − β)L ≤ a, and
    U' ≤ βθ + c ≤ B.  If θ < U ≤ B: U' = βU − θ + I > βθ − θ + a ≥ L, and U' ≤ βB − θ + c ≤ B, as (1 − β)B ≥ c − θ.  Silent: U ≤
    c⁺/(1 − β) ≤ θ by induction, and R = 0 throughout.  To zero: after a spike U' = I, else as before.  All ends are approached.

    For |I| ≤ M this is |U| ≤ max(M/(1 − β), M + (1 − β)θ), and the usual M/(1 − β) where β ≥ 1/2 (or the reset is to zero): a spike
    takes M > (1 − β)θ ≥ (1 − β)²θ/β then.  Below 1/2 the usual bound is false, as the late reset meets a membrane that has decayed:

    >>> limits = membrane_limits(torch.tensor(-1.1), torch.tensor(1.1), torch.tensor(0.0), 1.0)  # U: 1.1, then −1.1 − 1
    >>> round(float(limits.lower), 6), round(float(limits.upper), 6)
    (-2.1, 1.1)
    """
    _check_range(low, high)
    if not bool(((leak >= 0) & (leak < 1)).all()) or not 0 < threshold < math.inf:
        raise InvalidInput(f"leaks {leak}, threshold {threshold!r}: give 0 ≤ β < 1 and a positive θ")
    rest = 1 - leak
    silent = high <= rest * threshold
    lower = low.clamp_max(0) / rest
    upper = high + leak * threshold
    if reset is Reset.SUBTRACT:
        lower = torch.where(silent, lower, torch.minimum(lower, low - rest * threshold))
        upper = torch.maximum(upper, (high - threshold) / rest)
    return MembraneRange(lower.expand(silent.shape), torch.where(silent, high.clamp_min(0) / rest, upper))


@torch.no_grad()
def membrane_ranges(network: SpikingNetwork, low: float | Tensor, high: float | Tensor) -> tuple[MembraneRange, ...]:
    """Where the membranes of every layer are at t = 1 … T for all inputs with numbers in [low, high]: a theorem about this network.

    Layer 1 gets currents between a = W⁺low + W⁻high + b and c; later ones between those of spikes in {0, 1}, of the neurons that can
    spike at all.  Each step of :func:`membrane_limits`'s proof is taken with the range of the step before, which is tighter for few
    steps, and widened by the rounding errors of an inner product in the network's own number format, so that it holds for what is
    computed, too.

    Args:
        low, high: numbers, or one a number of the input at one step, ``[d]``; rate-coded input is 0 or 1 whatever they are.

    Raises:
        InvalidInput: low above high, NaN, or a shape that does not fit.
    """
    eps = max(torch.finfo(p.dtype).eps for p in network.parameters())
    exact = cast(SpikingNetwork, float64_copy(network))
    first = exact.hidden[0][0]
    fan_in = first.in_features
    ends = [torch.as_tensor(end, dtype=torch.float64, device=first.weight.device) for end in (low, high)]
    if isinstance(network.encoding, Rate):
        ends = [torch.zeros_like(ends[0]), torch.ones_like(ends[0])]
    if any(end.shape not in ((), (fan_in,)) for end in ends):
        raise InvalidInput(f"ranges of shapes {[tuple(e.shape) for e in ends]}: give numbers, or [{fan_in}]")
    _check_range(*ends)
    below, above = (end.expand(fan_in) for end in ends)
    found = []
    for linear, layer in exact.hidden:
        positive, negative = linear.weight.clamp_min(0), linear.weight.clamp_max(0)
        a, c = positive @ below + negative @ above + linear.bias, positive @ above + negative @ below + linear.bias
        size = linear.weight.abs() @ torch.maximum(below.abs(), above.abs()) + linear.bias.abs()
        reached = _reached(a, c, (linear.in_features + 8) * eps * (size + layer.threshold), layer, eps)
        found.append(reached)
        below, above = torch.zeros_like(reached.upper), (reached.upper > layer.threshold).double()
    return tuple(found)


def _reached(a: Tensor, c: Tensor, slack: Tensor, layer: SpikingLayer, eps: float) -> MembraneRange:
    theta, leak = layer.threshold, layer.leak
    low = high = torch.zeros_like(a)
    lowest, highest = torch.full_like(a, math.inf), torch.full_like(a, -math.inf)
    for _ in range(layer.steps):
        can = high > theta
        near = leak * high.clamp_max(theta) + c  # no spike before
        if layer.reset is Reset.SUBTRACT:
            after_low, after_high = a - (1 - leak) * theta, leak * high - theta + c
        else:
            after_low, after_high = a, c
        low, high = (
            torch.where(can, torch.minimum(leak * low + a, after_low), leak * low + a),
            torch.where(can, torch.maximum(near, after_high), near),
        )
        wide = slack + 8 * eps * torch.maximum(low.abs(), high.abs())
        low, high = low - wide, high + wide
        lowest, highest = torch.minimum(lowest, low), torch.maximum(highest, high)
    return MembraneRange(lowest, highest)


def critical_leak(current: float, threshold: float = 1.0) -> float:
    """β* = 1 − I/θ in [0, 1]: at a constant current I > 0 a resting neuron is silent for ever for β ≤ β*, and fires for ever above.

    U[t] = I(1 − β^t)/(1 − β) rises to I/(1 − β), which is above θ if and only if β > β*.  There the fixed point I/(1 − β) meets the
    threshold and is lost: the bifurcation.  (For ever: below the threshold U rises again towards I/(1 − β).)

    >>> critical_leak(0.25)
    0.75
    """
    if not (0 < current < math.inf and 0 < threshold < math.inf):
        raise InvalidInput(f"current {current!r}, threshold {threshold!r}: give positive finite numbers")
    return max(0.0, 1 - current / threshold)


def first_spike(current: float, leak: float, threshold: float = 1.0) -> int | None:
    """The first t with a spike of a resting neuron at a constant current; None if it is silent for ever.

    >>> first_spike(0.3, 0.75), first_spike(0.25, 0.75)
    (7, None)
    """
    if not 0 <= leak < 1:
        raise InvalidInput(f"leak β = {leak!r}: give a number in [0, 1)")
    if leak <= critical_leak(current, threshold) and current <= threshold:
        return None
    membrane, t = 0.0, 0
    while membrane <= threshold:
        last, t = membrane, t + 1
        membrane = leak * membrane + current
        if membrane <= last:
            return None  # at the fixed point, to rounding
    return t


def firing_rates(network: SpikingNetwork, inputs: Tensor) -> tuple[Tensor, ...]:
    """Spikes a step of every neuron, mean over the sample, ``[width]`` a layer.  Raises as :func:`trajectories`."""
    sums = [torch.zeros(layer.width, dtype=torch.float64, device=inputs.device) for _, layer in network.hidden]
    for chunk in inputs.split(CHUNK) if len(inputs) else [inputs]:
        for total, found in zip(sums, trajectories(network, chunk), strict=True):
            total += found.spikes.sum((0, 1), dtype=torch.float64)
    return tuple(total / (len(inputs) * network.encoding.steps) for total in sums)


def accumulates(network: SpikingNetwork, inputs: Tensor) -> Accumulates:
    """What one example costs, dense and driven by spikes, over the sample ``[n, …]``.  Raises as :func:`trajectories`."""
    fan_out = [linear.out_features for linear, _ in network.hidden[1:]] + [network.readout.out_features]
    steps, first, analog = network.encoding.steps, network.hidden[0][0], 0
    rates = firing_rates(network, inputs)
    additions = sum(steps * float(rate.sum()) * out for rate, out in zip(rates, fan_out, strict=True))
    if isinstance(network.encoding, Rate):
        spikes = sum(float(network.encoding(chunk).sum(dtype=torch.float64)) for chunk in inputs.split(CHUNK))
        additions += spikes / len(inputs) * first.out_features
    else:
        analog = network.encoding(inputs[:1]).shape[1] * first.weight.numel()
    updates = sum(layer.steps * layer.width for _, layer in network.hidden)
    return Accumulates(cost(network, inputs[:1]).macs, Measured.indicator(additions), analog, updates)


def _check_range(low: Tensor, high: Tensor) -> None:
    if not bool((low <= high).all()) or not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
        raise InvalidInput(f"a range from {low} to {high}: give finite numbers, the lower one first")
