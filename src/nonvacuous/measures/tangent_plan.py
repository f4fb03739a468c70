"""How many examples and directions at a time, and how many of their factors to keep, within a budget of memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nonvacuous.core.errors import InvalidInput

MOST_EXAMPLES = 64
LEAST_CHUNKS = 10
"""Chunks a sample is cut into at least, so that the symmetric half of the kernel is little more than half the work."""


@dataclass(frozen=True)
class Footprint:
    """Bytes an example takes, those marked ◦ for each direction.

    graph: what autograd keeps. fixed, moving◦: the factors held. cotangents◦: what comes back to all layers; widest◦: to the largest.
    patches: the largest layer's keys. similarities, carried◦: temporary results for an example against one other. rest◦: its gradient
    by the parameters without a rule. item: bytes of a number.
    """

    graph: int
    fixed: int
    moving: int
    cotangents: int
    widest: int
    patches: int
    similarities: int
    carried: int
    rest: int
    item: int

    def kept(self, m: int) -> int:
        """Factors of an example."""
        return self.fixed + m * (self.moving + self.rest)

    def making(self, m: int) -> int:
        """On top of that while they are made."""
        graph = self.graph * (3 if self.rest else 1)
        return graph + m * (self.cotangents + 2 * self.widest + 2 * self.rest) + self.patches

    def pairing(self, b: int, m: int) -> int:
        """While the products of two chunks of b examples are taken."""
        return 3 * (b * m) ** 2 * self.item + 2 * b * (self.similarities + m * self.carried)

    def needed(self, b: int, m: int, held: int) -> int:
        """At the peak, with ``held`` chunks kept."""
        return (held + 1) * b * self.kept(m) + max(b * self.making(m), self.pairing(b, m))

    def keeps_cotangents(self, used: Plan, units: int, budget: int) -> bool:
        """Whether there is room for their memory while products are taken; units: chunks times blocks of directions."""
        b, m = used.examples, used.directions
        return self.needed(b, m, min(used.held, units)) + b * m * self.cotangents <= budget


@dataclass(frozen=True)
class Plan:
    """examples in a chunk, directions in a block, chunks held (of as many as there are) while the others pass by."""

    examples: int
    directions: int
    held: int


def plan(footprint: Footprint, n1: int, n2: int, m: int, budget: int) -> Plan:
    """The fewest passes within the budget: chunks shrink first, then blocks of directions.

    :raises InvalidInput: one example and one direction do not fit.
    """
    largest = min(MOST_EXAMPLES * max(1, 16 // m), max(LEAST_CHUNKS, math.ceil(max(n1, n2) / LEAST_CHUNKS)), max(n1, n2))
    directions = m
    while True:
        examples = largest
        while examples >= 1:
            if footprint.needed(examples, directions, 1) <= budget:
                spare = budget - footprint.needed(examples, directions, 0)
                return Plan(examples, directions, max(1, spare // max(1, examples * footprint.kept(directions))))
            examples //= 2
        if directions == 1:
            break
        directions = (directions + 1) // 2
    raise InvalidInput(
        f"one example takes {said(footprint.needed(1, 1, 1))} beside the kernel, more than the {said(budget)} that the budget leaves."
        " Raise memory"
    )


def said(size: int) -> str:
    """Bytes in words."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024  # type: ignore[assignment]
    return f"{size:.4g} {unit}"
