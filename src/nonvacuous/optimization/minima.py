"""The landscape of deep linear networks: every critical point is a global minimum or a saddle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.optimization.critical_points import RELATIVE, Built, Spectrum, built
from nonvacuous.optimization.critical_search import found
from nonvacuous.optimization.deep_linear import Weights, chain, flat, gradient, matrix
from nonvacuous.optimization.descent import Problem, change, curvature_floor, eigenvalue_near, second_derivative
from nonvacuous.optimization.hypotheses import Condition, Standing, weakest
from nonvacuous.runtime.tasks import progress_bar

MOST_SETS = 1200
DENSE = 700
DRAWS = 4
STEPS = tuple(10.0**-k for k in range(9))
Direction = tuple[Tensor, ...]


class Sort(Enum):
    """What a critical point is."""

    GLOBAL = "global minimum"
    STRICT = "saddle with negative curvature"
    FLAT = "saddle without negative curvature: a curve leads down"
    UNRESOLVED = "neither shown to be global nor shown to be a saddle"


class Verdict(Enum):
    """How a claim of the theorem fared on the points examined."""

    HELD = "held"
    VIOLATED = "violated"
    OPEN = "open: some points could not be decided"
    OUTSIDE = "outside its hypotheses"


@dataclass(frozen=True)
class CriticalPoint:
    """One critical point.

    weights: (W_1, …, W_L). loss, excess: ½‖WX − Y‖² and its distance to the optimum; gradient_norm: Euclidean, over all weights.
    inner_rank: rank of W_H⋯W_2. chosen: the index set of the spectrum, None for a point found by search. curvature: an interval
    that holds the smallest Hessian eigenvalue (built points) or an eigenvalue (found ones). descent: the direction V whose curve
    W + tV leads down; drop: change of the loss at some t ≤ 1 on it, enclosed; order: the power of t with which the loss falls.
    rises: some direction leads up.
    """

    weights: tuple[Tensor, ...]
    loss: float
    excess: float
    gradient_norm: float
    inner_rank: int
    sort: Sort
    chosen: tuple[int, ...] | None
    curvature: Measured | None = None
    descent: Direction | None = None
    drop: Measured | None = None
    order: int | None = None
    rises: bool = True


@dataclass(frozen=True)
class Claim:
    """A statement of the theorem, its verdict here, and what it rests on."""

    statement: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True)
class Landscape:
    """What :func:`analyse_deep_linear` found. optimum: the closed-form least loss; rank: p, the smallest hidden width;
    eigenvalues: of Σ, descending; values: the loss of every index set, ascending.
    """

    optimum: float
    rank: int
    eigenvalues: tuple[float, ...]
    values: tuple[float, ...]
    conditions: tuple[Condition, ...]
    points: tuple[CriticalPoint, ...]
    claims: tuple[Claim, ...]

    def count(self, sort: Sort) -> int:
        """How many of the points are of this sort."""
        return sum(point.sort is sort for point in self.points)

    def __str__(self) -> str:
        tally = Counter(point.sort.value for point in self.points)
        lines = [f"{count} × {name}" for name, count in tally.most_common()]
        lines += [f"({number}) {c.verdict.value}: {c.statement} {c.evidence}" for number, c in enumerate(self.claims, 1)]
        return "\n".join(lines)


def analyse_deep_linear(
    X: Any, Y: Any, widths: Sequence[int], *, starts: int = 8, seed: int = 0, progress: bool = False
) -> Landscape:
    """Critical points of ½‖W_{H+1}⋯W_1 X − Y‖², built from the spectrum and found by search, and the theorem's four claims.

    Theorem. Let XXᵀ and XYᵀ have full rank, d_y ≤ d_x, and Σ = YXᵀ(XXᵀ)⁻¹XYᵀ have d_y distinct eigenvalues. For any depth H ≥ 1
    and any widths, the loss (i) is neither convex nor concave; (ii) every local minimum is global; (iii) every other critical
    point is a saddle; (iv) at a saddle with rank(W_H⋯W_2) = p, the smallest hidden width, the Hessian has a negative eigenvalue.

    Critical values are ½(‖Y‖² − Σ_{i∈I} λ_i) for index sets I of at most p eigenvalues of Σ; the optimum takes the p largest.
    Points are built for every index set (1,200 drawn where there are more) with three factorizations (all inner blocks zero; only
    the outer two; the first two; in turn where there are many sets), each behind a random change of basis, and found by
    minimising the gradient's norm from ``starts`` starts; searches that end elsewhere are left out. A point is a saddle
    when a Hessian eigenvalue is enclosed below zero (Rayleigh quotient, rounding included), or, where the Hessian has none, when
    the loss on an explicit curve is enclosed below the point's. The rank condition in (iv) is needed: with H ≥ 2, inner blocks
    that are all zero leave a positive semidefinite Hessian at a saddle.

    Args:
        X: inputs ``[d_x, n]``, a column an example. Y: targets ``[d_y, n]``.
        widths: hidden widths d_1, …, d_H.
        starts: how many searches; 0 for none. progress: show a bar on stderr.

    Raises:
        InvalidInput: matrices that do not fit, no hidden width, or a width below 1. Data outside the theorem's hypotheses are
            analysed all the same, and its claims marked so.

    Source: Kawaguchi 2016, "Deep learning without poor local minima", Theorem 2.3.

    >>> land = analyse_deep_linear([[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 1.0]], [2, 2], starts=0)
    >>> land.optimum, [c.verdict.value for c in land.claims]
    (0.0, ['held', 'held', 'held', 'held'])
    >>> land.count(Sort.FLAT) > 0  # saddles that only the rank condition excludes
    True
    """
    inputs, targets = matrix(X, "X"), matrix(Y, "Y")
    problem = Problem.of(inputs, targets)
    if not widths or any(isinstance(w, bool) or not isinstance(w, int) or w < 1 for w in widths):
        raise InvalidInput(f"widths are the hidden layers' sizes: at least one, each an integer of at least 1; got {widths!r}")
    all_widths = [len(inputs), *widths, len(targets)]
    rank = min(widths)
    spectrum = Spectrum.of(problem.moments)
    square = problem.moments.square
    optimum = max(0.0, spectrum.value(square, range(min(rank, spectrum.rank))))
    sets = list(spectrum.index_sets(rank))
    conditions = _conditions(inputs, targets, spectrum)
    zeros = list(dict.fromkeys(_zero_blocks(len(all_widths) - 1)))
    chosen = _thinned(sets, MOST_SETS, seed)
    every = len(chosen) * len(zeros) <= MOST_SETS
    with progress_bar(progress) as bar:
        with bar.task("critical points from the spectrum", len(chosen)) as advance:
            points = []
            for k, indices in enumerate(chosen):
                for j, zero in enumerate(zeros):
                    if every or (j - k) % len(zeros) == 0:
                        for draw in range(DRAWS):  # a random block may by chance be nearly orthogonal to the residual
                            own = seed + 7 * k + j + 1_000_003 * draw
                            made = _sorted(built(spectrum, problem.moments, all_widths, indices, zero, own), problem, optimum)
                            if made.sort is not Sort.UNRESOLVED:
                                break
                        points.append(made)
                advance(1)
        if starts:
            with bar.task("critical points by search", None):
                batch = found(problem.moments, all_widths, starts, seed)
            ended = (_examined(tuple(W[i] for W in batch), problem, optimum) for i in range(starts))
            points += [point for point in ended if point is not None]
    values = tuple(sorted(spectrum.value(square, each) for each in sets))
    return Landscape(
        optimum,
        rank,
        tuple(spectrum.eigenvalues.tolist()),
        values,
        conditions,
        tuple(points),
        _claims(points, conditions, rank, len(chosen), len(sets)),
    )


def _zero_blocks(layers: int) -> list[frozenset[int]]:
    return [frozenset(range(layers)), frozenset({0, layers - 1}), frozenset({0, 1})]


def _thinned(sets: list[tuple[int, ...]], most: int, seed: int) -> list[tuple[int, ...]]:
    if len(sets) <= most:
        return sets
    order = torch.randperm(len(sets), generator=torch.Generator().manual_seed(seed))[:most]
    return [sets[i] for i in sorted(order.tolist())]


def _conditions(X: Tensor, Y: Tensor, spectrum: Spectrum) -> tuple[Condition, ...]:
    singular = torch.linalg.svdvals(X)
    full = X.shape[1] >= X.shape[0] and bool(singular[-1] > RELATIVE**0.5 * singular[0])
    cross = torch.linalg.svdvals(X @ Y.mT)
    cross_full = bool(cross[-1] > RELATIVE * cross[0]) if len(cross) else False
    values = spectrum.eigenvalues
    gap = float((values[:-1] - values[1:]).min() / values[0].clamp(min=1e-300)) if len(values) > 1 else 1.0
    return (
        Condition.checked("XXᵀ has full rank", full, f"singular values of X from {singular[-1]:.3g} to {singular[0]:.3g}"),
        Condition.checked("XYᵀ has full rank", cross_full, f"singular values from {cross[-1]:.3g} to {cross[0]:.3g}"),
        Condition.checked("d_y ≤ d_x", len(Y) <= len(X), f"d_y = {len(Y)}, d_x = {len(X)}"),
        Condition.checked("Σ has distinct eigenvalues", gap > 1e-8, f"the least gap is {gap:.3g} of the largest eigenvalue"),
    )


def _facts(weights: tuple[Tensor, ...], problem: Problem, optimum: float) -> dict[str, Any]:
    loss = float(problem.moments.loss(chain(weights)))
    return {
        "weights": weights,
        "loss": loss,
        "excess": loss - optimum,
        "gradient_norm": float(flat(gradient(weights, problem.moments)).norm()),
        "inner_rank": _inner_rank(weights),
    }


def _inner_rank(weights: Weights) -> int:
    """Rank of W_H⋯W_2 (the identity for one hidden layer), singular values below 1e-7 of the layers' norms counting as zero."""
    inner = weights[1:-1]
    if not inner:
        return int(weights[0].shape[0])
    size = 1.0
    for W in inner:
        size *= float(torch.linalg.matrix_norm(W, 2))
    return int((torch.linalg.svdvals(chain(inner)) > 1e-7 * size).sum()) if size else 0


