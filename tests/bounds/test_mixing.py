"""Blocks of a series: coverage on a chain whose β is known exactly, and what the bounds for independent examples do there."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, product
from math import nextafter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nonvacuous.bounds.heldout import BettingBound, BinomialTailBound
from nonvacuous.bounds.mixing import (
    BlockChernoffBound,
    IndependentBlocksBound,
    Mixing,
    SeriesBlocks,
    SpacedBinomialBound,
    block_means,
    chosen_blocks,
)
from nonvacuous.core.bound import Bound
from nonvacuous.core.errors import InvalidEvidence, InvalidInput
from nonvacuous.numerics.interval import lower, upper
from nonvacuous.testing.bounds import BoundContract, exact_coverage

#: A chain on {0, 1}: from 0 to 1 and from 1 to 0 with these probabilities; its stationary law and second eigenvalue.
UP, DOWN = Fraction(1, 20), Fraction(3, 20)
ONE, MEMORY = UP / (UP + DOWN), 1 - UP - DOWN
CHAIN = Mixing(scale=float(2 * ONE * (1 - ONE)), rate=float(MEMORY))
"""β(k) = Σ_x π(x)·TV(P^k(x, ·), π) = 2 π(0) π(1) |1 − UP − DOWN|^k, for a stationary chain on two states."""


class TestBlocksOfAForgetfulSeries(BoundContract):
    bound = IndependentBlocksBound(memory=2, block=3, spacing=2, gap=2)

    def test_worked_numbers(self) -> None:
        """The class's own are for its default constants; here: no loss at all, where betting on μ blocks is betting on μ zeros."""
        n, delta = 100, 0.05
        left = lower(self.bound.left(n, delta))
        count = self.bound.count(n)
        if isinstance(self.bound, IndependentBlocksBound):
            known = BettingBound().solve(BettingBound.Evidence((0.0,) * count, count), left)
        else:
            known = 1 - left ** (1 / count)
        assert 0 < left <= delta and count > 5
        assert self.bound.solve(self.bound.Evidence((0.0,) * n, n), delta) == pytest.approx(known, abs=1e-12)


class TestBlocksThatPay(TestBlocksOfAForgetfulSeries):
    bound = BlockChernoffBound(scale=0.5, rate=0.1, block=2, spacing=8, gap=9)


class TestSpacedThatPays(TestBlocksOfAForgetfulSeries):
    bound = SpacedBinomialBound(scale=0.5, rate=0.1, spacing=12, gap=12)


def steps(k: int) -> np.ndarray:
    """Transition matrix of k steps of the chain."""
    return np.linalg.matrix_power(np.array([[float(1 - UP), float(UP)], [float(DOWN), float(1 - DOWN)]]), k)


def errors_law(start: np.ndarray, lag: int, count: int) -> np.ndarray:
    """Law of the number of ones among ``count`` states ``lag`` steps apart, the first drawn from ``start`` [2]; [count + 1]."""
    move = steps(lag)
    held = np.zeros((2, count + 1))
    held[0, 0], held[1, 1] = start
    for _ in range(count - 1):
        moved = move.T @ held
        held = np.stack([moved[0], np.concatenate(([0.0], moved[1, :-1]))])
    return held.sum(0)


def missed(bound: Bound, law: np.ndarray, step: int, n: int, risk: float, delta: float) -> float:
    """Probability that the bound is below the risk, for a law of the number of errors among kept examples."""
    below, total = nextafter(risk, 0.0), 0.0
    for count, chance in enumerate(law):
        losses = np.zeros(n)
        losses[: count * step : step] = 1.0
        total += chance * bound.holds(bound.Evidence(tuple(losses.tolist()), n), delta, below)
    return total


def test_the_chain_forgets_as_stated() -> None:
    stationary = np.array([float(1 - ONE), float(ONE)])
    for k in (1, 2, 7, 30):
        exact = sum(p * abs(row - stationary).sum() / 2 for p, row in zip(stationary, steps(k), strict=True))
        assert exact == pytest.approx(upper(CHAIN.coefficient(k)), rel=1e-12)


