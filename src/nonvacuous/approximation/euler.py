"""Residual networks as Euler steps of an ordinary differential equation."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nonvacuous.core.errors import InvalidInput, UnsupportedModule


class ResidualNetwork(nn.Module):
    """x ↦ head(x_N), x_0 = stem(x), x_{k+1} = x_k + branch_k(x_k)/N: ``[n, inputs]`` → ``[n, classes]``.

    Branches are Linear–tanh–Linear of the same width; all N begin with the same weights, so that the weights are smooth in depth
    at the start and training moves them apart by as much as it needs.
    """

    def __init__(self, inputs: int, width: int, depth: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Flatten(), nn.Linear(inputs, width))
        first = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
        self.branches = nn.ModuleList(copy.deepcopy(first) for _ in range(depth))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.stem(x)
        for branch in self.branches:
            x = x + branch(x) / len(self.branches)
        return self.head(x)

    def flow(self) -> ResidualFlow:
        """The ODE of the branches, in float64; its states are what ``stem`` makes and ``head`` takes."""
        return ResidualFlow(list(self.branches), scale=1 / len(self.branches))


class ResidualFlow(nn.Module):
    """dx/dt = N·scale·branch(x; θ(t)) on [0, 1], of N layers x ↦ x + scale·branch_k(x) with the same architecture.

    θ(k/N) are layer k's weights, straight lines between (the last layer's are kept to t = 1).  Euler's method with N steps *is* the
    network; finer steps converge to the ODE with error O(1/steps), since the right side is Lipschitz in x and t on compact sets.
    Works on a float64 copy of the weights, in eval mode.

    Args:
        branches: N ≥ 1 modules alike in structure and shapes, states ``[n, …]`` → the same shape.
        scale: factor of each branch within its layer.

    Raises:
        InvalidInput: no branches, or different ones; UnsupportedModule: buffers (batch norm) have no meaning between layers.

    Source: Chen, Rubanova, Bettencourt and Duvenaud, "Neural ordinary differential equations", NeurIPS 2018, equations 1–2;
    Zhang's deck.

    >>> torch.manual_seed(0) and None
    >>> flow = ResidualFlow([nn.Linear(2, 2) for _ in range(3)], scale=0.1)
    >>> flow.euler(torch.ones(1, 2), 6).shape
    torch.Size([1, 2])
    """

    def __init__(self, branches: Sequence[nn.Module], scale: float = 1.0) -> None:
        super().__init__()
        if not branches:
            raise InvalidInput("a residual flow needs at least one branch")
        if not math.isfinite(scale):
            raise InvalidInput(f"scale is a finite number; got {scale}")
        shapes = [{name: tuple(value.shape) for name, value in branch.named_parameters()} for branch in branches]
        for k, (branch, shape) in enumerate(zip(branches, shapes, strict=True)):
            if type(branch) is not type(branches[0]) or str(branch) != str(branches[0]) or shape != shapes[0]:
                raise InvalidInput(
                    f"branch {k} differs from branch 0: weights can only be interpolated between equal architectures"
                )
            if any(True for _ in branch.buffers()):
                raise UnsupportedModule(
                    f"branch {k} has buffers (as batch norm does), which have no meaning between layers: fold them in"
                )
        self.layers, self.scale = len(branches), scale
        template = copy.deepcopy(branches[0]).double().eval()
        self._template = [template.requires_grad_(False)]  # in a list: its own weights are no parameters of the flow
        self._names = list(shapes[0])
        stacks = {
            name: torch.stack([dict(b.named_parameters())[name].detach().double() for b in branches]) for name in shapes[0]
        }
        self.weights = nn.ParameterList([nn.Parameter(stacks[name]) for name in self._names])

    def velocity(self, x: Tensor, layer: int, fraction: float) -> Tensor:
        """dx/dt at t = (layer + fraction)/N."""
        after = min(layer + 1, self.layers - 1)
        if fraction:
            now = {n: torch.lerp(w[layer], w[after], fraction) for n, w in zip(self._names, self.weights, strict=True)}
        else:
            now = {n: w[layer] for n, w in zip(self._names, self.weights, strict=True)}
        return self.layers * self.scale * functional_call(self._template[0], now, (x,))

    def forward(self, t: Any, x: Tensor) -> Tensor:
        """dx/dt, as ODE solvers call it."""
        place = min(max(float(t), 0.0), 1.0) * self.layers
        layer = min(int(place), self.layers - 1)
        return self.velocity(x, layer, place - layer)

    def states(self, x: Tensor, steps: int | None = None) -> list[Tensor]:
        """Euler's states x_0, …, x_steps; N steps (the default) give the residual network's own."""
        steps = self.layers if steps is None else steps
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise InvalidInput(f"steps is an integer of at least 1; got {steps!r}")
        found = [_states(x)]
        for k in range(steps):
            layer, rest = divmod(k * self.layers, steps)
            found.append(found[-1] + self.velocity(found[-1], layer, rest / steps) / steps)
        return found

    def euler(self, x: Tensor, steps: int) -> Tensor:
        """Euler's x(1) after ``steps`` equal steps."""
        return self.states(x, steps)[-1]

    @torch.no_grad()
    def solve(self, x: Tensor, *, rtol: float = 1e-9, atol: float = 1e-11) -> Tensor:
        """x at t = 0, 1/N, …, 1 by torchdiffeq's dopri5, ``[N + 1, n, …]``; steps end where the weights have kinks.

        Raises:
            InvalidInput: torchdiffeq is not installed, or a state that is not finite.
        """
        try:
            from torchdiffeq import odeint
        except ImportError:
            raise InvalidInput("torchdiffeq solves the ODE, and is missing: pip install 'nonvacuous[ode]'") from None
        start, solved = _states(x), []
        solved.append(start)
        for k in range(self.layers):  # one smooth piece at a time, in s = N t − k

            def piece(s: Tensor, state: Tensor, k: int = k) -> Tensor:
                return self.velocity(state, k, float(s)) / self.layers

            ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
            solved.append(odeint(piece, solved[-1], ends, rtol=rtol, atol=atol, method="dopri5")[-1])
        return torch.stack(solved)


