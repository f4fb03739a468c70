"""How stable the spikes of a network are: what may change without changing any (a theorem), and how perturbations grow (indicators).

As long as no spike changes, a perturbed membrane differs from the old one by a sum that the leak discounts: the reset is the same, so
δ[t + 1] = β δ[t] + δI[t + 1] (times 1 − R for the reset to zero).  A spike changes only where |δ[t]| reaches |U[t] − θ|.  Hence the
trajectory of spikes is *structurally stable*: the network is constant on a ball around almost every input, and on an interval of leaks.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.networks.spiking import Direct, Rate, Reset, SpikingLayer, SpikingNetwork, Trajectory, surrogate_slope
from nonvacuous.networks.spiking_dynamics import trajectories
from nonvacuous.operators.copies import float64_copy

__all__ = ["Growth", "Stability", "perturbation_growth", "stability", "surrogate_exponent"]

HALVINGS = 40
CHUNK = 256
"""Examples at a time."""


class Stability(NamedTuple):
    """What may change around each example, ``[n]`` each; a theorem, 0 where nothing is proved.

    Attributes:
        input_radius: no spike, and so no output, changes for any input closer than this in ℓ2.
        leak_tolerance: nor if every leak moves by at most this (each by its own amount), inputs as they are.
    """

    input_radius: Tensor
    leak_tolerance: Tensor


class Growth(NamedTuple):
    """Indicators: how a perturbation of the initial membranes fares.

    Attributes:
        ratios: ‖δ[t]‖/‖δ[0]‖ over all membranes, ``[n, T]``. changed: fraction of neurons whose spike differs at t, ``[n, T]``.
    """

    ratios: Tensor
    changed: Tensor


@torch.no_grad()
def stability(network: SpikingNetwork, inputs: Tensor) -> Stability:
    """Radius and tolerance for each of the examples ``[n, …]``.

    With m = |U_i[t] − θ| along the trajectory and g_t = Σ_{k<t} β^k: a constant input moved by δ moves the current of neuron i of layer
    1 by at most ‖w_i‖‖δ‖ and its membrane by g_t‖w_i‖‖δ‖, while no spike has changed.  So none changes, by induction over t, for ‖δ‖ <
    min_{i,t} m/(g_t ‖w_i‖); later layers see the same spikes.  For rows the Cauchy–Schwarz inequality puts (Σ_{k<t} β^{2k})^{1/2} in
    place of g_t; rate-coded input first changes where a number crosses the one it is compared with.  A leak moved by at most Δ moves the
    membrane by D[t] with D[t + 1] = (β + Δ) D[t] + Δ|U[t]|, D[0] = 0; Δ is the largest found with D < m at all neurons of all layers.

    The trajectory is computed in float64 from the network's weights.  Every margin m is reduced by the rounding errors of an inner
    product in the network's own number format at both inputs, so that the statement holds for the network as it runs.

    Raises as :func:`networks.spiking_dynamics.trajectories`.
    """
    parts = [_stability(network, chunk) for chunk in inputs.split(CHUNK)] or [_stability(network, inputs)]
    return Stability(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _stability(network: SpikingNetwork, inputs: Tensor) -> Stability:
    eps = max(torch.finfo(p.dtype).eps for p in network.parameters())
    exact, x = cast(SpikingNetwork, float64_copy(network)), inputs.double()
    found = trajectories(exact, x)
    signal, margins, errors, certain = exact.encoding(x), [], [], torch.ones(len(x), dtype=torch.bool, device=x.device)
    for (linear, layer), run in zip(exact.hidden, found, strict=True):
        size = (signal.abs() @ linear.weight.abs().T + linear.bias.abs()).amax(1)  # [n, width]
        most = run.membranes.abs().amax(1)
        errors.append(2 * (linear.in_features + 8) * eps * (2 * size + 3 * layer.threshold + 2 * most))  # a step, both inputs
        margins.append((run.membranes - layer.threshold).abs())
        certain &= (margins[-1] > errors[-1][:, None] * _geometric(layer.leak, layer.steps)).all(2).all(1)
        signal = run.spikes
    radius, tolerance = _radius(exact, x, margins[0], errors[0]), _tolerance(exact, found, margins, errors)
    return Stability(*(torch.where(certain, value, 0.0) * (1 - 1e-9) for value in (radius, tolerance)))


def _geometric(leak: Tensor, steps: int) -> Tensor:
    """Σ_{k<t} β^k for t = 1 … T, ``[T, width]``."""
    return torch.stack([leak**k for k in range(steps)]).cumsum(0)


def _radius(network: SpikingNetwork, x: Tensor, margins: Tensor, errors: Tensor) -> Tensor:
    linear, layer = network.hidden[0]
    if isinstance(network.encoding, Rate):
        return (x.flatten(1)[:, None] - network.encoding.uniform).abs().amin((1, 2))
    gains = _geometric(layer.leak, layer.steps)
    margins = margins - errors[:, None] * gains
    if not isinstance(network.encoding, Direct):
        gains = _geometric(layer.leak**2, layer.steps).sqrt()
    reach = gains * linear.weight.norm(dim=1)
    return torch.where(reach > 0, margins / reach.clamp_min(torch.finfo(reach.dtype).tiny), math.inf).amin((1, 2))


def _tolerance(network: SpikingNetwork, found: tuple[Trajectory, ...], margins: list[Tensor], errors: list[Tensor]) -> Tensor:
    """Bisection, all examples at once, in [0, 1 − max β]."""
    layers = [layer for _, layer in network.hidden]
    low = margins[0].new_zeros(len(margins[0]))
    high = torch.full_like(low, 1 - max(float(layer.leak.max()) for layer in layers))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        kept = torch.ones_like(low, dtype=torch.bool)
        for layer, run, margin, error in zip(layers, found, margins, errors, strict=True):
            kept &= _unchanged(layer, run, margin, error, middle[:, None])
        low, high = torch.where(kept, middle, low), torch.where(kept, high, middle)
    return low


def _unchanged(layer: SpikingLayer, run: Trajectory, margins: Tensor, errors: Tensor, change: Tensor) -> Tensor:
    moved, before = torch.zeros_like(margins[:, 0]), torch.zeros_like(margins[:, 0])
    kept = torch.ones(len(margins), dtype=torch.bool, device=margins.device)
    for t in range(layer.steps):
        moved = (layer.leak + change) * moved + change * before.abs() + errors
        kept &= (moved < margins[:, t]).all(1)
        before = run.membranes[:, t]
    return kept


@torch.no_grad()
def surrogate_exponent(network: SpikingNetwork, inputs: Tensor, seed: int, steps: int | None = None) -> Tensor:
    """The largest Lyapunov exponent with the surrogate's slope in place of the jumps, in nats a step, ``[n]``: an indicator.

    (1/T) ln ‖v[T]‖/‖v[0]‖ of a random tangent vector carried along each trajectory, resets differentiated like spikes.  It is no
    exponent of the network itself: the true derivative ignores every jump, and gives ln β (:func:`spectral_radius`) for almost every
    start; it says how gradients through time grow.  T is finite: give ``steps`` for constant inputs, until it settles.

    Raises as :func:`networks.spiking_dynamics.trajectories`.
    """
    exact, x = cast(SpikingNetwork, float64_copy(network)), inputs.double()
    runs = trajectories(exact, x, steps=steps)
    generator = torch.Generator().manual_seed(seed)
    before = [torch.zeros_like(run.membranes[:, 0]) for run in runs]
    tangent = _unit([torch.randn(b.shape, generator=generator, dtype=b.dtype).to(b.device) for b in before])[0]
    total = x.new_zeros(len(x))
    for t in range(runs[0].membranes.shape[1]):
        signal: Tensor | None = None
        moved = []
        for (linear, layer), run, old, v in zip(exact.hidden, runs, before, tangent, strict=True):
            slope = surrogate_slope(old - layer.threshold)
            if layer.reset is Reset.SUBTRACT:
                new = (layer.leak - layer.threshold * slope) * v
            else:
                new = layer.leak * ((old <= layer.threshold).to(v) - old * slope) * v
            if signal is not None:
                new = new + signal @ linear.weight.T
            signal = surrogate_slope(run.membranes[:, t] - layer.threshold) * new
            moved.append(new)
        tangent, norms = _unit(moved)
        total += norms.log()
        before = [run.membranes[:, t] for run in runs]
    return total / runs[0].membranes.shape[1]


def _unit(parts: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """The vectors over all layers at norm 1, and the norms they had, ``[n]``."""
    norms = torch.stack([part.square().sum(1) for part in parts]).sum(0).sqrt()
    return [part / norms.clamp_min(1e-300)[:, None] for part in parts], norms


@torch.no_grad()
def perturbation_growth(network: SpikingNetwork, inputs: Tensor, size: float, seed: int, steps: int | None = None) -> Growth:
    """Two runs of each example whose initial membranes differ by a random vector of norm ``size`` > 0: indicators of stability.

    The distance falls like β^t between jumps, and jumps by θ, or by weights, where one run spikes and the other does not.

    Raises as :func:`networks.spiking_dynamics.trajectories`, and for a size that is not positive and finite.
    """
    if not 0 < size < math.inf:
        raise InvalidInput(f"size {size!r}: give the norm of the perturbation, positive and finite")
    exact, x = cast(SpikingNetwork, float64_copy(network)), inputs.double()
    generator = torch.Generator().manual_seed(seed)
    shapes = [(len(x), layer.width) for _, layer in exact.hidden]
    moved = [
        size * part.to(x.device) for part in _unit([torch.randn(s, generator=generator, dtype=x.dtype) for s in shapes])[0]
    ]
    one, two = trajectories(exact, x, steps=steps), trajectories(exact, x, moved, steps)
    squares = torch.stack([(a.membranes - b.membranes).square().sum(2) for a, b in zip(one, two, strict=True)]).sum(0)
    changed = torch.cat([(a.spikes != b.spikes).double() for a, b in zip(one, two, strict=True)], 2).mean(2)
    return Growth(squares.sqrt() / size, changed)
