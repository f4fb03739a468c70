"""Refits as files: one for each unit, so that an interrupted run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.factories import replacement
from nonvacuous.studies.refits import Refit, Unit

FORMAT = "nonvacuous-refits-1"


@dataclass(frozen=True)
class Kept:
    """A folder of finished units. facts: what tells one run from another (plan, data, model)."""

    folder: Path
    facts: Mapping[str, Any]

    @property
    def run(self) -> str:
        """Digest of the facts."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True, default=str).encode()).hexdigest()

    def _path(self, unit: Unit) -> Path:
        return self.folder / f"{unit.key}.safetensors"

    def write(self, unit: Unit, refits: Sequence[Refit]) -> None:
        """Keep a finished unit; the file appears whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        numbers = [[r.length, r.replicate, r.train_risk, r.seconds, r.parameters] for r in refits]
        losses = np.stack([r.losses for r in refits])
        errors = bool(np.isin(losses, (0.0, 1.0)).all())
        tensors = {
            "numbers": np.array(numbers, dtype=np.float64),
            "losses": np.packbits(losses.astype(bool), axis=1) if errors else losses.astype(np.float32),
        }
        metadata = {"format": FORMAT, "run": self.run, "examples": str(losses.shape[1])}
        with replacement(self._path(unit)) as temporary:
            save_file(tensors, temporary, metadata=metadata)

    def read(self, unit: Unit) -> list[Refit]:
        """The unit's refits, empty where there is no file.

        :raises InvalidInput: the file is damaged or of another run.
        """
        path = self._path(unit)
        if not path.is_file():
            return []
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                numbers, losses = file.get_tensor("numbers"), file.get_tensor("losses")
            if losses.dtype == np.uint8:
                losses = np.unpackbits(losses, axis=1, count=int(metadata["examples"]))
            rows = [(float(a), int(b), float(c), float(d), int(e)) for a, b, c, d, e in numbers.tolist()]
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise InvalidInput(
                f"{path} is not a readable file of refits ({error}). Remove it: its networks are trained again"
            ) from error
        if metadata.get("format") != FORMAT or metadata.get("run") != self.run:
            raise InvalidInput(
                f"{path} belongs to another run (other data, model, settings or seed). Use the options it was made with, another"
                " folder, or --force"
            )
        return [
            Refit(unit.cell, length, replicate, risk, row.astype(np.float32), seconds, parameters)
            for (length, replicate, risk, seconds, parameters), row in zip(rows, losses, strict=True)
        ]
