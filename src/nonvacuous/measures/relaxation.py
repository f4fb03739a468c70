"""A proof of a Lipschitz constant that is sharper than the product of the norms, for fully connected chains: ellipsoids.

If every difference of a layer's inputs lies in ``{v : vᵀQ⁻¹v ≤ ‖δx‖²}``, the next
layer's lies in ``WQWᵀ``; through neurons of slopes in [s − r, s + r], for any positive diagonal T with ``Q⁻¹ ≻ RTR``, in
``S(Q⁻¹ − RTR)⁻¹S + T⁻¹`` (S-procedure).  With s = r = ½ and the best T this is LipSDP-Neuron (Fazlyab et al. 2019, Theorem 2) layer by
layer, and with T = 2/‖Q‖ · I it is ECLipsE-Fast (Xu & Sivaranjani 2024).  Neurons of one slope cost nothing.  Any T that passes is a
proof; rounding errors are added to Q as multiples of I.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nonvacuous.core.errors import UnsupportedModule
from nonvacuous.core.measured import Measured
from nonvacuous.measures.activations import activation
from nonvacuous.measures.logs import log_of
from nonvacuous.measures.walk import Walk
from nonvacuous.operators.certified import UNIT, gamma, upper_end
from nonvacuous.operators.direct import estimate
from nonvacuous.operators.graph import Node
from nonvacuous.operators.linear_map import LinearMap
from nonvacuous.operators.maps import Chain, Matrix, Rearrangement
from nonvacuous.operators.rules import find

WIDEST = 2048
"""Neurons of a layer up to which its ellipsoid is formed."""


@dataclass(frozen=True)
class Layer:
    """A matrix (out, in), then neurons of slopes within ``middle ± radius``; None after the last matrix."""

    weight: Tensor
    middle: Tensor | None = None
    radius: Tensor | None = None


def slopes_at(walk: Walk, node: Node, whole: bool = False) -> tuple[Tensor, Tensor] | None:
    """Smallest and largest slopes of an activation's node (1, *shape), over its range or the whole line; None if it is none."""
    if sum(walk.states[name] is not None for name in node.parents) != 1:
        return None
    found = activation(node.operation, node.module, walk.with_parameters(node))
    if found is None:
        return None
    given = next(s for name in node.parents if (s := walk.states[name]) is not None).range
    if whole or walk.region is None or given is None:
        ends = torch.full(node.shape_out, -math.inf, dtype=torch.float64)
        return found.slopes(ends, -ends)
    return found.slopes(given.low, given.high)


def layers_of(walk: Walk, whole: bool = False) -> list[Layer] | None:
    """The chain of matrices and neurons a graph is, None if it is another graph or too wide."""
    layers: list[Layer] = []
    linear: LinearMap | None = None
    last = ""
    for node in walk.graph:
        if node.operation in ("parameter", "shape") or not any(walk.states.get(name) for name in node.parents):
            if node.operation == "input":
                last, linear = node.name, Rearrangement(node.shape_out[1:], node.shape_out[1:])
            continue
        moving = [name for name in node.parents if walk.states[name] is not None]
        if moving != [last] or linear is None:
            return None
        if node.operation == "output":
            break
        if walk.rule_of(node) is not None:
            return None
        slopes = slopes_at(walk, node, whole)
        if slopes is not None:
            matrix = dense(linear)
            if matrix is None:
                return None
            low, high = (end.flatten() for end in slopes)
            middle = torch.where(low == high, low, (low + high) / 2)
            radius = torch.where(low == high, 0.0, (high - low) / 2 * (1 + 8 * UNIT) + 4 * UNIT * middle.abs())
            layers.append(Layer(matrix, middle, radius))
            linear = Rearrangement(node.shape_out[1:], node.shape_out[1:])
        else:
            part = linear_part(node)
            if part is None or part.shape_in != linear.shape_out:
                return None
            linear = Chain.folded([linear, part])
        last = node.name
    if linear is None or (matrix := dense(linear)) is None:
        return None
    return [*layers, Layer(matrix)]


