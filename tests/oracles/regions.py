"""Regions of small ReLU networks by brute force: every pattern tried, every breakpoint in exact fractions."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, product

import numpy as np
from scipy.optimize import linprog
from torch import nn


def layers(module: nn.Sequential) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases of a chain Linear, ReLU, Linear, … in float64."""
    return [(m.weight.detach().double().numpy(), m.bias.detach().double().numpy()) for m in module if isinstance(m, nn.Linear)]


def patterns_by_enumeration(module: nn.Sequential, inputs: int) -> int:
    """Patterns with an interior, among all 2^units of a chain of linear layers and ReLUs, by one linear program each."""
    *hidden, _ = layers(module)
    count = 0
    for states in product((0, 1), repeat=sum(len(b) for _, b in hidden)):
        weight, bias, rows, at = np.eye(inputs), np.zeros(inputs), [], 0
        for w, b in hidden:
            weight, bias = w @ weight, w @ bias + b
            on = np.array(states[at : at + len(b)], dtype=float)
            at += len(b)
            rows += [np.append(s * weight[i], s * bias[i]) for i, s in enumerate(1 - 2 * on)]
            weight, bias = weight * on[:, None], bias * on
        a = np.array(rows)
        norms = np.linalg.norm(a[:, :-1], axis=1)
        if np.any((norms < 1e-12) & (a[:, -1] > -1e-12)):
            continue
        a = a[norms >= 1e-12]
        norms = norms[norms >= 1e-12]
        found = linprog(
            np.append(np.zeros(inputs), -1.0),
            np.column_stack([a[:, :-1], norms]),
            -a[:, -1],
            bounds=[(None, None)] * inputs + [(None, 1.0)],
        )
        count += found.x is not None and found.x[-1] > 1e-9
    return int(count)


def breakpoints(module: nn.Sequential) -> list[Fraction]:
    """Points of (0, 1) where a chain from R to R^k changes its slope, exactly."""
    pieces = [(Fraction(0), Fraction(1), [(Fraction(1), Fraction(0))])]  # start, end, (slope, intercept) of each unit
    chain = layers(module)
    for depth, (w, b) in enumerate(chain):
        new = []
        for start, end, units in pieces:
            before = [
                (
                    sum(Fraction(float(x)) * s for x, (s, _) in zip(row, units, strict=True)),
                    sum(Fraction(float(x)) * c for x, (_, c) in zip(row, units, strict=True)) + Fraction(float(offset)),
                )
                for row, offset in zip(w, b, strict=True)
            ]
            if depth == len(chain) - 1:
                new.append((start, end, before))
                continue
            cuts = sorted({-c / s for s, c in before if s != 0 and start < -c / s < end} | {start, end})
            for left, right in pairwise(cuts):
                middle = (left + right) / 2
                new.append((left, right, [(s, c) if s * middle + c > 0 else (Fraction(0), Fraction(0)) for s, c in before]))
        pieces = new
    return [b[0] for a, b in pairwise(pieces) if a[2] != b[2]]
