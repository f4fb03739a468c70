"""δ is money: no sequence of bookings spends more than there is."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nonvacuous.core.errors import DeltaOverspent, InvalidInput
from nonvacuous.core.ledger import Ledger, check_delta

HALF_AN_ULP = Fraction(1, 2**53)


def spent(ledger: Ledger) -> Fraction:
    return sum(map(Fraction, ledger.spent.values()), Fraction(0))


@given(st.sampled_from([0.05, 0.1, 0.3, 1e-9, 1 - 2**-53]), st.lists(st.floats(1e-30, 0.99), max_size=40))
def test_no_bookings_overspend(delta: float, shares: list[float]) -> None:
    ledger = Ledger(delta)
    for i, share in enumerate(shares):
        before = dict(ledger.spent)
        try:
            assert ledger.spend(share, on=str(i)) == share
        except DeltaOverspent:
            assert ledger.spent == before
    assert spent(ledger) <= Fraction(delta) * (1 + HALF_AN_ULP)
    assert 0 <= ledger.left <= delta


def test_dust_does_not_add_up_unseen() -> None:
    """A million shares too small to move the sum one at a time: all together they are refused."""
    ledger = Ledger(0.05)
    ledger.spend(0.05, on="all")
    refused = 0
    for i in range(2000):
        try:
            ledger.spend(1e-20, on=str(i))
        except DeltaOverspent:
            refused += 1
    assert refused > 0
    assert spent(ledger) <= Fraction(0.05) * (1 + HALF_AN_ULP)


@given(
    st.sampled_from([0.05, 0.3, 1e-12]),
    st.dictionaries(st.text(min_size=1, max_size=3), st.floats(1e-6, 1e6), min_size=1, max_size=30),
    st.floats(0, 0.9),
)
def test_shares_can_all_be_spent_and_leave_next_to_nothing(delta: float, weights: dict[str, float], first: float) -> None:
    ledger = Ledger(delta)
    if first * delta > 0:
        ledger.spend(first * delta, on="first, a longer name")
    left = ledger.left
    for name, share in ledger.shares(weights).items():
        ledger.spend(share, on=name)
    assert spent(ledger) <= Fraction(delta)
    assert ledger.left <= left * 1e-9 + 1e-18


def test_shares_are_proportional() -> None:
    shares = Ledger(0.05).shares({"a": 1, "b": 3})
    assert shares["b"] == pytest.approx(3 * shares["a"]) and shares["a"] == pytest.approx(0.0125)
    assert Ledger(0.05).shares({}) == {}
    for weights in ({"a": 0}, {"a": -1}, {"a": float("nan")}):
        with pytest.raises(InvalidInput):
            Ledger(0.05).shares(weights)


def test_a_second_look_needs_a_second_share() -> None:
    ledger = Ledger(0.05)
    ledger.spend(0.01, on="seeger")
    with pytest.raises(DeltaOverspent, match="already paid"):
        ledger.spend(0.01, on="seeger")
    with pytest.raises(DeltaOverspent, match=r"only 0\.04 is left.*seeger 0\.01"):
        ledger.spend(0.041, on="other")


def test_a_ledger_that_begins_overdrawn() -> None:
    with pytest.raises(DeltaOverspent):
        Ledger(0.05, {"before": 0.06})
    assert Ledger(0.05, {"before": 0.03}).left == pytest.approx(0.02)


@pytest.mark.parametrize("delta", [0, 1, -0.1, 2, float("nan"), float("inf"), True, "0.05", None, 10**400, [0.05]])
def test_what_is_no_confidence(delta: Any) -> None:
    for call in (lambda: check_delta(delta), lambda: Ledger(delta), lambda: Ledger(0.5).spend(delta, on="x")):
        with pytest.raises(InvalidInput, match=r"\(0, 1\)"):
            call()
