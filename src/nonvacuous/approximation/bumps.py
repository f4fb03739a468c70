"""Universal approximation by bumps, with an error that is certified and not only sampled."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nonvacuous.approximation import enclosure
from nonvacuous.approximation.built import Built
from nonvacuous.approximation.hinges import HingeSum
from nonvacuous.approximation.spikes import SpikeGrid, spike_cost
from nonvacuous.approximation.targets import ROUNDING, Box, Target, as_box, check_accuracy, check_slope, values
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured

#: Bumps beyond which a builder refuses: about 1 GB while it is being built.
MOST_BUMPS = 10_000_000


def rect(x: Tensor, a: float, b: float, h: float, ramp: float = 1e-7) -> Tensor:
    """Height h on [a + ramp, b], 0 outside [a, b + ramp], linear between: four ReLUs, as on the slide, elementwise.

    The slide's ramp of 1e-7 in floating point: x − a and x − (a + ramp) are each rounded to ulp(x − a)/2, and h/ramp = 1e7 h
    magnifies that.  In float64 the plateau is off by up to about 4·2⁻⁵³·|x − a|·h/ramp, 4e-9·h at distance 1, and the bump
    is not exactly 0 to its right, but of that size; so 10⁵ such bumps leave noise of 1e-4·h.  In float32 that factor is 2h:
    the bump is noise.  Where ulp(a) > 2·ramp (|a| > 1e9 in float64, a ≥ 2 in float32) a + ramp is a, and the bump is zero.
    None of this happens with ramp, a and b on a dyadic grid, which is what :func:`approximate` uses.

    Source: Ollion and Grisel, "Approximation with ReLU nets".

    >>> rect(torch.tensor([0.5, 1.0, 1.125, 2.0]), 0.0, 1.0, 1.5, ramp=0.25).tolist()
    [1.5, 1.5, 0.75, 0.0]
    """
    return h / ramp * ((x - a).relu() - (x - (a + ramp)).relu() - (x - b).relu() + (x - (b + ramp)).relu())


def approximate(
    f: Target, domain: Sequence[float] | Sequence[Sequence[float]], eps: float, *, lipschitz: float | None = None
) -> Built:
    """A ReLU network within ``eps`` of f everywhere on ``domain``: an interval ``(a, b)``, or a box of up to three.

    *One dimension.*  Flat bumps of width w = 2·eps/L whose ramps overlap: on the ramp between two of them the network passes
    linearly from f(m) to f(m + w), so that |f − network| ≤ L·w/2 there too; N = L(b − a)/(2·eps) bumps, one hidden layer of
    2(N + 1) units (neighbours share their ReLUs).  *Two and three dimensions.*  Pyramids over the vertices of a grid of
    width w (:mod:`nonvacuous.approximation.spikes`), |f − network| ≤ L·w·√d/2, one to two hidden layers more.

    ``error`` is EXACT: its upper end follows from the samples of f that were taken and from the Lipschitz constant, between
    samples as well, with rounding on top; its lower end is the largest error seen.  It is as true as ``lipschitz`` is
    (Euclidean norm).  A constant that samples contradict is refused with the two points; one that is wrong between all samples
    cannot be found out by any number of them.  Without ``lipschitz``, the constant is *proved* by interval arithmetic, which
    takes an f written in torch operations (:mod:`nonvacuous.approximation.enclosure`).  The values that f computes in float64
    are taken for f, up to a relative 2⁻⁴⁸.

    Args:
        f: ``[n]`` → ``[n]`` elementwise in one dimension, ``[n, d]`` → ``[n]`` above.
        domain: ``(a, b)``, or a sequence of such pairs.
        eps: sup error to reach.
        lipschitz: a constant L with |f(x) − f(y)| ≤ L‖x − y‖₂.

    Raises:
        InvalidInput: f not finite or not L-Lipschitz at its samples (said where; jumps are named as such), eps not positive or
            below float64's resolution, more than three dimensions, or more than 10⁷ bumps.

    Source: Ollion and Grisel's deck; Cybenko 1989, Hornik 1991, and for ReLU Sonoda and Murata 2015 prove density; the
    constants here are elementary (proofs above, and in `spikes`).

    >>> built = approximate(torch.cos, (0.0, 3.0), 0.01, lipschitz=1.0)
    >>> built.error.upper <= 0.01, len(built.module.knots)  # 150 bumps
    (True, 304)
    """
    box = as_box(domain, most=3)
    probe = _probe(box)
    sampled = values(f, probe[:, 0] if len(box) == 1 else probe)
    check_accuracy(eps, max(float(sampled.abs().max()), *(abs(end) * (lipschitz or 0.0) * 2**-8 for ab in box for end in ab)))
    if lipschitz is None:
        lipschitz = enclosure.lipschitz(f, box)
    if not (math.isfinite(lipschitz) and lipschitz >= 0):
        raise InvalidInput(f"a Lipschitz constant is a finite number ≥ 0; got {lipschitz}")
    scale = float(sampled.abs().max()) + lipschitz * math.dist(*zip(*box, strict=True))
    budget = eps * (1 - 2**-10) - 2 * ROUNDING * scale
    if budget <= eps / 2:
        check_accuracy(eps, max(scale, eps * 2.0**43))
    return _on_interval(f, box[0], eps, budget, lipschitz) if len(box) == 1 else _on_box(f, box, eps, budget, lipschitz)


def _probe(box: Box, per_axis: int = 17) -> Tensor:
    """A coarse grid that holds the corners."""
    axes = [torch.linspace(a, b, per_axis, dtype=torch.float64).clamp(a, b) for a, b in box]
    return torch.cartesian_prod(*axes).reshape(-1, len(box))


def _grid(a: float, b: float, width: float, bits: int) -> tuple[float, float, int]:
    """Origin ≤ a, step ≤ width and number of steps that cover [a, b], multiples of about step·2^−bits, exact in float64."""
    width = min(width, b - a)
    unit = 2.0 ** (math.floor(math.log2(width)) - bits)
    step = math.floor(width / unit) * unit
    origin = math.floor(a / unit) * unit
    if max(abs(origin), abs(b)) > 2.0**50 * unit:
        raise InvalidInput(
            f"bumps of width {width:.3g} cannot be told apart in float64 at {max(abs(a), abs(b)):.6g}: shift the domain to 0"
        )
    return origin, step, max(1, math.ceil((b - origin) / step))


def _check_count(count: int, eps: float) -> None:
    if count > MOST_BUMPS:
        raise InvalidInput(
            f"eps = {eps:g} takes {count:.3g} bumps, more than {MOST_BUMPS:,}: a larger eps, or a smaller domain"
        )


def _on_interval(f: Target, ends: tuple[float, float], eps: float, budget: float, lipschitz: float) -> Built:
    a, b = ends
    width = 2 * budget / lipschitz if lipschitz else b - a
    _check_count(math.ceil((b - a) / width), eps)
    origin, width, count = _grid(a, b, width, bits=9)
    edges = origin + width * torch.arange(count + 1, dtype=torch.float64)
    middles = ((edges[:-1] + edges[1:]) / 2).clamp(a, b)
    heights = values(f, middles)
    largest = float(heights.abs().max())
    unit = 2.0 ** (math.ceil(math.log2(largest)) - 50) if largest else 1.0
    heights = (heights / unit).round() * unit
    ramp = 2.0 ** (math.floor(math.log2(width)) - 3)
    begin = torch.cat([edges[:1] - ramp, edges[1:-1] - ramp / 2, edges[-1:]])
    jumps = torch.cat([heights[:1], heights.diff(), -heights[-1:]]) / ramp
    module = HingeSum(torch.stack([begin, begin + ramp], 1).reshape(-1), torch.stack([jumps, -jumps], 1).reshape(-1))
    knots = module.knots.detach()
    points = torch.cat([torch.tensor([a, b], dtype=torch.float64), knots[(knots > a) & (knots < b)], middles]).unique()
    error = _certified(f, module, points, lipschitz)
    if error.upper > eps:
        raise InvalidInput(f"eps = {eps:g} is below what float64 can prove here: {error.upper:g}")
    return Built.counted(module, error, weights=2 * len(knots), units=len(knots) + 1)


def _certified(f: Target, module: HingeSum, points: Tensor, lipschitz: float) -> Measured:
    """sup |f − module| on [points[0], points[-1]] where the module is affine between neighbouring points and f is L-Lipschitz.

    Between x_0 and x_1, f lies below min(f_0 + L(x − x_0), f_1 + L(x_1 − x)) and above the mirror image; the difference with
    an affine function is largest at an end or at the kink of that envelope.
    """
    y = values(f, points)
    check_slope(f, points[:-1], y[:-1], points[1:], y[1:], lipschitz)
    with torch.no_grad():
        net = module(points)
    gap, seen = points.diff(), float((y - net).abs().max())
    worst = seen
    if lipschitz and len(gap):
        lean = (y.diff() / (2 * lipschitz)).clamp(-gap / 2, gap / 2)
        for sign in (1.0, -1.0):
            place = gap / 2 + sign * lean
            envelope = sign * (y[:-1] + y[1:]) / 2 + lipschitz * gap / 2
            affine = net[:-1] + net.diff() * (place / gap)
            worst = max(worst, float((envelope - sign * affine).max()))
    scale = float(y.abs().max() + net.abs().max()) + lipschitz * float(gap.max() if len(gap) else 0.0)
    slack = ROUNDING * scale + lipschitz * float(points.abs().max()) * 2.0**-51
    return Measured(max(0.0, seen - slack), worst + slack, Kind.EXACT)


def _on_box(f: Target, box: Box, eps: float, budget: float, lipschitz: float) -> Built:
    dimension = len(box)
    width = 2 * budget / (lipschitz * math.sqrt(dimension)) if lipschitz else max(b - a for a, b in box)
    _check_count(math.prod(math.ceil((b - a) / width) + 1 for a, b in box), eps)
    grids = [_grid(a, b, width, bits=9) for a, b in box]
    axes = [
        (o + w * torch.arange(n + 1, dtype=torch.float64)).clamp(a, b) for (o, w, n), (a, b) in zip(grids, box, strict=True)
    ]
    vertices = torch.cartesian_prod(*axes)
    heights = values(f, vertices).reshape([len(axis) for axis in axes])
    places = vertices.reshape(*heights.shape, dimension)
    for axis in range(dimension):
        last = heights.shape[axis] - 1
        one, two = places.narrow(axis, 0, last).reshape(-1, dimension), places.narrow(axis, 1, last).reshape(-1, dimension)
        before, after = heights.narrow(axis, 0, last).reshape(-1), heights.narrow(axis, 1, last).reshape(-1)
        check_slope(f, one, before, two, after, lipschitz)
    step = torch.tensor([w for _, w, _ in grids], dtype=torch.float64)
    origin = torch.tensor([o for o, _, _ in grids], dtype=torch.float64)
    module = SpikeGrid(heights, origin, step)
    middles = torch.cartesian_prod(*((axis[:-1] + axis[1:]) / 2 for axis in axes))
    inside = values(f, middles)
    corner = places[tuple(slice(0, n) for *_, n in grids)].reshape(-1, dimension)
    check_slope(f, corner, heights[tuple(slice(0, n) for *_, n in grids)].reshape(-1), middles, inside, lipschitz)
    with torch.no_grad():
        seen = max(float((module(middles) - inside).abs().max()), float((module(vertices) - heights.reshape(-1)).abs().max()))
    bound = lipschitz * float(step.square().sum().sqrt()) / 2
    slack = ROUNDING * float(heights.abs().max()) + lipschitz * float(vertices.abs().max() + bound) * 2.0**-49
    if bound + slack > eps:
        raise InvalidInput(f"eps = {eps:g} is below what float64 can prove here: {bound + slack:g}")
    weights, units = spike_cost(heights.shape)
    return Built.counted(module, Measured(max(0.0, seen - slack), bound + slack, Kind.EXACT), weights, units)
