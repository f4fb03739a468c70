"""What one complex neuron computes and real networks only approximate: radial functions of a complex number, with both sides proved.

**Complex side.**  x ↦ |wᴴx| is one complex neuron with its magnitude read out, and any piecewise linear function of |wᴴx| with k knots is
k neurons with modReLU, exactly (:func:`modulus_net`, :func:`radial_net`).

**Real side.**  Let f be a real ReLU network on the disk, g a function of the modulus, 0 ≤ s ≤ r ≤ 1.  A neuron of the first layer changes
slope on a line, which meets the circle of radius r at most twice: n₁ neurons cut it into at most 2n₁ arcs with affine inputs to the next
layer, whose n₂ neurons cut each into at most 2n₂ + 1, and so on: at most A = 2n₁·∏(2n_l + 1) arcs, so one has an angle of 2π/A or more.
f is affine on a convex set that contains this arc and so its chords, of which those of angle 2π/A come as close to 0 as r·cos(π/A).  If
s ≥ r·cos(π/A), a chord's middle m has modulus s and its ends a, b modulus r: as f(a) + f(b) = 2f(m), one of the three errors is
|g(r) − g(s)|/2 or more.

For g = |·| and one hidden layer of N that is sin²(π/4N) (:func:`modulus_error_floor`), and for odd N ≥ 3 there is a network with error
tan²(π/4N) (:func:`polygon_modulus`): Σ ReLU(⟨v_j, x⟩) over the vertices of a regular N-gon, scaled.  So the real network of one hidden
layer needs (π/4)/√ε neurons for an error of ε, where one complex neuron has none.  With depth arcs multiply: log 1/ε are not excluded.

**Sources.**  Zhang, Gao and Zhou 2021 (arXiv:2108.06711) state that complex-reaction networks approximate some radial functions in high
dimension with polynomially many parameters, for which real ones need exponentially many; Wu, Zhang, Jiang and Zhou 2023 (NeurIPS) that
no two-layer real network of finite width learns one non-degenerate complex neuron.  The deck only announces such results.  Theirs rest on
constants that are not given (Eldan and Shamir 2016); here is the plane, with every constant and the proof above, which is this library's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.networks.complex_activations import Magnitude, ModReLU
from nonvacuous.networks.complex_valued import ComplexLinear, PairedInput

__all__ = ["arcs", "modulus_error_floor", "modulus_net", "polygon_modulus", "radial_error_floor", "radial_net"]

Profile = Callable[[np.ndarray], Any]


def arcs(*widths: int) -> int:
    """Arcs of a circle on each of which a real ReLU network with hidden layers of these widths is affine, at most: 2n₁·∏(2n_l + 1).

    Raises InvalidInput for no layer or a width below 1.

    >>> arcs(8), arcs(8, 8)
    (16, 272)
    """
    if not widths or any(width < 1 for width in widths):
        raise InvalidInput(f"hidden widths {widths}: give one or more, each at least 1")
    return 2 * widths[0] * math.prod(2 * width + 1 for width in widths[1:])


def modulus_error_floor(*widths: int) -> float:
    """sup over the unit disk of ``||z| − f(z)|`` is at least this for every real ReLU network f with hidden layers of these widths.

    (1 − cos(π/A))/2 = sin²(π/2A), A = :func:`arcs`; rounded down.

    >>> modulus_error_floor(1), round(modulus_error_floor(10), 6)  # ½ less rounding, sin²(π/40)
    (0.49999..., 0.006156)
    """
    return math.sin(math.pi / (2 * arcs(*widths))) ** 2 * (1 - 1e-14)


def radial_error_floor(profile: Profile, *widths: int, radii: int = 2001) -> float:
    """The same for g(|z|): max of |g(r) − g(s)|/2 over radii r of a grid of [0, 1] and s = r·cos(t), 17 angles t in [0, π/A].

    Any r and s prove a lower bound; a finer grid finds a larger one.

    Args:
        profile: g, from an array of moduli in [0, 1] to as many finite numbers, computed to 1e-12 of its largest.
        widths: of the hidden layers.
    """
    if radii < 2:
        raise InvalidInput(f"radii = {radii}: the grid has both ends of [0, 1], so at least 2")
    r = np.linspace(0, 1, radii)
    turned = np.cos(np.linspace(0, math.pi / arcs(*widths), 17)) * (1 + 4e-16)
    at_r, at_s = (np.asarray(profile(x), dtype=float) for x in (r, np.minimum(np.outer(turned, r), r)))
    if at_r.shape != r.shape or at_s.shape != (17, radii) or not (np.isfinite(at_r).all() and np.isfinite(at_s).all()):
        raise InvalidInput("the profile must return one finite number for each modulus in [0, 1]")
    return max(0.0, float(np.abs(at_r - at_s).max()) / 2 - 1e-12 * float(np.abs(at_r).max()))


def polygon_modulus(neurons: int) -> nn.Sequential:
    """Real ReLU network ``[n, 2]`` → ``[n, 1]`` of one hidden layer, within tan²(π/4N)·|z| of |z| everywhere, N = neurons, odd.

    The vertices v_j of a regular N-gon add up to 0, so that 2Σ ReLU(⟨v_j, x⟩) = Σ|⟨v_j, x⟩|, which lies between |x|·cot(π/2N) and
    |x|/sin(π/2N); their mean is scaled to |x|.  Raises InvalidInput for even N or N < 3 (for even N take N − 1).

    >>> polygon_modulus(3)(torch.tensor([[1.0, 0.0]]))  # 1 ± tan²(π/12) = 1 ± 0.0718
    tensor([[1.0718]], grad_fn=<...>)
    """
    if neurons < 3 or neurons % 2 == 0:
        raise InvalidInput(f"neurons = {neurons}: a polygon's vertices have the property used for odd numbers from 3 on")
    turns = 2 * math.pi * torch.arange(neurons, dtype=torch.float64) / neurons
    half = math.pi / (2 * neurons)
    middle = (1 / math.tan(half) + 1 / math.sin(half)) / 2
    vertices, readout = nn.Linear(2, neurons, bias=False), nn.Linear(neurons, 1, bias=False)
    with torch.no_grad():
        vertices.weight.copy_(torch.stack((turns.cos(), turns.sin()), 1))
        readout.weight.fill_(2 / middle)
    return nn.Sequential(vertices, nn.ReLU(), readout)


def modulus_net(weights: Sequence[complex] = (1.0,)) -> nn.Sequential:
    """x ↦ |Σ w_j·z_j|, z of ``[n, c]``, as one complex neuron, on real inputs ``[n, 2c]`` (real parts first) → ``[n, 1]``.

    Raises InvalidInput for no weight, or weights that are not finite.

    >>> modulus_net()(torch.tensor([[3.0, 4.0]]))
    tensor([[5.]], grad_fn=<...>)
    """
    chosen = torch.tensor([complex(w) for w in weights])
    if not len(chosen) or not bool(torch.isfinite(chosen).all()):
        raise InvalidInput(f"{len(chosen)} weights: give one or more finite complex numbers")
    neuron = ComplexLinear(len(chosen), 1, bias=False)
    with torch.no_grad():
        neuron.complex_weight.copy_(chosen)
    return nn.Sequential(PairedInput(), neuron, Magnitude())


def radial_net(knots: Sequence[float], values: Sequence[float]) -> nn.Sequential:
    """g(|z|) for the piecewise linear g through ``(knots, values)``, constant outside: a modReLU neuron a knot, ``[n, 2]`` → ``[n, 1]``.

    Args:
        knots: 0 or more, increasing, two or more.
        values: g there.

    Raises InvalidInput for knots and values that are no such graph.

    >>> ring = radial_net([0.4, 0.5, 0.6], [0.0, 1.0, 0.0])
    >>> ring(torch.tensor([[0.5, 0.0], [0.0, 0.55], [0.0, 1.0]])).flatten().round(decimals=3).abs()
    tensor([1.0000, 0.5000, 0.0000], grad_fn=<...>)
    """
    x, y = np.asarray(knots, dtype=float), np.asarray(values, dtype=float)
    if (
        x.ndim != 1
        or x.shape != y.shape
        or len(x) < 2
        or not np.isfinite(y).all()
        or not (x[0] >= 0 and (np.diff(x) > 0).all())
    ):
        raise InvalidInput("knots are two or more increasing numbers from 0 on, with one finite value each")
    slopes = np.concatenate(([0.0], np.diff(y) / np.diff(x), [0.0]))
    neurons = ComplexLinear(1, len(x), bias=False)
    thresholds = ModReLU(len(x))
    readout = nn.Linear(len(x), 1)
    with torch.no_grad():
        neurons.complex_weight.fill_(1.0)
        thresholds.threshold.copy_(torch.from_numpy(x))
        readout.weight.copy_(torch.from_numpy(np.diff(slopes))[None])
        readout.bias.fill_(float(y[0]))
    return nn.Sequential(PairedInput(), neurons, thresholds, Magnitude(), readout)
