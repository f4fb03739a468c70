"""Fitting a Gaussian linear head: features once, their leading eigenbasis, then descent on the bound in those coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nonvacuous.core.measured import Kind, Measured
from nonvacuous.learning.gaussian_head import GaussianHead, divergence_terms
from nonvacuous.learning.method import Task
from nonvacuous.learning.objectives import Objective, budget_nats
from nonvacuous.learning.quadrature import correct_chance, lead_probability
from nonvacuous.learning.unfinished import Unfinished
from nonvacuous.runtime.samples import Sample

AT_ONCE = 500
POWER_STEPS = 5


class Featured(NamedTuple):
    """Features [n, p] in float32, and targets [n]."""

    features: Tensor
    targets: Tensor


class Features(Protocol):
    """A map from inputs to ``[b, size]``."""

    size: int

    def __call__(self, x: Any, /) -> Tensor: ...


@torch.no_grad()
def featured(features: Features, sample: Sample, task: Task) -> Featured:
    """Every example's features."""
    found, targets, row = torch.empty(sample.n, features.size), [], 0
    with task.progress.task("computing features", sample.n) as advance:
        for batch in sample.batches(AT_ONCE):
            found[row : row + len(batch.targets)] = features(batch.inputs)
            targets.append(batch.targets)
            row += len(batch.targets)
            advance(len(batch.targets))
    return Featured(found, torch.cat(targets))


def leading_basis(features: Tensor, directions: int, generator: torch.Generator) -> Tensor:
    """Orthonormal columns [p, directions] that nearly span the leading eigenvectors of the second moment, in float64.

    By subspace iteration; any orthonormal basis gives a true certificate, a better one a smaller value.
    """
    moment = torch.zeros(features.shape[1], features.shape[1])
    for part in features.split(4096):
        moment += part.T @ part
    moment /= len(features)
    space = torch.randn(len(moment), directions, generator=generator)
    for _ in range(POWER_STEPS):
        space = torch.linalg.qr(moment @ space)[0]
    vectors = torch.linalg.eigh(space.T @ moment @ space)[1].flip(1)
    return torch.linalg.qr((space @ vectors).double())[0]


@torch.no_grad()
def gibbs_risk(law: Callable[[Tensor], tuple[Tensor, Tensor]], lead: Callable[[Tensor], Tensor], data: Featured) -> Measured:
    """The Gibbs classifier's risk on ``data``, never too small. law: the logits' means and deviations. lead: the lead asked for."""
    right = []
    for part, targets in zip(data.features.split(2048), data.targets.split(2048), strict=True):
        right.append(lead_probability(*law(part), targets, lead(part)))
    risk = 1 - math.fsum(torch.cat(right).tolist()) / len(data.targets) + 1e-12
    return Measured(0.0, min(1.0, max(0.0, risk)), Kind.EXACT)


def fit(
    head: GaussianHead,
    data: Featured,
    task: Task,
    *,
    objective: Objective,
    epochs: int,
    rate: float,
    batch: int,
    centre: Tensor | None = None,
    name: str = "posterior",
) -> None:
    """Set ``head`` in place: Adam on the bound, first with cross-entropy rescaled to the 0–1 risk, then with the 0–1 Gibbs risk itself.

    centre: logits [n, K] of the prior's mean, where that is not 0. name: of the checkpoint, from which a broken-off fit goes on.
    """
    n, k = len(data.targets), head.mean.shape[1]
    head.basis.copy_(leading_basis(data.features, head.basis.shape[1], task.generator("start of the basis")))
    basis = head.basis.float()
    z, rest = torch.empty(n, basis.shape[1]), torch.empty(n)
    for rows in torch.arange(n).split(4096):
        z[rows] = head.scale * (data.features[rows] @ basis)
        rest[rows] = (head.scale**2 * data.features[rows].square().sum(1) - z[rows].square().sum(1)).clamp_min(1e-9)
    mean = nn.Parameter(torch.zeros(basis.shape[1], k))
    start = -0.5 * torch.log1p(0.02 * n * z.square().mean(0))
    log_std = nn.Parameter(start[:, None].repeat(1, k))
    stepper = torch.optim.Adam([mean, log_std], lr=rate, betas=(0.9, 0.98))
    noise, order = task.generator("noise"), task.generator("order")
    a_pass = math.ceil(n / batch)
    steps = epochs * a_pass
    facts = {"seed": task.seed, "n": n, "how": [epochs, rate, batch, head.scale, task.delta], "shape": list(mean.shape)}
    unfinished = Unfinished(task.checkpoint(name), {"mean": mean, "log_std": log_std}, stepper, (noise, order), facts)
    begun, (running,) = unfinished.resumed(1.0)
    step = begun * a_pass
    with task.progress.task("training the posterior", steps) as advance:
        advance(step)
        for epoch in range(begun, epochs):
            for rows in torch.randperm(n, generator=order).split(batch):
                stepper.param_groups[0]["lr"] = rate * min(1, (step + 1) / 20) * (1 + math.cos(math.pi * step / steps)) / 2
                x, y = z[rows], data.targets[rows]
                logits = x @ mean if centre is None else x @ mean + centre[rows]
                variance = x.square() @ (2 * log_std).exp() + rest[rows][:, None]
                if 3 * epoch < epochs:
                    with torch.no_grad():
                        wrong = float(1 - correct_chance(logits, variance, y).mean())
                    drawn = logits + variance.sqrt() * torch.randn(logits.shape, generator=noise)
                    cross = cross_entropy(drawn, y)
                    running = 0.9 * running + 0.1 * wrong / max(float(cross.detach()), 1e-9)
                    risk = cross * (running if step > 20 else wrong / max(float(cross.detach()), 1e-9))
                else:
                    risk = 1 - correct_chance(logits, variance, y).mean()
                divergence = torch.stack(divergence_terms(mean, log_std)).sum() / 2
                value = objective(risk.clamp(1e-4, 0.98), budget_nats(divergence, n, task.delta))
                stepper.zero_grad(set_to_none=True)
                value.backward()
                stepper.step()
                step += 1
                advance(1)
            unfinished.keep(epoch + 1, running)
    head.mean.copy_(mean.detach())
    head.log_std.copy_(log_std.detach())
