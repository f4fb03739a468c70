"""The registry: names are unique, evidence comes from the glossary, a broken plug-in takes nobody down."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from nonvacuous.core import bound as module
from nonvacuous.core.bound import IID, REGISTRY, Bound, Direction, Down, LossRange, Predictor, Sample, Up, find, registered
from nonvacuous.core.certificate import Assumption, Certificate
from nonvacuous.core.errors import CertificateRefused, InvalidEvidence, InvalidInput, UnknownBound
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.core.quantities import QUANTITIES, Quantity, Reads, quantity
from nonvacuous.testing.bounds import BoundContract


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """What a test registers is gone after it."""
    registered()
    bounds, quantities = dict(REGISTRY), dict(QUANTITIES)
    yield
    for table, before in ((REGISTRY, bounds), (QUANTITIES, quantities)):
        table.clear()
        table.update(before)  # type: ignore[arg-type]


class Evidence(NamedTuple):
    risk: Up
    n: Down


COMMON: dict[str, Any] = {
    "Evidence": Evidence,
    "source": "Nobody 2000, Theorem 0",
    "sample": Sample.HELD_OUT,
    "loss": LossRange.BOUNDED,
    "predictors": (Predictor.DETERMINISTIC,),
    "hypotheses": (IID,),
    "worked": (((0.1, 100), 0.05, 0.2223873),),
    "__doc__": "risk ≤ r̂ + √(ln(1/δ)/(2n)), once more, for the tests.",
}


def made(name: str, proves: Any, **more: Any) -> type[Bound]:
    return dataclass(frozen=True)(type(name, (Bound,), {**COMMON, "proves": proves, "__module__": __name__, **more}))


def hoeffding(self: Bound, e: Any, delta: float, value: float) -> bool:
    from nonvacuous.numerics.interval import iv

    return bool((e.risk + iv.sqrt(-iv.log(delta) / (2 * iv.mpf(e.n)))).b <= value)


def test_names_derive_from_the_class() -> None:
    kind = made("FreshHoeffdingBound", hoeffding)
    assert kind.name == "fresh-hoeffding" and kind.title == "Fresh Hoeffding" and find("fresh-hoeffding") is kind
    assert made("VCLikeBound", hoeffding).name == "vc-like"
    assert kind.directions() == {"risk": Direction.UP, "n": Direction.DOWN}
    assert kind.statement().startswith("risk ≤")


def test_two_bounds_of_one_name_are_refused() -> None:
    made("TwinBound", hoeffding)
    made("TwinBound", hoeffding)  # the same class again, as a notebook cell makes it
    with pytest.raises(InvalidInput, match="two bounds are named 'twin'"):
        made("TwinBound", hoeffding, __module__="elsewhere")
    with pytest.raises(InvalidInput, match="two bounds are named 'seeger'"):
        made("SeegerBound", hoeffding)
    assert find("seeger").__module__ == "nonvacuous.bounds.pac_bayes"


def test_what_a_bound_must_say() -> None:
    class Odd(NamedTuple):
        luck: Up
        n: Down

    with pytest.raises(InvalidInput, match=r"\['luck'\] is not in the glossary.*quantity"):
        made("LuckBound", hoeffding, Evidence=Odd)
    with pytest.raises(InvalidInput, match="does not say its source"):
        type("SilentBound", (Bound,), {k: v for k, v in COMMON.items() if k != "source"} | {"proves": hoeffding})
    assert "luck" not in REGISTRY and "silent" not in REGISTRY


def test_a_glossary_entry_cannot_change_its_meaning() -> None:
    entry = Quantity("luck", "L", "1", 0, 1, Reads.NOTHING, "Luck.")
    assert quantity(entry) is entry is quantity(entry)
    with pytest.raises(InvalidInput, match="another 'luck'"):
        quantity(Quantity("luck", "L", "1", 0, 2, Reads.NOTHING, "More luck."))


def test_a_bound_whose_evidence_has_no_sample_size() -> None:
    class OnlyRisk(NamedTuple):
        risk: Up

    kind = made("RisklessBound", lambda self, e, delta, value: value >= e.risk, Evidence=OnlyRisk)
    assert kind().solve(OnlyRisk(0.25), 0.05) == 0.25


class Broken:
    value = "no.such.package"

    def load(self) -> None:
        raise ImportError("No module named 'no'")


class Installed:
    value = "nonvacuous.bounds"

    def load(self) -> None:
        import nonvacuous.bounds  # noqa: F401


def test_a_broken_plug_in_warns_and_the_others_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Watched(Installed):
        def load(self) -> None:
            order.append("ours")

    class Late(Broken):
        def load(self) -> None:
            order.append("theirs")
            super().load()

    monkeypatch.setattr(module, "entry_points", lambda group: [Late(), Watched()])
    monkeypatch.setattr(module, "_discovered", False)
    with pytest.warns(UserWarning, match=r"no\.such\.package.*could not be loaded.*No module"):
        bounds = registered()
    assert "seeger" in bounds and order == ["ours", "theirs"], "our own are first, so no plug-in can take their names"
    assert registered() == bounds, "no second warning"


@pytest.mark.parametrize("name", ["seger", "", "SEEGER", None, 7, [], {}, "x" * 10_000])
def test_a_name_that_is_none_says_what_there_is(name: Any) -> None:
    with pytest.raises(UnknownBound) as caught:
        find(name)
    assert len(str(caught.value)) < 500
    if name == "seger":
        assert "seeger" in str(caught.value)


# -- evidence from measured numbers --------------------------------------------------------------------------------------


def test_evidence_takes_the_worse_end_and_refuses_indicators() -> None:
    bound = find("binomial-tail")()
    e = bound.evidence(errors=Measured(3.0, 5.0, Kind.EXACT), n=Measured(98.0, 100.0, Kind.EXACT))
    assert e == (5, 98) and all(isinstance(x, int) for x in e)
    assert find("seeger")().evidence(gibbs_risk=0.1, kl_nats=Measured(1.0, inf, Kind.EXACT), n=100).kl_nats == inf
    with pytest.raises(InvalidEvidence, match="indicator"):
        bound.evidence(errors=Measured.indicator(3.0), n=100)
    with pytest.raises(InvalidEvidence, match="takes the evidence errors, n; got errors"):
        bound.evidence(errors=3)


# -- the contract can fail -----------------------------------------------------------------------------------------------


def always(self: Bound, e: Any, delta: float, value: float) -> bool:
    return True


def backwards(self: Bound, e: Any, delta: float, value: float) -> bool:
    return hoeffding(self, e._replace(risk=1 - e.risk), delta, value)


def careless(self: Bound, e: Any, delta: float, value: float) -> bool:
    return hoeffding(self, e, 0.05, value)


def gap(self: Bound, e: Any, delta: float, value: float) -> bool:
    return hoeffding(self, e, delta, value) and not 0.9 < value < 0.9999999


BROKEN = {
    "always": (always, "test_useless_evidence_gives_one"),
    "backwards": (backwards, "test_it_moves_with_each_argument_as_declared"),
    "careless": (careless, "test_worked_numbers"),
    "gap": (gap, "test_solve_gives_the_smallest_value_that_holds"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_contract_finds_a_broken_bound(name: str) -> None:
    proves, test = BROKEN[name]
    worked = (((0.1, 100), 0.5, 0.1588704),) if name == "careless" else COMMON["worked"]
    kind = made(f"{name.capitalize()}Bound", proves, worked=worked)
    contract = type("Contract", (BoundContract,), {"bound": kind()})()
    with pytest.raises(AssertionError):
        quick(contract, test)


def quick(contract: BoundContract, name: str) -> None:
    """One test of a contract, its counter-example not made small."""
    test = getattr(contract, name)
    if hasattr(test, "hypothesis"):

        @settings(phases=[Phase.generate], deadline=None, report_multiple_bugs=False)
        @given(st.data())
        def drawn(data: st.DataObject) -> None:
            test.hypothesis.inner_test(contract, data)

        drawn()
    else:
        test()


def test_the_contract_passes_a_sound_copy() -> None:
    contract = type("Contract", (BoundContract,), {"bound": made("CopiedBound", hoeffding)()})()
    for test in (name for name in dir(contract) if name.startswith("test_")):
        getattr(contract, test)()


# -- certificates as objects ---------------------------------------------------------------------------------------------


def certificate(**more: Any) -> Certificate:
    bound = find("betting")()
    losses = [0.0, 0.25, 0.0, 0.0] * 5
    fields: dict[str, Any] = {
        "bound": "betting",
        "parameters": {},
        "evidence": {"losses": losses, "n": 20},
        "delta": 0.05,
        "value": bound.solve(bound.Evidence(tuple(losses), 20), 0.05),
        "loss": "brier",
        "predictor": "deterministic",
        "hypotheses": tuple(Assumption(h.name, h.statement, h.checkable) for h in bound.hypotheses),
        "measurement": {"list": [1, 2]},
    }
    return Certificate(**{**fields, **more})


def test_nobody_can_change_a_certificate() -> None:
    one = certificate()
    with pytest.raises(TypeError):
        one.evidence["n"] = 10**6  # type: ignore[index]
    with pytest.raises(TypeError):
        one.evidence["losses"][0] = 0.0
    with pytest.raises((TypeError, AttributeError)):
        one.measurement["list"].append(3)
    with pytest.raises(AttributeError):
        one.value = 0.0  # type: ignore[misc]


def test_copies_are_checked_and_equal() -> None:
    one = certificate()
    for again in (copy.deepcopy(one), pickle.loads(pickle.dumps(one)), Certificate.from_json(one.to_json())):
        assert again == one and hash(again) == hash(one)


def test_infinite_evidence_survives_its_file() -> None:
    bound = find("seeger")()
    one = certificate(
        bound="seeger",
        evidence={"gibbs_risk": 0.1, "kl_nats": inf, "n": 100},
        value=1.0,
        predictor="gibbs",
        hypotheses=tuple(Assumption(h.name, h.statement, False) for h in bound.hypotheses),
    )
    again = Certificate.from_json(one.to_json())
    assert again == one and again.evidence["kl_nats"] == inf and again.vacuous


@pytest.mark.parametrize(
    "wrong",
    [{"value": 0.1}, {"loss": None}, {"seed": 1.5}, {"hypotheses": ("iid",)}, {"evidence": None}, {"ledger": {"x": 2}}],
)
def test_a_false_one_cannot_be_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(CertificateRefused):
        certificate(**wrong)
