"""VC bounds against exact enumeration over whole classes; capacities against brute-force shattering."""

from __future__ import annotations

from itertools import combinations, product
from math import comb, e, inf, isfinite, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from tests.oracles import bounds, enumeration

from nonvacuous.bounds.capacity import (
    GrowthFunctionBound,
    Stage,
    VCBound,
    algorithm_vc_dimension,
    linear_vc_dimension,
    piecewise_polynomial_log_growth,
    relu_vc_dimension,
    sigmoid_vc_dimension,
    threshold_log_growth,
)
from nonvacuous.core.errors import InvalidEvidence


class World:
    """A finite domain of (x, y) cells with chances, a class as rows of errors [h, cell], and its dimension."""

    def __init__(self, chances: list[float], errors: list[list[int]], dimension: int) -> None:
        self.chances, self.errors, self.dimension = np.array(chances), np.array(errors), dimension
        self.risks = self.errors @ self.chances


def thresholds(points: int, noise: float) -> World:
    """h_t(x) = 1[x ≥ t] on equally likely points whose label is 0, flipped with chance ``noise``."""
    chances = [c / points for _ in range(points) for c in (1 - noise, noise)]
    rows = [[int((x >= t) != y) for x in range(points) for y in (0, 1)] for t in range(points + 1)]
    return World(chances, rows, 1)


def all_functions(points: int) -> World:
    """Every function of the points; labels are fair coins: nothing can be learnt, everything can be memorised."""
    rows = [[int(f[x] != y) for x in range(points) for y in (0, 1)] for f in product((0, 1), repeat=points)]
    return World([1 / (2 * points)] * (2 * points), rows, points)


WORLDS = {
    "two thresholds, clean": (thresholds(2, 0.0), 150),
    "two thresholds, noisy": (thresholds(2, 0.3), 45),
    "one free bit": (all_functions(1), 400),
    "two free bits": (all_functions(2), 60),
    "three thresholds": (thresholds(3, 0.0), 150),
}


def missed(world: World, n: int, values: np.ndarray) -> float:
    """Probability that some member of the class has a value [errors] below its risk: the adversary picks after the data."""
    used = np.flatnonzero(world.chances > 0)
    chances, counts = enumeration.multinomial_arrays(n, world.chances[used])
    errors = counts @ world.errors[:, used].T
    return float(chances[(values[errors] < world.risks - 1e-12).any(1)].sum())


@pytest.mark.parametrize("delta", [0.9, 0.5, 0.05])
@pytest.mark.parametrize("name", WORLDS)
def test_the_worst_of_the_class_is_covered(name: str, delta: float) -> None:
    world, n = WORLDS[name]
    d = world.dimension
    vc, growth = VCBound(), GrowthFunctionBound()
    log_growth = log(sum(comb(2 * n, i) for i in range(d + 1)))
    for values in (
        [vc.solve(vc.Evidence(k / n, d, n), delta) for k in range(n + 1)],
        [growth.solve(growth.Evidence(k / n, log_growth, n), delta) for k in range(n + 1)],
    ):
        assert min(values) < 1, "a bound that says nothing is no test"
        assert missed(world, n, np.array(values)) <= delta


@pytest.mark.parametrize("name", WORLDS)
def test_no_counterexample_to_the_slides_line_among_small_classes(name: str) -> None:
    world, _ = WORLDS[name]
    for n in (5, 12, 40):
        for delta in (0.99, 0.5, 0.05):
            radius = sqrt((2 / n) * world.dimension * log(2 * e * n / world.dimension) + log(2 / delta) / n)
            assert missed(world, n, np.arange(n + 1) / n + radius) <= delta


def test_the_enumeration_has_teeth() -> None:
    """The limit for a single function, used for the best of sixteen, is wrong far more often than δ."""
    n, delta = 12, 0.3
    assert missed(all_functions(4), n, np.arange(n + 1) / n + sqrt(log(1 / delta) / (2 * n))) > 1.5 * delta


def test_the_slides_line_follows_from_symmetrisation() -> None:
    """r̂ + √(2d ln(2em/d)/m + ln(2/δ)/m), wherever below r̂ + 1, lies above 1/m + √((m + 1)(d ln(2em/d) + ln(2/δ)))/m."""
    for d in (1, 2, 3, 10, 100, 10_000):
        for m in {int(x) for x in np.geomspace(d, 1e9, 2000)}:
            shape = d * log(2 * e * m / d)
            for small in (1e-12, log(2), 3.0, 20.0, 700.0):  # ln(1/δ)
                slide = sqrt((2 * shape + log(2) + small) / m)
                proved = 1 / m + sqrt((m + 1) * (shape + log(2) + small)) / m
                assert slide >= 1 or proved <= slide


