"""A sample held in memory as two tensors, for methods that pass over parts of it many times."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.samples import Sample

AT_ONCE = 1000
"""Examples evaluated together."""


class Held(NamedTuple):
    """All of a sample: inputs [n, …] (pictures with channels last in memory, which CPUs prefer), targets [n]."""

    inputs: Tensor
    targets: Tensor


def held(sample: Sample, device: str = "cpu") -> Held:
    """The whole sample on ``device``; :class:`InvalidInput` for inputs that are several named tensors."""
    parts, targets = [], []
    for batch in sample.batches(10_000):
        if isinstance(batch.inputs, dict):
            raise InvalidInput(f"{sample.name} has inputs of several names: this method takes one tensor an example")
        parts.append(batch.inputs)
        targets.append(batch.targets)
    inputs = torch.cat(parts).to(device)
    if inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    return Held(inputs, torch.cat(targets).to(device))


@torch.no_grad()
def answers(model: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs [n, classes] of the model in evaluation mode, in batches of a fixed size."""
    mode = model.training
    model.eval()
    out = torch.cat([model(part) for part in inputs.split(AT_ONCE)])
    model.train(mode)
    return out


def mirrored_some(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """The inputs [b, …] with the last axis of about half of them reversed."""
    flip = (torch.rand(len(inputs), generator=generator) < 0.5).to(inputs.device)
    return torch.where(flip.view(-1, *[1] * (inputs.ndim - 1)), inputs.flip(-1), inputs)
