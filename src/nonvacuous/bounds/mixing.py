"""Bounds for a held-out stretch of a series: blocks of it are nearly independent, as far as the series is assumed to forget.

Nothing here estimates how fast a series forgets. That is a hypothesis (:class:`Mixing`), which whoever asks for the certificate states
beforehand, and which no test of the data confirms. Proof with all constants: ``docs/proofs/mixing.md``.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, fsum, inf, log, nextafter, sqrt
from typing import Any, NamedTuple

import numpy as np

from nonvacuous.core.bound import (
    BOUNDED_LOSS,
    FIXED_NETWORKS,
    FIXED_PREDICTOR,
    Bound,
    Down,
    ExactEach,
    Hypothesis,
    LossRange,
    Sample,
)
from nonvacuous.core.errors import InvalidEvidence, InvalidInput
from nonvacuous.core.quantities import MOST_EXAMPLES, is_number
from nonvacuous.numerics.betting import bets, log_capital
from nonvacuous.numerics.interval import Interval, enclose, iv, lower, upper
from nonvacuous.numerics.tails import kl_bernoulli, log_binomial_cdf

MIXING = Hypothesis(
    "mixing",
    "The series forgets as fast as was stated beforehand: observations k steps apart are dependent by at most β(k) (absolute regularity, "
    "all of the past against all of the future). Nobody measured it, and no test of this series can.",
)
STATIONARY = Hypothesis(
    "stationary",
    "The series is stationary: the same law at all times, in training, in the held-out stretch and in use (no trend, no season, no drift).",
)


@dataclass(frozen=True)
class Mixing:
    """What is assumed of a series: β(k) ≤ ``scale``·``rate``^k for k > ``memory``, and nothing for k ≤ ``memory``.

    β(k) = sup over t of the total variation distance between the law of (everything up to t, everything from t + k on) and the product
    of their laws; k is a difference of times, so 1 for neighbours. ``scale`` 0: m-dependence, with m = ``memory``.

    >>> Mixing.parse("geometric:0.5,0.8"), Mixing.parse("m-dependent:3")
    (Mixing(scale=0.5, rate=0.8, memory=0), Mixing(scale=0.0, rate=0.0, memory=3))
    """

    scale: float = 0.0
    rate: float = 0.0
    memory: int = 0

    def __post_init__(self) -> None:
        if not is_number(self.scale) or not 0 <= self.scale < inf:
            raise InvalidInput(f"the scale C of β(k) ≤ C·ρ^k is a number ≥ 0; got {self.scale!r:.60}")
        if not is_number(self.rate) or not 0 <= self.rate < 1:
            raise InvalidInput(
                f"the rate ρ of β(k) ≤ C·ρ^k lies in [0, 1); got {self.rate!r:.60}. A series that does not forget has no such certificate"
            )
        checked_whole("memory", self.memory, 0)

    @classmethod
    def parse(cls, text: str) -> Mixing:
        """``geometric:C,RHO`` (β(k) ≤ C·RHO^k) or ``m-dependent:M`` (independent from M + 1 steps on)."""
        kind, _, numbers = str(text).partition(":")
        try:
            if kind == "geometric":
                scale, rate = map(float, numbers.split(","))
                return cls(scale, rate)
            if kind == "m-dependent":
                return cls(memory=int(numbers))
        except ValueError as error:
            if isinstance(error, InvalidInput):
                raise
        raise InvalidInput(
            f"the assumption about dependence is geometric:C,RHO (β(k) ≤ C·RHO^k) or m-dependent:M; got {text!r:.60}"
        )

    def coefficient(self, lag: int) -> Interval:
        """β(``lag``) at most, as stated: 1 where nothing is assumed."""
        stated = enclose(self.scale) * enclose(self.rate) ** max(int(lag), 1)
        if lag > self.memory and lag >= 1 and stated.b < enclose(1):
            return stated
        return enclose(1)

    def lag_for(self, level: float) -> int:
        """The least lag with β(lag) ≤ ``level``, up to one step."""
        lag = self.memory + 1
        if self.scale > level and self.rate > 0:
            lag = max(lag, ceil(log(level / self.scale) / log(self.rate)))
        while not self.coefficient(lag).b <= level:
            lag += 1
        return lag

    @property
    def statement(self) -> str:
        """The assumption in symbols."""
        after = f" for k > {self.memory}" if self.memory else ""
        return f"β(k) ≤ {self.scale:g}·{self.rate:g}^k{after}" if self.scale else f"β(k) = 0 for k > {self.memory}"


def checked_whole(name: str, value: Any, least: int) -> None:
    """Raise :class:`InvalidInput` unless ``value`` is a whole number of at least ``least`` that a float holds."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST_EXAMPLES:
        raise InvalidInput(f"{name} is a whole number ≥ {least}; got {value!r:.60}")


