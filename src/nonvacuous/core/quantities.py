"""The glossary: every quantity a bound may take as evidence, with its unit, its range, and the data it may read."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import Enum
from math import inf, isnan
from typing import Any

from nonvacuous.core.errors import InvalidEvidence, InvalidInput


class Reads(Enum):
    """The data a quantity may look at."""

    SAMPLE = "the bound's own sample"
    HELD_OUT = "data that training never read"
    TRAINING = "training data"
    NOTHING = "no data at all"


def is_number(value: Any) -> bool:
    """Whether ``value`` is an int or a float that a float can hold: no bool, no NaN, no integer beyond the largest float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return not isnan(value)
    except OverflowError:
        return False


@dataclass(frozen=True)
class Quantity:
    """One entry of the glossary.

    Attributes: ``name`` the evidence field; ``symbol`` as papers write it; ``unit``; ``low``, ``high`` the closed range;
    ``whole`` whether it is an integer; ``vector`` whether it is a sequence, one number an example.
    """

    name: str
    symbol: str
    unit: str
    low: float
    high: float
    reads: Reads
    description: str
    whole: bool = False
    vector: bool = False

    def check(self, value: Any) -> None:
        """Raise :class:`InvalidEvidence` unless ``value`` is of the right type and inside the range."""
        if self.vector:
            unordered = isinstance(value, str | bytes | Mapping | Set)
            if unordered or not hasattr(value, "__len__") or not hasattr(value, "__iter__") or len(value) == 0:
                raise InvalidEvidence(f"{self.name} ({self.symbol}) is a non-empty sequence of numbers; got {value!r:.60}")
            if not all(map(is_number, value)):
                raise InvalidEvidence(f"{self.name} ({self.symbol}) holds something that is not a number")
            self._check_range(min(value))
            self._check_range(max(value))
            return
        if not is_number(value):
            raise InvalidEvidence(f"{self.name} ({self.symbol}) must be a Python int or float; got {value!r:.60}")
        if self.whole and not float(value).is_integer():
            raise InvalidEvidence(f"{self.name} ({self.symbol}) counts {self.unit}: a whole number; got {value!r}")
        self._check_range(value)

    def _check_range(self, value: float) -> None:
        if not self.low <= value <= self.high:
            raise InvalidEvidence(f"{self.name} ({self.symbol}) lies in [{self.low:g}, {self.high:g}]; got {value!r:.60}")


QUANTITIES: dict[str, Quantity] = {}


def quantity(entry: Quantity) -> Quantity:
    """Enter a quantity in the glossary (third-party bounds do so beside their bound)."""
    if QUANTITIES.setdefault(entry.name, entry) != entry:
        raise InvalidInput(f"the glossary already has another '{entry.name}': choose a different name")
    return entry


MOST_EXAMPLES = 2.0**53  # a count must be exact as a float

for _entry in (
    Quantity("n", "n", "examples", 1, MOST_EXAMPLES, Reads.SAMPLE, "Size of the sample the bound speaks of.", whole=True),
    Quantity("errors", "k", "examples", 0, MOST_EXAMPLES, Reads.HELD_OUT, "Examples on which the 0–1 loss is 1.", whole=True),
    Quantity("risk", "r̂", "loss", 0, 1, Reads.SAMPLE, "Mean loss of the predictor on the bound's sample, loss in [0, 1]."),
    Quantity(
        "loss_variance",
        "V̂",
        "loss²",
        0,
        0.5,
        Reads.SAMPLE,
        "Unbiased variance of the losses on the bound's sample, Σ(ℓᵢ − r̂)²/(n − 1).",
    ),
    Quantity(
        "losses",
        "ℓ₁…ℓₙ",
        "loss",
        0,
        1,
        Reads.HELD_OUT,
        "The losses themselves, in the sample's fixed order, each rounded up or exact.",
        vector=True,
    ),
    Quantity(
        "gibbs_risk",
        "E_Q r̂",
        "loss",
        0,
        1,
        Reads.SAMPLE,
        "Mean empirical loss of a network drawn from the posterior Q.",
    ),
    Quantity("kl_nats", "KL(Q‖P)", "nats", 0, inf, Reads.NOTHING, "Divergence of the posterior from the prior."),
    Quantity(
        "code_bits",
        "|c(h)|",
        "bits",
        1,
        MOST_EXAMPLES,
        Reads.NOTHING,
        "Length of the predictor in a prefix-free code fixed before the data.",
        whole=True,
    ),
    Quantity(
        "vc_dimension",
        "d",
        "examples",
        1,
        inf,
        Reads.NOTHING,
        "An upper bound on the VC dimension of the class of 0–1 losses.",
    ),
    Quantity(
        "log_growth_nats",
        "ln Π(2n)",
        "nats",
        0,
        inf,
        Reads.NOTHING,
        "Upper bound on the logarithm of the growth function of the class of 0–1 losses at 2n points.",
    ),
    Quantity(
        "inverse_temperature",
        "λ",
        "1/loss",
        0,
        inf,
        Reads.NOTHING,
        "Parameter λ > 0 of Catoni's bound, rounded to a grid point whose price is in the bound.",
    ),
    Quantity("trade_off", "λ", "1", 0, 2, Reads.NOTHING, "Parameter λ in (0, 2) of the λ-bound; free to choose."),
):
    quantity(_entry)