def linear_part(node: Node) -> LinearMap | None:
    """The node's own linear map, if it is a layer, a view or a copy."""
    shape = node.shapes_in[0][1:]
    if node.operation in ("flatten", "reshape", "copy", "dropout", "identity"):
        same = math.prod(shape) == math.prod(node.shape_out[1:]) and node.shape_out[0] == 1
        return Rearrangement(shape, node.shape_out[1:]) if same else None
    if node.module is None:
        return None
    try:
        found = find(node.module, shape)
    except UnsupportedModule:
        return None
    return None if isinstance(found, Measured) else found


def dense(linear: LinearMap) -> Tensor | None:
    """The matrix; None where it is too large."""
    if linear.rows > WIDEST or linear.rows * linear.columns > WIDEST * 8192:
        return None
    if isinstance(linear, Matrix) and not linear.lead:
        return linear.weight.double()
    if isinstance(linear, Chain) and all(isinstance(part, Rearrangement | Matrix) for part in linear.maps):
        matrices = [part for part in linear.maps if isinstance(part, Matrix)]
        plain = all(not part.lead for part in matrices)
        moved = any(isinstance(part, Rearrangement) and part.forward is not None for part in linear.maps)
        if len(matrices) == 1 and plain and not moved:
            return matrices[0].weight.double()
    return linear.dense()


def ellipsoid_bound(walk: Walk, steps: int = 0, whole: bool = False) -> float | None:
    """ln of the bound by ellipsoids; None for graphs that are no chain of matrices and neurons.

    ``steps`` of gradient descent improve T; none is at most ECLipsE-Fast where all slopes lie in [0, 1].
    ``whole``: with the slopes of the whole line.
    """
    layers = layers_of(walk, whole)
    if layers is None or len(layers) < 2:
        return None
    found = [certified(layers, None, scaled) for scaled in (False, True)]
    best = min((f for f in found if f is not None), default=None)
    if steps and best is not None:
        improved = certified(layers, descended(layers, steps), False)
        best = best if improved is None else min(best, improved)
    return best


def widths_of(ellipsoid: Tensor, scaled: bool) -> Tensor:
    """z with diag(z)/2 at least the ellipsoid: 2‖Q‖ for all, or in proportion to Q's diagonal."""
    diagonal = ellipsoid.diagonal()
    if not scaled or bool((diagonal <= 0).any()):
        return diagonal.new_full(diagonal.shape, 2 * largest(ellipsoid))
    root = diagonal.sqrt()
    return 2 * diagonal * largest(ellipsoid / root / root.unsqueeze(1))


def largest(matrix: Tensor) -> float:
    """An estimate of the largest eigenvalue, from below; twice it is what the multipliers need, and a factorisation checks that."""
    return estimate(matrix.detach()) ** 2 if len(matrix) > 32 else float(torch.linalg.eigvalsh(matrix.detach())[-1])


def certified(layers: list[Layer], widths: list[Tensor] | None, scaled: bool) -> float | None:
    """ln of the bound for given ``widths`` (z = 1/(T r²) of the neurons of two slopes), rounding counted; None where they fail."""
    first = layers[0].weight
    q = first @ first.mT
    q = shifted(q, gamma(first.shape[1] + 4) * square_sum(first))
    for number, (layer, following) in enumerate(itertools.pairwise(layers)):
        assert layer.middle is not None and layer.radius is not None
        if not bool(torch.isfinite(q).all()):
            return None
        open_ = (layer.radius > 0).nonzero().squeeze(1)
        if len(open_):
            inner = q[open_][:, open_]
            z = widths[number] if widths is not None else widths_of(inner, scaled)
            grown = through_neurons(q, inner, open_, z)
            if grown is None:
                return None
            q = grown * layer.middle * layer.middle.unsqueeze(1)
            q[open_, open_] += layer.radius[open_].square() * z * (1 + 8 * UNIT)
        else:
            q = q * layer.middle * layer.middle.unsqueeze(1)
        q = shifted(q, 8 * UNIT * float(torch.linalg.matrix_norm(q)))
        weight = following.weight
        error = gamma(2 * weight.shape[1] + 8) * square_sum(weight) * float(torch.linalg.matrix_norm(q))
        q = shifted(weight @ q @ weight.mT, error)
    if not bool(torch.isfinite(q).all()):
        return None
    top = largest(q)
    if top <= 0:
        return log_of(float(torch.linalg.matrix_norm(q)) ** 0.5)
    return log_of(upper_end(q.unsqueeze(0), top * (1 + 1e-9), 1e-8)) / 2 + 1e-14