def _states(x: Tensor) -> Tensor:
    x = x.to(torch.float64)
    if not x.isfinite().all():
        raise InvalidInput("the initial states must be finite")
    return x


@dataclass(frozen=True)
class Refinement:
    """Distance of Euler's states from the ODE's at the layers' times, for finer and finer steps.

    Attributes:
        steps: N·1, N·2, ….
        errors: largest over layers of the root mean square over states, relative to the solution's; ``errors[0]`` is the network's.
        order: −slope of log error against log steps, by least squares; ``stderr`` its standard error (an indicator).
        solver: the reference's own error estimate, the change when its tolerances are 100 times looser.
    """

    steps: tuple[int, ...]
    errors: tuple[float, ...]
    order: float
    stderr: float
    solver: float


@torch.no_grad()
def refinement(flow: ResidualFlow, x: Tensor, multiples: Sequence[int] = (1, 2, 4, 8, 16)) -> Refinement:
    """How the network's layers, and finer Euler steps, approach the ODE's solution from states ``x`` ``[n, …]``.

    Euler's global error is C/steps, so that ``order`` comes out near 1 once steps are fine.

    Raises:
        InvalidInput: fewer than two multiples, torchdiffeq missing, states that overflow.
    """
    if len(set(multiples)) < 2 or min(multiples) < 1:
        raise InvalidInput(f"multiples are at least two different integers ≥ 1; got {list(multiples)}")
    reference = flow.solve(x)
    if not reference.isfinite().all():
        raise InvalidInput("the ODE's solution overflows: the network's weights are too large for it")
    size = float(reference.square().mean().sqrt())
    errors = []
    for multiple in multiples:
        states = torch.stack(flow.states(x, flow.layers * multiple)[::multiple])
        errors.append(_largest(states - reference) / size)
    rough = flow.solve(x, rtol=1e-7, atol=1e-9)
    steps = [flow.layers * multiple for multiple in multiples]
    slope, stderr = loglog_slope(steps, errors)
    return Refinement(tuple(steps), tuple(errors), -slope, stderr, _largest(rough - reference) / size)


def _largest(gap: Tensor) -> float:
    return float(gap.flatten(1).square().mean(1).sqrt().max())


def loglog_slope(sizes: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """Least-squares slope of log error against log size, and its standard error (0 for two points)."""
    u = torch.tensor(sizes, dtype=torch.float64).log()
    v = torch.tensor(errors, dtype=torch.float64).clamp_min(1e-300).log()
    u = u - u.mean()
    slope = float((u * v).sum() / u.square().sum())
    left = v - v.mean() - slope * u
    degrees = len(u) - 2
    return slope, math.sqrt(float(left.square().sum()) / degrees / float(u.square().sum())) if degrees > 0 else 0.0


def total_variation(flow: ResidualFlow) -> float:
    """Σ_k ‖θ_{k+1} − θ_k‖ / max_k ‖θ_k‖ over all weights: how far training moved neighbouring layers apart."""
    flat = torch.cat([w.detach().flatten(1) for w in flow.weights], 1)
    return sum(float((b - a).norm()) for a, b in pairwise(flat)) / max(float(flat.norm(dim=1).max()), 1e-300)
