"""The contract every bound meets, as a class for pytest to inherit; imports no PyTorch.

    class TestSeeger(BoundContract):
        bound = SeegerBound()

What a contract cannot know is whether the theorem is true: add an exact enumeration with :func:`exact_coverage`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from math import inf, nan, nextafter
from typing import Any

from nonvacuous.core.bound import REGISTRY, Bound, Direction
from nonvacuous.core.certificate import Assumption, Certificate
from nonvacuous.core.errors import CertificateRefused, InvalidEvidence
from nonvacuous.core.quantities import QUANTITIES, Quantity

try:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st
except ModuleNotFoundError as _missing:
    raise ModuleNotFoundError(
        "nonvacuous.testing.bounds draws its cases with hypothesis: pip install hypothesis, or the extra nonvacuous[dev]"
    ) from _missing

MOST_EXAMPLES = 10**5
"""Largest sample the strategies draw."""

TOLERANCE = 5e-7
"""How far a worked number may be from what the bound gives: half a unit of the last of six digits."""

CONFIDENCES = st.sampled_from((0.5, 0.05, 0.025, 1e-3, 1e-9))


def number_strategy(quantity: Quantity, n: int) -> st.SearchStrategy[Any]:
    """Values of a glossary quantity for a sample of size ``n``: small and large ones, and both ends of its range."""
    if quantity.vector:
        return st.lists(number_strategy(_scalar(quantity), n), min_size=n, max_size=n).map(tuple)
    if quantity.whole:
        most = n if quantity.unit == QUANTITIES["n"].unit else quantity.high
        return st.one_of(
            st.integers(int(quantity.low), int(min(most, quantity.low + 20))), st.integers(int(quantity.low), int(most))
        )
    ends = [end for end in (quantity.low, quantity.high) if abs(end) < inf]
    if quantity.high < inf:
        return st.one_of(st.floats(quantity.low, quantity.high, allow_subnormal=False), st.sampled_from(ends))
    return st.one_of(st.floats(-3, 6).map(lambda power: max(quantity.low, 10.0**power)), st.sampled_from(ends or [0.0]))


def _scalar(quantity: Quantity) -> Quantity:
    """One number of a vector: short decimals, as losses are written down."""
    return Quantity(
        quantity.name, quantity.symbol, quantity.unit, quantity.low, quantity.high, quantity.reads, quantity.description
    )


def evidence_strategy(bound: Bound) -> st.SearchStrategy[Any]:
    """Evidence inside the bound's domain, drawn from the ranges of the glossary."""

    @st.composite
    def evidence(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Any:
        fields = bound.Evidence._fields
        vector = any(QUANTITIES[name].vector for name in fields)
        n = draw(st.one_of(st.integers(bound.least_n, 60), st.integers(bound.least_n, 60 if vector else MOST_EXAMPLES)))
        drawn = {name: n if name == "n" else draw(number_strategy(QUANTITIES[name], n)) for name in fields}
        return bound.Evidence(**drawn)

    return evidence().filter(lambda e: _inside(bound, e))


def _inside(bound: Bound, e: Any, delta: float = 0.05) -> bool:
    try:
        bound.check(e, delta)
    except InvalidEvidence:
        return False
    return True


def exact_coverage(
    bound: Bound, evidences: Iterable[tuple[Fraction | float, Any]], true_risk: float, delta: float
) -> Fraction | float:
    """Probability that the bound proves nothing false, summed over all evidences that can occur.

    Args:
        evidences: every possible evidence with its probability; exact if the probabilities are fractions.
        true_risk: the risk that was to be bounded.

    A bound proves something false if ``holds`` accepts any value below ``true_risk``; as values accepted are closed upwards, the
    largest of these is asked. A theorem says the result is at least 1 − ``delta``.
    """
    below = nextafter(true_risk, -inf)
    return sum((chance for chance, e in evidences if not bound.holds(e, delta, below)), Fraction(0))


def _refuses(call: Callable[[], Any]) -> bool:
    try:
        call()
    except InvalidEvidence:
        return True
    return False


_light = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.filter_too_much, HealthCheck.too_slow],
)