@dataclass(frozen=True)
class SeriesBlocks:
    """How a held-out stretch is cut, and what is assumed of the series: the constants of this file's bounds, fixed beforehand.

    Attributes: ``scale``, ``rate``, ``memory`` see :class:`Mixing`; ``span`` observations an example reads, target included; ``gap``
    observations left out between training and the held-out stretch; ``block`` examples in a block; ``spacing`` examples left out between
    two blocks.
    """

    scale: float = 0.0
    rate: float = 0.0
    memory: int = 0
    span: int = 1
    gap: int = 0
    block: int = 1
    spacing: int = 0

    def __post_init__(self) -> None:
        Mixing(self.scale, self.rate, self.memory)
        for name, least in (("span", 1), ("gap", 0), ("block", 1), ("spacing", 0)):
            checked_whole(name, getattr(self, name), least)

    @property
    def mixing(self) -> Mixing:
        """The assumption about dependence."""
        return Mixing(self.scale, self.rate, self.memory)

    @property
    def block_lag(self) -> int:
        """Steps from the last observation a block reads to the first of the next one; less than 1 where they overlap."""
        return self.spacing + 2 - self.span

    def count(self, n: int) -> int:
        """Whole blocks among ``n`` examples."""
        return (n + self.spacing) // (self.block + self.spacing)

    def price(self, n: int) -> Interval:
        """What dependence costs of δ: (μ − 1)·β between the μ blocks, and β between them and training."""
        return (self.count(n) - 1) * self.mixing.coefficient(self.block_lag) + self.mixing.coefficient(self.gap + 1)

    def left(self, n: int, delta: float) -> Interval:
        """What is left of δ for the theorem on independent blocks; not positive where dependence eats it all."""
        return enclose(delta) - self.price(n)


@dataclass(frozen=True)
class _BlocksBound(SeriesBlocks, Bound):
    """A theorem on independent blocks, at what dependence leaves of δ."""

    sample = Sample.HELD_OUT
    predictors = FIXED_NETWORKS

    def domain(self, e: Any, delta: float) -> None:
        if len(e.losses) != e.n:
            raise InvalidEvidence(f"n is the number of losses; got n = {e.n} and {len(e.losses)} losses")
        if e.n < self.block:
            raise InvalidEvidence(
                f"{e.n} examples do not fill one block of {self.block}: hold out more, or take shorter blocks"
            )

    def proves(self, e: Any, delta: float, value: float) -> bool:
        left = self.left(int(e.n), delta)
        return bool(left.a > 0) and self.independent_prove(e, left, value)

    @abstractmethod
    def independent_prove(self, e: Any, left: Interval, value: float) -> bool:
        """Whether independent blocks prove the value at confidence 1 − ``left``."""


@dataclass(frozen=True)
class IndependentBlocksBound(_BlocksBound):
    """risk ≤ value whenever Π_j (1 + λ_j(value − Y_j)) ≥ 1/δ' over the means Y_j of μ blocks, δ' = δ − (μ − 1)·β(a) − β(g), in a series.

    The held-out stretch of a stationary, β-mixing series is cut into μ blocks of ``block`` examples with ``spacing`` examples left out
    between them. Blocks read observations at least a = spacing + 2 − span steps apart, training's last observation lies
    g = gap + 1 steps before the first: blocks and training are within (μ − 1)·β(a) + β(g) of independent in total variation (Yu). For
    independent blocks the capital is a supermartingale, as in the betting bound. Block means vary less than losses do, so long blocks cost
    little where they are many. The risk is the mean loss on a stretch of the same series far from training.

    >>> bound = IndependentBlocksBound(memory=2, block=5, spacing=2, gap=2)  # 2-dependent: nothing to pay
    >>> bound.count(250), round(bound.solve(bound.Evidence(losses=(0.0,) * 250, n=250), 0.05), 4)
    (36, 0.1014)
    """

    class Evidence(NamedTuple):
        losses: ExactEach
        n: Down

    source = "Yu 1994 (Ann. Probab. 22), Corollary 2.7; for the blocks Waudby-Smith and Ramdas 2024 (JRSS B 86), Theorem 3"
    loss = LossRange.BOUNDED
    hypotheses = (MIXING, STATIONARY, FIXED_PREDICTOR, BOUNDED_LOSS)
    worked = ((((0.0, 0.25, 0.0, 0.0) * 5, 20), 0.05, 0.2534700),)  # blocks of one, independent: the betting bound's number

    def independent_prove(self, e: Any, left: Interval, value: float) -> bool:
        needed = (-iv.log(left.a)).b
        means, stakes = _staked(tuple(e.losses), self.block, self.spacing, upper(needed))
        return bool(log_capital(means, stakes, value).a >= needed)


