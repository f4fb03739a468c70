"""Errors counted so that another machine's rounding cannot add one."""

from __future__ import annotations

from torch import Tensor

from nonvacuous.measures.losses import margins

TIE = 1e-4
"""A lead smaller than this, relative to the largest output, counts as an error."""


def errors(outputs: Tensor, targets: Tensor, tie: float = TIE) -> int:
    """Examples whose class does not lead by more than ``tie`` times the largest output; outputs [b, classes], targets [b]."""
    return int((~(margins(outputs, targets) > tie * outputs.abs().amax(1))).sum())
