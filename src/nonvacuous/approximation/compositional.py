"""The curse of dimensionality, measured, and the compositional functions by which deep networks escape it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from torch import Tensor, nn

from nonvacuous.approximation.euler import loglog_slope
from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.student import mean_interval

MOST_DIMENSIONS, MOST_SMOOTHNESS = 3, 4
MOST_POINTS = 20_000_000
#: Bias of a slope fitted at finite n, where the interval knows only the scatter between targets.
FINITE_SIZE = 0.01


@dataclass(frozen=True)
class Rate:
    """Slope of log error against log n over several random targets, with Student's 95% interval for their mean slope.

    Attributes:
        what: ``approximation`` (n numbers), ``learning`` (n samples without noise) or ``noisy learning``.
        s, d: derivatives used, and dimension.
        sizes: n. errors: root mean square errors, one row a target.
        slope, low, high: mean over targets and its interval, an indicator: slopes at finite n also carry a bias.
        expected: what theory says of the root mean square error.
    """

    what: str
    s: int
    d: int
    sizes: tuple[int, ...]
    errors: tuple[tuple[float, ...], ...]
    slope: float
    low: float
    high: float
    expected: float

    @property
    def agrees(self) -> bool:
        """Whether theory's slope lies in the interval, widened by `FINITE_SIZE` for the bias of slopes at finite n."""
        return self.low - FINITE_SIZE <= self.expected <= self.high + FINITE_SIZE

    def row(self) -> str:
        """One line of :func:`table`."""
        size = f"{self.sizes[0]:,}…{self.sizes[-1]:,}"
        interval = f"[{self.low:.3f}, {self.high:.3f}]"
        return f"{self.what:<15} {self.s:>2} {self.d:>2} {size:>20} {self.slope:>8.3f}  {interval:<16} {self.expected:>8.3f}"


def table(rates: Sequence[Rate]) -> str:
    """Plain text, one rate a line."""
    return "\n".join(
        [f"{'':<15} {'s':>2} {'d':>2} {'n':>20} {'slope':>8}  {'95% interval':<16} {'theory':>8}", *(r.row() for r in rates)]
    )


def random_target(d: int, seed: int, waves: int = 5) -> Callable[[Tensor], Tensor]:
    """A sum of cosine waves on [0, 1]^d with random directions, phases and heights: ``[n, d]`` → ``[n]``, smooth of every order."""
    g = torch.Generator().manual_seed(seed)
    direction = torch.randn(waves, d, generator=g, dtype=torch.float64)
    frequency = (
        3.0
        * direction
        / direction.norm(dim=1, keepdim=True)
        * (0.7 + 0.6 * torch.rand(waves, 1, generator=g, dtype=torch.float64))
    )
    phase = 2 * math.pi * torch.rand(waves, generator=g, dtype=torch.float64)
    height = torch.randn(waves, generator=g, dtype=torch.float64) / math.sqrt(waves)
    return lambda x: (x @ frequency.T + phase).cos() @ height


def approximation_rate(s: int, d: int, cells: Sequence[int] | None = None, targets: int = 6, seed: int = 0) -> Rate:
    """Root mean square error of the best piecewise polynomials of degree s − 1 on k^d cubes, against their n = k^d·C(s−1+d, d) numbers.

    Jackson: error O(k^−s) = O(n^(−s/d)) for s derivatives, and no continuous choice of n parameters does better on the whole class
    (DeVore, Howard and Micchelli 1989).  This is the rate 1/n^(s/d) of Zhang's deck.

    Args:
        s: derivatives used, 1 to 4; d: dimension, 1 to 3; cells: k, increasing.

    Raises:
        InvalidInput: arguments out of range, or more than 2·10⁷ evaluations.
    """
    _check(s, d, targets)
    cells = _cells(cells or {1: (16, 32, 64, 128), 2: (8, 12, 18, 27), 3: (6, 8, 11, 15)}[d])
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(s + 2))
    local = torch.cartesian_prod(*[nodes] * d).reshape(-1, d)
    mass = torch.cartesian_prod(*[weights / 2] * d).reshape(len(local), d).prod(1)
    _check_points(max(cells) ** d * len(local))
    basis = _monomials(local, s)
    fit = torch.linalg.qr(mass.sqrt()[:, None] * basis).Q  # orthonormal in the cell
    sizes, errors = [k**d * basis.shape[1] for k in cells], []
    for number in range(targets):
        f, row = random_target(d, seed * 1000 + number), []
        for k in cells:
            corner = torch.cartesian_prod(*[torch.arange(k, dtype=torch.float64)] * d).reshape(-1, 1, d)
            values = f(((corner + (local + 1) / 2) / k).reshape(-1, d)).reshape(-1, len(local)) * mass.sqrt()
            row.append(float((values - values @ fit @ fit.T).square().sum(1).mean().sqrt()))
        errors.append(row)
    return _rate("approximation", s, d, sizes, errors, -s / d)