def _flat_or_strict(
    weights: tuple[Tensor, ...], direction: Direction, order: int, drop: Measured, problem: Problem, facts: dict[str, Any]
) -> CriticalPoint:
    """A saddle by its curve; STRICT after all if the whole Hessian, where it is small enough to form, has a negative eigenvalue."""
    near = None
    if flat(weights).numel() <= DENSE:
        near, vector, _ = eigenvalue_near(weights, problem)
        if near.upper < 0:
            direction, order, drop = vector, 2, _drop(weights, vector, problem) or drop
    sort = Sort.STRICT if order == 2 else Sort.FLAT
    rises = _rises(weights, direction, problem)
    return CriticalPoint(sort=sort, curvature=near, descent=direction, drop=drop, order=order, rises=rises, **facts)


def _sorted(point: Built, problem: Problem, optimum: float) -> CriticalPoint:
    facts = _facts(point.weights, problem, optimum) | {"chosen": point.chosen}
    if facts["excess"] <= 1e-9 * (1e-300 + problem.moments.square):
        return CriticalPoint(sort=Sort.GLOBAL, **facts)
    ways = [(point.turn, 2)] if point.turn is not None else []
    if point.grow is not None:
        ways.append((point.grow, point.order))
    for direction, order in ways:
        if order == 2 and (slope := second_derivative(point.weights, direction, problem)).upper < 0:
            floor = min(curvature_floor(point.weights, problem), slope.upper)
            return CriticalPoint(
                sort=Sort.STRICT,
                curvature=Measured(floor, slope.upper, slope.kind),
                descent=direction,
                drop=_drop(point.weights, direction, problem),
                order=2,
                rises=_rises(point.weights, direction, problem),
                **facts,
            )
        if order > 2 and (drop := _drop(point.weights, direction, problem)) is not None:
            return _flat_or_strict(point.weights, direction, order, drop, problem, facts)
    return CriticalPoint(sort=Sort.UNRESOLVED, **facts)


