r"""Depth 2 against depth 3 on R^d: radial functions, after Eldan and Shamir, with a lower bound that has all its constants.

The measure is theirs: μ = φ² dx, φ the Fourier transform of the indicator of the ball of volume 1, radius R_d,

    φ(x) = (R_d/‖x‖)^{d/2} J_{d/2}(2π R_d ‖x‖).

A neuron σ(⟨w, x⟩ + b) times φ has its Fourier transform in the tube of radius R_d around the line of w.  So k neurons cover, of the
sphere of radius ρ, at most the share k·c(ρ), c(ρ) = P(sin²θ ≤ (R_d/ρ)²) = I((R_d/ρ)²; (d − 1)/2, ½) of two caps, while the transform
of g φ, for radial g, is spread evenly over each sphere, with mass m(ρ) dρ.  Hence, for every depth-2 network f of k neurons, whatever
their activation and weights (if f ∈ L²(μ)),

    ‖f − g‖²_{L²(μ)} ≥ ∫ m(ρ) (1 − k c(ρ))₊ dρ.

Zhang's deck quotes Eldan and Shamir 2016 (COLT), Theorem 1, with universal constants c, C > 0 (width c·e^{cd}, error c, d > C) that
the paper leaves unspecified: as it stands it certifies nothing at a given d.  The display above is the first half of their
proof (Section 4.2, Lemmas 4 and 10), stopped before the constants disappear.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.special import betainc, gammaln, jv
from torch import Tensor, nn

from nonvacuous.approximation.built import Built
from nonvacuous.approximation.bumps import approximate
from nonvacuous.approximation.hinges import HingeSum
from nonvacuous.approximation.inner_products import square_hinges
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured

Profile = Callable[[Tensor], Tensor]


def unit_ball_radius(d: int) -> float:
    """R_d = Γ(d/2 + 1)^{1/d}/√π, of the ball of volume 1; about 0.24 √d.

    >>> round(unit_ball_radius(1), 12), round(unit_ball_radius(2), 12) == round(math.pi ** -0.5, 12)
    (0.5, True)
    """
    return float(math.exp(gammaln(d / 2 + 1) / d) / math.sqrt(math.pi))


def wave(d: int, turns: float) -> Profile:
    """g(r) = cos(2π·turns·R_d·r) on the shell 1.5 √d ≤ r ≤ 2.5 √d, fading linearly to 0 over the outer fifths of the shell."""
    low, high, frequency = 1.5 * math.sqrt(d), 2.5 * math.sqrt(d), 2 * math.pi * turns * unit_ball_radius(d)

    def g(r: Tensor) -> Tensor:
        window = (5 * (r - low) / (high - low)).clamp(0, 1) * (5 * (high - r) / (high - low)).clamp(0, 1)
        return window * (frequency * r).cos()

    return g


def wave_lipschitz(d: int, turns: float) -> float:
    """A Lipschitz constant of :func:`wave`: 2π·turns·R_d + 5/√d."""
    return 2 * math.pi * turns * unit_ball_radius(d) + 5 / math.sqrt(d)


class RadialNetwork(nn.Module):
    """x ↦ p̃(Σ_i q(x_i)): two hidden layers, squares and a profile of the squared norm; ``[n, d]`` → ``[n]``."""

    def __init__(self, square: HingeSum, profile: HingeSum) -> None:
        super().__init__()
        self.square, self.profile = square, profile

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.profile(self.square(x.reshape(-1)).reshape(x.shape).sum(1))
        return value


def radial_network(g: Profile, d: int, shell: tuple[float, float], eps: float, *, lipschitz: float) -> Built:
    """A depth-3 ReLU network within ``eps`` of x ↦ g(‖x‖) on all of R^d, g L-Lipschitz and 0 outside the shell 0 < r_1 ≤ r ≤ r_2.

    As a function of s = r², g is L/(2r_1)-Lipschitz.  Half of eps is for it, by bumps; half for s, off by at most dδ with squares
    off by δ; a coordinate beyond r_2 keeps Σ q ≥ r_2², where the profile is 0.  Widths: d·⌈r_2/√δ⌉ and about L r_2²/(r_1 eps).

    ``error`` is EXACT and as true as L.

    Source: Eldan and Shamir 2016 (COLT), Section 4.4 (their width is C c_σ d^{19/4}; the slide's "d1^{9/4}" is that, misprinted).
    """
    low, high = shell
    if d < 1 or not 0 < low < high < math.inf or not (math.isfinite(lipschitz) and lipschitz > 0):
        raise InvalidInput(f"needs d ≥ 1, a shell 0 < r_1 < r_2 and a Lipschitz constant > 0; got {d}, {shell}, {lipschitz}")
    ends = g(torch.tensor([low, high], dtype=torch.float64)).abs().tolist()
    if max(ends) > 2.0**-40:
        raise InvalidInput(f"the target must vanish at the ends of the shell [{low:g}, {high:g}]; it is {ends} there")

    def of_square(s: Tensor) -> Tensor:
        return torch.where((s > low**2) & (s < high**2), g(s.clamp(low**2, high**2).sqrt()), 0.0)

    steepness = lipschitz / (2 * low) * (1 + 2.0**-20)
    delta = min(eps / (2 * d * steepness) * (1 - 2**-10), high**2)
    profile = approximate(of_square, (0.0, high**2 * (1 + 2.0**-20)), eps / 2, lipschitz=steepness)
    assert isinstance(profile.module, HingeSum)
    module = RadialNetwork(square_hinges(high, delta), profile.module)
    bound = profile.error.upper + steepness * d * (delta + high**2 * 2.0**-44)
    first, second = d * len(module.square.knots), len(module.profile.knots)
    return Built.counted(module, Measured(0.0, bound, Kind.EXACT), first + first * second + second, first + second + 1)


def radial_masses(g: Profile, d: int, shell: tuple[float, float], reach: float, points: int = 600) -> tuple[Tensor, Tensor]:
    """ρ ``[points]`` on (0, reach] and m(ρ)Δρ, the mass of the Fourier transform of g φ on each step; ∫ m = ‖g‖²_{L²(μ)}.

    With h(r) = g(r)φ(r)r^{(d−1)/2}√|S^{d−1}|, m is the square of the Hankel transform 2π ∫ h(r) J_{d/2−1}(2πρr) √(ρr) dr; both by
    midpoints, in float64.
    """
    low, high = shell
    radius = unit_ball_radius(d)
    log_sphere = math.log(2) + d / 2 * math.log(math.pi) - gammaln(d / 2)
    step, grid = (high - low) / points, (torch.arange(points, dtype=torch.float64) + 0.5) / points
    r, rho = low + (high - low) * grid, reach * grid
    bessel = torch.from_numpy(jv(d / 2, (2 * math.pi * radius * r).numpy()))
    h = g(r) * bessel * r.rsqrt() * math.exp((log_sphere + d * math.log(radius)) / 2)
    kernel = torch.from_numpy(jv(d / 2 - 1, (2 * math.pi * rho[:, None] * r).numpy()))
    transform = 2 * math.pi * (kernel * (rho[:, None] * r).sqrt()) @ h * step
    return rho, transform.square() * (reach / points)


def covered_share(d: int, rho: Tensor) -> Tensor:
    """c(ρ): share of the sphere of radius ρ in a tube of radius R_d around a line through 0; elementwise.

    >>> covered_share(3, torch.tensor([0.1, 2 * unit_ball_radius(3)])).tolist()  # all of it; 1 − cos 30° beyond
    [1.0, 0.1339745...]
    """
    share = (unit_ball_radius(d) / rho).clamp(max=1.0).square()
    return torch.from_numpy(betainc((d - 1) / 2, 0.5, share.double().numpy()))


def depth_two_distance(
    g: Profile, d: int, shell: tuple[float, float], width: int, *, reach: float | None = None, points: int = 600
) -> Measured:
    """A lower bound on ‖f − g‖_{L²(μ)} over all depth-2 networks f of ``width`` neurons, any activation, any weights; and ‖g‖.

    The display of this module, summed up to ρ = ``reach`` (8 R_d by default), which can only lower it.  INDICATOR because the integrals
    are floating-point sums; the statement has no hidden constant.  The upper end is what f = 0 reaches.
    """
    if d < 2 or width < 1:
        raise InvalidInput(f"needs d ≥ 2 and width ≥ 1; got {d} and {width}")
    rho, mass = radial_masses(g, d, shell, 8 * unit_ball_radius(d) if reach is None else reach, points)
    missed = float((mass * (1 - width * covered_share(d, rho)).clamp_min(0)).sum())
    total = float(mass.sum())
    return Measured.indicator(math.sqrt(missed), math.sqrt(max(total, missed)))
