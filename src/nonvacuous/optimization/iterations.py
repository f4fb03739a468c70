"""How many gradient evaluations Lipschitz functions need: what is known with explicit constants, and what is not."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.optimization.hypotheses import Condition


@dataclass(frozen=True)
class Count:
    """A number of gradient evaluations, the theorem it comes from, and what that assumes."""

    evaluations: Measured
    theorem: str
    conditions: tuple[Condition, ...]


def convex_upper(lipschitz: float, radius: float, accuracy: float) -> Count:
    """⌈(LR/α)²⌉ evaluations suffice: the subgradient method with steps R/(L√N) finds min f(x_k) − f* ≤ LR/√N in N of them.

    F convex and L-Lipschitz on the ball of radius R = ‖x_0 − x*‖. This is the slides' O(‖F‖_Lip/√T) with its constant.

    Source: Nesterov 2018, "Lectures on convex optimization", Section 3.2.3.

    >>> convex_upper(1.0, 2.0, 0.1).evaluations.upper
    400.0
    """
    _positive(lipschitz=lipschitz, radius=radius, accuracy=accuracy)
    exact = (lipschitz * radius / accuracy) ** 2
    return Count(Measured.exact(float(math.ceil(exact * (1 - 4e-16)))), "subgradient method", _convex())


def convex_lower(lipschitz: float, radius: float, accuracy: float) -> Count:
    """No method whose points lie in x_0 + span of the subgradients seen is sure of α before ⌈(LR/α)²⌉ − 1 evaluations.

    After N evaluations it may still be off by LR/√(N + 1): on F(x) = L·max(max_{i≤N+1} x_i, ‖x‖ − R(1 + 1/√(N + 1))), every
    evaluation reveals one more coordinate, the last one stays 0, F there is at least 0, and the least value is −LR/√(N + 1), at
    distance R. So the upper bound is exact up to one evaluation.

    Source: Nesterov 2018, Section 3.2.1, and Drori and Teboulle 2016, "An optimal variant of Kelley's cutting-plane method", where
    this constant is shown to be the best.
    """
    _positive(lipschitz=lipschitz, radius=radius, accuracy=accuracy)
    exact = (lipschitz * radius / accuracy) ** 2
    conditions = (*_convex(), Condition.unknown("dimension", "at least the number of evaluations plus one"))
    return Count(Measured.exact(float(max(0, math.ceil(exact * (1 - 4e-16)) - 1))), "resisting oracle", conditions)


def goldstein_upper(lipschitz: float, gap: float, radius: float, slope: float) -> Count:
    """Expected evaluations of interpolated normalised descent until a convex combination of gradients within δ has norm ≤ ε.

    64(⌈2Δ/(δε)⌉ + 1)(L²/ε² + 1/16), Δ = F(x_0) − inf F, δ = ``radius``, ε = ``slope``: the slides' O((‖F‖²_Lip/T)^{1/3}) is this
    with Δ = δ solved for ε, and it bounds such a *gradient*, not an error of F.

    Why. Let g be such a combination. Either F(x − δg/‖g‖) < F(x) − δ‖g‖/2, a step, of which there are at most 2Δ/(δε); or a gradient
    v at a uniform point of the segment has E⟨v, g⟩ ≤ ‖g‖²/2, and the shortest point of [g, v] has E‖·‖² ≤ ‖g‖² − ‖g‖⁴/(16L²), so
    that after k of them E‖g‖² ≤ 16L²/(k + 16), and by Markov ⌈32L²/ε²⌉ of them end the round with probability at least ½.

    Assumes F L-Lipschitz, and gradients along almost every point of the segments (the method perturbs them; almost surely true).

    Source: Zhang, Lin, Jegelka, Sra and Jadbabaie 2020, "Complexity of finding stationary points of nonconvex nonsmooth functions";
    Davis, Drusvyatskiy, Lee, Padmanabhan and Ye 2022, "A gradient sampling method with complexity guarantees for Lipschitz
    functions"; the constant is that of the argument above.
    """
    _positive(lipschitz=lipschitz, gap=gap, radius=radius, slope=slope)
    if slope >= lipschitz:
        return Count(Measured.exact(1.0), "any gradient has norm at most L", ())
    rounds = math.ceil(2 * gap / (radius * slope)) + 1
    bound = 64.0 * rounds * (lipschitz**2 / slope**2 + 1 / 16)
    conditions = (Condition.unknown("F is L-Lipschitz and bounded below", f"L = {lipschitz:g}, Δ = {gap:g} as given"),)
    return Count(Measured(0.0, bound, Kind.EXACT), "interpolated normalised gradient descent, in expectation", conditions)


def stationary_lower(lipschitz: float, slope: float) -> Count:
    """Gradient evaluations to find a point with a (generalised) gradient of norm below ε on Lipschitz functions: no number suffices.

    The slides' Ω(‖F‖_Lip/α) is true but far too weak for this class: an oracle that always answers "value 0, slope L" is consistent
    with a zigzag, L-Lipschitz and bounded below by any −Δ < 0, whose slope is ±L at every point but kinks that nobody asked about
    (:func:`resisting`). So [L/ε, ∞]: finite guarantees need a weaker goal (:func:`goldstein_upper`) or smoothness.

    Source: Zhang, Lin, Jegelka, Sra and Jadbabaie 2020, Theorem 11 (impossibility); Ω(‖F‖_Lip/α) as Than's deck cites it, whose
    constant is unspecified: an indicator.
    """
    _positive(lipschitz=lipschitz, slope=slope)
    return Count(Measured(lipschitz / slope, math.inf, Kind.INDICATOR), "no finite number suffices on the Lipschitz class", ())


@dataclass(frozen=True)
class Zigzag:
    """A function of one number with F = 0 and slope L at every query, slope L or −L wherever it has one, and F ≥ −depth."""

    queries: tuple[float, ...]
    lipschitz: float
    depth: float

    def _phase(self, x: float) -> tuple[float, float]:
        """Position within the period around x, and the period: each gap between queries is filled with whole periods."""
        longest = 4 * self.depth / self.lipschitz
        before = [q for q in self.queries if q <= x]
        after = [q for q in self.queries if q > x]
        if not before or not after:
            origin, period = (before[-1] if before else after[0]), longest
        else:
            origin, span = before[-1], after[0] - before[-1]
            period = span / math.ceil(span / longest)
        return (x - origin) % period, period

    def __call__(self, x: float) -> float:
        """F(x)."""
        at, period = self._phase(x)
        up, down = period / 4, 3 * period / 4
        return self.lipschitz * (at if at <= up else (period / 2 - at if at <= down else at - period))

    def slope(self, x: float) -> float:
        """F′(x), L or −L; at a kink, the slope to its right."""
        at, period = self._phase(x)
        return -self.lipschitz if period / 4 <= at < 3 * period / 4 else self.lipschitz


def resisting(queries: list[float], lipschitz: float, depth: float) -> Zigzag:
    """The function that answers "value 0, slope L" to all ``queries`` of any method, however many."""
    _positive(lipschitz=lipschitz, depth=depth)
    return Zigzag(tuple(sorted(set(queries))), lipschitz, depth)


def _convex() -> tuple[Condition, ...]:
    return (
        Condition.unknown(
            "F is convex and L-Lipschitz, R as given", "an assumption on F; a network's training loss is not convex"
        ),
    )


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise InvalidInput(f"{name} = {value!r} must be positive and finite")
