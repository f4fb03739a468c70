"""Content hashes of a sample, gathered in whatever pass is being made over it.

Each example's inputs are hashed once (BLAKE2b, 32 bytes). The first 16 bytes are the example's *key*: equal keys mean equal
inputs. The sample's digest is SHA-256 over the inputs' type and shape, all 32-byte hashes in order, and all targets in order;
it does not depend on how the sample was cut into batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.values import Batch, Inputs

KEY = np.dtype("V16")


class Batched(Protocol):
    """Anything that can be read in batches in a fixed order."""

    def batches(self) -> Iterator[Batch]: ...


class Fingerprint:
    """Accumulates hashes batch by batch: ``update`` in order, then read the attributes."""

    def __init__(self) -> None:
        self._rows: list[bytes] = []
        self._targets: list[np.ndarray] = []
        self._header = ""

    def update(self, inputs: Inputs, targets: Tensor) -> None:
        """Take in one batch as `Sample.batches` gives it: ``inputs`` [b, …] (tensor or dict of tensors), ``targets`` [b]."""
        header, rows = _packed(inputs)
        if not self._header:
            self._header = f"{header} {targets.dtype}"
        seed = hashlib.blake2b(header.encode() if isinstance(inputs, dict) else b"", digest_size=32)
        view, size = rows.reshape(-1).data, rows.shape[1]
        hashes = []
        for start in range(0, len(rows) * size, size):
            h = seed.copy()
            h.update(view[start : start + size])
            hashes.append(h.digest())
        self._rows.append(b"".join(hashes))
        self._targets.append(targets.detach().cpu().numpy().copy())

    @property
    def n(self) -> int:
        """Examples taken in."""
        return sum(map(len, self._targets))

    @property
    def examples(self) -> np.ndarray:
        """Keys of the inputs, ``[n]`` of dtype ``V16``: equal exactly when the inputs are equal."""
        rows = np.frombuffer(b"".join(self._rows), dtype=np.uint8).reshape(-1, 32)
        return np.ascontiguousarray(rows[:, :16]).view(KEY).reshape(-1)

    @property
    def labelled(self) -> np.ndarray:
        """Keys of (inputs, target), ``[n]`` of dtype ``V16``: equal exactly when both are equal."""
        words = _words(self.examples).copy()
        label = np.ascontiguousarray(self.targets)
        bits = (
            label.astype(np.int64).view(np.uint64) if label.dtype.kind in "iub" else label.astype(np.float64).view(np.uint64)
        )
        words[:, 0] ^= mixed(bits + np.uint64(1))
        words[:, 1] ^= mixed(~bits)
        return words.view(KEY).reshape(-1)

    @property
    def targets(self) -> np.ndarray:
        """All targets in order, ``[n]``."""
        return np.concatenate(self._targets) if self._targets else np.zeros(0, dtype=np.int64)

    @property
    def digest(self) -> str:
        """SHA-256 of the whole sample in order, as hex."""
        total = hashlib.sha256(self._header.encode() + b"\n")
        for rows in self._rows:
            total.update(rows)
        for targets in self._targets:
            total.update(np.ascontiguousarray(targets).astype(targets.dtype.newbyteorder("<"), copy=False).tobytes())
        return total.hexdigest()


def _packed(inputs: Inputs) -> tuple[str, np.ndarray]:
    """Type and shape of an example, and bytes ``[b, size]``; a dict's entries lie side by side in the order of their names."""
    parts = sorted(inputs.items()) if isinstance(inputs, dict) else [("", inputs)]
    described = ";".join(f"{k}:{x.dtype}:{tuple(x.shape[1:])}" for k, x in parts)
    rows = []
    for _, x in parts:
        flat = x.detach().cpu().reshape(len(x), -1).contiguous()
        if flat.stride(-1) != 1:  # torch calls one column contiguous whatever its stride
            flat = torch.empty(flat.shape, dtype=flat.dtype).copy_(flat)
        rows.append(flat.view(torch.uint8).numpy())
    return described, rows[0] if len(rows) == 1 else np.ascontiguousarray(np.concatenate(rows, axis=1))


def mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: a bijection of 64-bit words in which every input bit reaches every output bit."""
    z = x.astype(np.uint64)
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _words(keys: np.ndarray) -> np.ndarray:
    """Keys ``[n]`` as ``[n, 2]`` little-endian 64-bit words."""
    return np.ascontiguousarray(keys).view("<u8").reshape(-1, 2)


def fingerprint(sample: Batched) -> Fingerprint:
    """The fingerprint of a sample, in one pass of its own."""
    result = Fingerprint()
    for batch in sample.batches():
        result.update(batch.inputs, batch.targets)
    return result


def example_digests(sample: Batched) -> np.ndarray:
    """Keys of every example's inputs, ``[n]`` of dtype ``V16``."""
    return fingerprint(sample).examples


def sample_digest(sample: Batched) -> str:
    """SHA-256 of all content in order, as hex."""
    return fingerprint(sample).digest


def group_numbers(keys: np.ndarray) -> np.ndarray:
    """For keys ``[n]``, the number of each one's group of equal keys, ``[n]`` in ``0 … groups − 1``."""
    words = _words(keys)
    order = np.lexsort((words[:, 1], words[:, 0]))
    ordered = words[order]
    starts = np.ones(len(ordered), dtype=bool)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    groups = np.empty(len(ordered), dtype=np.int64)
    groups[order] = np.cumsum(starts) - 1
    return groups


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Indices in ``b`` (ascending) of examples whose key also occurs in ``a``; both are ``[n]`` of dtype ``V16``."""
    groups = group_numbers(np.concatenate([a, b]))
    present = np.zeros(groups.max(initial=-1) + 1, dtype=bool)
    present[groups[: len(a)]] = True
    return np.flatnonzero(present[groups[len(a) :]])


def conflict_floor(keys: np.ndarray, labels: np.ndarray) -> int:
    """Errors that *every* function of the inputs makes on the sample, because equal inputs carry different labels.

    n − Σ over groups of equal inputs of the commonest label's count. ``keys`` [n] of dtype ``V16``, ``labels`` [n] integers.
    """
    if len(keys) != len(labels):
        raise InvalidInput(f"{len(keys)} keys and {len(labels)} labels: pass one label for each key")
    if not len(keys):
        return 0
    groups = group_numbers(keys)
    _, label = np.unique(np.asarray(labels), return_inverse=True)
    pairs, counts = np.unique(groups * (label.max() + 1) + label, return_counts=True)
    best = np.zeros(groups.max() + 1, dtype=np.int64)
    np.maximum.at(best, pairs // (label.max() + 1), counts)
    return int(len(keys) - best.sum())
