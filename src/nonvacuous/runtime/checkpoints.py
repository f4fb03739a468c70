"""A training run on disk after each epoch: one safetensors file, replaced whole, with nothing in it that could run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.factories import replacement

FORMAT = "nonvacuous-checkpoint-1"


@dataclass(frozen=True)
class Checkpoint:
    """One file: the model's and the optimizer's tensors, and ``facts`` (JSON) on the run they belong to."""

    path: Path

    def write(self, model: nn.Module, optimizer: Optimizer, facts: Mapping[str, Any]) -> None:
        """Put the run's state in the file's place; until that has succeeded the former state stays.

        :raises InvalidInput: an optimizer whose state is more than tensors and numbers, or a place that cannot be written to.
        """
        tensors = {f"model/{name}": x.detach().cpu().contiguous().clone() for name, x in model.state_dict().items()}
        numbers: dict[str, float] = {}
        for index, entries in optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{index}/{name}"] = value.detach().cpu().contiguous().clone()
                elif isinstance(value, int | float):
                    numbers[f"optimizer/{index}/{name}"] = value
                else:
                    raise InvalidInput(
                        f"the state of {type(optimizer).__name__} holds a {type(value).__name__} ({name}), which a checkpoint"
                        " cannot keep. Train without a checkpoint, or with another optimizer"
                    )
        metadata = {"format": FORMAT, "facts": json.dumps(dict(facts)), "numbers": json.dumps(numbers)}
        with replacement(self.path) as temporary:
            save_file(tensors, temporary, metadata=metadata)

    def facts(self) -> dict[str, Any]:
        """What was recorded about the run.

        :raises InvalidInput: no such file, or not a checkpoint.
        """
        return json.loads(self._read()[1]["facts"])

    def restore(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Put the saved state into a model and an optimizer made the same way.

        :raises InvalidInput: the file does not fit them.
        """
        tensors, metadata = self._read()
        own = model.state_dict()
        saved = {name.removeprefix("model/"): x for name, x in tensors.items() if name.startswith("model/")}
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in saved.items()}:
            raise InvalidInput(f"{self.path} is the checkpoint of another model. Resume with the model it was written for")
        model.load_state_dict(saved)
        state: dict[int, dict[str, Any]] = {}
        kept = {name: x for name, x in tensors.items() if name.startswith("optimizer/")} | json.loads(metadata["numbers"])
        for key, value in kept.items():
            _, index, name = key.split("/", 2)
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def _read(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        if not self.path.is_file():
            raise InvalidInput(f"there is no checkpoint {self.path} to resume from. Check the path, or train without resume")
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, OSError, ValueError) as error:
            raise InvalidInput(f"{self.path} is not a readable checkpoint ({error}). Remove it and train again") from error
        if metadata.get("format") != FORMAT:
            raise InvalidInput(f"{self.path} is not a checkpoint of this version of the trainer. Remove it and train again")
        return tensors, metadata


def copied(model: nn.Module) -> dict[str, Tensor]:
    """The model's state, copied."""
    with torch.no_grad():
        return {name: x.clone() for name, x in model.state_dict().items()}