def learning_rate(
    s: int, d: int, noise: float = 0.0, cells: Sequence[int] | None = None, targets: int = 6, seed: int = 0
) -> Rate:
    """Root mean square error, on fresh points, of local polynomial regression on n uniform samples y = f(x) + noise·N(0, 1).

    *Without noise* n = 12·C(s−1+d, d)·k^d samples for k^d cells: n^(−s/d), the deck's rate (up to logarithms when cells are as
    small as they can be).  *With noise* n^(−s/d) is **not** attainable: the minimax root mean square error is n^(−s/(2s+d)), squared
    n^(−2s/(2s+d)) (Stone 1982), reached here by k = n^(1/(2s+d)) cells a side.

    Raises:
        InvalidInput: as :func:`approximation_rate`, or a negative noise.
    """
    _check(s, d, targets)
    if not (noise >= 0 and math.isfinite(noise)):
        raise InvalidInput(f"noise is a standard deviation ≥ 0; got {noise}")
    terms = math.comb(s - 1 + d, d)
    default = {1: (8, 16, 32, 64), 2: (6, 10, 16, 24), 3: (4, 6, 8, 11)}[d]
    if noise:
        most = 150_000 ** (1 / (2 * s + d))
        default = tuple(sorted({max(2, round(most * r)) for r in (0.4, 0.55, 0.75, 1.0)}))
    cells = _cells(cells or default)
    sizes = [round(12 * terms * k**d) if not noise else 2 * k ** (2 * s + d) for k in cells]
    _check_points(max(sizes) * terms)
    errors = []
    for number in range(targets):
        f, row = random_target(d, seed * 1000 + number), []
        g = torch.Generator().manual_seed(seed * 1000 + number)
        for k, n in zip(cells, sizes, strict=True):
            x = torch.rand(n, d, generator=g, dtype=torch.float64)
            y = f(x) + noise * torch.randn(n, generator=g, dtype=torch.float64)
            fresh = torch.rand(20_000, d, generator=g, dtype=torch.float64)
            row.append(float((_regression(x, y, fresh, k, s) - f(fresh)).square().mean().sqrt()))
        errors.append(row)
    what, expected = ("noisy learning", -s / (2 * s + d)) if noise else ("learning", -s / d)
    return _rate(what, s, d, sizes, errors, expected)


def _regression(x: Tensor, y: Tensor, fresh: Tensor, k: int, s: int) -> Tensor:
    """Least squares in each of k^d cells (a trace of ridge where a cell is nearly empty)."""

    def placed(points: Tensor) -> tuple[Tensor, Tensor]:
        cell = (points * k).long().clamp_max(k - 1)
        index = torch.zeros(len(points), dtype=torch.long)
        for axis in range(points.shape[1]):
            index = index * k + cell[:, axis]
        return index, _monomials(2 * (points * k - cell) - 1, s)

    index, basis = placed(x)
    terms, count = basis.shape[1], k ** x.shape[1]
    gram = torch.zeros(count, terms, terms, dtype=torch.float64).index_add_(0, index, basis[:, :, None] * basis[:, None])
    right = torch.zeros(count, terms, dtype=torch.float64).index_add_(0, index, basis * y[:, None])
    weights = torch.linalg.solve(gram + 1e-9 * torch.eye(terms, dtype=torch.float64), right)
    index, basis = placed(fresh)
    return (basis * weights[index]).sum(1)


def _monomials(x: Tensor, s: int) -> Tensor:
    """All monomials of degree < s in the columns of x, ``[n, C(s−1+d, d)]``."""
    columns = [torch.ones(len(x), dtype=torch.float64)]
    for degree in range(1, s):
        columns += [x[:, list(which)].prod(1) for which in combinations_with_replacement(range(x.shape[1]), degree)]
    return torch.stack(columns, 1)


def _check(s: int, d: int, targets: int) -> None:
    if not (1 <= s <= MOST_SMOOTHNESS and 1 <= d <= MOST_DIMENSIONS):
        raise InvalidInput(
            f"s is 1 to {MOST_SMOOTHNESS} and d 1 to {MOST_DIMENSIONS}; got s = {s}, d = {d}: a grid has k^d cells"
        )
    if targets < 2:
        raise InvalidInput(f"an interval takes at least 2 targets; got {targets}")


def _cells(cells: Sequence[int]) -> list[int]:
    if len(set(cells)) < 2 or min(cells) < 1:
        raise InvalidInput(f"cells are at least two different numbers ≥ 1 a side; got {list(cells)}")
    return list(cells)


def _check_points(count: int) -> None:
    if count > MOST_POINTS:
        raise InvalidInput(f"{count:,} evaluations at a time are more than {MOST_POINTS:,}: fewer cells, or a smaller s or d")


def _rate(what: str, s: int, d: int, sizes: Sequence[int], errors: list[list[float]], expected: float) -> Rate:
    slopes = torch.tensor([loglog_slope(sizes, row)[0] for row in errors], dtype=torch.float64)
    ends = mean_interval(slopes, 0.95)
    return Rate(what, s, d, tuple(sizes), tuple(map(tuple, errors)), float(slopes.mean()), ends.lower, ends.upper, expected)