@dataclass(frozen=True)
class BlockChernoffBound(_BlocksBound):
    """risk ≤ value whenever μ·kl(Ȳ, value) ≥ ln(1/δ') and value > Ȳ, δ' = δ − (μ − 1)·β(a) − β(g), Ȳ the mean over μ blocks of a series.

    Blocks, β, a and g as in :class:`IndependentBlocksBound`; the Chernoff bound instead of betting. It does not look at the variance of the
    blocks' means: the better one of the two where blocks are few.

    >>> bound = BlockChernoffBound(memory=2, block=5, spacing=2, gap=2)
    >>> round(bound.solve(bound.Evidence(losses=(0.0,) * 250, n=250), 0.05), 4)  # 1 − 0.05^(1/36)
    0.0798
    """

    class Evidence(NamedTuple):
        losses: ExactEach
        n: Down

    source = "Yu 1994 (Ann. Probab. 22), Corollary 2.7; Hoeffding 1963 (JASA 58), Theorem 1, inequality (2.1)"
    loss = LossRange.BOUNDED
    hypotheses = (MIXING, STATIONARY, FIXED_PREDICTOR, BOUNDED_LOSS)
    worked = (((((0.0,) * 100), 100), 0.05, 0.0295130),)  # independent, no loss: 1 − 0.05^(1/100)

    def independent_prove(self, e: Any, left: Interval, value: float) -> bool:
        means = block_means(tuple(e.losses), self.block, self.spacing)
        mean = min(1.0, nextafter(fsum(means) / len(means), inf)) if means.any() else 0.0
        return bool(value > mean and (len(means) * kl_bernoulli(mean, value)).a >= (-iv.log(left.a)).b)


@dataclass(frozen=True)
class SpacedBinomialBound(_BlocksBound):
    """risk ≤ value whenever P(Bin(μ, value) ≤ errors) ≤ δ', δ' = δ − (μ − 1)·β(a) − β(g), over μ examples of a series kept apart.

    Of the held-out stretch of a stationary, β-mixing series the first example of each block is kept; the kept ones read observations at
    least a steps apart, and are within (μ − 1)·β(a) + β(g) of independent in total variation (Yu), training included, which ends g steps
    before. For independent examples this is the exact binomial tail. A loss above 0 counts as an error.

    >>> bound = SpacedBinomialBound(scale=0.5, rate=0.5, spacing=19, gap=19)  # β(20) = 0.5^21: next to nothing
    >>> bound.count(2000), round(bound.solve(bound.Evidence(losses=(0.0,) * 2000, n=2000), 0.05), 4)  # 1 − 0.05^(1/100) = 0.0295
    (100, 0.0295)
    """

    class Evidence(NamedTuple):
        losses: ExactEach
        n: Down

    source = "Yu 1994 (Ann. Probab. 22), Corollary 2.7; Clopper and Pearson 1934"
    loss = LossRange.ZERO_ONE
    hypotheses = (MIXING, STATIONARY, FIXED_PREDICTOR)
    worked = (((((0.0,) * 100), 100), 0.05, 0.0295130),)  # independent, no errors: 1 − 0.05^(1/100)

    def independent_prove(self, e: Any, left: Interval, value: float) -> bool:
        kept = e.losses[:: self.block + self.spacing][: self.count(int(e.n))]
        errors = sum(loss > 0 for loss in kept)
        return bool(log_binomial_cdf(errors, len(kept), value).b <= iv.log(left.a).a)


@lru_cache(maxsize=4)
def block_means(losses: tuple[float, ...], block: int, spacing: int) -> np.ndarray[Any, Any]:
    """Means of blocks of ``block`` losses, ``spacing`` left out in between, each rounded up: a fixed function of its block alone."""
    step = block + spacing
    count = (len(losses) + spacing) // step
    if block == 1:
        return np.asarray(losses[::step][:count], dtype=np.float64)
    sums = [fsum(losses[start : start + block]) for start in range(0, count * step, step)]
    return np.array([min(1.0, nextafter(nextafter(total / block, inf), inf)) if total else 0.0 for total in sums])


