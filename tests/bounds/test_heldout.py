"""Held-out bounds: true in at least 1 − δ of all samples, counted without simulation; values against 50 digits and SciPy."""

from __future__ import annotations

from fractions import Fraction
from math import inf, nextafter, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.oracles import betting, bounds, enumeration

from nonvacuous.bounds.heldout import (
    BettingBound,
    BinomialTailBound,
    ChernoffBound,
    EmpiricalBernsteinBound,
    HoeffdingBound,
    rounded_up,
)
from nonvacuous.numerics.betting import bets
from nonvacuous.testing.bounds import exact_coverage

RISKS = [Fraction(1, 100), Fraction(1, 10), Fraction(3, 10), Fraction(1, 2), Fraction(9, 10)]
#: Distributions of a loss: rare and total, graded, with a rare large value, nearly certain.
LOSSES = [
    {0.0: Fraction(7, 10), 1.0: Fraction(3, 10)},
    {0.0: Fraction(1, 3), 0.5: Fraction(1, 3), 1.0: Fraction(1, 3)},
    {0.25: Fraction(9, 10), 1.0: Fraction(1, 10)},
    {0.5: Fraction(1, 50), 1.0: Fraction(49, 50)},
    {0.0: Fraction(4, 5), 0.5: Fraction(1, 5)},
]


def above(x: Fraction) -> float:
    """A float that is at least x."""
    value = float(x)
    return value if Fraction(value) >= x else nextafter(value, inf)


def below(x: Fraction) -> float:
    """A float that is at most x: where the bound is asked to be false it is asked a little more."""
    value = float(x)
    return value if Fraction(value) <= x else nextafter(value, -inf)


