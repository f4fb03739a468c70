"""A smooth invertible map, spread over many layers that each compute nearly the identity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from nonvacuous.approximation.built import Built
from nonvacuous.approximation.near_identity import factors
from nonvacuous.approximation.targets import describe
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured

Map = Callable[[Tensor], Tensor]
Schedule = Literal["geometric", "uniform"]
NEWTON_STEPS, HALVINGS = 60, 40


def scales(m: int, schedule: Schedule = "geometric") -> Tensor:
    """a_1 < … < a_m = 1.

    ``geometric``: a_1 = ln(m)/m, then equal ratios, the deck's; every step a_i − a_{i−1} is at most ~ln(m)/m.
    ``uniform``: a_i = i/m; every step is 1/m.
    """
    if schedule == "uniform":
        return torch.arange(1, m + 1, dtype=torch.float64) / m
    if schedule != "geometric":
        raise InvalidInput(f"schedules are 'geometric' and 'uniform'; got {schedule!r}")
    if m == 1:
        return torch.ones(1, dtype=torch.float64)
    grown = torch.linspace(math.log(math.log(m) / m), 0.0, m, dtype=torch.float64).exp()
    grown[-1] = 1.0
    return grown


def values(h: Map, x: Tensor) -> Tensor:
    """h(x), float64 ``[n, d]``; refuses other shapes and values that are not finite (where)."""
    y = h(x)
    if not isinstance(y, Tensor) or y.shape != x.shape or y.is_complex():
        got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise InvalidInput(f"the map must take [n, {x.shape[1]}] to real [n, {x.shape[1]}]; it made {got} of {tuple(x.shape)}")
    if not y.isfinite().all():
        where = int((~y.isfinite()).any(1).nonzero()[0])
        raise InvalidInput(f"the map is not finite at ({describe(x[where])}): choose a smaller radius")
    return y.to(torch.float64)


def jacobians(h: Map, x: Tensor) -> Tensor:
    """Dh at ``[n, d]`` points, ``[n, d, d]`` with rows ∇h_k, by d backward passes; h treats the rows of x apart."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = values(h, x)
        if not y.requires_grad:
            raise InvalidInput("the map cannot be differentiated: write it in torch operations that keep gradients")
        rows = [
            torch.autograd.grad(y[:, k].sum(), x, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
            for k in range(x.shape[1])
        ]
    return torch.stack(rows, 1)


def newton_inverse(h: Map) -> Map:
    """h⁻¹ by damped Newton steps from x = y.

    Where Dh is invertible everywhere, ‖h(x) − y‖² has no stationary point but the solution, so that halving steps until it
    falls leads there.  Ends where the residual no longer falls and is below 1e-9·(1 + ‖y‖); raises InvalidInput otherwise.
    """

    def inverse(y: Tensor) -> Tensor:
        return _newton(h, y, y.clone())

    return inverse


def _newton(h: Map, y: Tensor, x: Tensor) -> Tensor:
    with torch.no_grad():
        miss = values(h, x) - y
        rough = 2.0**-50 * (1 + y.norm(dim=1))
        busy = torch.arange(len(y))
        for _ in range(NEWTON_STEPS):
            busy = busy[miss[busy].norm(dim=1) > rough[busy]]
            if not len(busy):
                break
            here, before = x[busy], miss[busy].norm(dim=1)
            try:
                step = torch.linalg.solve(jacobians(h, here), miss[busy])
            except RuntimeError as error:
                raise InvalidInput("the inverse meets a singular Jacobian: the map is not invertible there") from error
            length, falls = torch.ones_like(before), torch.zeros(len(busy), dtype=torch.bool)
            for _ in range(HALVINGS):
                tried = here - torch.where(falls, 0.0, length)[:, None] * step
                new = h(tried).to(torch.float64) - y[busy]
                better = ~falls & (new.norm(dim=1) < before * (1 - length / 4))
                better |= ~falls & (before <= 1e-9 * (1 + y[busy].norm(dim=1))) & (new.norm(dim=1) < before)
                x[busy[better]], miss[busy[better]] = tried[better], new[better]
                falls |= better
                if falls.all() or (before[~falls] <= 1e-9 * (1 + y[busy][~falls].norm(dim=1))).all():
                    break
                length = torch.where(falls, length, length / 2)
            busy = busy[falls]
        bad = miss.norm(dim=1) > 1e-9 * (1 + y.norm(dim=1))
        if bad.any():
            where = int(bad.nonzero()[0])
            raise InvalidInput(
                f"no x with h(x) = ({describe(y[where])}) was found (residual {float(miss[where].norm()):.2g}): the map is not "
                "invertible there, or its Jacobian nearly singular; pass inverse=…, or a smaller radius"
            )
    return x


class Scaled(nn.Module):
    """x ↦ g(tx)/t, ``[n, d]`` → ``[n, d]``, for g(x) = Dh(x_0)⁻¹(h(x_0 + x) − h(x_0)), and its inverse; t = 0 is the identity."""

    centre: Tensor
    image: Tensor
    slope: Tensor
    slope_inverse: Tensor

    def __init__(self, h: Map, inverse: Map, centre: Tensor) -> None:
        super().__init__()
        with torch.no_grad():
            image = values(h, centre[None])[0]
        self.h, self.inverse = h, inverse
        self.register_buffer("centre", centre)
        self.register_buffer("image", image)
        self.register_buffer("slope", jacobians(h, centre[None])[0])
        self.register_buffer("slope_inverse", torch.linalg.inv(self.slope))

    def forward(self, x: Tensor, t: float) -> Tensor:
        """g(tx)/t."""
        if t == 0:
            return x
        return (self.h(self.centre + t * x).to(torch.float64) - self.image) @ self.slope_inverse.T / t

    def back(self, y: Tensor, t: float) -> Tensor:
        """g⁻¹(ty)/t."""
        if t == 0:
            return y
        return (self.inverse(self.image + t * (y @ self.slope.T)).to(torch.float64) - self.centre) / t

    def derivative(self, x: Tensor, t: float) -> Tensor:
        """Dg(tx), ``[n, d, d]``."""
        return self.slope_inverse @ jacobians(self.h, self.centre + t * x)


class Between(nn.Module):
    """h_i = G_t ∘ G_s⁻¹ for neighbouring scales s < t, where G_t(x) = g(tx)/t."""

    def __init__(self, scaled: Scaled, low: float, high: float) -> None:
        super().__init__()
        self.scaled, self.low, self.high = scaled, low, high

    def forward(self, x: Tensor) -> Tensor:
        """``[n, d]`` → ``[n, d]``."""
        return self.scaled(self.scaled.back(x, self.low), self.high)


class Step(nn.Module):
    """x ↦ x + Ax."""

    def __init__(self, A: Tensor) -> None:
        super().__init__()
        self.A = nn.Parameter(A.clone())

    def forward(self, x: Tensor) -> Tensor:
        """``[n, d]`` → ``[n, d]``."""
        return x + x @ self.A.T


class NearIdentities(nn.Module):
    """h_m ∘ … ∘ h_1, ``[n, d]`` → ``[n, d]``: nonlinear layers first, linear ones after.

    The translations by −x_0 and h(x_0) belong to the first and the last layer; they change no ‖h_i − Id‖_L.
    """

    def __init__(self, scaled: Scaled, schedule: Tensor, linear: Sequence[Tensor], radius: float) -> None:
        super().__init__()
        ends = [0.0, *schedule.tolist()]
        self.scaled, self.radius, self.schedule = scaled, radius, schedule
        self.layers = nn.ModuleList([*(Between(scaled, s, t) for s, t in pairwise(ends)), *(Step(A) for A in linear)])

    def forward(self, x: Tensor) -> Tensor:
        """Through all layers."""
        x = x.to(torch.float64) - self.scaled.centre
        for layer in self.layers:
            x = layer(x)
        return x + self.scaled.image

    @torch.no_grad()
    def seminorms(self, points: int = 256, seed: int = 0) -> Tensor:
        """Measured ‖h_i − Id‖_L, ``[m]``: largest spectral norm of Dh_i − I at sampled points of its domain, linear ones exact.

        A lower bound on the nonlinear layers' seminorms, an indicator: the points are x = ball samples, seen by layer i at
        G_s(x), where Dh_i − I = (Dg(tx) − Dg(sx))·Dg(sx)⁻¹.
        """
        x = ball(self.scaled.centre * 0, self.radius, points, seed)
        found, before = [], torch.eye(x.shape[1], dtype=torch.float64).expand(points, -1, -1)
        for t in self.schedule.tolist():
            after = self.scaled.derivative(x, t)
            found.append(torch.linalg.matrix_norm(torch.linalg.solve(before, after - before, left=False), 2).max())
            before = after
        steps = [layer.A for layer in self.layers if isinstance(layer, Step)]
        return torch.stack([*found, *(torch.linalg.matrix_norm(A, 2) for A in steps)])

    @torch.no_grad()
    def ceilings(self, smoothness: float, inverse_lipschitz: float) -> Tensor:
        """Proved bounds on ‖h_i − Id‖_L, ``[m]``, for ‖Dh(y) − Dh(x)‖ ≤ α‖y − x‖ and ‖h⁻¹‖_L ≤ M; the lemma of :func:`spread`.

        ``smoothness`` is α of h, ``inverse_lipschitz`` M of h, both on the ball; linear layers have their exact norms.
        """
        alpha = smoothness * float(torch.linalg.matrix_norm(self.scaled.slope_inverse, 2))
        back = max(1.0, inverse_lipschitz * float(torch.linalg.matrix_norm(self.scaled.slope, 2)))
        steps = self.schedule.diff(prepend=torch.zeros(1, dtype=torch.float64))
        nonlinear = alpha * self.radius * steps * back
        nonlinear[0] /= back
        linear = [torch.linalg.matrix_norm(layer.A, 2) for layer in self.layers if isinstance(layer, Step)]
        return torch.cat([nonlinear, torch.stack(linear)]) if linear else nonlinear


def ball(centre: Tensor, radius: float, points: int, seed: int) -> Tensor:
    """``[points, d]`` in the ball: half uniform, half on its sphere, the centre first."""
    generator = torch.Generator().manual_seed(seed)
    d = len(centre)
    direction = torch.randn(points, d, generator=generator, dtype=torch.float64)
    direction /= direction.norm(dim=1, keepdim=True)
    length = torch.rand(points, 1, generator=generator, dtype=torch.float64) ** (1 / d)
    length[points // 2 :] = 1.0
    length[0] = 0.0
    return centre + radius * length * direction


def spread(
    h: Map,
    m: int,
    centre: Sequence[float] | Tensor,
    *,
    radius: float = 1.0,
    inverse: Map | None = None,
    schedule: Schedule = "geometric",
    points: int = 256,
    seed: int = 0,
) -> Built:
    """m layers with h_m ∘ … ∘ h_1 = h on the ball and ‖h_i − Id‖_L = O(log m / m), of a smooth invertible h.

    With g(x) = Dh(x_0)⁻¹(h(x_0 + x) − h(x_0)), so that g(0) = 0 and Dg(0) = Id, the partial compositions are
    G_{a_i}(x) = g(a_i x)/a_i for scales 0 = a_0 < a_1 < … = 1 (:func:`scales`), that is h_i = G_{a_i} ∘ G_{a_{i−1}}⁻¹.  About half
    of the layers do this; the others are the linear factors of Dh(x_0) (:func:`~nonvacuous.approximation.near_identity.factors`),
    none if it is the identity.

    *Why they are near the identity.*  For u = G_s(x), v = G_s(y), with x, y in the ball, (h_i − Id)(u) − (h_i − Id)(v) is
    (G_t − G_s)(x) − (G_t − G_s)(y), at most α(t − s)·radius·‖x − y‖ ≤ α(t − s)·radius·M·‖u − v‖, since D(G_t − G_s)(x) =
    Dg(tx) − Dg(sx).  Both schedules follow: t − s is O(log m/m) on the deck's geometric one, 1/m on the uniform one, which gives
    the O(1/m) of the paper's last version.

    Args:
        h: differentiable by autograd, ``[n, d]`` → ``[n, d]`` row by row, float64.
        m: layers, at least 2 unless Dh(x_0) is the identity.
        centre: x_0, ``[d]``.
        radius: of the ball about x_0 on which the composition is h.
        inverse: h⁻¹ on h(ball); found by Newton's method when absent.

    Returns:
        ``module``: :class:`NearIdentities` (has ``seminorms`` and ``ceilings``).  ``error``: INDICATOR, largest
        ‖composition − h‖₂ at ``points`` samples.  ``cost``: the linear layers'; what h and its inverse cost is the caller's.

    Raises:
        InvalidInput: det Dh ≤ 0 at x_0 or at a sample (said where), ``inverse`` that does not undo h, Newton without success,
            wrong shapes, values that are not finite.

    Source: Bartlett, Evans and Long, "Representing smooth functions as compositions of near-identity functions", 2018, Theorem 1;
    Bartlett's deck.
    """
    if isinstance(m, bool) or not isinstance(m, int) or m < 1:
        raise InvalidInput(f"m counts layers: an integer of at least 1; got {m!r}")
    if not (radius > 0 and math.isfinite(radius)):
        raise InvalidInput(f"radius is positive and finite; got {radius}")
    where = torch.as_tensor(centre, dtype=torch.float64).detach()
    if where.dim() != 1 or not len(where) or not where.isfinite().all():
        raise InvalidInput(f"centre is a finite point [d]; got {where.tolist()}")
    samples = ball(where, radius, points, seed)
    slope = _orientation(h, samples)
    undo = newton_inverse(h) if inverse is None else inverse
    with torch.no_grad():
        target = values(h, samples)
        if inverse is not None:
            _check_inverse(undo, samples, target)
        identity = torch.equal(slope, torch.eye(len(where), dtype=torch.float64))
        if m == 1 and not identity:
            raise InvalidInput("m = 1 is h itself; its linear part Dh(x_0) takes a layer of its own, so m is at least 2")
        linear = () if identity else factors(slope, m // 2)
        module = NearIdentities(Scaled(h, undo, where), scales(m - len(linear), schedule), linear, float(radius))
        miss = float((module(samples) - target).norm(dim=1).max())
    weights = len(linear) * len(where) ** 2
    return Built.counted(module, Measured.indicator(miss), weights, len(linear) * len(where))


def _orientation(h: Map, samples: Tensor) -> Tensor:
    """Dh at the first sample, the centre; refuses determinants that are not positive anywhere among the samples."""
    slopes = jacobians(h, samples)
    determinants = torch.linalg.det(slopes)
    if not float(determinants[0]) > 0:
        raise InvalidInput(
            f"det Dh = {float(determinants[0]):.3g} at the centre ({describe(samples[0])}): the theorem needs a positive orientation. "
            "Compose h with a reflection first if the determinant is negative; at 0, h has no Lipschitz inverse"
        )
    if not float(determinants.min()) > 0:
        worst = int(determinants.argmin())
        raise InvalidInput(
            f"det Dh = {float(determinants[worst]):.3g} at ({describe(samples[worst])}), but positive at the centre: h is not a "
            "diffeomorphism of this ball. Take a smaller radius"
        )
    return slopes[0]


def _check_inverse(inverse: Map, x: Tensor, y: Tensor) -> None:
    miss = (values(inverse, y) - x).norm(dim=1)
    if float(miss.max()) > 1e-8 * (1 + float(x.norm(dim=1).max())):
        worst = int(miss.argmax())
        raise InvalidInput(
            f"inverse does not undo h: it takes h({describe(x[worst])}) to a point {float(miss[worst]):.3g} away. Leave it out, and "
            "Newton's method finds it"
        )
