"""A bent path of low loss between two networks: a quadratic Bézier curve whose middle point is trained.

θ(t) = (1 − t)² θ₀ + 2t(1 − t) θ + t² θ₁ with θ minimising the mean of L(θ(t)) over uniform t (Garipov, Izmailov, Podoprikhin, Vetrov and
Wilson 2018, Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs, whose second family of curves this is).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.directions import between, trainable
from nonvacuous.optimization.modes import Barrier, barrier
from nonvacuous.optimization.slices_losses import Evaluation
from nonvacuous.optimization.slices_objective import Objective, Statistics
from nonvacuous.optimization.slices_restored import batch_norms, restored
from nonvacuous.runtime.models import outputs
from nonvacuous.runtime.tasks import Progress


@dataclass(frozen=True, eq=False)
class Curve:
    """``t`` [m] in [0, 1]; ``loss`` and ``error`` [m] there (None without classes); ``barrier``: of the loss; ``middle``: the
    parameters of the trained point, which does not lie on the curve; ``length``: of the curve over the straight line's.
    """

    t: np.ndarray
    loss: np.ndarray
    error: np.ndarray | None
    barrier: Barrier
    middle: dict[str, Tensor]
    length: float


def bezier(
    objective: Objective,
    state: Mapping[str, Tensor],
    *,
    epochs: int = 30,
    learning_rate: float = 1e-3,
    points: int = 25,
    seed: int = 0,
    progress: Progress | None = None,
) -> Curve:
    """A curve from the model's weights to those of ``state``, its middle trained by Adam on the objective's batches; the model is restored.

    :raises InvalidInput: a state that does not fit, settings out of range, a loss that is no longer finite (lower the learning rate).
    """
    if epochs < 0 or points < 3 or not 0 < learning_rate < float("inf"):
        raise InvalidInput(
            f"epochs {epochs}, points {points}, learning rate {learning_rate!r}: at least 0, at least 3, positive"
        )
    model = objective.model
    line = between(model, state)
    start = {name: x.clone() for name, x in trainable(model).items()}
    end = {name: start[name] + line.tensors[name] for name in start}
    with restored(model):
        middle = _trained(objective, start, end, epochs, learning_rate, seed, progress or Progress())
    t = np.linspace(0.0, 1.0, points)
    found = []
    buffers = {name: b.detach().clone() for name, b in model.named_buffers() if name in line.tensors}
    with Evaluation(objective, [line]) as evaluation:
        for s in t.tolist():
            place = _on_curve(s, start, middle, end) | {name: b + s * line.tensors[name] for name, b in buffers.items()}
            losses = evaluation.at_state(place)
            found.append(
                (float(losses.losses.mean()), float("nan") if losses.wrong is None else float(losses.wrong.double().mean()))
            )
    loss, error = (np.array(column) for column in zip(*found, strict=True))
    return Curve(t, loss, error if objective.classify else None, barrier(t, loss), middle, _length(start, middle, end))


def _trained(
    objective: Objective,
    start: dict[str, Tensor],
    end: dict[str, Tensor],
    epochs: int,
    rate: float,
    seed: int,
    progress: Progress,
) -> dict[str, Tensor]:
    model, generator = objective.model, torch.Generator().manual_seed(seed)
    middle = {name: ((start[name] + end[name]) / 2).requires_grad_(True) for name in start}
    adam = torch.optim.Adam(list(middle.values()), lr=rate)
    if objective.statistics is not Statistics.FROZEN:
        for norm in batch_norms(model):
            norm.training = True
    with progress.task("bending the path", epochs) as advance:
        for _ in range(epochs):
            for i in torch.randperm(len(objective.batches), generator=generator).tolist():
                batch = objective.batches[i]
                weights = _on_curve(float(torch.rand((), generator=generator)), start, middle, end)
                answers = outputs(lambda *a, w=weights, **k: functional_call(model, w, a, k), batch.inputs)  # type: ignore[arg-type]
                loss = objective.losses(answers, batch.targets).mean()
                if not bool(torch.isfinite(loss)):
                    raise InvalidInput(f"the loss on the curve became {float(loss)}: lower the learning rate (now {rate:g})")
                adam.zero_grad()
                loss.backward()
                adam.step()
            advance(1)
    return {name: x.detach() for name, x in middle.items()}


def _on_curve(
    t: float, start: Mapping[str, Tensor], middle: Mapping[str, Tensor], end: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t**2
    return {name: a * start[name] + b * middle[name] + c * end[name] for name in start}


def _length(start: Mapping[str, Tensor], middle: Mapping[str, Tensor], end: Mapping[str, Tensor], pieces: int = 100) -> float:
    """Length of the curve in units of the straight line, from the inner products of its two legs."""
    legs = [
        torch.cat([(b[name] - a[name]).reshape(-1).double() for name in start]) for a, b in ((start, middle), (middle, end))
    ]
    aa, ab, bb = (float(x @ y) for x, y in ((legs[0], legs[0]), (legs[0], legs[1]), (legs[1], legs[1])))
    t = (np.arange(pieces) + 0.5) / pieces
    speed = 2 * np.sqrt(np.maximum(0.0, (1 - t) ** 2 * aa + 2 * t * (1 - t) * ab + t**2 * bb))
    straight = float(torch.linalg.vector_norm(legs[0] + legs[1]))
    return float(speed.mean() / straight)
