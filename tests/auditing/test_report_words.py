"""Numbers as a reader sees them: never better than what was proved."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nonvacuous.auditing import wording
from nonvacuous.auditing.wording import THIN
from nonvacuous.core.measured import Kind, Measured
from tests.auditing.conftest import certificate


def shown(text: str) -> Decimal:
    """The number that was displayed, exactly."""
    return Decimal(text.replace("−", "-").replace(THIN, "").rstrip("%")) / (100 if "%" in text else 1)


@given(st.floats(0.0, 1.0), st.sampled_from(["zero_one", "squared"]))
@example(0.05, "zero_one")
@example(5e-324, "zero_one")
@example(1 - 2**-53, "squared")
def test_a_certified_number_is_never_shown_smaller(value: float, loss: str) -> None:
    assert Decimal(value) <= shown(wording.risk(value, loss)) <= Decimal(value) * Decimal("1.11") + Decimal("0.0100001")


@given(st.floats(0.0, 1.0), st.floats(-1.0, 1.0))
@example(0.062, -0.062)
@example(0.0, -5e-324)
def test_an_interval_is_shown_rounded_outward(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    if low == high:
        return
    text = wording.interval(Measured(low, high, Kind.CONFIDENCE, 0.05), "zero_one")
    ends = [shown(end.rstrip("%") + "%") for end in text.split(" to ")]
    assert ends[0] <= Decimal(low) + wording.DUST
    assert ends[1] >= Decimal(high) - wording.DUST


def test_both_ends_of_an_interval_have_as_many_digits() -> None:
    assert wording.interval(Measured(-0.00092, 0.0377, Kind.CONFIDENCE, 0.05), "zero_one") == f"−0.10 to 3.77{THIN}%"
    assert wording.interval(Measured(0.00001, 0.00052, Kind.CONFIDENCE, 0.05), "zero_one") == f"0.001 to 0.052{THIN}%"


def test_the_dust_of_outward_rounding_is_not_shown() -> None:
    noisy = Measured.exact(0.062) + 0.0 - 0.0
    assert noisy.lower < 0.062 < noisy.upper
    assert wording.interval(noisy, "zero_one") == f"6.20 to 6.20{THIN}%"


@given(st.floats(1e-9, 0.999))
def test_confidence_is_never_shown_larger(delta: float) -> None:
    assert shown(wording.confidence(delta)) <= 1 - Decimal(repr(delta))


@given(st.floats(1e-12, 0.999))
def test_a_share_of_delta_is_never_shown_smaller(delta: float) -> None:
    assert Decimal(wording.share(delta)) >= Decimal(repr(delta))
    assert shown(wording.odds(delta)) >= Decimal(repr(delta))


def test_file_names_tell_certificates_of_one_bound_apart() -> None:
    coded = {"risk": 0.1, "code_bits": 1500, "n": 60_000}
    held = certificate("binomial-tail", "deterministic", 0.01, {"errors": 1, "n": 100})
    compressed, own, other_loss = (
        certificate("occam", predictor, 0.01, coded, loss)
        for predictor, loss in (("compressed", "zero_one"), ("deterministic", "zero_one"), ("deterministic", "../Brier"))
    )
    assert wording.file_names([held, compressed]) == ["binomial-tail", "occam"]
    assert wording.file_names([compressed, held, own]) == ["occam-compressed", "binomial-tail", "occam-deterministic"]
    names = wording.file_names([compressed, own, other_loss])
    assert names == ["occam-compressed", "occam-deterministic-zero_one", "occam-deterministic-brier"]
    assert wording.file_names([held, held, held]) == ["binomial-tail", "binomial-tail-2", "binomial-tail-3"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (873, "873"),
        (60_000, f"60{THIN}000"),
        (0.0873, "0.0873"),
        (float("inf"), "∞"),
        ((0.0,) * 9, "9 numbers"),
        (None, "none"),
    ],
)
def test_recorded_values_as_text(value: object, text: str) -> None:
    assert wording.plain(value) == text