@lru_cache(maxsize=4)
def _staked(
    losses: tuple[float, ...], block: int, spacing: int, confidence: float
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The blocks' means and the stakes on them: made once, not at every step of a bisection."""
    means = block_means(losses, block, spacing)
    return means, bets(means, confidence)


DEPENDENCE_SHARE = 0.1
"""Part of δ that dependence may cost where blocks are chosen here."""

SPREAD = 0.1
"""Variance of a loss that the choice of a block's length has in mind; the choice is sound whatever it is."""


def chosen_blocks(
    n: int, delta: float, mixing: Mixing, *, span: int = 1, gap: int = 0, block: int | None = None, spacing: int | None = None
) -> SeriesBlocks:
    """Blocks for ``n`` held-out examples at confidence 1 − ``delta``, from these numbers alone: never from the losses.

    Spacing: the least at which dependence costs at most a tenth of what training leaves of δ. Block: the length at which a sum of the
    betting bound's two terms is least, for losses correlated as the assumption lets observations be. Both unless given.

    Raises :class:`InvalidInput` where no blocks do, saying what would: a longer gap, more spacing, a longer stretch.
    """
    checked_whole("n", n, 1)
    cut = SeriesBlocks(mixing.scale, mixing.rate, mixing.memory, span, gap, 1 if block is None else block, 0)
    before = mixing.coefficient(gap + 1)
    if not before.b < delta:
        gap_needed = mixing.lag_for(DEPENDENCE_SHARE * delta) - 1
        raise InvalidInput(
            f"{gap} observations lie between training and the held-out stretch: {mixing.statement} leaves β({gap + 1}) = {_shown(before)}, "
            f"not below this bound's share of δ, {delta:.3g}. Leave out {gap_needed} observations there, or state and argue faster mixing"
        )
    allowed = float(DEPENDENCE_SHARE * (delta - upper(before)))
    lengths = [block] if block is not None else sorted({max(1, round(2 ** (k / 3))) for k in range(40)} & set(range(1, n + 1)))
    found = [
        _spaced(cut, n, length, spacing, allowed) for length in lengths if length + (spacing or 0) <= n or block is not None
    ]
    fitting = [c for c in found if c.count(n) >= 2 and c.left(n, delta).a > 0]
    if not fitting:
        raise InvalidInput(_why_none(found, n, delta, allowed))
    return min(fitting, key=lambda c: _width(c, n, delta))


def _spaced(cut: SeriesBlocks, n: int, block: int, spacing: int | None, allowed: float) -> SeriesBlocks:
    """Blocks of this length with the given spacing, or the least one that costs at most ``allowed``."""
    least = cut.memory + cut.span - 1

    def at(space: int) -> SeriesBlocks:
        return SeriesBlocks(cut.scale, cut.rate, cut.memory, cut.span, cut.gap, block, space)

    def cheap(space: int) -> bool:
        made = at(space)
        return bool(((made.count(n) - 1) * cut.mixing.coefficient(made.block_lag)).b <= allowed)

    if spacing is not None:
        return at(spacing)
    low, high = least - 1, max(least, n)
    while high - low > 1:  # the cost falls as the spacing grows
        middle = (low + high) // 2
        low, high = (low, middle) if cheap(middle) else (middle, high)
    return at(high)


def _width(cut: SeriesBlocks, n: int, delta: float) -> float:
    """About how far above the mean loss the betting bound lies, if losses are correlated as the assumption lets observations be."""
    lags = np.arange(1, min(cut.block, 1000))
    fading = cut.rate**lags if cut.scale else np.maximum(0.0, 1.0 - lags / (cut.memory + 1))
    variance = SPREAD * min(1.0, (1.0 + 2.0 * float((fading * (1.0 - lags / cut.block)).sum())) / cut.block)
    confidence = -log(lower(cut.left(n, delta)))
    return sqrt(2 * variance * confidence / cut.count(n)) + confidence / cut.count(n)


def _shown(x: Interval) -> str:
    return f"{upper(x):.3g}"


def _why_none(found: list[SeriesBlocks], n: int, delta: float, allowed: float) -> str:
    """What stands in the way of two blocks, and what would do."""
    cut = min(found, key=lambda c: c.block)
    blocks = max(2, cut.count(n))
    needed = max(cut.memory + cut.span - 1, cut.mixing.lag_for(allowed / (blocks - 1)) + cut.span - 2)
    if cut.spacing < needed and cut.count(n) >= 2:
        return (
            f"blocks lie {cut.spacing} examples apart, and an example reads {cut.span} observations: {cut.mixing.statement} leaves "
            f"{blocks - 1}·β({cut.block_lag}), no less than this bound's share of δ, {delta:.3g}. A spacing of {needed} costs a tenth of it"
        )
    return (
        f"{n} held-out examples are too few for two blocks of {cut.block} under {cut.mixing.statement}: an example reads {cut.span} "
        f"observations, so blocks must lie {needed} examples apart. {2 * cut.block + needed} examples hold two; tens of blocks are worth "
        "having"
    )
