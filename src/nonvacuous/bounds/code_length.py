"""Bounds from the length of a prefix-free code for the predictor (Occam's razor).

``code_bits`` must be the length of a *prefix-free* code fixed before the data: no code word is the start of another. The length
of a file is not such a code until the length itself is coded too; :func:`delimited_bits` adds that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from nonvacuous.core.bound import BOUNDED_LOSS, DATA_FREE_CODE, IID, Bound, Down, LossRange, Predictor, Sample, Up
from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.numerics.interval import Interval, iv
from nonvacuous.numerics.tails import kl_bernoulli, log_binomial_cdf

CODED = (Predictor.DETERMINISTIC, Predictor.COMPRESSED)


def _price(e: Any, delta: float) -> Interval:
    """ln(1/δ) + |c(h)| ln 2: a union bound over all predictors, weighted 2^(−|c|) by Kraft's inequality."""
    price: Interval = iv.mpf(e.code_bits) * iv.log(2) - iv.log(delta)
    return price


@dataclass(frozen=True)
class OccamBound(Bound):
    """risk ≤ value whenever n·kl(r̂, value) ≥ |c| ln 2 + ln(1/δ) and value > r̂, simultaneously for all coded predictors.

    r̂ is the mean loss on the sample the predictor was trained on; |c| its length in a prefix-free code.

    >>> bound = OccamBound()
    >>> round(bound.solve(bound.Evidence(risk=0.1, code_bits=1500, n=60_000), 0.05), 4)
    0.165
    """

    class Evidence(NamedTuple):
        risk: Up
        code_bits: Up
        n: Down

    source = "Blumer et al. 1987; Langford 2005 (JMLR 6), Theorem 4.1 with Corollary 4.2; Hoeffding 1963, (2.1)"
    sample = Sample.TRAINING
    loss = LossRange.BOUNDED
    predictors = CODED
    hypotheses = (IID, DATA_FREE_CODE, BOUNDED_LOSS)
    worked = (((0.1, 1500, 60_000), 0.05, 0.1649775),)

    def proves(self, e: Any, delta: float, value: float) -> bool:
        return bool(value > e.risk and (e.n * kl_bernoulli(e.risk, value)).a >= _price(e, delta).b)


@dataclass(frozen=True)
class OccamBinomialBound(Bound):
    """risk ≤ value whenever P(Bin(n, value) ≤ errors) ≤ δ 2^(−|c|), for the 0–1 loss, simultaneously for all coded predictors.

    Slightly better than the kl form. Evaluated in the log domain: the tails go far below the smallest float.

    >>> bound = OccamBinomialBound()
    >>> round(bound.solve(bound.Evidence(errors=6_000, code_bits=1500, n=60_000), 0.05), 4)
    0.1648
    """

    class Evidence(NamedTuple):
        errors: Up
        code_bits: Up
        n: Down

    source = "Langford 2005 (JMLR 6), Theorem 4.1"
    sample = Sample.TRAINING
    loss = LossRange.ZERO_ONE
    predictors = CODED
    hypotheses = (IID, DATA_FREE_CODE)
    worked = (((6_000, 1500, 60_000), 0.05, 0.1648223),)

    def proves(self, e: Any, delta: float, value: float) -> bool:
        return bool(log_binomial_cdf(int(e.errors), int(e.n), value).b <= (-_price(e, delta)).a)


def delimited_bits(payload_bits: int) -> int:
    """Bits of a self-delimiting message: the payload, preceded by its length in Elias' δ code.

    Args: ``payload_bits`` ≥ 0. Source: Elias 1975 (IEEE Trans. Inf. Theory 21).

    >>> delimited_bits(1000)  # 1001 takes 10 bits: its δ code has 9 + 2·3 + 1 = 16
    1016
    """
    if payload_bits < 0:
        raise InvalidEvidence(f"a payload has at least 0 bits; got {payload_bits}")
    length = (payload_bits + 1).bit_length()
    return payload_bits + (length - 1) + 2 * (length.bit_length() - 1) + 1