@pytest.mark.parametrize("delta", [0.5, 0.05, 1e-6])
@pytest.mark.parametrize("n", [1, 2, 10, 61, 200])
def test_binomial_tail_covers_for_all_counts(n: int, delta: float) -> None:
    bound = BinomialTailBound()
    evidences = [bound.Evidence(k, n) for k in range(n + 1)]
    values = [bound.solve(e, delta) for e in evidences]
    assert values == sorted(values) and values[-1] == 1.0
    # The risk that is hardest to cover lies just above one of the values.
    hard = [Fraction(nextafter(v, 1.0)) for v in values[:-1]]
    for risk in [*RISKS, *hard[:: max(1, n // 4)]]:
        chances = enumeration.binomial(n, risk)
        missed = sum((chance for chance, value in zip(chances, values, strict=True) if value < risk), Fraction(0))
        assert missed <= Fraction(delta)
    worst = max(sum(enumeration.binomial(n, p)[: k + 1]) for k, p in enumerate(hard[:3]))
    assert worst > Fraction(delta) * (1 - Fraction(1, 10**9)), "no room is given away"


@pytest.mark.parametrize("delta", [0.4, 0.05])
@pytest.mark.parametrize("risk", RISKS)
@pytest.mark.parametrize("bound", [ChernoffBound(), HoeffdingBound()], ids=["chernoff", "hoeffding"])
def test_mean_bounds_cover_for_all_counts(bound: ChernoffBound, risk: Fraction, delta: float) -> None:
    for n in (1, 5, 40):
        chances = enumeration.binomial(n, risk)
        evidences = [(chance, bound.Evidence(above(Fraction(k, n)), n)) for k, chance in enumerate(chances)]
        assert exact_coverage(bound, evidences, below(risk), delta) >= 1 - Fraction(delta)


@pytest.mark.parametrize("delta", [0.4, 0.05])
@pytest.mark.parametrize("chances", LOSSES)
def test_bounds_for_graded_losses_cover_for_all_samples(chances: dict[float, Fraction], delta: float) -> None:
    n = 14
    risk = sum((Fraction(loss) * chance for loss, chance in chances.items()), Fraction(0))
    samples = []
    for chance, counts in enumeration.multinomial(n, list(chances.values())):
        total = sum((count * Fraction(loss) for count, loss in zip(counts, chances, strict=True)), Fraction(0))
        squares = sum((c * (Fraction(loss) - total / n) ** 2 for c, loss in zip(counts, chances, strict=True)), Fraction(0))
        samples.append((chance, above(total / n), above(squares / (n - 1))))
    for bound in (ChernoffBound(), HoeffdingBound()):
        evidences = [(chance, bound.Evidence(mean, n)) for chance, mean, _ in samples]
        assert exact_coverage(bound, evidences, below(risk), delta) >= 1 - Fraction(delta)
    bernstein = EmpiricalBernsteinBound()
    evidences = [(chance, bernstein.Evidence(mean, variance, n)) for chance, mean, variance in samples]
    assert exact_coverage(bernstein, evidences, below(risk), delta) >= 1 - Fraction(delta)


@pytest.mark.parametrize("delta", [0.6, 0.3, 0.05])
@pytest.mark.parametrize("chances", LOSSES)
def test_betting_covers_for_all_sequences(chances: dict[float, Fraction], delta: float) -> None:
    bound = BettingBound()
    risk = sum((Fraction(loss) * chance for loss, chance in chances.items()), Fraction(0))
    n = 7 if len(chances) == 2 else 5
    evidences = [(chance, bound.Evidence(losses, n)) for chance, losses in enumeration.sequences(n, chances)]
    assert exact_coverage(bound, evidences, below(risk), delta) >= 1 - Fraction(delta)


def test_betting_can_fail_and_does_so_rarely() -> None:
    """The enumeration above is not empty: with few examples and little confidence the bound is sometimes false."""
    bound, chances = BettingBound(), LOSSES[0]
    evidences = [(chance, bound.Evidence(losses, 7)) for chance, losses in enumeration.sequences(7, chances)]
    assert 1 - Fraction(6, 10) <= exact_coverage(bound, evidences, 0.3, 0.6) < 1


@pytest.mark.parametrize("chances", LOSSES)
def test_capital_is_a_martingale_at_the_true_risk_and_falls_below_it(chances: dict[float, Fraction]) -> None:
    n, delta = 5, 0.05
    risk = sum((Fraction(loss) * chance for loss, chance in chances.items()), Fraction(0))
    mp = betting.mp
    fair = mp.mpf(risk.numerator) / risk.denominator
    drawn = list(enumeration.sequences(n, chances))

    def mean(price: object) -> object:
        return mp.fsum(mp.mpf(c.numerator) / c.denominator * betting.capital(losses, delta, price) for c, losses in drawn)

    assert abs(mean(fair) - 1) < 1e-40
    assert mean(fair * 0.9) < 1


def test_a_stake_looks_only_at_earlier_losses() -> None:
    generator = np.random.default_rng(0)
    losses = generator.random(50)
    for i in (0, 10, 49):
        changed = losses.copy()
        changed[i] = 1 - changed[i]
        assert np.array_equal(bets(losses, 3.0)[: i + 1], bets(changed, 3.0)[: i + 1])
    assert np.allclose(bets(losses, 3.0), [float(s) for s in betting.stakes(losses.tolist(), float(np.exp(-3.0)))], rtol=1e-12)


def test_larger_losses_may_give_a_smaller_value() -> None:
    """Why the losses count as measured, neither larger nor smaller: a raised one can calm the variance the stakes look at."""
    bound = BettingBound()
    flat, raised = (0.9,) * 5000, (0.92, *(0.9,) * 4999)
    assert bound.solve(bound.Evidence(raised, 5000), 0.5) < bound.solve(bound.Evidence(flat, 5000), 0.5)


@given(st.lists(st.integers(0, 8).map(lambda k: k / 8), min_size=1, max_size=12), st.sampled_from([0.5, 0.05, 1e-4]))
def test_betting_against_sixty_digits(losses: list[float], delta: float) -> None:
    value = BettingBound().solve(BettingBound.Evidence(tuple(losses), len(losses)), delta)
    assert 0 <= value - betting.value(losses, delta) < 1e-12


@given(st.integers(0, 60), st.integers(1, 60), st.sampled_from([0.5, 0.05, 1e-4]))
def test_binomial_tail_against_fifty_digits_and_scipy(k: int, n: int, delta: float) -> None:
    k = min(k, n)
    value = BinomialTailBound().solve(BinomialTailBound.Evidence(k, n), delta)
    assert 0 <= value - bounds.binomial_tail(k, n, delta) < 1e-14
    assert value == pytest.approx(stats.beta.ppf(1 - delta, k + 1, n - k) if k < n else 1.0, abs=1e-9)


@settings(max_examples=40)
@given(st.floats(0, 1), st.floats(0, 0.5), st.integers(2, 10**6), st.sampled_from([0.5, 0.05, 1e-4]))
def test_mean_bounds_against_fifty_digits(risk: float, variance: float, n: int, delta: float) -> None:
    for value, truth in [
        (ChernoffBound().solve(ChernoffBound.Evidence(risk, n), delta), bounds.chernoff(risk, n, delta)),
        (HoeffdingBound().solve(HoeffdingBound.Evidence(risk, n), delta), bounds.hoeffding(risk, n, delta)),
        (
            EmpiricalBernsteinBound().solve(EmpiricalBernsteinBound.Evidence(risk, variance, n), delta),
            bounds.empirical_bernstein(risk, variance, n, delta),
        ),
    ]:
        assert truth <= value <= truth + 1e-12


def test_who_is_better_than_whom() -> None:
    n, delta = 5000, 0.05
    for k in (0, 10, 250, 2500):
        exact = BinomialTailBound().solve(BinomialTailBound.Evidence(k, n), delta)
        chernoff = ChernoffBound().solve(ChernoffBound.Evidence(k / n, n), delta)
        hoeffding = HoeffdingBound().solve(HoeffdingBound.Evidence(k / n, n), delta)
        assert exact <= chernoff <= hoeffding
    losses = (0.5,) * n  # no variance at all
    betting_value = BettingBound().solve(BettingBound.Evidence(losses, n), delta)
    assert 0.5 < betting_value < 0.5 + 0.2 * sqrt(1 / n) < ChernoffBound().solve(ChernoffBound.Evidence(0.5, n), delta)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 8))
def test_losses_are_rounded_up_and_by_one_step_at_most(losses: list[float], digits: int) -> None:
    rounded = rounded_up(losses, digits)
    for loss, up in zip(losses, rounded, strict=True):
        assert loss <= up <= min(1.0, loss + 1.0001 * 10.0**-digits)
    assert rounded_up(rounded, digits) == rounded
