"""The arms of the randomization test: what each does to a sample's labels or inputs (Zhang et al. 2017, Section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.seeds import stream_seed


class Setting(Enum):
    """What an arm changes."""

    LABELS = "corrupted labels"
    SHUFFLED_PIXELS = "shuffled pixels"
    RANDOM_PIXELS = "random pixels"
    GAUSSIAN = "Gaussian"
    SIGNS = "random signs"


@dataclass(frozen=True)
class Arm:
    """A setting, and for labels the share ``corruption`` of those drawn anew.

    LABELS: each label is, with probability ``corruption``, replaced by one uniform over all classes (so 1 − 1/K of the replaced
    differ).  SHUFFLED_PIXELS: one permutation for all inputs, test inputs too.  RANDOM_PIXELS: a permutation for each.  GAUSSIAN:
    inputs are noise with the sample's overall mean and deviation.  SIGNS: labels are 0 or 1 at random, for `capacity`.
    """

    setting: Setting
    corruption: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.corruption <= 1:
            raise InvalidInput(f"corruption {self.corruption!r}: it is the share of labels drawn anew, from 0 to 1")
        if self.corruption and self.setting is not Setting.LABELS:
            raise InvalidInput(f"corruption {self.corruption:g} of {self.setting.value}: only labels are corrupted in part")

    @property
    def name(self) -> str:
        """How figures call it."""
        if self.setting is not Setting.LABELS:
            return self.setting.value
        known = {0.0: "true labels", 1.0: "random labels"}
        return known.get(self.corruption, f"{self.corruption:.0%} corrupted")


class Material(NamedTuple):
    """Inputs ``[n, …]`` and labels ``[n]`` to train on, and the same for the test."""

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor


def changed(clean: Material, arm: Arm, classes: int, seed: int) -> Material:
    """The material of an arm; test labels always stay as they are."""
    generator = torch.Generator().manual_seed(stream_seed(seed, f"randomization: {arm.name}"))
    n = len(clean.labels)
    match arm.setting:
        case Setting.LABELS:
            drawn = torch.randint(classes, (n,), generator=generator)
            replaced = torch.rand(n, generator=generator) < arm.corruption
            return clean._replace(labels=torch.where(replaced, drawn, clean.labels))
        case Setting.SIGNS:
            return clean._replace(labels=torch.randint(2, (n,), generator=generator))
        case Setting.SHUFFLED_PIXELS:
            places = torch.randperm(clean.inputs[0].numel(), generator=generator)
            inputs, test = (x.flatten(1)[:, places].reshape(x.shape) for x in (clean.inputs, clean.test_inputs))
        case Setting.RANDOM_PIXELS:
            inputs, test = (_permuted(x, generator) for x in (clean.inputs, clean.test_inputs))
        case Setting.GAUSSIAN:
            mean, std = float(clean.inputs.mean()), float(clean.inputs.std())
            inputs, test = (
                mean + std * torch.randn(x.shape, generator=generator, dtype=x.dtype)
                for x in (clean.inputs, clean.test_inputs)
            )
    return clean._replace(inputs=inputs, test_inputs=test)


def _permuted(x: Tensor, generator: torch.Generator) -> Tensor:
    flat = x.flatten(1)
    places = torch.rand(flat.shape, generator=generator).argsort(1)
    return flat.gather(1, places).reshape(x.shape)
