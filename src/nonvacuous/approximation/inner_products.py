"""Depth 2 against depth 3 on the sphere: functions g(⟨x, x'⟩), with both sides of Daniely's separation explicit."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.fft import dct
from scipy.special import gammaln
from torch import Tensor, nn

from nonvacuous.approximation.built import Built
from nonvacuous.approximation.bumps import approximate
from nonvacuous.approximation.hinges import HingeSum
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured

Profile = Callable[[Tensor], Tensor]


def square_hinges(reach: float, delta: float) -> HingeSum:
    """A `HingeSum` with 0 ≤ it − t² ≤ ``delta`` on [−reach, reach]: the interpolant at multiples of 2√delta or less.

    >>> square_hinges(2.0, 0.25)(torch.tensor([-2.0, -0.5, 0.0, 1.0])).tolist()
    [4.0, 0.5, 0.0, 1.0]
    """
    count = max(1, math.ceil(reach / (2 * math.sqrt(delta))))
    step = reach / count
    knots = step * torch.arange(-count, count, dtype=torch.float64)
    weight = torch.full_like(knots, 2 * step)
    weight[0] = step * (1 - 2 * count)  # the slope from −reach to −reach + step
    return HingeSum(knots, weight, offset=reach**2)


class InnerProductNetwork(nn.Module):
    """(x, x') ↦ g̃(½ Σ_i q(x_i + x'_i) − 1): two hidden layers; ``[n, 2d]`` on S^{d−1} × S^{d−1} → ``[n]``.

    On the sphere ⟨x, x'⟩ = ½‖x + x'‖² − 1, so the first layer is d copies of `HingeSum` for squares, the second one for g.
    """

    def __init__(self, square: HingeSum, profile: HingeSum) -> None:
        super().__init__()
        self.square, self.profile = square, profile

    def forward(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, dim=1)
        total = self.square((one + two).reshape(-1)).reshape(one.shape).sum(1)
        value: Tensor = self.profile(total / 2 - 1)
        return value


def inner_product_network(g: Profile, d: int, eps: float, *, lipschitz: float) -> Built:
    """A depth-3 ReLU network within ``eps`` of (x, x') ↦ g(⟨x, x'⟩) everywhere on S^{d−1} × S^{d−1}, g L-Lipschitz on [−1, 1].

    Half of eps is for g, by bumps (:func:`nonvacuous.approximation.bumps.approximate`), half for the inner product, off by at
    most d·δ/2 with squares off by δ = eps/(dL): widths d·⌈2/√δ⌉ and about 4L/eps, polynomial in d, L and 1/eps.

    ``error`` is EXACT and as true as L.  For Daniely's g(t) = sin(πd³t), L = πd³.

    Source: Daniely 2017 (COLT), "Depth separation for neural networks"; the construction and its constants are these.

    >>> built = inner_product_network(torch.cos, d=3, eps=0.05, lipschitz=1.0)
    >>> built.error.upper <= 0.05, 3 * len(built.module.square.knots) + len(built.module.profile.knots)
    (True, 132)
    """
    if d < 2:
        raise InvalidInput(f"the sphere S^(d−1) needs d ≥ 2; got {d}")
    if not (math.isfinite(lipschitz) and lipschitz > 0):
        raise InvalidInput(f"a Lipschitz constant is a positive finite number here; got {lipschitz}")

    def held(t: Tensor) -> Tensor:  # the inner product comes out up to dδ/2 too large
        return g(t.clamp(-1.0, 1.0))

    delta = min(eps / (d * lipschitz) * (1 - 2**-10), 1.0)
    profile = approximate(held, (-1.0 - 2**-20, 1.0 + d * delta / 2 + 2**-20), eps / 2, lipschitz=lipschitz)
    square = square_hinges(2.0, delta)
    assert isinstance(profile.module, HingeSum)
    module = InnerProductNetwork(square, profile.module)
    bound = profile.error.upper + lipschitz * (d * delta / 2 + d * 2.0**-44)
    first, second = d * len(square.knots), len(profile.module.knots)
    # Units q(x_i + x'_i) have two inputs; the second layer reads all of the first: first·second connections.
    return Built.counted(module, Measured(0.0, bound, Kind.EXACT), 2 * first + first * second + second, first + second + 1)


def harmonic_dimension(d: int, n: int) -> float:
    """N_{d,n}: dimension of the spherical harmonics of degree n on S^{d−1}: (2n + d − 2)(n + d − 3)!/(n!(d − 2)!), 1 at n = 0.

    >>> [round(harmonic_dimension(3, n)) for n in range(4)]
    [1, 3, 5, 7]
    """
    if n == 0:
        return 1.0
    return math.exp(gammaln(n + d - 2) - gammaln(n + 1) - gammaln(d - 1)) * (2 * n + d - 2)


def harmonic_tails(g: Profile, d: int, degree: int, nodes: int = 0) -> Tensor:
    """A_n = ‖g − its best polynomial of degree < n‖ in L²(μ_d) for n = 0 … ``degree``; μ_d is the law of ⟨x, x'⟩ on S^{d−1}.

    Quadrature in float64 at ``nodes`` Chebyshev nodes (4·degree + 64 at least), exact for polynomials of degree < nodes − d; not
    enclosed.  For oscillating g choose several nodes an oscillation.

    >>> harmonic_tails(lambda t: t**2, 3, 3)  # t² = ⅓ + ⅔ P_2, ‖P_2‖² = ⅕
    tensor([4.4721e-01, 2.9814e-01, 2.9814e-01, ...], dtype=torch.float64)
    """
    nodes = max(nodes, 4 * degree + 64)
    angle = (torch.arange(nodes, dtype=torch.float64) + 0.5) * math.pi / nodes
    t, w = angle.cos(), angle.sin() ** (d - 2)  # dμ_d is sin^(d−2) dθ: Gauss–Chebyshev where that is a polynomial in t
    if d % 2:  # and where it is one times sin: Fejér's rule
        k = torch.arange(nodes, dtype=torch.float64)
        series = torch.where(k % 2 == 0, -1 / (k.square() - 1), 0.0)
        w = angle.sin() ** (d - 3) * torch.from_numpy(dct(series.numpy(), type=3))
    w = w / w.sum()
    values = g(t)
    left = [float((w * values.square()).sum())]
    before, now, beta = torch.zeros_like(t), torch.ones_like(t), 0.0  # orthonormal polynomials by their recurrence
    for _ in range(degree):
        left.append(max(0.0, left[-1] - float((w * values * now).sum()) ** 2))
        after = t * now - beta * before
        beta = float((w * after.square()).sum().sqrt())
        before, now = now, after / beta
    return torch.tensor(left, dtype=torch.float64).sqrt()


def _room(d: int, degree: int) -> Tensor:
    return torch.tensor([harmonic_dimension(d, n) for n in range(degree + 1)], dtype=torch.float64).sqrt()


def depth_two_distance(g: Profile, d: int, total_norm: float, *, degree: int = 60, nodes: int = 0) -> Measured:
    """A lower bound on the L² distance, uniform on S^{d−1} × S^{d−1}, of g(⟨x, x'⟩) from every depth-2 network of a given size.

    A depth-2 network is F = b + Σ_i v_i σ(⟨w_i, x⟩ + ⟨w'_i, x'⟩ + b_i), any σ; ``total_norm`` is S = Σ_i ‖v_i σ(…)‖ in that L²
    (:func:`relu_norm` for ReLU; r neurons of norm at most B make S ≤ rB).  For every degree n ≥ 1

        ‖F − G‖ ≥ A_n − S/√N_{d,n}.

    *Proof.* Project on harmonics of degree ≥ n in both arguments, G ↦ G_n, ‖G_n‖ = A_n.  As an operator, G_n is ± a_k/√N_{d,k}
    times the identity on degree k ≥ n, with Σ a_k² = A_n².  A neuron depends on ⟨w, x⟩ and ⟨w', x'⟩ only: its part of degrees (k, k)
    is b_k times a product of two normalised zonal functions, so |⟨neuron, G_n⟩| ≤ Σ |b_k||a_k|/√N_{d,k} ≤ ‖neuron‖A_n/√N_{d,n}.
    The constant b does not meet G_n.  So ‖F − G‖ ≥ ⟨G − F, G_n⟩/A_n ≥ A_n − S/√N_{d,n}.  Daniely's Theorem 4 has the square,
    ‖F − G‖² ≥ A_n(A_n − 2S/√N_{d,n}), which is weaker.

    The best n up to ``degree`` is taken.  The interval is [bound, ‖g‖ + S]; its kind is INDICATOR only because A_n is computed
    by floating-point quadrature; the theorem has no hidden constant.

    Source: Daniely 2017 (COLT), Theorem 4.
    """
    tails = harmonic_tails(g, d, degree, nodes)
    bound = float((tails - total_norm / _room(d, degree))[1:].max().clamp_min(0.0))
    return Measured.indicator(bound, float(tails[0]) + total_norm)


def depth_two_width(g: Profile, d: int, error: float, neuron_norm: float, *, degree: int = 60, nodes: int = 0) -> float:
    """Neurons of norm at most B = ``neuron_norm`` that a depth-2 network within ``error`` in L² must have: max (A_n − error)√N_{d,n}/B.

    See :func:`depth_two_distance`, which this inverts; floating point, so an indicator.
    """
    tails = harmonic_tails(g, d, degree, nodes)
    return float(((tails - error).clamp_min(0) * _room(d, degree))[1:].max()) / neuron_norm


def relu_norm(inner: Tensor, bias: Tensor, outer: Tensor) -> Tensor:
    """Upper bounds on ‖v relu(⟨w, x⟩ + ⟨w', x'⟩ + b)‖ in L², uniform on the spheres: |v|(‖(w, w')‖²/d + b²)^{1/2}.

    ``[r, 2d]``, ``[r]``, ``[r]`` → ``[r]``.
    """
    d = inner.shape[1] // 2
    return outer.abs() * (inner.square().sum(1) / d + bias.square()).sqrt()


def spheres(count: int, d: int, generator: torch.Generator) -> Tensor:
    """Pairs of independent uniform points on S^{d−1}: ``[count, 2d]``."""
    pairs = torch.randn(count, 2, d, dtype=torch.float64, generator=generator)
    return (pairs / pairs.norm(dim=2, keepdim=True)).reshape(count, 2 * d)
