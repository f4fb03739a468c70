"""Deep ReLU networks for smooth functions: squares by sawtooths, products by squares, Taylor polynomials by products.

Source of all statements here: Yarotsky 2017 (Neural Networks 94), "Error bounds for approximations with deep ReLU networks";
Wu's deck, "Approximation of deep ReLU network".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nonvacuous.approximation.circuit import Affine, Circuit, UnitNetwork
from nonvacuous.core.errors import InvalidInput

#: Beyond this the square is exact in float64.
FINEST = 26


class Squaring(nn.Module):
    """f_m(x) = x − Σ_{s≤m} tri^s(x)/4^s, elementwise: interpolates x² on [0, 1] at the multiples of 2^−m.

    0 ≤ f_m(x) − x² ≤ 2^(−2m−2), attained halfway between neighbouring multiples; f_m(0) = 0, f_m(1) = 1, f_m ≤ 1 on [0, 1].

    Source: Yarotsky 2017, Proposition 2.

    >>> Squaring(3)(torch.tensor([0.5, 0.0625], dtype=torch.float64)).tolist()  # 1/256 = 2⁻⁸ too much
    [0.25, 0.0078125]
    """

    def __init__(self, m: int) -> None:
        super().__init__()
        if not 1 <= m <= FINEST:
            raise InvalidInput(f"m lies in 1 … {FINEST} (error 2^(−2m−2); more is below float64's resolution); got {m}")
        self.m = m

    @property
    def bound(self) -> float:
        """2^(−2m−2), the exact sup error on [0, 1]."""
        return 0.25 ** (self.m + 1)

    def forward(self, x: Tensor) -> Tensor:
        square, tooth = x, x
        for s in range(1, self.m + 1):
            tooth = 2 * tooth.relu() - 4 * (tooth - 0.5).relu()
            square = square - tooth * 0.25**s
        return square

    def on(self, circuit: Circuit, x: Affine) -> Affine:
        """The same as units of a circuit."""
        square, tooth = x, x
        for s in range(1, self.m + 1):
            tooth = 2 * circuit.relu(tooth) - 4 * circuit.relu(tooth - 0.5)
            square = square - tooth * 0.25**s
        return square


class Product(nn.Module):
    """×̃(a, b) = f_m(|a + b|/2) − f_m(|a − b|/2), elementwise: within 2^(−2m−2) of ab for |a|, |b| ≤ 1, and 0 where a or b is.

    It maps [−1, 1]² into [−1, 1], so products may be chained.  Yarotsky's Proposition 3 takes three squares, of a + b, a and b,
    with a factor printed as M²/8 that must be 2M² (at a = b = M the printed form gives M²/16); two squares do.

    >>> Product(4)(torch.tensor(0.5), torch.tensor([0.0, -0.5, 1.0])).tolist()
    [0.0, -0.25, 0.5]
    """

    def __init__(self, m: int) -> None:
        super().__init__()
        self.square = Squaring(m)

    @property
    def bound(self) -> float:
        """2^(−2m−2): both squares are too large, by that much at most."""
        return self.square.bound

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        product: Tensor = self.square((a + b).abs() / 2) - self.square((a - b).abs() / 2)
        return product

    def on(self, circuit: Circuit, a: Affine, b: Affine) -> Affine:
        """The same as units of a circuit, its value in a unit of its own: relu(×̃ + 1) − 1."""

        def half(c: Affine) -> Affine:
            return self.square.on(circuit, circuit.relu(c * 0.5) + circuit.relu(c * -0.5))

        return circuit.relu(half(a + b) - half(a - b) + 1.0) - 1.0


class Polynomial(nn.Module):
    """Σ_k c_k x^k on [−1, 1], elementwise, powers by ×̃: off by at most Σ_k |c_k|(k − 1) 2^(−2m−2) and rounding.

    The error of x̃^{k+1} = ×̃(x̃^k, x) is that of ×̃ and |x| times that of x̃^k.  Parameters ``coefficients``, c_0 first.

    >>> cubic = Polynomial([1.0, 0.0, 0.0, -2.0], m=8)
    >>> bool((cubic(torch.tensor(0.3, dtype=torch.float64)) - (1 - 2 * 0.3**3)).abs() <= cubic.bound)
    True
    """

    def __init__(self, coefficients: Sequence[float], m: int) -> None:
        super().__init__()
        if not coefficients or not all(math.isfinite(c) for c in coefficients):
            raise InvalidInput(f"a polynomial has finite coefficients, c_0 first; got {list(coefficients)}")
        self.coefficients = nn.Parameter(torch.tensor(list(coefficients), dtype=torch.float64))
        self.product = Product(m)

    @property
    def bound(self) -> float:
        """Sup error on [−1, 1], rounding included."""
        sizes = self.coefficients.detach().abs().tolist()
        return sum(c * max(0, k - 1) for k, c in enumerate(sizes)) * self.product.bound + sum(sizes) * len(sizes) * 2.0**-49

    def forward(self, x: Tensor) -> Tensor:
        power, total = torch.ones_like(x), self.coefficients[0].expand_as(x)
        for k, c in enumerate(self.coefficients[1:], 1):
            power = x if k == 1 else self.product(power, x)
            total = total + c * power
        return total


MultiIndex = tuple[int, ...]


def multi_indices(d: int, below: int) -> list[MultiIndex]:
    """All α ∈ ℕ^d with |α| < ``below``, each after those it can be reached from by adding one."""
    every = itertools.product(range(below), repeat=d)
    return sorted((alpha for alpha in every if sum(alpha) < below), key=lambda alpha: (sum(alpha), alpha))


def parent(alpha: MultiIndex) -> tuple[MultiIndex, int]:
    """α − e_k and k, for the last k with α_k > 0."""
    k = max(i for i, a in enumerate(alpha) if a)
    return tuple(a - (i == k) for i, a in enumerate(alpha)), k


class LocalPolynomials(nn.Module):
    """Σ_v ψ_v(x) Σ_α c_{v,α} u^α, products by ×̃: ``[n, d]`` → ``[n]``; Parameters ``coefficients`` [(N+1)^d, number of α].

    v runs over the grid {0, 1/N, …, 1}^d; ψ_v(x) = ∏_k ψ(3N(x_k − v_k)) with the trapezoid ψ(t) = 1 for |t| ≤ 1, 0 for |t| ≥ 2;
    Σ_v ψ_v = 1.  u = (3N/2)(x − v), clipped to [−1, 1], which it reaches where ψ_v vanishes.  The chain of products starts
    with the trapezoids, so a cell away from x contributes exactly 0 (×̃(0, ·) = 0), and forward computes the 2^d others only.
    """

    def __init__(self, coefficients: Tensor, cells: int, indices: Sequence[MultiIndex], m: int) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(coefficients)
        self.cells, self.indices, self.product = cells, list(indices), Product(m)

    def forward(self, x: Tensor) -> Tensor:
        d = x.shape[1]
        near = (x.detach() * self.cells).floor().long().clamp(0, self.cells - 1)
        corners = torch.tensor(list(itertools.product((0, 1), repeat=d)), device=x.device)
        vertex = near[:, None, :] + corners
        strides = torch.tensor([(self.cells + 1) ** (d - 1 - k) for k in range(d)], device=x.device)
        chosen = self.coefficients[(vertex * strides).sum(2)]
        t = 3 * self.cells * x[:, None, :] - 3 * vertex.to(x.dtype)
        bump = (2 - t.abs()).relu() - (1 - t.abs()).relu()
        u = (t / 2 + 1).relu() - (t / 2 - 1).relu() - 1
        weight = bump[..., 0]
        for k in range(1, d):
            weight = self.product(weight, bump[..., k])
        terms: dict[MultiIndex, Tensor] = {(0,) * d: weight}
        for alpha in self.indices[1:]:
            before, k = parent(alpha)
            terms[alpha] = self.product(terms[before], u[..., k])
        return (chosen * torch.stack([terms[alpha] for alpha in self.indices], 2)).sum((1, 2))

    def circuit(self, vertices: Sequence[int] | None = None) -> UnitNetwork:
        """The network unit by unit, for some of the vertices (all by default)."""
        d = len(self.indices[0])
        circuit, total = Circuit(d), Affine({})
        grid = list(itertools.product(range(self.cells + 1), repeat=d))
        for number in range(len(grid)) if vertices is None else vertices:
            bump, u = [], []
            for x, v in zip(circuit.inputs, grid[number], strict=True):
                t = x * (3.0 * self.cells) - 3.0 * v
                size = circuit.relu(t) + circuit.relu(-t)
                bump.append(circuit.relu(2.0 - size) - circuit.relu(1.0 - size))
                if len(self.indices) > 1:
                    u.append(circuit.relu(t * 0.5 + 1.0) - circuit.relu(t * 0.5 - 1.0) - 1.0)
            weight = bump[0]
            for other in bump[1:]:
                weight = self.product.on(circuit, weight, other)
            terms = {(0,) * d: weight}
            row = self.coefficients.detach()[number].tolist()
            for alpha, coefficient in zip(self.indices, row, strict=True):
                if any(alpha):
                    before, k = parent(alpha)
                    terms[alpha] = self.product.on(circuit, terms[before], u[k])
                total = total + terms[alpha] * coefficient
        return circuit.network(total)