@pytest.mark.parametrize("delta", [0.2, 0.05])
@pytest.mark.parametrize("spacing", [9, 19, 29, 49])
def test_spaced_examples_cover_on_the_chain_exactly(spacing: int, delta: float) -> None:
    n, risk = 600, float(ONE)
    bound = SpacedBinomialBound(CHAIN.scale, CHAIN.rate, gap=200, spacing=spacing)
    law = errors_law(np.array([1 - risk, risk]), spacing + 1, bound.count(n))
    assert law.sum() == pytest.approx(1.0)
    wrong = missed(bound, law, spacing + 1, n, risk, delta)
    assert wrong <= delta
    if lower(bound.left(n, delta)) > 0.9 * delta:  # dependence costs little, and nothing else is given away
        assert wrong > 0.2 * delta


def test_the_bound_for_independent_examples_fails_on_the_chain() -> None:
    """All examples, as if they were independent: wrong four times as often as it may be, and no rarer with more of them."""
    risk, delta, tail = float(ONE), 0.05, BinomialTailBound()
    for n in (50, 300):
        law = errors_law(np.array([1 - risk, risk]), 1, n)
        wrong = sum(p for k, p in enumerate(law) if tail.holds(tail.Evidence(k, n), delta, nextafter(risk, 0.0)))
        assert wrong > 4 * delta
        independent = stats.binom.pmf(np.arange(n + 1), n, risk)
        assert (
            sum(p for k, p in enumerate(independent) if tail.holds(tail.Evidence(k, n), delta, nextafter(risk, 0.0))) <= delta
        )


@pytest.mark.parametrize("gap", [5, 12, 20])
def test_a_gap_pays_for_a_predictor_that_saw_the_state_before(gap: int) -> None:
    """Training ends in state x and predicts "not x" for ever, worst right after x; exact over x, as risk differs with x."""
    n, spacing, delta = 400, 24, 0.25
    wrong = {}
    for priced in (True, False):
        bound = SpacedBinomialBound(CHAIN.scale, CHAIN.rate, gap=gap if priced else 10_000, spacing=spacing)
        total = 0.0
        for state, chance in ((0, 1 - ONE), (1, ONE)):
            first = steps(gap + 1)[
                state
            ]  # the loss is 1 where the chain is not in ``other`` = 1 − state, that is, in ``state``
            law = errors_law(first, spacing + 1, bound.count(n))
            law = law if state == 1 else law[::-1]
            risk = float(ONE if state == 1 else 1 - ONE)
            total += float(chance) * missed(bound, law, spacing + 1, n, risk, delta)
        wrong[priced] = total
    assert wrong[True] <= delta
    assert wrong[False] >= wrong[True]


@pytest.mark.parametrize("kind", [IndependentBlocksBound, BlockChernoffBound, SpacedBinomialBound])
@pytest.mark.parametrize(("block", "spacing"), [(1, 2), (2, 2), (3, 1)])
def test_blocks_cover_on_the_chain_for_all_sequences(kind: type[Bound], block: int, spacing: int) -> None:
    n, delta = 9, 0.9  # so short a stretch pays much for dependence: a small δ would buy nothing
    bound = kind.of({"scale": CHAIN.scale, "rate": CHAIN.rate, "gap": 60, "block": block, "spacing": spacing})
    up, down = float(UP), float(DOWN)
    chances = {(0, 0): 1 - up, (0, 1): up, (1, 0): down, (1, 1): 1 - down}
    evidences = []
    for states in product((0, 1), repeat=n):
        chance = float(ONE if states[0] else 1 - ONE)
        for pair in pairwise(states):
            chance *= chances[pair]
        evidences.append((chance, bound.Evidence(tuple(map(float, states)), n)))
    assert lower(bound.left(n, delta)) > 0.1
    assert 1 - delta <= exact_coverage(bound, evidences, float(ONE), delta)


