"""The mean-field view of a two-layer network: its units are particles that attract the target and repel each other.

f_n(x) = (1/n) Σ_i c_i φ(x, y_i); charges c, positions y. With F(y) = ∫ f φ(·, y) dμ, K(y, z) = ∫ φ(·, y) φ(·, z) dμ and
C_f = ½ ∫ f² dμ, the squared loss is ℓ(f, f_n) = C_f − (1/n) Σ c_i F(y_i) + (1/2n²) Σ c_i c_j K(y_i, y_j), exactly. μ is a finite
sample with weights, so every integral here is a sum and the identity holds to rounding.

**Time scale.** The particles move by ċ_i = F(y_i) − (1/n) Σ_j c_j K(y_i, y_j) and ẏ_i = c_i ∇_y of the same with the others held: that
is −n ∇ℓ. So gradient descent on the network with step size η is Euler's method for the particles with time step η/n; time of order 1
takes n/η steps.

**Rates.** For n independent draws (c_i, y_i) of a law ν with f_ν(x) = ∫ c φ(x, y) dν, exactly for every n
E ℓ(f, f_n) = ℓ(f, f_ν) + g/n, g = ½ ∫ Var_ν[c φ(x, y)] dμ(x). The loss gap is O(1/n), so the function error is O(n^{-1/2}), not O(1/n).

Source: Rotskoff and Vanden-Eijnden 2018 ("Neural networks as interacting particle systems"), equations (1.3) and (1.4) as the deck quotes
them; Mei, Montanari and Nguyen 2018 (PNAS). The law of the gap is the variance of a mean, worked out here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput

Unit = Callable[[Tensor, Tensor], Tensor]
"""φ: inputs ``[N, d]`` and positions ``[n, m]`` to responses ``[N, n]``."""

ROWS_AT_ONCE = 2048


class Particles(NamedTuple):
    """charges c ``[n]``; positions y ``[n, m]``. As a velocity: their rates of change per unit of mean-field time."""

    charges: Tensor
    positions: Tensor


def ridge_unit(activation: Callable[[Tensor], Tensor]) -> Unit:
    """φ(x, y) = σ(a·x + b) for y = (a, b) ``[d + 1]``: the usual hidden unit."""

    def unit(inputs: Tensor, positions: Tensor) -> Tensor:
        if positions.shape[1] != inputs.shape[1] + 1:
            raise InvalidInput(
                f"positions of length {positions.shape[1]} for inputs of length {inputs.shape[1]}: a unit has a weight an input and a bias"
            )
        return activation(inputs @ positions[:, :-1].T + positions[:, -1])

    return unit


@dataclass(frozen=True, eq=False)
class MeanField:
    """A target on a weighted sample, and the shape of a unit.

    inputs: x ``[N, d]``; targets: f(x) ``[N]``; unit: φ; weights: μ ``[N]``, non-negative with sum 1 (None: uniform).

    >>> x = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    >>> field = MeanField(x, x.flatten().sin(), ridge_unit(torch.tanh))
    >>> p = Particles(torch.ones(4, dtype=torch.float64), torch.arange(8.0, dtype=torch.float64).reshape(4, 2) / 8)
    >>> abs(float(field.energy(p) - field.loss(p))) < 1e-15
    True
    """

    inputs: Tensor
    targets: Tensor
    unit: Unit
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        x, f = self.inputs, self.targets
        if x.ndim != 2 or f.ndim != 1 or len(x) != len(f) or not len(x):
            raise InvalidInput(f"inputs {tuple(x.shape)}, targets {tuple(f.shape)}: give [N, d] and [N], N at least 1")
        if not (x.is_floating_point() and f.dtype == x.dtype):
            raise InvalidInput(f"inputs {x.dtype}, targets {f.dtype}: give both in one floating type")
        if not (bool(torch.isfinite(x).all()) and bool(torch.isfinite(f).all())):
            raise InvalidInput("inputs or targets hold NaN or Inf: remove those examples")
        if self.weights is not None:
            w = self.weights
            if w.shape != f.shape or not bool((w >= 0).all()) or abs(float(w.sum()) - 1) > 1e-6:
                raise InvalidInput(f"weights {tuple(w.shape)}: [N], none negative, of sum 1")

    @property
    def measure(self) -> Tensor:
        """μ ``[N]``."""
        return self.weights if self.weights is not None else torch.full_like(self.targets, 1 / len(self.targets))

    def _chunks(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        parts = (self.inputs, self.targets, self.measure)
        return list(zip(*(part.split(ROWS_AT_ONCE) for part in parts), strict=True))

    def outputs(self, particles: Particles, inputs: Tensor | None = None) -> Tensor:
        """f_n(x) ``[N]``, on the sample or on other inputs."""
        _check(particles)
        x = self.inputs if inputs is None else inputs
        return torch.cat([self.unit(part, particles.positions) @ particles.charges for part in x.split(ROWS_AT_ONCE)]) / len(
            particles.charges
        )

    def loss(self, particles: Particles) -> Tensor:
        """½ ∫ |f − f_n|² dμ, from the network's outputs."""
        return 0.5 * (self.measure * (self.targets - self.outputs(particles)).square()).sum()

    def constant(self) -> Tensor:
        """C_f = ½ ∫ f² dμ."""
        return 0.5 * (self.measure * self.targets.square()).sum()

    def potential(self, positions: Tensor) -> Tensor:
        """F(y) = ∫ f φ(·, y) dμ ``[n]``."""
        return torch.stack([(mu * f) @ self.unit(x, positions) for x, f, mu in self._chunks()]).sum(0)

    def interaction(self, positions: Tensor, others: Tensor) -> Tensor:
        """K(y, z) = ∫ φ(·, y) φ(·, z) dμ ``[n, n']``."""
        return torch.stack(
            [(mu[:, None] * self.unit(x, positions)).T @ self.unit(x, others) for x, _, mu in self._chunks()]
        ).sum(0)

    def energy(self, particles: Particles) -> Tensor:
        """C_f − (1/n) Σ c_i F(y_i) + (1/2n²) Σ c_i c_j K(y_i, y_j): the loss, from the pair energy."""
        _check(particles)
        c, y = particles
        return self.constant() - (c @ self.potential(y)) / len(c) + (c @ self.interaction(y, y) @ c) / (2 * len(c) ** 2)

    def velocity(self, particles: Particles) -> Particles:
        """(ċ, ẏ) from F and K alone: the interacting particles' equations of motion."""
        _check(particles)
        c, y = particles.charges.detach(), particles.positions.detach()
        with torch.enable_grad():
            free = y.clone().requires_grad_()
            force = self.potential(free) - self.interaction(free, y) @ c / len(c)
            (slope,) = torch.autograd.grad(force.sum(), free)
        return Particles(force.detach(), c[:, None] * slope)

    def network_gradient(self, particles: Particles) -> Particles:
        """∇ℓ by the charges and the positions: what gradient descent on the network follows. Equal to −velocity/n."""
        _check(particles)
        with torch.enable_grad():
            free = Particles(*(part.detach().clone().requires_grad_() for part in particles))
            return Particles(*torch.autograd.grad(self.loss(free), tuple(free)))

    def moved(self, particles: Particles, *, time: float, step: float) -> Particles:
        """The particles after ``time``, by Euler steps of at most ``step``: gradient descent with step size n · step.

        Computed through the network's outputs, O(N n) a step. By F and K alone, which is O(N n²), it is the same: see `velocity`.

        Raises:
            InvalidInput: non-positive time or step, or motion that diverged (the step is too long).
        """
        if not (0 < step < math.inf and 0 < time < math.inf):
            raise InvalidInput(f"time {time!r} and step {step!r}: both positive and finite")
        steps = math.ceil(time / step)
        n, dt = len(particles.charges), time / steps
        for _ in range(steps):
            slope = self.network_gradient(particles)
            particles = Particles(*(p - n * dt * s for p, s in zip(particles, slope, strict=True)))
            if not all(bool(torch.isfinite(part).all()) for part in particles):
                raise InvalidInput(f"the particles ran off to infinity with time step {dt:g}: take a shorter one")
        return particles