@settings(max_examples=40)
@given(st.floats(0, 1), st.integers(1, 200), st.integers(1, 5000), st.sampled_from([0.5, 0.05, 1e-4]))
def test_values_against_fifty_digits(risk: float, d: int, n: int, delta: float) -> None:
    value = VCBound().solve(VCBound.Evidence(risk, d, n), delta)
    assert bounds.vc(risk, d, n, delta) <= value <= bounds.vc(risk, d, n, delta) + 1e-7
    value = GrowthFunctionBound().solve(GrowthFunctionBound.Evidence(risk, float(d), n), delta)
    assert bounds.relative_deviation(risk, d, n, delta) <= value <= bounds.relative_deviation(risk, d, n, delta) + 1e-12


@given(st.floats(0, 1), st.integers(1, 1000), st.integers(1, 10**6))
def test_never_worse_than_the_absolute_form(risk: float, d: int, n: int) -> None:
    c = (bounds.mp.log(sum(comb(2 * n, i) for i in range(min(d, 2, 2 * n) + 1))) + bounds.mp.log(80)) / n
    value = VCBound().solve(VCBound.Evidence(risk, min(d, 2), n), 0.05)
    assert value <= min(1.0, risk + 2 * float(bounds.mp.sqrt(c)) * (1 + 1e-9))


# -- capacities ----------------------------------------------------------------------------------------------------------


def separable(points: np.ndarray, labels: tuple[int, ...]) -> bool:
    """Whether a half-space has exactly the points [m, d] with label 1 inside."""
    signs = np.where(np.array(labels) == 1, 1.0, -1.0)[:, None]
    rows = -signs * np.hstack([points, np.ones((len(points), 1))])
    return bool(linprog(np.zeros(rows.shape[1]), A_ub=rows, b_ub=-np.ones(len(rows)), bounds=(None, None)).success)


def dichotomies(points: np.ndarray) -> int:
    return sum(separable(points, labels) for labels in product((0, 1), repeat=len(points)))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_half_spaces_shatter_exactly_as_many_points_as_stated(d: int) -> None:
    dimension = linear_vc_dimension(d)
    simplex = np.vstack([np.zeros(d), np.eye(d)])
    assert dichotomies(simplex) == 2**dimension
    generator = np.random.default_rng(d)
    for _ in range(3):  # one point more is never shattered (Radon)
        assert dichotomies(generator.normal(size=(dimension + 1, d))) < 2 ** (dimension + 1)


@pytest.mark.parametrize(("d", "m"), [(1, 4), (1, 7), (2, 4), (2, 6)])
def test_half_spaces_have_as_many_dichotomies_as_cover_counts_and_the_bounds_are_above(d: int, m: int) -> None:
    exact = dichotomies(np.random.default_rng(m).normal(size=(m, d)))
    assert exact == 2 * sum(comb(m - 1, i) for i in range(d + 1))
    assert exact <= np.exp(threshold_log_growth(d + 1, 1, m)) * (1 + 1e-12)
    assert exact <= np.exp(piecewise_polynomial_log_growth([Stage(1, 1, d + 1)], m)) * (1 + 1e-12)
    assert relu_vc_dimension([Stage(1, 1, d + 1)]) >= linear_vc_dimension(d)


def test_unions_of_intervals_are_threshold_networks() -> None:
    """Two units and an OR of them on the line: brute force over all thresholds, all m points in general position."""
    for m in (3, 6, 9):
        cuts = np.arange(m + 1)
        patterns = set()
        for (a, s), (b, t) in product(product(cuts, (0, 1)), repeat=2):
            one = (np.arange(m) >= a) ^ s
            two = (np.arange(m) >= b) ^ t
            for table in product((0, 1), repeat=4):  # any output unit is among these
                patterns.add(tuple(np.array(table)[2 * one.astype(int) + two]))
        assert len(patterns) <= np.exp(threshold_log_growth(2 + 2 + 3, 3, m)) * (1 + 1e-12)


def counted(outputs: np.ndarray) -> int:
    """Different rows."""
    return len(np.unique(outputs @ (1 << np.arange(outputs.shape[1]))))


