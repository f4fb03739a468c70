"""PAC-Bayes bounds against an adversary who knows everything: exact coverage over all samples; values against 50 digits."""

from __future__ import annotations

from fractions import Fraction
from math import inf, log, sqrt
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracles import bounds, enumeration

from nonvacuous.bounds.pac_bayes import CatoniBound, LambdaBound, McAllesterBound, QuadraticBound, SeegerBound
from nonvacuous.core.bound import Bound
from nonvacuous.core.errors import InvalidInput
from nonvacuous.testing.bounds import exact_coverage

BOUNDS = [SeegerBound(), McAllesterBound(), QuadraticBound(), LambdaBound(), CatoniBound()]

#: The four functions of one bit, as the labels they give to x = 0 and x = 1.
FUNCTIONS = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])
CELLS = [(0, 0), (0, 1), (1, 0), (1, 1)]  # (x, y)
ERRS = np.array([[f[x] != y for x, y in CELLS] for f in FUNCTIONS], dtype=float)  # [function, cell]

#: Chances of the cells: pure noise, noise on one side, mostly one function, skewed.
WORLDS = [
    [Fraction(1, 4)] * 4,
    [Fraction(1, 2), Fraction(0), Fraction(1, 4), Fraction(1, 4)],
    [Fraction(9, 20), Fraction(1, 20), Fraction(1, 20), Fraction(9, 20)],
    [Fraction(7, 10), Fraction(2, 10), Fraction(1, 20), Fraction(1, 20)],
]
PRIORS = [np.full(4, 0.25), np.array([0.7, 0.1, 0.1, 0.1]), np.array([0.97, 0.01, 0.01, 0.01])]


class Play(NamedTuple):
    """What the adversary shows: the posterior's empirical risk, its divergence, and λ; ``risk`` is the truth."""

    risk: float
    gibbs_risk: float
    kl_nats: float
    lam: float | None


def posteriors(prior: np.ndarray, risks: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Posteriors [q, 4] that lie: tilted towards high risk and low empirical risk at many strengths, the prior, the corners."""
    up, down = np.meshgrid(np.geomspace(0.1, 60, 16), np.geomspace(0.1, 60, 16))
    tilt = np.log(prior) + up.reshape(-1, 1) * risks - down.reshape(-1, 1) * seen
    tilted = np.exp(tilt - tilt.max(1, keepdims=True))
    return np.concatenate([tilted / tilted.sum(1, keepdims=True), prior[None], np.eye(4)])


def claims(bound: Bound, risk: np.ndarray, kl: np.ndarray, n: int, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Values [q] in plain floats, smallest over λ (which the adversary picks as well), and that λ."""
    budget = (kl + log(2 * sqrt(n) / delta)) / n
    none = np.zeros_like(risk)
    if isinstance(bound, McAllesterBound):
        return risk + np.sqrt(budget / 2), none
    if isinstance(bound, QuadraticBound):
        return (np.sqrt(risk + budget / 2) + np.sqrt(budget / 2)) ** 2, none
    if isinstance(bound, LambdaBound):
        lams = np.linspace(0.02, 1.98, 50)[:, None]
        values = risk / (1 - lams / 2) + budget / (lams * (1 - lams / 2))
    elif isinstance(bound, CatoniBound):
        j = np.arange(-60, 120)[:, None]
        c = bound.grid_ratio**j
        price = np.log((np.pi**2 / 3 - 1) * (np.abs(j) + 1.0) ** 2 / delta)
        values, lams = (1 - np.exp(-c * risk - (kl + price) / n)) / (1 - np.exp(-c)), c * n
    else:  # kl, by bisection
        low, high = risk.copy(), np.ones_like(risk)
        for _ in range(40):
            p = np.clip((low + high) / 2, 1e-15, 1 - 1e-15)
            q = np.clip(risk, 1e-300, 1)
            value = q * np.log(q / p) + np.where(risk < 1, (1 - risk) * np.log(np.maximum(1 - risk, 1e-300) / (1 - p)), 0)
            low, high = np.where(value >= budget, low, p), np.where(value >= budget, p, high)
        return high, none
    best = values.argmin(0)
    return values[best, np.arange(len(risk))], np.broadcast_to(lams, values.shape)[best, np.arange(len(risk))]


def worst_play(bound: Bound, prior: np.ndarray, risks: np.ndarray, counts: np.ndarray, n: int, delta: float) -> Play:
    """The posterior (and λ) whose claim falls furthest below its true risk on this sample."""
    seen = ERRS @ counts / n
    q = posteriors(prior, risks, seen)
    kl = np.where(q > 0, q * np.log(np.maximum(q, 1e-300) / prior), 0).sum(1).clip(0)
    values, lam = claims(bound, q @ seen, kl, n, delta)
    worst = int((q @ risks - values).argmax())
    free = isinstance(bound, LambdaBound | CatoniBound)
    play = q[worst]
    return Play(
        float(play @ risks), min(1.0, float(play @ seen) * (1 + 1e-12)), float(kl[worst]) + 1e-12, lam[worst] if free else None
    )


def evidence(bound: Bound, play: Play, n: int) -> Any:
    return bound.Evidence(play.gibbs_risk, play.kl_nats, n, *([] if play.lam is None else [float(play.lam)]))


@pytest.mark.parametrize("delta", [0.7, 0.1])
@pytest.mark.parametrize("bound", BOUNDS, ids=lambda b: b.name)
def test_no_adversary_beats_a_bound_more_often_than_delta(bound: Bound, delta: float) -> None:
    n = 8
    for world in WORLDS:
        risks = ERRS @ np.array(world, dtype=float)
        for prior in PRIORS:
            missed = Fraction(0)
            for chance, counts in enumeration.multinomial(n, world):
                if not chance:
                    continue
                play = worst_play(bound, prior, risks, np.array(counts), n, delta)
                covered = exact_coverage(bound, [(Fraction(1), evidence(bound, play, n))], play.risk * (1 - 1e-12), delta)
                missed += chance * (1 - covered)
            assert missed <= Fraction(delta)


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda b: b.name)
def test_without_its_divergence_the_adversary_wins(bound: Bound) -> None:
    """The enumeration has teeth: a posterior that does not pay for being chosen after the data breaks every bound."""
    n, delta, coins = 100, 0.3, 2**20
    # A million coins that guess at random: the best on the sample has risk 1/2 and far fewer errors.
    best = int(np.random.default_rng(0).binomial(n, 0.5, size=coins).min())
    lam = [] if not isinstance(bound, LambdaBound | CatoniBound) else [0.43 if isinstance(bound, LambdaBound) else 0.87 * n]
    assert bound.solve(bound.Evidence(best / n, 0.0, n, *lam), delta) < 0.5
    assert bound.solve(bound.Evidence(best / n, log(coins), n, *lam), delta) > 0.5


