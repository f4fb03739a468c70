"""The plan: which bounds will be applied, and what share of δ each gets, declared before any data are read."""

from __future__ import annotations

from dataclasses import dataclass

from nonvacuous.auditing.result import Skipped
from nonvacuous.auditing.series import Series
from nonvacuous.bounds.mixing import MIXING, BlockChernoffBound, SeriesBlocks
from nonvacuous.core.bound import IID, Bound, Direction, LossRange, Predictor, Sample, registered
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.ledger import Ledger
from nonvacuous.measures.losses import Loss
from nonvacuous.measures.subject import SPENDS, measures

WEIGHTS = {
    "binomial-tail": 0.5,
    "betting": 0.5,
    "seeger": 0.2,
    "occam-binomial": 0.1,
    "independent-blocks": 0.5,
    "block-chernoff": 0.5,
    "spaced-binomial": 0.5,
}
"""Weights of the shares: half to the held-out certificate, little to what is foreseeably vacuous or dominated."""

LOWER = "lower limit"
"""Name under which the ledger books the lower end of the risk interval in the error budget."""

LOWER_WEIGHT = 0.05
OTHERS = 0.15
"""What all other bounds share equally, so that adding one takes nothing from those above."""

UNMEASURED = (
    "its evidence comes from training, not from a finished network: see `nonvacuous certify` (or register measures for it)"
)

DOMINATED = {name: "binomial-tail" for name in ("betting", "chernoff", "hoeffding", "empirical-bernstein")} | {
    "occam": "occam-binomial",
}
"""For a loss of only 0 and 1 these are never better than the exact form."""

MEASURING = 0.1
"""Part of a share that pays for measuring evidence by Monte-Carlo, where a bound needs it."""


@dataclass(frozen=True)
class Planned:
    """One bound of the plan: whose risk it will speak of, its share, and the part of it that pays for measuring."""

    bound: Bound
    predictor: Predictor
    share: float
    measuring: float


@dataclass(frozen=True)
class Plan:
    """The bounds to apply, those left out with reasons, and the account the shares were booked in."""

    planned: tuple[Planned, ...]
    skipped: tuple[Skipped, ...]
    ledger: Ledger


def plan(delta: float, loss: Loss, *, held_out: int | None, network: bool, series: Series | None = None) -> Plan:
    """Declare the shares.

    Args: ``held_out`` examples held out, None without such a sample; ``network`` whether the model is an ``nn.Module``, whose weights can
    be read; ``series`` where the examples are one: then bounds that need independent examples are left out.
    """
    chosen: dict[str, tuple[Bound, Predictor]] = {}
    skipped: list[Skipped] = []
    for name, kind in registered().items():
        reason = _reason(kind, loss, held_out is not None, network, series)
        predictor = None if reason else _measurable(kind)
        if reason or predictor is None:
            skipped.append(Skipped(name, reason or UNMEASURED))
        else:
            chosen[name] = (kind(), predictor)
    ledger = Ledger(delta)
    lower = {LOWER: LOWER_WEIGHT} if held_out is not None else {}
    others = max(1, sum(name not in WEIGHTS for name in chosen))
    shares = ledger.shares({name: WEIGHTS.get(name, OTHERS / others) for name in chosen} | lower)
    if held_out is not None:
        ledger.spend(shares[LOWER], on=LOWER)
    planned = []
    for name, (bound, predictor) in chosen.items():
        share = ledger.spend(shares[name], on=name)
        if isinstance(bound, SeriesBlocks) and series is not None and held_out is not None:
            try:
                bound = series.blocks(type(bound), held_out, share)
            except InvalidInput as error:
                skipped.append(Skipped(name, str(error)))
                continue
        spends = any((field, bound.sample, predictor) in SPENDS for field in bound.Evidence._fields)
        planned.append(Planned(bound, predictor, share, MEASURING * share if spends else 0.0))
    return Plan(tuple(planned), tuple(skipped), ledger)


def _reason(kind: type[Bound], loss: Loss, held_out: bool, network: bool, series: Series | None) -> str:
    """Why a bound does not apply, or nothing."""
    if MIXING in kind.hypotheses and series is None:
        return "it is for a series, and none was declared (--mixing)"
    if kind.sample is Sample.HELD_OUT and not held_out:
        return "there is no held-out sample (--test)"
    if kind.loss is LossRange.ZERO_ONE and not loss.binary:
        return f"it covers the 0–1 loss, not {loss.name}"
    if loss.binary and kind is BlockChernoffBound:
        return "for the 0–1 loss spaced-binomial stands in its place"
    if loss.binary and kind.name in DOMINATED:
        return f"for the 0–1 loss it is never better than {DOMINATED[kind.name]}"
    if kind.sample is Sample.TRAINING and not network:
        return "it reads weights, and the model is not an nn.Module"
    if IID in kind.hypotheses and series is not None:
        return "it needs independent examples, and these are a series: what it would give stands among the indicators"
    return ""


def _measurable(kind: type[Bound]) -> Predictor | None:
    """The first predictor for which every evidence field that is not a free parameter can be measured."""
    known = measures()
    needed = [name for name, direction in kind.directions().items() if direction is not Direction.FREE]
    for predictor in kind.predictors:
        if all((name, kind.sample, predictor) in known for name in needed):
            return predictor
    return None
