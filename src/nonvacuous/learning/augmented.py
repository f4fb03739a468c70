"""Training on pictures that are mirrored and shifted at random, at a rate that rises and falls once: good networks in few epochs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from nonvacuous.core.errors import InvalidInput
from nonvacuous.learning.in_memory import held, mirrored_some
from nonvacuous.learning.method import Task
from nonvacuous.runtime.checkpoints import Checkpoint
from nonvacuous.runtime.samples import Sample
from nonvacuous.runtime.weights import weights_digest

WARM_UP, WEIGHT_DECAY, SMOOTHING = 0.3, 1e-2, 0.05


def shifted(inputs: Tensor, most: int, generator: torch.Generator | None = None) -> Tensor:
    """Pictures [b, c, h, w], each moved by at most ``most`` pixels each way; what comes in is black. No generator: torch's own."""
    if most == 0:
        return inputs
    b, _, h, w = inputs.shape
    down, right = torch.randint(2 * most + 1, (2, b), generator=generator).to(inputs.device)
    wide = pad(inputs, (most,) * 4)
    rows = down[:, None] + torch.arange(h, device=inputs.device)
    columns = right[:, None] + torch.arange(w, device=inputs.device)
    return wide.permute(0, 2, 3, 1)[torch.arange(b)[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def one_cycle(step: int, steps: int) -> float:
    """The rate at a step as a part of the highest: up along a half cosine for `WARM_UP` of the steps, then down to nothing."""
    position, top = step / steps, WARM_UP
    if position < top:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * position / top)) / 2
    return (1 + math.cos(math.pi * (position - top) / (1 - top))) / 2


def trained_with_augmentation(
    task: Task, sample: Sample, *, purpose: str, epochs: int, rate: float, batch: int, mirrored: bool, shift: int, half: bool
) -> nn.Module:
    """A fresh network of the task, trained by AdamW on ``sample``; in evaluation mode.

    Every epoch draws its order and its changes of the pictures from a stream of its own, so that a run which goes on from its checkpoint
    ends with the same bits. half: in bfloat16 where that is safe.

    Raises :class:`InvalidInput` for inputs that are no pictures, if these are to be shifted.
    """
    if shift and len(sample.input_shape) != 3:
        raise InvalidInput(f"inputs of shape {tuple(sample.input_shape)} cannot be shifted: pass shift=0, mirrored=False")
    data = held(sample, task.device)
    model = task.network().to(task.device)
    if data.inputs.ndim == 4:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stepper = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    n = len(data.targets)
    an_epoch = math.ceil(n / batch)
    steps = epochs * an_epoch
    facts = {
        "seed": task.stream(purpose),
        "start": weights_digest(model),
        "n": n,
        "how": [epochs, rate, batch, mirrored, shift, half],
    }
    file, begun = task.checkpoint(purpose), 0
    if file is not None and file.exists():
        begun = _resumed(Checkpoint(file), model, stepper, facts)
    model.train()
    with task.progress.task(f"training ({purpose})", steps) as advance:
        advance(begun * an_epoch)
        for epoch in range(begun, epochs):
            generator = task.generator(f"{purpose}/{epoch}")
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(task.stream(f"{purpose}/{epoch}/layers"))
                for index, rows in enumerate(torch.randperm(n, generator=generator).split(batch)):
                    for group in stepper.param_groups:
                        group["lr"] = rate * one_cycle(epoch * an_epoch + index, steps)
                    x, y = data.inputs[rows], data.targets[rows]
                    x = mirrored_some(x, generator) if mirrored else x
                    x = shifted(x, shift, generator) if shift else x
                    stepper.zero_grad(set_to_none=True)
                    with torch.autocast(torch.device(task.device).type, torch.bfloat16, enabled=half):
                        logits = model(x)
                    cross_entropy(logits.float(), y, label_smoothing=SMOOTHING).backward()
                    stepper.step()
                    advance(1)
            if file is not None:
                Checkpoint(file).write(model, stepper, {**facts, "epoch": epoch + 1})
    return model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


def _resumed(checkpoint: Checkpoint, model: nn.Module, stepper: torch.optim.Optimizer, facts: dict[str, Any]) -> int:
    """Epochs already done, the state being put back."""
    found = checkpoint.facts()
    if any(found.get(name) != value for name, value in facts.items()):
        raise InvalidInput(f"{checkpoint.path} belongs to another run. Use another folder, or remove it")
    checkpoint.restore(model, stepper)
    return int(found["epoch"])
