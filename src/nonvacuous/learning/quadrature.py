r"""The chance that the right one of several independent Gaussian scores is the largest: a certain lower bound by the trapezoidal rule.

With scores :math:`N(m_j, s_j^2)`, the right one :math:`y`, and :math:`τ` by which it must lead,

.. math:: P = \int φ(x) \prod_{j ≠ y} Φ\left(\frac{m_y + s_y x - τ - m_j}{s_j}\right) dx.

The integrand f is entire.  On the line Im x = c the factors are :math:`Φ(u + iv)`, v = (s_y/s_j)c, and
:math:`|Φ(u + iv)| ≤ Φ(u) + φ(u)\int_0^v e^{t²/2} dt ≤ 1 + v(1 + e^{v²/2})/\sqrt{8π}` by convexity, while
:math:`|φ(x + ic)| = φ(x) e^{c²/2}`.  So :math:`\int |f(x + ic)| dx ≤ M(c) = e^{c²/2} \prod_j (1 + v_j(1 + e^{v_j²/2})/\sqrt{8π})`, which
grows with c, and the trapezoidal sum with step h differs from P by at most :math:`2M(c)/(e^{2πc/h} - 1)`, for every c > 0
(Trefethen and Weideman 2014, SIAM Review 56, Theorem 5.1).  Nodes outside :math:`[-9, 9]` are left out: their terms are positive, so P is
only made smaller.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

REACH = 9
HALF_WIDTHS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Values of c among which the smallest error is taken."""
COARSEST, FINEST, ENOUGH = 2, 64, 1e-9
"""Nodes a unit: doubled until the proved error of an example is `ENOUGH`, or `FINEST` is reached."""
ROUNDING = 1e-11
"""Far above the float64 rounding of one probability: a sum of 1,200 products of at most some thousand factors."""
MOST_NUMBERS = 4_000_000


def quadrature_error(std: Tensor, targets: Tensor, step: float) -> Tensor:
    """Proved error of the trapezoidal rule with that step, an example: [n], from std [n, k] and targets [n]; at most 1."""
    own = std.gather(1, targets[:, None])
    ratios = (own / std).scatter(1, targets[:, None], 0.0)
    errors = []
    for c in HALF_WIDTHS:
        v = ratios * c
        log_bound = c * c / 2 + torch.log1p(v * (1 + (v.square() / 2).exp()) / math.sqrt(8 * math.pi)).sum(1)
        exponent = 2 * math.pi * c / step
        errors.append(log_bound + math.log(2) - exponent - math.log1p(-math.exp(-exponent)))
    return torch.stack(errors).amin(0).exp().clamp(max=1.0)


def lead_probability(mean: Tensor, std: Tensor, targets: Tensor, lead: Tensor) -> Tensor:
    """A certain lower bound [n] of P(score of the target ≥ every other score + lead), for independent Gaussian scores.

    Args:
        mean, std: [n, k], std > 0.
        targets: the right score's index, [n].
        lead: τ ≥ 0, [n].

    >>> one = torch.ones(1, 2, dtype=torch.float64)
    >>> float(lead_probability(torch.tensor([[math.sqrt(2), 0.0]]), one, torch.tensor([0]), torch.zeros(1)))  # Φ(1)
    0.84134474...
    """
    mean, std, lead = mean.double(), std.double(), lead.double()
    found = torch.zeros(len(targets), dtype=torch.float64, device=mean.device)
    left = torch.arange(len(targets), device=mean.device)
    nodes = COARSEST
    while len(left):
        error = quadrature_error(std[left], targets[left], 1 / nodes)
        done = (error <= ENOUGH) | (nodes >= FINEST)
        rows = left[done]
        if len(rows):
            value = _trapezoid(mean[rows], std[rows], targets[rows], lead[rows], nodes)
            found[rows] = (value - error[done] - ROUNDING).clamp(0.0, 1.0)
        left, nodes = left[~done], 2 * nodes
    return found


def _trapezoid(mean: Tensor, std: Tensor, targets: Tensor, lead: Tensor, nodes: int) -> Tensor:
    """The trapezoidal sum with ``nodes`` nodes a unit, [n]."""
    x = torch.arange(-REACH * nodes, REACH * nodes + 1, dtype=torch.float64, device=mean.device) / nodes
    weights = (-x.square() / 2).exp() / (nodes * math.sqrt(2 * math.pi))
    at_once = max(1, MOST_NUMBERS // (len(x) * mean.shape[1]))
    sums = []
    for m, s, y, t in zip(*(part.split(at_once) for part in (mean, std, targets, lead)), strict=True):
        own_mean, own_std = m.gather(1, y[:, None]), s.gather(1, y[:, None])
        reached = own_mean + own_std * x - t[:, None]
        product = torch.ones_like(reached)
        for j in range(m.shape[1]):
            factor = torch.special.ndtr((reached - m[:, j : j + 1]) / s[:, j : j + 1])
            product *= torch.where((y == j)[:, None], 1.0, factor)
        sums.append(product @ weights)
    return torch.cat(sums)


def correct_chance(mean: Tensor, variance: Tensor, targets: Tensor) -> Tensor:
    """P(the target's score is the largest), [n], by Gauss–Hermite quadrature: differentiable, quick, no bound of anything."""
    std = variance.sqrt()
    nodes, weights = (part.to(mean) for part in _HERMITE)
    reached = mean.gather(1, targets[:, None]) + std.gather(1, targets[:, None]) * nodes
    factors = torch.special.ndtr((reached[:, :, None] - mean[:, None, :]) / std[:, None, :])
    own = torch.zeros_like(mean, dtype=torch.bool).scatter(1, targets[:, None], True)
    chance: Tensor = factors.masked_fill(own[:, None, :], 1.0).prod(2) @ weights
    return chance


def _hermite(count: int) -> tuple[Tensor, Tensor]:
    from numpy.polynomial.hermite_e import hermegauss

    nodes, weights = hermegauss(count)
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())


_HERMITE = _hermite(16)
