"""Yarotsky's theorem as a builder: a smooth target, given with its derivatives, and ε, to a deep ReLU network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nonvacuous.approximation.built import Built
from nonvacuous.approximation.targets import ROUNDING, Target, check_accuracy, describe, values
from nonvacuous.approximation.yarotsky import FINEST, LocalPolynomials, MultiIndex, Product, multi_indices
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured

#: D^α f at ``[n, d]`` points, as ``[n]``.
Derivatives = Callable[[Tensor, MultiIndex], Tensor]

MOST_SMOOTHNESS = 3
MOST_COEFFICIENTS = 5_000_000


@dataclass(frozen=True)
class Size:
    """A network as Yarotsky counts it: layers on the longest path, units, and weights (connections and biases)."""

    depth: int
    units: int
    weights: int


@dataclass(frozen=True)
class SobolevNetwork(Built):
    """`Built`, with the size by which the theorem is stated."""

    size: Size


def derivatives_of(f: Target) -> Derivatives:
    """D^α f by automatic differentiation of an f that maps ``[n, d]`` to ``[n]`` row by row.

    >>> d = derivatives_of(lambda x: x[:, 0] ** 2 * x[:, 1])
    >>> d(torch.tensor([[3.0, 5.0]]), (1, 1)).tolist()
    [6.0]
    """

    def derivative(x: Tensor, alpha: MultiIndex) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = f(x)
            for k, times in enumerate(alpha):
                for _ in range(times):
                    if not y.requires_grad:
                        return torch.zeros_like(y)
                    (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True, allow_unused=True)
                    if gradient is None:
                        return torch.zeros_like(y).detach()
                    y = gradient[:, k]
        return y.detach()

    return derivative


def cells_and_fineness(n: int, d: int, eps: float, norm: float) -> tuple[int, int]:
    """N and m such that Taylor's remainder and the products' errors are at most eps together (the estimates of :func:`approximate`)."""
    share = 0.75  # of eps, for Taylor's remainder, which is what costs weights
    cells = max(1, math.ceil((2 * d / 3) * (norm / (math.factorial(n) * share * eps)) ** (1 / n)))
    m = 1
    while m < FINEST and taylor_error(n, d, cells, norm) + product_error(n, d, cells, m, norm) > eps * (1 - 2**-20):
        m += 1
    return cells, m


def taylor_error(n: int, d: int, cells: int, norm: float) -> float:
    """norm·(2d/(3N))^n / n!: Taylor's remainder where |x_k − v_k| ≤ 2/(3N); the partition of unity averages it."""
    return norm * (2 * d / (3 * cells)) ** n / math.factorial(n) * (1 + 2**-40)


def product_error(n: int, d: int, cells: int, m: int, norm: float) -> float:
    """2^d Σ_{|α|<n} |c_α| (d + |α| − 1) 2^(−2m−2): each chain of j products is off by j times one; 2^d cells are met at most."""
    total = sum(
        norm * (2 / (3 * cells)) ** sum(alpha) / math.prod(map(math.factorial, alpha)) * (d + sum(alpha) - 1)
        for alpha in multi_indices(d, n)
    )
    return 2**d * total * Product(m).bound * (1 + 2**-40)


def network_size(n: int, d: int, cells: int, m: int) -> Size:
    """Depth, units and weights of the network, counted on one cell's units; all (N + 1)^d are alike.

    Biases that vanish by accident (at vertices on the axes) are counted as if they did not.
    """
    indices = multi_indices(d, n)
    one = LocalPolynomials(torch.ones(2**d, len(indices), dtype=torch.float64), 1, indices, m).circuit([2**d - 1])
    shared, everywhere = int(one.bias[-1] != 0), (cells + 1) ** d  # the output's bias is there once
    return Size(one.depth, everywhere * one.units, everywhere * (one.weights - shared) + shared)