def shifted(q: Tensor, error: float) -> Tensor:
    """Symmetric part, enlarged by error·I."""
    q = (q + q.mT) / 2
    q.diagonal().add_(error * (1 + 1e-10))
    return q


def square_sum(matrix: Tensor) -> float:
    return float(matrix.square().sum()) * (1 + gamma(matrix.numel()))


def through_neurons(q: Tensor, inner: Tensor, open_: Tensor, z: Tensor) -> Tensor | None:
    """``Q + Q_·u (diag z − Q_uu)⁻¹ Q_u·``, enlarged by its rounding errors; None unless diag z ≻ Q_uu is proved."""
    count = len(z)
    free = torch.diag(z) - inner
    trace = float(z.abs().sum() + inner.diagonal().abs().sum())
    error = 4 * UNIT * (float(z.max()) + float(torch.linalg.matrix_norm(inner))) + 2 * gamma(count + 4) * trace
    least = float(z.min()) / 2.001
    eye = torch.eye(count, dtype=q.dtype, device=q.device)
    for _ in range(12):  # a proof of diag z − Q_uu ≽ least·I
        if int(torch.linalg.cholesky_ex(free - (least + error) * eye).info) == 0:
            break
        least /= 4
    else:
        return None
    factor, info = torch.linalg.cholesky_ex(free - error * eye)
    if int(info) or not least > 4 * error:
        return None
    rows = q[open_]
    solved = torch.linalg.solve_triangular(factor, rows, upper=False)
    size = float(torch.linalg.matrix_norm(solved))
    residual = float(torch.linalg.matrix_norm(factor @ solved - rows))
    residual += gamma(count + 4) * (float(torch.linalg.matrix_norm(factor)) * size + float(torch.linalg.matrix_norm(rows)))
    off = residual / math.sqrt(least - 2 * error) * (1 + 1e-10)
    growth = 2 * size * off + off**2 + gamma(count + 4) * size**2 * (1 + 1e-10)
    return shifted(q + solved.mT @ solved, growth + 4 * UNIT * (float(torch.linalg.matrix_norm(q)) + size**2))


def descended(layers: list[Layer], steps: int) -> list[Tensor] | None:
    """Multipliers that gradient descent found; nobody trusts them before :func:`certified` has passed them."""
    opens = [(layer.radius > 0).nonzero().squeeze(1) for layer in layers[:-1] if layer.radius is not None]

    def value(logs: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        q, used = layers[0].weight @ layers[0].weight.mT, []
        for number, (layer, following, open_) in enumerate(zip(layers, layers[1:], opens, strict=False)):
            assert layer.middle is not None and layer.radius is not None
            inner = q[open_][:, open_]
            if not len(open_):
                used.append(torch.ones(0, dtype=q.dtype))
                q = following.weight @ (q * layer.middle * layer.middle.unsqueeze(1)) @ following.weight.mT
                continue
            z = widths_of(inner, False) if logs is None else logs[number].exp()
            used.append(z)
            factor = torch.linalg.cholesky(torch.diag(z) - inner)
            solved = torch.linalg.solve_triangular(factor, q[open_], upper=False)
            grown = (q + solved.mT @ solved) * layer.middle * layer.middle.unsqueeze(1)
            added = torch.zeros_like(layer.middle).index_add(0, open_, layer.radius[open_].square() * z)
            q = following.weight @ (grown + torch.diag(added)) @ following.weight.mT
        return torch.linalg.eigvalsh(q)[-1].log(), used

    try:
        _, start = value(None)
    except RuntimeError:
        return None
    best, best_value = [z.clone() for z in start], math.inf
    logs = [z.log().clone().requires_grad_(True) for z in start]
    optimizer = torch.optim.Adam(logs, lr=0.1)
    for _ in range(steps):
        try:
            with torch.enable_grad():
                now, used = value(logs)
                optimizer.zero_grad()
                now.backward()
        except RuntimeError:  # no longer positive definite: half way back, and up
            with torch.no_grad():
                for log, good in zip(logs, best, strict=True):
                    log.copy_((log + good.log()) / 2 + 0.02)
            continue
        if float(now) < best_value:
            best, best_value = [z.detach().clone() for z in used], float(now)
        optimizer.step()
    return [z * (1 + 1e-9) for z in best]
