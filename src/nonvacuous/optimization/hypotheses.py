"""What a theorem assumes, and whether the case at hand meets it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Standing(Enum):
    """Whether a hypothesis is met; UNKNOWN where the theorem leaves a constant unspecified, or nothing could be checked."""

    MET = "met"
    FAILED = "not met"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Condition:
    """One hypothesis of a theorem: its ``name``, its ``standing`` here, and the ``reason``, with numbers."""

    name: str
    standing: Standing
    reason: str

    @classmethod
    def checked(cls, name: str, met: bool, reason: str) -> Condition:
        """MET or FAILED, as ``met`` says."""
        return cls(name, Standing.MET if met else Standing.FAILED, reason)

    @classmethod
    def unknown(cls, name: str, reason: str) -> Condition:
        """Neither: the reason says what is missing."""
        return cls(name, Standing.UNKNOWN, reason)

    def __str__(self) -> str:
        return f"{self.name}: {self.standing.value} ({self.reason})"


def weakest(conditions: Iterable[Condition]) -> Standing:
    """FAILED if one hypothesis fails, else UNKNOWN if one is unknown, else MET.

    >>> weakest([Condition.checked("width", True, "9 ≥ 4"), Condition.unknown("constant", "C is not given")]).value
    'unknown'
    """
    found = {condition.standing for condition in conditions}
    for standing in (Standing.FAILED, Standing.UNKNOWN):
        if standing in found:
            return standing
    return Standing.MET