def approximate(derivatives: Derivatives, n: int, d: int, eps: float, *, norm: float = 1.0) -> SobolevNetwork:
    """A deep ReLU network within ``eps`` of f on [0, 1]^d, for f in the ball of radius ``norm`` of W^{n,∞}([0, 1]^d); d, n ≤ 3.

    f is replaced by its Taylor polynomials of degree n − 1 at the vertices of a grid of N cells an axis, joined by a partition
    of unity; products are made of squares, squares of sawtooths (:mod:`nonvacuous.approximation.yarotsky`).  With ψ_v's support
    in |x_k − v_k| ≤ 2/(3N) and Σ ψ_v = 1,

        |f − network| ≤ norm·(2d/(3N))^n/n! + 2^d Σ_{|α|<n} |c_α| (d + |α| − 1) 2^(−2m−2),

    which is Yarotsky's estimate without his factor 2^d and with 2/(3N) for 1/N.  Depth grows as m, so as ln(1/ε); weights as
    N^d m, so as ε^(−d/n) ln(1/ε).  Only ``coefficients`` depend on f: the architecture serves the whole ball.

    ``error`` is EXACT and as true as ``norm``, a bound on all |D^α f|, |α| ≤ n: its upper end is the estimate, its lower end
    the largest error seen on a grid.  Derivatives above ``norm``, and values that contradict the estimate (so that the
    derivatives cannot be those of one f), are refused with the point.

    Args:
        derivatives: ``(x [m, d], α) → [m]``, D^α f for |α| ≤ n; :func:`derivatives_of` makes it from an f written in torch.
        n: smoothness, 1 to 3.
        d: dimension, 1 to 3.
        eps: sup error to reach.
        norm: a bound on ‖f‖ in W^{n,∞}; 1 for the theorem's ball F_{n,d}.

    Raises:
        InvalidInput: as said, n or d out of range (with the cost), eps not positive or too small.

    Source: Yarotsky 2017, Theorem 1.

    >>> built = approximate(derivatives_of(lambda x: torch.sin(x[:, 0])), n=3, d=1, eps=1e-4)
    >>> built.error.upper <= 1e-4, built.size.depth
    (True, 19)
    """
    if not (1 <= n <= MOST_SMOOTHNESS and 1 <= d <= 3):
        raise InvalidInput(
            f"n and d lie in 1 … 3; got n = {n}, d = {d}: the network has about (d/3)^d ε^(−d/n) cells of {math.comb(n + d - 1, d)} "
            "polynomial terms each"
        )
    if not (math.isfinite(norm) and norm > 0):
        raise InvalidInput(f"norm is a positive finite bound on the derivatives; got {norm}")
    check_accuracy(eps, norm)
    cells, m = cells_and_fineness(n, d, eps, norm)
    indices = multi_indices(d, n)
    if (total := (cells + 1) ** d * len(indices)) > MOST_COEFFICIENTS:
        raise InvalidInput(
            f"eps = {eps:g} takes {total:.3g} coefficients, more than {MOST_COEFFICIENTS:,}: choose a larger eps"
        )
    axis = torch.arange(cells + 1, dtype=torch.float64) / cells
    vertices = torch.cartesian_prod(*([axis] * d)).reshape(-1, d)
    columns = []
    for alpha in multi_indices(d, n + 1):
        column = values(lambda x, alpha=alpha: derivatives(x, alpha), vertices)  # type: ignore[misc]
        _check_norm(column, vertices, alpha, norm)
        if sum(alpha) < n:
            columns.append(column * ((2 / (3 * cells)) ** sum(alpha) / math.prod(map(math.factorial, alpha))))
    module = LocalPolynomials(torch.stack(columns, 1), cells, indices, m)
    slack = 64 * ROUNDING * norm * 2**d
    bound = taylor_error(n, d, cells, norm) + product_error(n, d, cells, m, norm) + slack
    if bound > eps:
        raise InvalidInput(f"eps = {eps:g} is below what float64 can prove here: {bound:g}")
    seen = _seen(module, derivatives, d, cells, bound, norm)
    size = network_size(n, d, cells, m)
    plain = Built.counted(module, Measured(max(0.0, seen - slack), bound, Kind.EXACT), size.weights, size.units + 1)
    return SobolevNetwork(plain.module, plain.error, plain.cost, size)


def _check_norm(column: Tensor, x: Tensor, alpha: MultiIndex, norm: float) -> None:
    over = column.abs() - norm * (1 + ROUNDING)
    if float(over.max()) > 0:
        at = int(over.argmax())
        raise InvalidInput(
            f"the derivative of order {alpha} is {float(column[at]):.6g} at ({describe(x[at])}), above norm = {norm:g}: pass "
            f"norm ≥ {float(column.abs().max()):.6g} (a bound for all orders up to n), or scale the target"
        )


def _seen(module: LocalPolynomials, derivatives: Derivatives, d: int, cells: int, bound: float, norm: float) -> float:
    """Largest error at cell centres and quarter points, with the derivatives' norm checked there too."""
    per_axis = min(4 * cells + 1, {1: 20_001, 2: 141, 3: 27}[d])
    axis = (torch.arange(per_axis, dtype=torch.float64) + 0.5) / per_axis
    worst = 0.0
    for x in torch.cartesian_prod(*([axis] * d)).reshape(-1, d).split(4096):
        y = values(lambda x: derivatives(x, (0,) * d), x)
        _check_norm(y, x, (0,) * d, norm)
        with torch.no_grad():
            off = (module(x) - y).abs()
        if float(off.max()) > bound:
            at = int(off.argmax())
            raise InvalidInput(
                f"the derivatives given are not those of one function with norm {norm:g}: at ({describe(x[at])}) the target is "
                f"{float(y[at]):.6g}, further from the Taylor polynomials than they allow, {float(off[at]):.3g} > {bound:.3g}"
            )
        worst = max(worst, float(off.max()))
    return worst
