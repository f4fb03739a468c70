"""Universal approximation in C¹: target and derivatives at once, by networks with smooth activations.

A ReLU network is never C¹ unless it is affine, so its derivative is off by half its largest kink somewhere; these are not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nonvacuous.approximation.built import Built
from nonvacuous.approximation.targets import ROUNDING, Target, as_box, check_accuracy, check_slope, describe, values
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured

#: Hidden units, or spline coefficients, beyond which a builder refuses.
MOST_SOFTPLUS, MOST_COEFFICIENTS = 100_000, 10_000_000


class SoftplusSum(nn.Module):
    r"""x ↦ offset + :math:`\sum_i v_i τ` ln(1 + e^{(x − t_i)/τ}): one hidden layer of softplus units.

    ``[n, 1]`` or ``[n]`` → ``[n]``.  Its derivative is a sum of sigmoids, :math:`\sum_i v_i` / (1 + e^{−(x − t_i)/τ}).
    """

    def __init__(self, centres: Tensor, weight: Tensor, width: float, offset: float) -> None:
        super().__init__()
        self.centres, self.weight = nn.Parameter(centres), nn.Parameter(weight)
        self.width = nn.Parameter(torch.tensor(width, dtype=torch.float64))
        self.offset = nn.Parameter(torch.tensor(offset, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        x = x.squeeze(-1) if x.dim() > 1 else x
        chunks = x.split(max(1, 2**24 // len(self.centres)))
        parts = [nn.functional.softplus((c[:, None] - self.centres) / self.width, threshold=50) for c in chunks]
        return torch.cat([part @ self.weight for part in parts]) * self.width + self.offset

    def derivative(self, x: Tensor) -> Tensor:
        """d/dx at ``[n]`` points."""
        return ((x[:, None] - self.centres) / self.width).sigmoid() @ self.weight


def approximate_with_derivative(
    f: Target, derivative: Target, domain: Sequence[float], eps: float, *, derivative_lipschitz: float
) -> Built:
    """One hidden layer of softplus units with |f − network| ≤ eps and |f′ − network′| ≤ eps everywhere on ``domain`` = (a, b).

    f′ is first replaced by a staircase over cells of width w, off by L₁w/2; the sum of sigmoids is that staircase seen through
    logistic noise of scale τ = w/4, off by another L₁τ·E|Z| = L₁τ·2 ln 2.  Together (0.5 + 0.347)·L₁w; integrating from the
    middle, the value is off by (b − a)/2 times that.  ``error`` (EXACT) is the larger of the two, as true as L₁ is; samples
    that contradict L₁, or f′ as the derivative of f, are refused.

    Source: Zhang's deck, "Universal Approximation Theorem": density in C^r of one hidden layer with an activation that is
    r-finite (in C^r, its r-th derivative with a finite non-zero integral); Hornik 1991, Theorem 3.  Softplus is 2-finite; a sum
    of ReLUs is not even in C¹.

    >>> built = approximate_with_derivative(torch.sin, torch.cos, (0.0, 3.0), 0.05, derivative_lipschitz=1.0)
    >>> built.error.upper <= 0.05
    True
    """
    ((a, b),) = as_box(domain, most=1)
    slope_bound = _positive(derivative_lipschitz)
    probe = torch.linspace(a, b, 65, dtype=torch.float64).clamp(a, b)
    scale = float(values(f, probe).abs().max()) + float(values(derivative, probe).abs().max()) * (abs(a) + abs(b) + 1)
    check_accuracy(eps, scale)
    goal = min(1.0, 2 / (b - a)) * (eps * (1 - 2**-10) - 2**-44 * scale)
    width = min(b - a, goal / (slope_bound * (0.5 + math.log(2) / 2)))
    count = math.ceil((b - a) / width)
    if count > MOST_SOFTPLUS:
        raise InvalidInput(f"eps = {eps:g} takes {count:.3g} softplus units, more than {MOST_SOFTPLUS:,}: choose a larger eps")
    width = (b - a) / count
    tau = width / 4
    middles = (a + width * (torch.arange(count, dtype=torch.float64) + 0.5)).clamp(a, b)
    slopes, heights = values(derivative, middles), values(f, middles)
    check_slope(derivative, middles[:-1], slopes[:-1], middles[1:], slopes[1:], slope_bound)
    _check_derivative(middles, heights, slopes, slope_bound, scale)
    centres = torch.cat([torch.tensor([a - 64 * tau], dtype=torch.float64), a + width * torch.arange(1, count)])
    module = SoftplusSum(centres, torch.cat([slopes[:1], slopes.diff()]), tau, 0.0)
    centre = torch.tensor([(a + b) / 2], dtype=torch.float64)
    with torch.no_grad():
        module.offset.copy_((values(f, centre) - module(centre))[0])
        seen = max(
            float((module(middles) - heights).abs().max()),
            float((module.derivative(probe) - values(derivative, probe)).abs().max()),
        )
    bound = slope_bound * (width / 2 + tau * 2 * math.log(2)) * max(1.0, (b - a) / 2)
    slack = 2**-46 * (scale + slope_bound * ((b - a) ** 2 + abs(a) + abs(b)))
    if bound + slack > eps:
        raise InvalidInput(f"eps = {eps:g} is below what float64 can prove here: {bound + slack:g}")
    error = Measured(max(0.0, seen - slack), bound + slack, Kind.EXACT)
    return Built.counted(module, error, weights=2 * len(centres), units=len(centres) + 1)


def _positive(lipschitz: float) -> float:
    if not (math.isfinite(lipschitz) and lipschitz > 0):
        raise InvalidInput(f"the Lipschitz constant of a derivative is a positive finite number here; got {lipschitz}")
    return lipschitz


def _check_derivative(x: Tensor, y: Tensor, slopes: Tensor, lipschitz: float, scale: float) -> None:
    """The trapezoidal rule over a step h is off by at most L₁h²/4 where f′ is L₁-Lipschitz."""
    h = x.diff()
    off = (y.diff() - h * (slopes[:-1] + slopes[1:]) / 2).abs() - lipschitz * h.square() / 4 - 2**-46 * scale
    if len(off) and float(off.max()) > 0:
        at = int(off.argmax())
        raise InvalidInput(
            f"derivative is not the target's: between {describe(x[at])} and {describe(x[at + 1])} the target changes by "
            f"{float(y[at + 1] - y[at]):.6g}, the derivative says {float(h[at] * (slopes[at] + slopes[at + 1]) / 2):.6g}"
        )


class QuadraticSpline(nn.Module):
    """x ↦ Σ_i c_i B_{i_1}(x_1) ⋯ B_{i_d}(x_d), quadratic B-splines on a clamped uniform grid: ``[n, d]`` → ``[n]``, C¹.

    Parameters ``coefficients`` [N_1 + 2, …, N_d + 2] for N_j ≥ 2 cells.  It is a network with activation relu²: each B is a
    sum of at most four relu²(± x − t), and pq = ((p + q)² − (p − q)²)/4 with z² = relu²(z) + relu²(−z), one hidden layer for
    the splines and one more per further dimension (Mhaskar 1993).  Forward looks up the 3^d splines that are not 0 at x.
    """

    low: Tensor
    step: Tensor

    def __init__(self, coefficients: Tensor, low: Tensor, step: Tensor) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(coefficients)
        self.register_buffer("low", low)
        self.register_buffer("step", step)

    def forward(self, x: Tensor) -> Tensor:
        cells = torch.tensor(self.coefficients.shape, device=x.device) - 2
        u = (x - self.low) / self.step
        cell = torch.minimum(u.detach().floor().long().clamp_min(0), cells - 1)
        u = u - cell
        v = 1 - u
        left, right = cell == 0, cell == cells - 1
        first = torch.where(left, v * v, v * v / 2)
        last = torch.where(right, u * u, u * u / 2)
        basis = torch.stack([first, 1 - first - last, last], 2)
        strides = self.coefficients.stride()
        flat, total = self.coefficients.reshape(-1), x.new_zeros(len(x))
        for offsets in itertools.product(range(3), repeat=x.shape[1]):
            node = sum((cell[:, j] + o) * strides[j] for j, o in enumerate(offsets))
            weight = math.prod(basis[:, j, o] for j, o in enumerate(offsets))
            total = total + flat[node] * weight
        return total


def approximate_with_gradient(
    f: Target, domain: Sequence[float] | Sequence[Sequence[float]], eps: float, *, gradient_lipschitz: float
) -> Built:
    """A C¹ network (relu² activation) with |f − network| ≤ eps and |∂_j f − ∂_j network| ≤ eps on a box, d ≤ 3.

    The network is Schoenberg's spline of f: coefficients f(ξ_i) at the Greville points.  It preserves affine functions and
    averages: network(x) = E f(Y) with E Y = x and E|Y_k − x_k|² ≤ w_k²/4, so that |f − network| ≤ (L₁/8) Σ w_k²; and
    ∂_j network(x) = E ∂_j f(Y) with E|Y_j − x_j|² ≤ w_j²/3 and w_k²/4 for the others, so that |∂_j f − ∂_j network| ≤
    L₁ (w_j²/3 + Σ_{k≠j} w_k²/4)^{1/2}.  f is asked inside the box only, its gradient not at all.

    ``error`` (EXACT) is the larger bound, as true as L₁, the Lipschitz constant of ∇f in the Euclidean norm; second
    differences that contradict it are refused.

    Source: Marsden 1974 (J. Approx. Theory 12) for the operator; the constants follow from the second moments, given above.
    """
    box = as_box(domain, most=3)
    dimension = len(box)
    bound = _positive(gradient_lipschitz)
    middle = torch.tensor([[(a + b) / 2 for a, b in box]], dtype=torch.float64)

    def g(x: Tensor) -> Tensor:
        return values(f, x[:, 0] if dimension == 1 else x)

    check_accuracy(eps, float(g(middle).abs().max()))
    goal = eps * (1 - 2**-10)
    width = min(goal / (bound * math.sqrt(1 / 3 + (dimension - 1) / 4)), math.sqrt(8 * goal / (bound * dimension)))
    counts = [max(2, math.ceil((b - a) / width)) for a, b in box]
    if (total := math.prod(n + 2 for n in counts)) > MOST_COEFFICIENTS:
        raise InvalidInput(f"eps = {eps:g} takes {total:.3g} splines, more than {MOST_COEFFICIENTS:,}: choose a larger eps")
    steps = [(b - a) / n for (a, b), n in zip(box, counts, strict=True)]
    axes = []
    for (a, b), n, w in zip(box, counts, steps, strict=True):
        inner = a + w * (torch.arange(n, dtype=torch.float64) + 0.5)
        axes.append(
            torch.cat([torch.tensor([a], dtype=torch.float64), inner.clamp(a, b), torch.tensor([b], dtype=torch.float64)])
        )
    places = torch.cartesian_prod(*axes).reshape(-1, dimension)
    heights = g(places).reshape([n + 2 for n in counts])
    scale = float(heights.abs().max())
    for axis, (w, n) in enumerate(zip(steps, counts, strict=True)):
        inner = heights.narrow(axis, 1, n)
        bend = (inner.diff(dim=axis).diff(dim=axis).abs() - bound * w * w - ROUNDING * 4 * scale) if n > 2 else None
        if bend is not None and float(bend.max()) > 0:
            at = [int(i) for i in torch.unravel_index(bend.argmax(), bend.shape)]
            where = [float(axes[j][i + (2 if j == axis else 0)]) for j, i in enumerate(at)]
            raise InvalidInput(
                f"the gradient is not {bound:g}-Lipschitz: the second difference over {w:.3g} along axis {axis} at {where} "
                f"is too large; pass gradient_lipschitz ≥ {(float(bend.max()) + bound * w * w) / w**2:.6g}, or a bound you can prove"
            )
    module = QuadraticSpline(
        heights, torch.tensor([a for a, _ in box], dtype=torch.float64), torch.tensor(steps, dtype=torch.float64)
    )
    squares = [w * w for w in steps]
    worst = max(bound / 8 * sum(squares), *(bound * math.sqrt(sum(squares) / 4 + s / 12) for s in squares))
    with torch.no_grad():
        seen = float((module(places) - heights.reshape(-1)).abs().max())
    slack = 2**-46 * (scale * (1 + 1 / min(steps)) + bound * float(places.abs().max()))
    if worst + slack > eps:
        raise InvalidInput(f"eps = {eps:g} is below what float64 can prove here: {worst + slack:g}")
    error = Measured(max(0.0, seen - slack), worst + slack, Kind.EXACT)
    splines = sum(4 * (n + 2) for n in counts)
    weights = 2 * splines + total * (1 + 8 * (dimension - 1))
    return Built.counted(module, error, weights, splines + 4 * total * (dimension - 1) + 1)
