"""Gram matrices on disk: stripes in files of their own, each written whole or not at all, so that interrupted work goes on.

A directory holds ``gram.json`` (what it is of, and a checksum a finished stripe) and ``rows-START.npy``. A directory that holds other
things, or another matrix, or a file that has changed, is refused and never overwritten.
"""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.block_gram import (
    ROWS,
    KernelFunction,
    StripedGram,
    checked_inputs,
    computed_block,
    computed_stripes,
    entries,
)
from nonvacuous.runtime.factories import replacement, write_text
from nonvacuous.runtime.fingerprint import Fingerprint
from nonvacuous.runtime.tasks import Progress

SCHEMA = 1
INDEX = "gram.json"
TYPES = {"float32": torch.float32, "float64": torch.float64}


class DiskGram(StripedGram):
    """The finished matrix, its stripes mapped into memory as they are read."""

    def __init__(self, directory: Path, n: int, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.directory, self.n, self.rows, self.dtype, self._device = directory, n, rows, dtype, device

    def stripe(self, start: int) -> Tensor:
        array = np.load(_file(self.directory, start), mmap_mode="c", allow_pickle=False)  # copy on write: the file stays
        return torch.from_numpy(array).to(self._device)


def bytes_needed(n: int, itemsize: int, rows: int = ROWS) -> int:
    """Bytes of all stripes on disk."""
    return sum((min(s + rows, n) - s) * min(s + rows, n) for s in range(0, n, rows)) * itemsize


def gram_on_disk(
    kernel: KernelFunction,
    inputs: Tensor,
    directory: str | Path,
    *,
    name: str,
    rows: int = ROWS,
    processes: int = 1,
    progress: Progress | None = None,
) -> DiskGram:
    """The Gram matrix in ``directory``: what is there is checked and used, what is missing is computed and kept.

    Ctrl-C loses at most one stripe; the same call goes on from there.

    Args:
        name: says which kernel it is ("ntk relu depth 3"); a directory made under another name is refused. Two small blocks are
            computed anew besides and compared.
        processes: how many compute stripes, each on one thread; see :mod:`~nonvacuous.kernels.gram_processes`.

    Raises:
        InvalidInput: a directory with other content, of another matrix, damaged, or too small a disk.
    """
    checked_inputs(inputs)
    if rows < 1 or inputs.dtype not in TYPES.values():
        raise InvalidInput(f"{rows} rows in a stripe, {inputs.dtype}: at least one row, inputs in float32 or float64")
    place = Path(directory)
    facts = _facts(inputs, name, rows)
    done = _opened(place, facts)
    striped = DiskGram(place, len(inputs), rows, inputs.dtype, inputs.device)
    missing = [start for start in striped.starts if str(start) not in done]
    _check_space(place, len(inputs), rows, missing, inputs.element_size())
    with (progress or Progress()).task("Gram matrix on disk", entries(len(inputs))) as advance:
        for start in (start for start in striped.starts if start not in missing):
            _check_stripe(place, start, done[str(start)])
            advance(min(rows, len(inputs) - start) * (start + rows))
        for start, values in computed_stripes(kernel, inputs, rows, missing, processes):
            done[str(start)] = _written(place, start, values)
            _write_index(place, facts, done)
            advance(values.numel())
    _check_sample(striped, kernel, inputs)
    return striped


def _file(directory: Path, start: int) -> Path:
    return directory / f"rows-{start:09d}.npy"


def _facts(inputs: Tensor, name: str, rows: int) -> dict[str, Any]:
    print_ = Fingerprint()
    for part in inputs.detach().cpu().split(1024):
        print_.update(part, torch.zeros(len(part)))
    kind = next(key for key, value in TYPES.items() if value == inputs.dtype)
    return {"schema": SCHEMA, "kernel": name, "n": len(inputs), "rows": rows, "dtype": kind, "inputs": print_.digest}


def _opened(directory: Path, facts: dict[str, Any]) -> dict[str, int]:
    """Checksums of the finished stripes; the directory is made where it is missing."""
    index = directory / INDEX
    if not index.is_file():
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise InvalidInput(f"{directory} holds other things and no {INDEX}: give an empty or a new directory")
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                f"{directory} cannot be made: {error.strerror}. Give a directory that can be written"
            ) from error
        _write_index(directory, facts, {})
        return {}
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        found = {key: content[key] for key in facts}
        done = {str(int(key)): int(value) for key, value in content["stripes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidInput(f"{index} is damaged ({error}): remove the directory and compute the matrix again") from error
    other = [f"{key} {found[key]!r} instead of {facts[key]!r}" for key in facts if found[key] != facts[key]]
    if other:
        raise InvalidInput(f"{directory} holds another Gram matrix ({'; '.join(other)}): give another directory")
    return done


def _write_index(directory: Path, facts: dict[str, Any], done: dict[str, int]) -> None:
    write_text(directory / INDEX, json.dumps({**facts, "stripes": done}, indent=1) + "\n")


def _written(directory: Path, start: int, values: Tensor) -> int:
    array = np.ascontiguousarray(values.detach().cpu().numpy())
    with replacement(_file(directory, start)) as temporary, temporary.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)
    return zlib.crc32(array.data)


def _check_stripe(directory: Path, start: int, checksum: int) -> None:
    file = _file(directory, start)
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        fine = zlib.crc32(np.ascontiguousarray(array).data) == checksum
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput(
            f"{file} is missing or damaged ({error}): remove the directory and compute the matrix again"
        ) from error
    if not fine:
        raise InvalidInput(f"{file} has changed since it was written: remove the directory and compute the matrix again")


def _check_space(directory: Path, n: int, rows: int, missing: list[int], itemsize: int) -> None:
    needed = sum((min(s + rows, n) - s) * min(s + rows, n) for s in missing) * itemsize
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise InvalidInput(
            f"the Gram matrix of {n} inputs takes {needed / 2**30:.1f} GiB more in {directory}, where {free / 2**30:.1f} GiB are free:"
            " give a larger disk, or fewer inputs"
        )


def _check_sample(striped: DiskGram, kernel: KernelFunction, inputs: Tensor) -> None:
    """A corner of the first and of the last stripe, computed anew."""
    last = striped.starts[-1]
    for start in {0, last}:
        corner = slice(start, min(start + 4, len(inputs)))
        new = computed_block(kernel, inputs[corner], inputs[:8], start)
        old = striped.stripe(start)[:4, :8][:, : new.shape[1]]
        new = new[:, : old.shape[1]]
        scale = float(new.abs().max().clamp(min=1e-30))
        tolerance = 1e-3 if inputs.dtype == torch.float32 else 1e-8
        if float((new - old).abs().max()) > tolerance * scale:
            raise InvalidInput(
                f"{striped.directory} holds another kernel's values under the same name: give another directory or name"
            )