@settings(max_examples=25)
@given(
    st.floats(0, 1), st.one_of(st.just(0.0), st.floats(1e-3, 1e5)), st.integers(8, 10**6), st.sampled_from([0.5, 0.05, 1e-4])
)
def test_values_against_fifty_digits(risk: float, kl: float, n: int, delta: float) -> None:
    for bound, truth in [
        (SeegerBound(), bounds.seeger),
        (McAllesterBound(), bounds.mcallester),
        (QuadraticBound(), bounds.quadratic),
    ]:
        value = bound.solve(bound.Evidence(risk, kl, n), delta)
        assert truth(risk, kl, n, delta) <= value <= truth(risk, kl, n, delta) + 1e-12
    for lam in (0.1, 1.0, 1.9):
        value, truth_ = (
            LambdaBound().solve(LambdaBound.Evidence(risk, kl, n, lam), delta),
            bounds.trade_off(risk, kl, n, lam, delta),
        )
        assert truth_ <= value <= truth_ + 1e-12
    for ratio in (1.05, 2.0):
        value = CatoniBound(ratio).solve(CatoniBound.Evidence(risk, kl, n, n * 1.7), delta)
        truth_ = bounds.catoni(risk, kl, n, n * 1.7, delta, ratio)
        assert truth_ <= value <= truth_ + 1e-12


@settings(max_examples=40)
@given(st.floats(0, 1), st.floats(0, 1e4), st.integers(8, 10**5), st.floats(0.01, 1.99))
def test_the_kl_form_is_the_tightest_of_its_family(risk: float, kl: float, n: int, lam: float) -> None:
    tight = SeegerBound().solve(SeegerBound.Evidence(risk, kl, n), 0.05)
    for loose in (McAllesterBound(), QuadraticBound()):
        assert tight <= loose.solve(loose.Evidence(risk, kl, n), 0.05) + 1e-12
    assert tight <= LambdaBound().solve(LambdaBound.Evidence(risk, kl, n, lam), 0.05) + 1e-12


def test_the_best_lambda_gives_the_quadratic_form() -> None:
    risk, kl, n = 0.03, 700.0, 60_000
    kappa = (kl + log(2 * sqrt(n) / 0.05)) / (2 * n)
    lam = 2 / (sqrt(2 * risk / (2 * kappa) + 1) + 1)
    value = LambdaBound().solve(LambdaBound.Evidence(risk, kl, n, lam), 0.05)
    assert value == pytest.approx(QuadraticBound().solve(QuadraticBound.Evidence(risk, kl, n), 0.05), abs=1e-12)


def test_the_weights_of_catonis_grid_sum_to_one() -> None:
    tail = 2 / 10**6
    total = sum(1 / (abs(j) + 1) ** 2 for j in range(-(10**6), 10**6 + 1)) / (np.pi**2 / 3 - 1)
    assert 1 - tail <= total <= 1


@pytest.mark.parametrize("ratio", [1.0, 0.5, -2.0, inf, float("nan"), 2, "2", None, True])
def test_a_grid_that_is_none(ratio: Any) -> None:
    with pytest.raises(InvalidInput):
        CatoniBound(ratio)


def test_maurers_moment_stays_below_its_bound() -> None:
    for m in range(1, 200):
        assert bounds.moment(m) ** 2 <= 4 * m


def test_what_is_proved_of_the_slides_mcallester() -> None:
    """(KL + ln(ξ/δ))/(2m) ≤ (KL + ln(m/δ))/(2m − 1) for all KL ≥ 0 and δ < 1, from m = 2 on; at m = 1 only if KL + ln(1/δ) ≥ ln 2."""
    mp = bounds.mp

    def implied(m: int, spent: Any) -> bool:
        """``spent``: KL + ln(1/δ), on which alone the two sides depend."""
        xi = bounds.moment(m)
        proved = (spent + mp.log(mp.mpf(xi.numerator) / xi.denominator)) / (2 * m)
        return bool(proved <= (spent + mp.log(m)) / (2 * m - 1))

    for m in range(2, 120):  # the left side grows more slowly in ``spent``: 0 is the hardest
        assert implied(m, mp.mpf(0))
    assert not implied(1, mp.mpf(0)) and not implied(1, mp.log(2) - mp.mpf(10) ** -9)
    assert implied(1, mp.log(2) + mp.mpf(10) ** -9)
    for m in (8, 100, 10**4, 10**8):  # and by the bound of this library itself
        slide = 0.1 + sqrt((7.0 + log(m / 0.05)) / (2 * m - 1))
        assert McAllesterBound().solve(McAllesterBound.Evidence(0.1, 7.0, m), 0.05) <= slide or slide >= 1