@pytest.mark.parametrize(("inputs", "width", "m"), [(1, 1, 6), (1, 2, 8), (2, 2, 7), (2, 3, 9)])
def test_relu_networks_found_by_random_search_stay_below_the_growth_bound(inputs: int, width: int, m: int) -> None:
    generator = np.random.default_rng(width)
    points = generator.normal(size=(m, inputs))
    tries = 15_000
    first = generator.normal(size=(tries, inputs, width))
    shift = generator.normal(size=(tries, 1, width)) * 2
    second = generator.normal(size=(tries, width, 1))
    offset = generator.normal(size=(tries, 1, 1))
    outputs = (np.maximum(points @ first + shift, 0) @ second + offset)[:, :, 0] > 0
    patterns = counted(outputs)
    early, whole = inputs * width + width, inputs * width + 2 * width + 1
    stages = [Stage(width, 1, early), Stage(1, 2, whole)]
    assert patterns <= np.exp(piecewise_polynomial_log_growth(stages, m)) * (1 + 1e-12)
    shattered = max(
        (k for k in range(1, m + 1) for rows in combinations(range(m), k) if counted(outputs[:, rows]) == 2**k),
        default=0,
    )
    assert shattered <= relu_vc_dimension(stages)
    assert shattered <= algorithm_vc_dimension(whole, 4 * whole)


def test_growth_bounds_never_shrink_and_stay_below_all_patterns() -> None:
    stages = [Stage(10, 1, 50), Stage(10, 2, 160), Stage(45, 3, 270)]
    values = [piecewise_polynomial_log_growth(stages, m) for m in range(1, 5000, 7)]
    assert values == sorted(values)
    assert all(v <= m * log(2) * (1 + 1e-12) for v, m in zip(values, range(1, 5000, 7), strict=True))
    wider = [Stage(20, 1, 50), *stages[1:]]
    assert piecewise_polynomial_log_growth(wider, 10**5) > piecewise_polynomial_log_growth(stages, 10**5)
    assert threshold_log_growth(10, 3, 5) == pytest.approx(5 * log(2))
    assert threshold_log_growth(10, 3, 10**4) == pytest.approx(10 * log(e * 10**4 * 3 / 10))


def test_the_vc_dimension_is_where_the_growth_bound_leaves_two_to_the_m() -> None:
    for stages in ([Stage(1, 1, 3)], [Stage(4, 1, 12), Stage(1, 2, 17)], [Stage(100, 1, 7000), Stage(45, 2, 9000)]):
        m = int(relu_vc_dimension(stages))
        assert piecewise_polynomial_log_growth(stages, m) == pytest.approx(m * log(2), rel=1e-12)
        assert piecewise_polynomial_log_growth(stages, m + 1) < (m + 1) * log(2) * (1 - 1e-15)


def test_nothing_overflows_at_two_hundred_layers_and_a_billion_examples() -> None:
    stages = [Stage(4096, i, 16_777_216 * i) for i in range(1, 201)]
    growth = piecewise_polynomial_log_growth(stages, 2 * 10**9)
    assert isfinite(growth) and 0 < growth <= 2e9 * log(2) * (1 + 1e-15)
    dimension = relu_vc_dimension(stages)
    assert isfinite(dimension) and dimension > 16_777_216
    for n in (1, 10**9):
        value = GrowthFunctionBound().solve(GrowthFunctionBound.Evidence(0.0, growth, n), 0.05)
        assert value == 1.0
        assert VCBound().solve(VCBound.Evidence(0.1, dimension, n), 0.05) == 1.0
    assert isfinite(sigmoid_vc_dimension(10**9, 10**7)) and isfinite(threshold_log_growth(10**9, 10**7, 2**50))
    assert VCBound().solve(VCBound.Evidence(0.1, inf, 10**9), 0.05) == 1.0


def test_known_formulas() -> None:
    assert algorithm_vc_dimension(10, 20) == 4 * 10 * 22
    assert sigmoid_vc_dimension(3, 1) == int(np.ceil(25 + 55 * np.log2(90)))
    assert linear_vc_dimension(784) == 785


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "3", None])
def test_counts_that_are_none(bad: object) -> None:
    for call in (
        lambda: linear_vc_dimension(bad),  # type: ignore[arg-type]
        lambda: threshold_log_growth(bad, 1, 1),  # type: ignore[arg-type]
        lambda: threshold_log_growth(1, bad, 1),  # type: ignore[arg-type]
        lambda: piecewise_polynomial_log_growth([Stage(1, 1, 1)], bad),  # type: ignore[arg-type]
        lambda: piecewise_polynomial_log_growth([Stage(bad, 1, 1)], 5),  # type: ignore[arg-type]
        lambda: algorithm_vc_dimension(bad, 1),  # type: ignore[arg-type]
        lambda: sigmoid_vc_dimension(1, bad),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidEvidence):
            call()
