"""A bound is a predicate: does this evidence prove that the risk is at most this value?

To add one, write one file with one subclass of :class:`Bound`; its command-line name, report row, docs page and contract tests
derive from the class.
"""

from __future__ import annotations

import inspect
import re
import types
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from importlib.metadata import entry_points
from typing import Annotated, Any, ClassVar, get_type_hints

from nonvacuous.core.errors import InvalidEvidence, InvalidInput, UnknownBound
from nonvacuous.core.ledger import check_delta
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.core.quantities import MOST_EXAMPLES, QUANTITIES, is_number


class Direction(Enum):
    """How a bound's value moves with one of its evidence fields."""

    UP = "a larger number gives a larger (worse) bound"
    DOWN = "a larger number gives a smaller (better) bound"
    FREE = "a parameter: any value in range gives a true bound"
    EXACT = "as measured: neither a larger nor a smaller number is known to be safe"


Up = Annotated[float, Direction.UP]
Down = Annotated[float, Direction.DOWN]
Free = Annotated[float, Direction.FREE]
Exact = Annotated[float, Direction.EXACT]
ExactEach = Annotated[tuple[float, ...], Direction.EXACT]


class Predictor(Enum):
    """Whose risk a certificate speaks of. Each is a different predictor: none inherits another's certificate."""

    DETERMINISTIC = "the network as given, used with fixed weights"
    GIBBS = "the Gibbs classifier: weights drawn anew from the posterior for every prediction"
    COMPRESSED = "the network that the code decodes to"
    DRAWN = "one network, drawn once from the posterior"


FIXED_NETWORKS = (Predictor.DETERMINISTIC, Predictor.COMPRESSED, Predictor.DRAWN)
"""Every predictor that uses one set of weights throughout."""


class Sample(Enum):
    """The sample whose size is ``n``."""

    HELD_OUT = "held-out"
    TRAINING = "training"


class LossRange(Enum):
    """Losses the theorem covers."""

    ZERO_ONE = "0–1 loss"
    BOUNDED = "any loss in [0, 1]"


@dataclass(frozen=True)
class Hypothesis:
    """One assumption of a theorem: ``name`` for programs, ``statement`` for people, and who answers for it.

    ``checkable``: a program can contradict it from recorded facts. Otherwise a person must argue it.
    """

    name: str
    statement: str
    checkable: bool = False


IID = Hypothesis(
    "iid",
    "The examples are independent draws from the distribution the predictor will meet in use.",
)
FIXED_PREDICTOR = Hypothesis(
    "fixed_predictor",
    "The predictor was fixed before anybody looked at this held-out sample: no training, early stopping, "
    "model choice or threshold used it.",
)
BOUNDED_LOSS = Hypothesis("bounded_loss", "The loss of every prediction lies in [0, 1].", checkable=True)
DATA_FREE_PRIOR = Hypothesis(
    "data_free_prior",
    "The prior (architecture, initial weights, prior widths) was fixed before the training sample was seen.",
)
DATA_FREE_CODE = Hypothesis(
    "data_free_code",
    "The code (architecture, order and format of the numbers) was fixed before the training sample was seen.",
)
FIXED_CLASS = Hypothesis(
    "fixed_class",
    "The class of networks (the architecture) was fixed before the training sample was seen.",
)
DRAWN_ONCE = Hypothesis(
    "drawn_once",
    "The random draws that measured the evidence were made once, from a seed chosen beforehand: no run was repeated until it "
    "looked better.",
)

REGISTRY: dict[str, type[Bound]] = {}


