"""The irreducible risk as the nearest neighbour sees it: an indicator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured

CHUNK = 2_000_000
"""Distances held at once."""


def nearest_neighbour_errors(inputs: Tensor, labels: Tensor, test_inputs: Tensor, test_labels: Tensor) -> Tensor:
    """Whether the nearest training example, in Euclidean distance, has another label: ``[m]``, bool."""
    flat, test = inputs.flatten(1), test_inputs.flatten(1)
    if not len(flat) or flat.shape[1] != test.shape[1]:
        raise InvalidInput(f"inputs {tuple(inputs.shape)} and {tuple(test_inputs.shape)}: give examples of one shape")
    squares = flat.square().sum(1)
    found = []
    for part in test.split(max(1, CHUNK // len(flat))):
        found.append((squares - 2 * part @ flat.T).argmin(1))
    return labels[torch.cat(found)] != test_labels


def bayes_bracket(error: float, classes: int) -> Measured:
    """[lower, upper] for the least risk of any function, if ``error`` were the nearest neighbour's with infinitely many examples.

    R* ≤ R_NN ≤ R*(2 − K/(K − 1) · R*) for K classes. With finitely many examples R_NN is larger than its limit, so the lower end
    can be too high: a network below it proves that it is. An indicator, never a certificate.

    Source: Cover and Hart 1967, "Nearest neighbor pattern classification", Theorem 1.
    """
    if not (0 <= error <= 1 and classes >= 2):
        raise InvalidInput(f"error {error!r}, {classes} classes: give an error in [0, 1] and at least 2 classes")
    share = (classes - 1) / classes
    return Measured.indicator(share * (1 - math.sqrt(max(0.0, 1 - error / share))), error)