def _check(particles: Particles) -> None:
    c, y = particles
    if c.ndim != 1 or y.ndim != 2 or len(c) != len(y) or not len(c):
        raise InvalidInput(f"charges {tuple(c.shape)}, positions {tuple(y.shape)}: give [n] and [n, m], n at least 1")
    if not (bool(torch.isfinite(c).all()) and bool(torch.isfinite(y).all())):
        raise InvalidInput("particles at infinity or NaN: their charges and positions must be finite")


def gap_constant(field: MeanField, population: Particles) -> Tensor:
    """g = ½ ∫ Var_ν[c φ(x, y)] dμ(x) for ν uniform on ``population``: n draws lose g/n more than f_ν, on average and exactly.

    = (1/2M) Σ c_i² K(y_i, y_i) − (1/2M²) Σ c_i c_j K(y_i, y_j) for a population of M; without any M × M matrix.
    """
    _check(population)
    total = torch.zeros((), dtype=field.targets.dtype, device=field.targets.device)
    for x, _, mu in field._chunks():
        answers = population.charges * field.unit(x, population.positions)
        total = total + (mu * answers.var(1, correction=0)).sum()
    return total / 2


def drawn(population: Particles, n: int, generator: torch.Generator) -> Particles:
    """n independent draws, with replacement, from the uniform law on a population."""
    _check(population)
    if n < 1:
        raise InvalidInput(f"{n} particles: draw at least one")
    rows = torch.randint(len(population.charges), (n,), generator=generator)
    return Particles(population.charges[rows], population.positions[rows])