class Bound(ABC):
    """A theorem of the form: with probability at least 1 − δ over the sample, risk ≤ value whenever ``holds(evidence, δ, value)``.

    A subclass is a frozen dataclass whose docstring starts with the statement. It sets the class attributes below, its
    ``Evidence`` (a NamedTuple whose fields are glossary quantities marked ``Up``, ``Down`` or ``Free``), and the one method
    :meth:`proves`, in outward-rounded arithmetic.

    Class attributes: ``source`` paper and theorem number; ``sample`` the sample ``n`` counts; ``loss`` the losses covered;
    ``predictors`` whose risk it may speak of; ``hypotheses``; ``least_n``; ``worked`` known numbers
    ``(evidence fields, δ, value)`` which contract tests check.
    """

    Evidence: ClassVar[type[Any]]
    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    sample: ClassVar[Sample]
    loss: ClassVar[LossRange]
    predictors: ClassVar[tuple[Predictor, ...]]
    hypotheses: ClassVar[tuple[Hypothesis, ...]]
    least_n: ClassVar[int] = 1
    worked: ClassVar[tuple[tuple[tuple[Any, ...], float, float], ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if inspect.isabstract(cls) or "Evidence" not in cls.__dict__:
            return
        words = re.findall(r"[A-Z]+(?=[A-Z][a-z]|$)|[A-Z][a-z0-9]*", cls.__name__.removesuffix("Bound"))
        cls.name = cls.__dict__.get("name", "-".join(words).lower())
        cls.title = cls.__dict__.get("title", " ".join(words))
        unknown = [field for field in cls.Evidence._fields if field not in QUANTITIES]
        if unknown:
            raise InvalidInput(
                f"{cls.__name__}: evidence {unknown} is not in the glossary; enter it with nonvacuous.core.quantities.quantity(…)"
            )
        missing = [a for a in ("source", "sample", "loss", "predictors", "hypotheses") if not hasattr(cls, a)]
        if missing:
            raise InvalidInput(f"{cls.__name__} does not say its {', '.join(missing)}")
        other = REGISTRY.get(cls.name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise InvalidInput(f"two bounds are named '{cls.name}': {other.__module__} and {cls.__module__}")
        REGISTRY[cls.name] = cls

    # -- what a subclass writes ------------------------------------------------------------------------------------

    @abstractmethod
    def proves(self, e: Any, delta: float, value: float) -> bool:
        """Whether the theorem gives ``risk ≤ value``, for evidence inside its domain and 0 ≤ ``value`` < 1."""

    def domain(self, e: Any, delta: float) -> None:  # noqa: B027 - most bounds have nothing to add
        """Raise :class:`InvalidEvidence` for evidence outside the theorem, beyond what the glossary already checks."""

    # -- what callers use ------------------------------------------------------------------------------------------

    def check(self, e: Any, delta: float) -> None:
        """Raise :class:`InvalidEvidence` unless the evidence and δ lie in the theorem's domain."""
        check_evidence_type(self, e)
        try:
            check_delta(delta)
        except InvalidInput as error:
            raise InvalidEvidence(str(error)) from None
        for name, value in e._asdict().items():
            QUANTITIES[name].check(value)
        if "n" in e._fields and e.n < self.least_n:
            raise InvalidEvidence(f"{self.title} needs n ≥ {self.least_n} examples; got {e.n}")
        for name in example_counts(e):
            if getattr(e, name) > e.n:
                raise InvalidEvidence(f"{name} cannot exceed n; got {getattr(e, name)} of {e.n}")
        self.domain(e, delta)

    def holds(self, e: Any, delta: float, value: float) -> bool:
        """Whether the theorem proves ``risk ≤ value`` at confidence 1 − ``delta``; False for evidence outside its domain."""
        if not is_number(value) or not 0.0 <= value <= 1.0:
            return False
        try:
            self.check(e, delta)
            return value == 1.0 or bool(self.proves(e, delta, value))
        except InvalidEvidence:
            return False

    def solve(self, e: Any, delta: float) -> float:
        """Smallest float in [0, 1] that :meth:`holds` accepts, found by bisection; 1.0 is vacuous but true.

        Raises :class:`InvalidEvidence` for evidence outside the domain.
        """
        self.check(e, delta)
        if self.proves(e, delta, 0.0):
            return 0.0
        low, high = 0.0, 1.0
        while low < (middle := (low + high) / 2) < high:
            low, high = (low, middle) if self.proves(e, delta, middle) else (middle, high)
        return high

    def needed(self, e: Any, delta: float, value: float) -> int | None:
        """A number of examples at which the bound would come down to ``value``, the rest of the evidence staying as it is.

        The smallest one if the value falls as n grows; counts of examples (errors) keep their fraction, rounded up. None if even the
        largest n a bound takes, or no n at all, would do. Evidence that depends on n, such as a growth function at 2n points, is kept:
        what such a bound needs is more.
        """
        self.check(e, delta)
        if not is_number(value) or not 0 <= value <= 1:
            raise InvalidEvidence(f"value is the risk to come down to, in [0, 1]; got {value!r:.60}")

        def enough(n: int) -> bool:
            return self.holds(resized(e, n), delta, value)

        high = self.least_n
        while not enough(high):
            if high > MOST_EXAMPLES // 2:
                return None
            high *= 2
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    def evidence(self, **measured: Measured | float | int | tuple[float, ...]) -> Any:
        """Evidence from measured numbers: the upper end of every ``Up`` field, the lower end of every ``Down`` one.

        Raises :class:`InvalidEvidence` if a field is missing or unknown, or if a number is only an indicator.
        """
        names = self.Evidence._fields
        if set(measured) != set(names):
            raise InvalidEvidence(f"{self.title} takes the evidence {', '.join(names)}; got {', '.join(measured) or 'none'}")
        ends: dict[str, Any] = {}
        for name, number in measured.items():
            if not isinstance(number, Measured):
                ends[name] = number
                continue
            if number.kind is Kind.INDICATOR:
                raise InvalidEvidence(f"{name} is an indicator: nothing can be certified from it")
            end = float(number.lower if self.directions()[name] is Direction.DOWN else number.upper)
            ends[name] = int(end) if QUANTITIES[name].whole and end.is_integer() else end
        return self.Evidence(**ends)

    @classmethod
    def directions(cls) -> dict[str, Direction]:
        """How the value moves with each evidence field."""
        hints = get_type_hints(cls.Evidence, include_extras=True)
        return {name: hints[name].__metadata__[0] for name in cls.Evidence._fields}

    @classmethod
    def statement(cls) -> str:
        """First paragraph of the docstring: the theorem."""
        return inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")

    @property
    def parameters(self) -> dict[str, Any]:
        """Constants of the theorem that were fixed beforehand (the dataclass fields)."""
        return {f.name: getattr(self, f.name) for f in fields(self)} if is_dataclass(self) else {}

    @classmethod
    def of(cls, parameters: dict[str, Any]) -> Bound:
        """The bound with the given parameters; raises :class:`InvalidInput` for unknown ones."""
        known: set[str] = {f.name for f in fields(cls)} if is_dataclass(cls) else set()
        if not isinstance(parameters, dict) or not set(parameters) <= known:
            raise InvalidInput(f"{cls.title} takes the parameters {sorted(known) or 'none'}; got {parameters!r:.80}")
        return cls(**parameters)


def example_counts(e: Any) -> list[str]:
    """Fields that count examples of the sample, ``n`` among them; none for evidence without ``n``."""
    fields_ = e._fields if "n" in e._fields else ()
    return [name for name in fields_ if QUANTITIES[name].whole and QUANTITIES[name].unit == QUANTITIES["n"].unit]


def resized(e: Any, n: int) -> Any:
    """The same evidence for ``n`` examples: counts of examples keep their fraction, rounded up."""
    return e._replace(**{name: -(-int(getattr(e, name)) * n // int(e.n)) for name in example_counts(e)})


def check_evidence_type(bound: Bound, e: Any) -> None:
    """Raise :class:`InvalidEvidence` unless ``e`` is a NamedTuple with exactly the fields of the bound's ``Evidence``."""
    if not isinstance(e, tuple) or tuple(getattr(e, "_fields", ())) != tuple(bound.Evidence._fields):
        raise InvalidEvidence(f"{bound.title} takes {bound.Evidence.__qualname__}{bound.Evidence._fields}; got {e!r:.80}")


def registered() -> types.MappingProxyType[str, type[Bound]]:
    """Every bound by name: our own and third parties', found through the entry-point group ``nonvacuous.bounds``."""
    global _discovered
    if not _discovered:
        _discovered = True
        for point in sorted(entry_points(group="nonvacuous.bounds"), key=lambda point: point.value != "nonvacuous.bounds"):
            try:
                point.load()
            except Exception as error:  # a broken plug-in must not take the others down
                warnings.warn(f"the bounds of plug-in {point.value!r} could not be loaded: {error}", stacklevel=2)
    return types.MappingProxyType(dict(sorted(REGISTRY.items())))


_discovered = False


def find(name: str) -> type[Bound]:
    """The bound of that name; raises :class:`UnknownBound` naming the nearest ones."""
    if not isinstance(name, str):
        raise UnknownBound(f"a bound is named by a word; got {name!r:.60}")
    if name in REGISTRY:
        return REGISTRY[name]
    bounds = registered()
    if name in bounds:
        return bounds[name]
    from difflib import get_close_matches

    near = get_close_matches(name[:60], bounds, n=3)
    hint = f" (nearest: {', '.join(near)})" if near else ""
    raise UnknownBound(
        f"no bound is named {name!r:.60}{hint}. `nonvacuous bounds` lists all; a third-party bound needs its package installed"
    )