def on_tree(x: Tensor, g: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """g(g(x_1, x_2), g(x_3, x_4)) and so on up a binary tree: ``[n, d]`` → ``[n]``, d a power of two."""
    _check_leaves(x.shape[1])
    while x.shape[1] > 1:
        x = g(x[:, 0::2], x[:, 1::2])
    return x[:, 0]


def node(a: Tensor, b: Tensor) -> Tensor:
    """tanh(5ab/2 − a + b), a constituent function of two variables."""
    return torch.tanh(2.5 * a * b - a + b)


def _check_leaves(d: int) -> None:
    if d < 2 or d & (d - 1):
        raise InvalidInput(f"a binary tree has 2, 4, 8, … leaves; got {d} inputs")


class TreeNetwork(nn.Module):
    """The binary tree as a network: d − 1 nodes 2 → width → 1 with ReLU; ``[n, d]`` → ``[n]``, (d − 1)(4·width + 1) numbers."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        _check_leaves(inputs)
        nodes = inputs - 1
        self.inner = nn.Parameter(0.8 * torch.randn(nodes, 2, width))
        self.bias = nn.Parameter(0.5 * torch.randn(nodes, 1, width))
        self.outer = nn.Parameter(torch.randn(nodes, width, 1) / math.sqrt(width))
        self.offset = nn.Parameter(torch.zeros(nodes, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """All nodes of a level at once."""
        values, first = x.T[:, :, None], 0
        while len(values) > 1:
            here = slice(first, first + len(values) // 2)
            pairs = torch.cat([values[0::2], values[1::2]], 2)
            hidden = torch.baddbmm(self.bias[here], pairs, self.inner[here]).relu()
            values, first = torch.baddbmm(self.offset[here], hidden, self.outer[here]), here.stop
        return values[0, :, 0]


class ShallowNetwork(nn.Module):
    """One hidden layer of ReLUs, ``[n, d]`` → ``[n]``, (d + 2)·width + 1 numbers."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(inputs, width), nn.Linear(width, 1)
        with torch.no_grad():
            self.inner.weight.normal_(0, 1.5 / math.sqrt(inputs))
            self.inner.bias.normal_(0, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Value of the network."""
        return self.outer(self.inner(x).relu())[:, 0]


@dataclass(frozen=True)
class Comparison:
    """Sizes of a deep and a shallow network, and for each seed the root mean square test error relative to the target's deviation."""

    deep_parameters: int
    shallow_parameters: int
    deep: tuple[float, ...]
    shallow: tuple[float, ...]


def compare(
    inputs: int = 8,
    width: int = 20,
    *,
    g: Callable[[Tensor, Tensor], Tensor] = node,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 1500,
    batch: int = 256,
    learning_rate: float = 1e-2,
) -> Comparison:
    """Train a deep tree network and a shallow one with as many numbers on the tree-like target, alike, on fresh samples of [−1, 1]^d.

    For constituent functions with s derivatives, deep networks of the target's shape need O((d − 1)·ε^(−2/s)) units, shallow ones
    O(ε^(−d/s)), which cannot be improved for functions that are merely smooth: Poggio, Mhaskar, Rosasco, Miranda and Liao, 2017,
    Theorems 1 and 2.  (The shallow rate is an upper bound; that of a given compositional function may be better.)  Same optimizer,
    steps, batches and schedule for both; the shallow network gets at least as many numbers.

    Raises:
        InvalidInput: inputs not a power of two, or no seeds, width or steps.
    """
    _check_leaves(inputs)
    if not seeds or width < 1 or steps < 1:
        raise InvalidInput("compare needs at least one seed, unit and step")
    numbers = (inputs - 1) * (4 * width + 1)
    hidden = math.ceil((numbers - 1) / (inputs + 2))
    deep: list[float] = []
    shallow: list[float] = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            for make, found in ((lambda: TreeNetwork(inputs, width), deep), (lambda: ShallowNetwork(inputs, hidden), shallow)):
                torch.default_generator.manual_seed(seed)
                found.append(_trained(make(), inputs, g, seed, steps, batch, learning_rate))
    return Comparison(numbers, (inputs + 2) * hidden + 1, tuple(deep), tuple(shallow))


def _trained(
    net: nn.Module, inputs: int, g: Callable[[Tensor, Tensor], Tensor], seed: int, steps: int, batch: int, learning_rate: float
) -> float:
    samples = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = 2 * torch.rand(batch, inputs, generator=samples) - 1
        optimizer.zero_grad()
        (net(x) - on_tree(x, g)).square().mean().backward()
        optimizer.step()
        schedule.step()
    x = 2 * torch.rand(20_000, inputs, generator=samples) - 1
    with torch.no_grad():
        y = on_tree(x, g)
        return float(((net(x) - y).square().mean() / y.var()).sqrt())
