"""The Lipschitz constant of a small fully connected ReLU network, exactly: every activation pattern that some input has."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from scipy.optimize import linprog
from torch import nn


def exact_lipschitz(net: nn.Sequential, low: np.ndarray | None = None, high: np.ndarray | None = None) -> float:
    """max ‖J‖₂ over the linear regions of a ``Linear, ReLU, …, Linear`` net that have an interior, within a box if one is given.

    A pattern is feasible if a linear program finds an input whose pre-activations all have its signs with room to spare.
    """
    return max(float(np.linalg.norm(jacobian, 2)) for jacobian in jacobians(net, low, high))


def jacobians(net: nn.Sequential, low: np.ndarray | None, high: np.ndarray | None) -> Iterator[np.ndarray]:
    layers = [part for part in net if isinstance(part, nn.Linear)]
    weights = [layer.weight.detach().double().numpy() for layer in layers]
    biases = [layer.bias.detach().double().numpy() for layer in layers]
    dimension = weights[0].shape[1]
    bounds = [(None, None)] * dimension if low is None or high is None else list(zip(low, high, strict=True))

    def extend(
        depth: int, slope: np.ndarray, shift: np.ndarray, rows: list[np.ndarray], limits: list[float]
    ) -> Iterator[np.ndarray]:
        slope, shift = weights[depth] @ slope, weights[depth] @ shift + biases[depth]
        if depth == len(weights) - 1:
            yield slope
            return
        for signs in itertools.product((0.0, 1.0), repeat=len(shift)):
            pattern = np.array(signs)
            side = 2 * pattern - 1  # side · (slope x + shift) > 0
            more, most = [*rows, *(-side[:, None] * slope)], [*limits, *(side * shift)]
            if feasible(more, most, bounds):
                yield from extend(depth + 1, pattern[:, None] * slope, pattern * shift, more, most)

    yield from extend(0, np.eye(dimension), np.zeros(dimension), [], [])


def feasible(rows: list[np.ndarray], limits: list[float], bounds: list[tuple[float | None, float | None]]) -> bool:
    """Whether rows·x ≤ limits − t for some t > 1e-9 and x within bounds; t is maximised up to 1."""
    matrix = np.hstack([np.array(rows), np.ones((len(rows), 1))])
    objective = np.zeros(matrix.shape[1])
    objective[-1] = -1
    found = linprog(objective, A_ub=matrix, b_ub=np.array(limits), bounds=[*bounds, (None, 1)], method="highs")
    return bool(found.status == 0 and -found.fun > 1e-9)
