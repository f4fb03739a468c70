"""How many times too few examples there are, for a certificate that promises nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nonvacuous.core.certificate import Certificate
from nonvacuous.core.quantities import MOST_EXAMPLES

TARGETS = (0.5, 0.99)
"""Risks to come down to: a half or, where the evidence itself exceeds that, anything worth the name."""


@dataclass(frozen=True)
class Need:
    """Examples at which a vacuous bound would give ``value``, all other evidence staying as it is.

    ``examples`` None: not even 2⁵³ would do. ``at_least``: evidence of this bound grows with n, so it needs more than that.
    """

    bound: str
    predictor: str
    loss: str
    n: int
    value: float
    examples: int | None
    at_least: bool = False

    @property
    def times(self) -> float:
        """How many times what there is; the least it can be where not even the largest number would do."""
        return (MOST_EXAMPLES if self.examples is None else self.examples) / self.n


def needs(certificates: Iterable[Certificate]) -> tuple[Need, ...]:
    """A need for every vacuous certificate whose evidence counts examples; a list of losses cannot be made longer by thought."""
    return tuple(_need(c) for c in certificates if c.vacuous and "n" in c.evidence and "losses" not in c.evidence)


def _need(certificate: Certificate) -> Need:
    bound, evidence, delta = certificate.theorem(), certificate.theorem_evidence(), certificate.theorem_delta()
    reached = ((value, n) for value in TARGETS if (n := bound.needed(evidence, delta, value)) is not None)
    value, examples = next(reached, (TARGETS[-1], None))
    return Need(
        certificate.bound,
        certificate.predictor,
        certificate.loss,
        int(evidence.n),
        value,
        examples,
        at_least="log_growth_nats" in evidence._fields,
    )