def _drop(weights: Weights, direction: Weights, problem: Problem) -> Measured | None:
    """The change of the loss at the largest of the steps at which it is enclosed below zero."""
    for t in STEPS:
        moved = change(weights, direction, t, problem)
        if moved.upper < 0:
            return moved
    return None


def _rises(weights: Weights, direction: Weights, problem: Problem) -> bool:
    """Some direction leads up: a single layer's, along which the loss is a parabola, or the descent's mirrored in one layer."""
    generator = torch.Generator().manual_seed(0)
    for layer, W in enumerate(weights):
        alone = [torch.zeros_like(V) for V in weights]
        alone[layer] = torch.randn(W.shape, dtype=W.dtype, generator=generator)
        if second_derivative(weights, alone, problem).lower > 0:
            return True
    first = next(k for k, V in enumerate(direction) if float(V.abs().max()) > 0)
    mirrored = [-V if k == first else V for k, V in enumerate(direction)]
    return any(change(weights, mirrored, t, problem).lower > 0 for t in STEPS)


def _examined(weights: tuple[Tensor, ...], problem: Problem, optimum: float) -> CriticalPoint | None:
    """A point found by search: global by its loss, a saddle by an enclosed eigenvalue or by a new rank-one path; else unresolved.

    None where the gradient is not zero: the search ended elsewhere.
    """
    facts = _facts(weights, problem, optimum) | {"chosen": None}
    if facts["gradient_norm"] > 1e-9 * float(problem.moments.cross.norm()):
        return None
    near, direction, values = eigenvalue_near(weights, problem)
    rises = bool(values[-1] > 0)
    if facts["excess"] <= 1e-9 * problem.moments.square:
        return CriticalPoint(sort=Sort.GLOBAL, curvature=near, rises=rises, **facts)
    if near.upper < 0:
        return CriticalPoint(
            sort=Sort.STRICT, curvature=near, descent=direction, drop=_drop(weights, direction, problem), order=2, **facts
        )
    path = _new_rank(weights, problem)
    drop = None if path is None else _drop(weights, path, problem)
    if drop is not None:
        return CriticalPoint(sort=Sort.FLAT, curvature=near, descent=path, drop=drop, order=len(weights), rises=rises, **facts)
    return CriticalPoint(sort=Sort.UNRESOLVED, curvature=near, rises=rises, **facts)