def test_long_blocks_cover_in_repeated_draws_and_are_tighter() -> None:
    n, delta, repeats, risk = 3000, 0.05, 200, float(ONE)
    cut = chosen_blocks(n, delta, CHAIN, gap=200)
    blocks, spaced = IndependentBlocksBound(**vars(cut)), SpacedBinomialBound(**vars(cut) | {"block": 1})
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(repeats):
        uniforms = generator.random(n)
        states = np.empty(n)
        state = float(generator.random() < risk)
        for t in range(n):
            states[t] = state
            state = float(uniforms[t] < (1 - float(DOWN) if state else float(UP)))
        e = blocks.Evidence(tuple(states.tolist()), n)
        wrong += blocks.holds(e, delta, nextafter(risk, 0.0))
    assert stats.binom.sf(wrong - 1, repeats, delta) > 1e-3 and wrong <= 2 * delta * repeats
    assert cut.block > 1
    values = [bound.solve(bound.Evidence(tuple(states.tolist()), n), delta) for bound in (blocks, spaced)]
    assert states.mean() < values[0] < 1


@given(st.lists(st.integers(0, 4).map(lambda k: k / 4), min_size=1, max_size=30), st.integers(1, 5), st.integers(0, 4))
def test_blocks_are_whole_apart_and_their_means_rounded_up(losses: list[float], block: int, spacing: int) -> None:
    means = block_means(tuple(losses), block, spacing)
    cut = SeriesBlocks(block=block, spacing=spacing)
    assert len(means) == cut.count(len(losses))
    for j, mean in enumerate(means):
        part = losses[j * (block + spacing) : j * (block + spacing) + block]
        assert len(part) == block
        exact = sum(map(Fraction, part)) / block
        assert exact <= Fraction(mean) <= exact + Fraction(1, 10**15)


def test_with_independence_stated_the_binomial_tail_comes_back() -> None:
    losses = (0.0, 1.0, 0.0, 0.0, 1.0) * 8
    spaced, tail = SpacedBinomialBound(), BinomialTailBound()
    assert spaced.solve(spaced.Evidence(losses, 40), 0.05) == tail.solve(tail.Evidence(16, 40), 0.05)


def test_dependence_is_paid_from_delta() -> None:
    """1 − δ'^(1/μ) with δ' = δ − (μ − 1)·β(a) − β(g), in closed form."""
    bound = SpacedBinomialBound(scale=0.5, rate=0.5, span=3, gap=9, spacing=11)
    n = 97
    count, lag = 9, 11 + 2 - 3
    left = 0.05 - (count - 1) * 0.5 * 0.5**lag - 0.5 * 0.5**10
    assert bound.count(n) == count and bound.block_lag == lag
    assert bound.solve(bound.Evidence((0.0,) * n, n), 0.05) == pytest.approx(1 - left ** (1 / count), abs=1e-12)


@pytest.mark.parametrize("kind", [IndependentBlocksBound, BlockChernoffBound, SpacedBinomialBound])
def test_where_dependence_eats_delta_nothing_is_promised(kind: type[Bound]) -> None:
    losses = (0.0,) * 200
    for constants in (
        {"scale": 1.0, "rate": 0.9, "gap": 500, "spacing": 5},  # blocks too near
        {"scale": 1.0, "rate": 0.9, "gap": 0, "spacing": 100},  # training too near
        {"memory": 10, "gap": 500, "spacing": 9},  # nothing assumed at this distance
        {"span": 10, "gap": 500, "spacing": 8},  # examples of two blocks share an observation
        {"memory": 10, "gap": 9, "spacing": 10},
    ):
        bound = kind.of(constants)
        assert bound.solve(bound.Evidence(losses, 200), 0.05) == 1.0
    assert kind.of({"memory": 10, "gap": 10, "spacing": 10}).solve(kind.Evidence(losses, 200), 0.05) < 1
    assert kind.of({"span": 10, "gap": 0, "spacing": 9}).solve(kind.Evidence(losses, 200), 0.05) < 1