class BoundContract:
    """Inherit, set ``bound``; pytest runs the tests below."""

    bound: Bound

    # -- what the bound says of itself -----------------------------------------------------------------------------

    def test_it_is_registered_and_says_what_it_is(self) -> None:
        kind = type(self.bound)
        assert REGISTRY.get(kind.name) is kind, f"{kind.name} is not in the registry"
        assert kind.source and any(c.isdigit() for c in kind.source), "source: author and year, with the theorem's number"
        assert len(kind.statement()) > 20, "the docstring starts with the statement"
        assert kind.hypotheses and all(h.name and h.statement.endswith(".") for h in kind.hypotheses)
        assert len({h.name for h in kind.hypotheses}) == len(kind.hypotheses)
        assert kind.predictors and kind.worked, "give a worked number known from elsewhere"

    def test_worked_numbers(self) -> None:
        for fields, delta, value in self.bound.worked:
            solved = self.bound.solve(self.bound.Evidence(*fields), delta)
            assert abs(solved - value) <= TOLERANCE, f"{fields} at δ = {delta}: {solved}, known is {value}"

    # -- solve and holds -------------------------------------------------------------------------------------------

    @_light
    @given(st.data())
    def test_solve_gives_the_smallest_value_that_holds(self, data: st.DataObject) -> None:
        e, delta = data.draw(evidence_strategy(self.bound)), data.draw(CONFIDENCES)
        value = self.bound.solve(e, delta)
        assert self.bound.holds(e, delta, value), f"solve gives {value}, which holds refuses"
        assert self.bound.holds(e, delta, 1.0)
        if value > 0:
            assert not self.bound.holds(e, delta, value * (1 - 1e-9)), f"{value} is not the smallest value that holds"
        if value < 1:
            assert self.bound.holds(e, delta, nextafter(1.0, 0.0)) and self.bound.holds(e, delta, (1 + value) / 2)

    @_light
    @given(st.data())
    def test_it_moves_with_each_argument_as_declared(self, data: st.DataObject) -> None:
        e, delta = data.draw(evidence_strategy(self.bound)), data.draw(CONFIDENCES)
        moving = [name for name, way in self.bound.directions().items() if way in (Direction.UP, Direction.DOWN)]
        for name in moving:
            n = MOST_EXAMPLES if name == "n" else e.n
            other = e._replace(**{name: data.draw(number_strategy(QUANTITIES[name], n), label=name)})
            if not _inside(self.bound, other, delta):
                continue
            small, large = sorted((e, other), key=lambda evidence: getattr(evidence, name))
            if self.bound.directions()[name] is Direction.DOWN:
                small, large = large, small
            low, high = self.bound.solve(small, delta), self.bound.solve(large, delta)
            assert low <= high + 1e-9 * high, f"{name}: {low} from {small!r:.120}, {high} from {large!r:.120}"

    @_light
    @given(st.data())
    def test_more_confidence_costs(self, data: st.DataObject) -> None:
        e, deltas = data.draw(evidence_strategy(self.bound)), sorted(data.draw(st.lists(CONFIDENCES, min_size=2, max_size=2)))
        sure, less = (self.bound.solve(e, delta) for delta in deltas)
        assert less <= sure + 1e-9 * sure

    def test_useless_evidence_gives_one(self) -> None:
        for fields, delta, _ in self.bound.worked:
            e = self.bound.Evidence(*fields)
            worst = {name: _worst(name, way, e.n, self.bound) for name, way in self.bound.directions().items()}
            assert self.bound.solve(self.bound.Evidence(**worst), delta) == 1.0
            for name, way in self.bound.directions().items():
                quantity = QUANTITIES[name]
                alone = quantity.high == inf or quantity.unit in ("loss", QUANTITIES["n"].unit)
                if way is Direction.UP and alone:
                    useless = e._replace(**{name: _worst(name, way, e.n, self.bound)})
                    assert self.bound.solve(useless, delta) == 1.0, f"{useless!r:.120} says nothing, and gives less than 1"

    # -- the domain ------------------------------------------------------------------------------------------------

    def test_values_that_are_none_never_hold(self) -> None:
        fields, delta, _ = self.bound.worked[0]
        e = self.bound.Evidence(*fields)
        for value in (nan, inf, -inf, -0.1, -5e-324, nextafter(1.0, 2.0), 2, 10**400, True, "1", None, [1.0]):
            assert not self.bound.holds(e, delta, value), f"{value!r} holds"  # type: ignore[arg-type]

    def test_a_confidence_outside_the_domain_is_refused(self) -> None:
        e = self.bound.Evidence(*self.bound.worked[0][0])
        for delta in (0, 0.0, 1, 1.0, -1, 2, nan, inf, True, "0.05", None, 10**400):
            self._refused(e, delta)

    def test_evidence_outside_the_domain_is_refused(self) -> None:
        fields, delta, _ = self.bound.worked[0]
        e = self.bound.Evidence(*fields)
        for name, value in e._asdict().items():
            quantity = QUANTITIES[name]
            bad: list[Any] = [nan, "0.5", None, True, 1j, {}, 10**400, b"1"]
            bad += [quantity.low - 1] if quantity.low > -inf else []
            bad += [quantity.high + 1, nextafter(quantity.high, inf)] if quantity.high < 2**52 else []
            bad += [inf] if quantity.high < inf else []
            bad += [0.5, quantity.low + 0.5] if quantity.whole else []
            if quantity.vector:
                bad = [*bad, (), 0.5, [[0.5]], {0.5}, "ab", *((*value[:-1], one) for one in bad), (*value, value[0])]
            elif quantity.whole and quantity.unit == QUANTITIES["n"].unit and name != "n":
                bad.append(e.n + 1)
            for one in bad:
                self._refused(e._replace(**{name: one}), delta)
        if "n" in e._fields:
            for n in (0, -1, self.bound.least_n - 1):
                self._refused(e._replace(n=n), delta)

    def test_anything_but_its_own_evidence_is_refused(self) -> None:
        fields, delta, _ = self.bound.worked[0]
        e = self.bound.Evidence(*fields)
        for other in (None, tuple(e), list(e), e._asdict(), self.bound.Evidence, 0.5, "evidence", *_foreign(self.bound)):
            self._refused(other, delta)

    def _refused(self, e: Any, delta: Any) -> None:
        for value in (0.0, 0.5, 1.0):
            assert not self.bound.holds(e, delta, value), f"{value} holds for {e!r:.120} at δ = {delta!r}"
        assert _refuses(lambda: self.bound.solve(e, delta)), f"solve takes {e!r:.120} at δ = {delta!r}"
        assert _refuses(lambda: self.bound.check(e, delta)), f"check takes {e!r:.120} at δ = {delta!r}"

    # -- certificates ----------------------------------------------------------------------------------------------

    def test_a_certificate_survives_its_file_and_a_better_value_does_not(self) -> None:
        for fields, delta, _ in self.bound.worked:
            e = self.bound.Evidence(*fields)
            value = self.bound.solve(e, delta)
            for predictor in self.bound.predictors:
                certificate = _certificate(self.bound, e, delta, value, predictor.name.lower())
                again = Certificate.from_json(certificate.to_json())
                assert again == certificate and again.theorem_evidence() == e and again.digest == certificate.digest
            for better in (value * (1 - 1e-9), 0.0, -1.0, nan):
                if better != value:
                    try:
                        _certificate(self.bound, e, delta, better, self.bound.predictors[0].name.lower())
                    except CertificateRefused:
                        continue
                    raise AssertionError(f"a certificate of {better} exists, and the bound gives {value}")


def _certificate(bound: Bound, e: Any, delta: float, value: float, predictor: str) -> Certificate:
    return Certificate(
        bound=bound.name,
        parameters=bound.parameters,
        evidence=e._asdict(),
        delta=delta,
        value=value,
        loss="zero_one",
        predictor=predictor,
        hypotheses=tuple(Assumption(h.name, h.statement, h.checkable) for h in bound.hypotheses),
        seed=0,
    )


def _foreign(bound: Bound) -> list[Any]:
    """Evidence of other bounds, with other fields."""
    others = [kind for kind in REGISTRY.values() if kind.Evidence._fields != bound.Evidence._fields and kind.worked]
    return [kind.Evidence(*kind.worked[0][0]) for kind in others[:3]]


def _worst(name: str, way: Direction, n: int, bound: Bound) -> Any:
    """The value of a field that says least, for a sample of size ``n``."""
    quantity = QUANTITIES[name]
    if quantity.vector:
        return (quantity.high,) * n
    if way is Direction.UP:
        return n if quantity.whole and quantity.unit == QUANTITIES["n"].unit else quantity.high
    if way is Direction.FREE:
        return min(1.0, (quantity.low + quantity.high) / 2)
    return n