def _new_rank(weights: Weights, problem: Problem) -> Direction | None:
    """V_l = z_l z_{l−1}ᵀ with W_{l+1}z_l ≈ 0 and z_lᵀW_l ≈ 0, ending in the best direction of the residual."""
    residual = -problem.moments.slope(chain(weights))
    left, size, right = torch.linalg.svd(residual, full_matrices=False)
    if not float(size[0]) > 0:
        return None
    ends = [right[0]]
    for W, following in pairwise(weights):
        ends.append(torch.linalg.svd(torch.cat([W.mT, following]))[2][-1])
    ends.append(left[:, 0])
    return tuple(torch.outer(after, before) for before, after in pairwise(ends))


def _claims(
    points: list[CriticalPoint], conditions: tuple[Condition, ...], rank: int, sets: int, of: int
) -> tuple[Claim, ...]:
    met = weakest(conditions) is Standing.MET
    failed = "; ".join(str(c) for c in conditions if c.standing is Standing.FAILED)
    lower = [p for p in points if p.sort in (Sort.STRICT, Sort.FLAT)]
    undecided = [p for p in points if p.sort is Sort.UNRESOLVED]
    pits = [p for p in undecided if p.curvature is not None and p.curvature.lower > 0]
    full = [p for p in lower + undecided if p.inner_rank == rank]

    def claim(statement: str, counter: bool, decided: bool, evidence: str) -> Claim:
        if not met:
            return Claim(statement, Verdict.OUTSIDE, f"{evidence} Outside, since {failed}.")
        return Claim(statement, Verdict.VIOLATED if counter else Verdict.HELD if decided else Verdict.OPEN, evidence)

    examined = f"{len(points)} critical points, from {sets} of {of} index sets and by search"
    rising = sum(p.rises for p in lower)
    flat_ones = sum(p.sort is Sort.FLAT for p in points)
    return (
        claim(
            "The loss is neither convex nor concave.",
            False,
            bool(lower) and any(p.rises for p in lower),
            f"From {len(lower)} critical points the loss falls, from {rising} of them it rises as well.",
        ),
        claim(
            "Every local minimum is global.",
            bool(pits),
            not undecided,
            f"Of {examined}, {len(lower)} are not global, and from each the loss falls; {len(undecided)} are undecided.",
        ),
        claim(
            "Every critical point that is not a global minimum is a saddle.",
            bool(pits),
            not undecided and rising == len(lower),
            f"From {rising} of those {len(lower)} the loss rises as well.",
        ),
        claim(
            f"At a saddle with rank(W_H⋯W_2) = {rank} the Hessian has a negative eigenvalue.",
            any(p.sort is Sort.FLAT for p in full),
            all(p.sort is Sort.STRICT for p in full),
            f"Enclosed below zero at {sum(p.sort is Sort.STRICT for p in full)} of {len(full)} such saddles."
            + (f" The rank is needed: {flat_ones} saddles of lower rank have none." if flat_ones else ""),
        ),
    )