def test_chosen_blocks_cost_a_tenth_and_never_look_at_losses() -> None:
    for n in (150, 2000, 50_000):
        for mixing in (Mixing(1.0, 0.8), Mixing(memory=6)):
            cut = chosen_blocks(n, 0.02, mixing, span=4, gap=100)
            assert cut.count(n) >= 2
            assert (cut.count(n) - 1) * upper(mixing.coefficient(cut.block_lag)) <= 0.1 * 0.02
            if cut.spacing > cut.memory + cut.span - 1:  # the least spacing that does
                nearer = SeriesBlocks(mixing.scale, mixing.rate, mixing.memory, 4, 100, cut.block, cut.spacing - 1)
                assert (nearer.count(n) - 1) * upper(mixing.coefficient(nearer.block_lag)) > 0.0999 * 0.02
    long, short = chosen_blocks(50_000, 0.02, Mixing(1.0, 0.8), gap=100), chosen_blocks(300, 0.02, Mixing(1.0, 0.8), gap=100)
    assert long.block > short.block
    assert chosen_blocks(1000, 0.02, Mixing(), gap=0) == SeriesBlocks()  # independent: every example is its own block


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"n": 20, "mixing": Mixing(1.0, 0.9), "gap": 100}, r"20 held-out examples are too few .* 52 examples hold two"),
        (
            {"n": 10, "mixing": Mixing(), "block": 12},
            r"10 held-out examples are too few for two blocks of 12 .* 24 examples hold",
        ),
        ({"n": 1000, "mixing": Mixing(1.0, 0.9), "gap": 0}, r"β\(1\) = 0.9, not below .* Leave out 50 observations"),
        ({"n": 1000, "mixing": Mixing(memory=12), "gap": 0}, r"β\(1\) = 1, not below .* Leave out 12 observations"),
        (
            {"n": 1000, "mixing": Mixing(1.0, 0.9), "gap": 100, "spacing": 10},
            r"90·β\(11\), no less than .* A spacing of 93 costs",
        ),
        ({"n": 0, "mixing": Mixing()}, "n is a whole number ≥ 1"),
        ({"n": 100, "mixing": Mixing(), "block": 0}, "block is a whole number ≥ 1"),
        ({"n": 100, "mixing": Mixing(), "span": 2.5}, "span is a whole number ≥ 1"),
        ({"n": 100, "mixing": Mixing(), "gap": -1}, "gap is a whole number ≥ 0"),
    ],
)
def test_what_cannot_be_cut_says_what_would_do(arguments: dict, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        chosen_blocks(**{"delta": 0.05} | arguments)


def test_what_would_do_does() -> None:
    assert chosen_blocks(52, 0.05, Mixing(1.0, 0.9), gap=100).count(52) == 2
    assert chosen_blocks(1000, 0.05, Mixing(1.0, 0.9), gap=50).left(1000, 0.05).a > 0
    assert chosen_blocks(1000, 0.05, Mixing(1.0, 0.9), gap=100, spacing=93).left(1000, 0.05).a > 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "geometric",
        "geometric:1",
        "geometric:1,1",
        "geometric:-1,0.5",
        "geometric:nan,0.5",
        "m-dependent:-1",
        "m-dependent:x",
    ],
)
def test_an_assumption_that_is_none(text: str) -> None:
    with pytest.raises(InvalidInput):
        Mixing.parse(text)


def test_a_stretch_shorter_than_a_block_and_losses_that_are_not_n() -> None:
    bound = IndependentBlocksBound(block=12)
    with pytest.raises(InvalidEvidence, match="5 examples do not fill one block of 12: hold out more"):
        bound.solve(bound.Evidence((0.0,) * 5, 5), 0.05)
    with pytest.raises(InvalidEvidence, match="n is the number of losses"):
        bound.solve(bound.Evidence((0.0,) * 20, 30), 0.05)
    with pytest.raises(InvalidEvidence):
        bound.solve(bound.Evidence((0.0,) * 19 + (float("nan"),), 20), 0.05)
    with pytest.raises(InvalidInput, match="takes the parameters"):
        IndependentBlocksBound.of({"blocks": 3})
