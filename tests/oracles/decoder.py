"""The decoder that makes `code_bits` the length of a code: writes the bits of a network, reads them back given the architecture."""

from __future__ import annotations

import lzma
from collections.abc import Sequence

import numpy as np
import torch
from tests.oracles import elias
from torch import Tensor, nn

FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6}]


def numbers(module: nn.Module) -> list[Tensor]:
    return [t.detach() for _, t in (*module.named_parameters(), *module.named_buffers())]


def raw(tensor: Tensor) -> bytes:
    return tensor.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy().tobytes()


def bits(data: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in data)


def octets(text: str) -> bytes:
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


def encoded(module: nn.Module, initial: nn.Module | None = None) -> str:
    """One flag a tensor where there are initial weights (1: as they were), one bit for the packing, the message."""
    tensors, flags = numbers(module), ""
    if initial is not None:
        same = [raw(a) == raw(b) for a, b in zip(tensors, numbers(initial), strict=True)]
        flags = "".join("01"[s] for s in same)
        tensors = [t for t, s in zip(tensors, same, strict=True) if not s]
    plain = b"".join(map(raw, tensors))
    planes = b"".join(np.frombuffer(raw(t), np.uint8).reshape(-1, max(1, t.element_size())).T.tobytes() for t in tensors)
    packed = elias.message(bits(lzma.compress(planes, format=lzma.FORMAT_RAW, filters=FILTERS)))
    return flags + min("0" + bits(plain), "1" + packed, key=len)


def decoded(stream: str, architecture: Sequence[Tensor], initial: nn.Module | None = None) -> tuple[list[bytes], str]:
    """The bytes of every tensor, and the rest of the stream; of the architecture only shapes and types are read."""
    known: list[bytes | None] = [None] * len(architecture)
    if initial is not None:
        flags, stream = stream[: len(architecture)], stream[len(architecture) :]
        known = [raw(t) if flag == "1" else None for t, flag in zip(numbers(initial), flags, strict=True)]
    kind, stream = stream[0], stream[1:]
    missing = [t for t, k in zip(architecture, known, strict=True) if k is None]
    sizes = [t.numel() * t.element_size() for t in missing]
    if kind == "0":
        data, stream = octets(stream[: 8 * sum(sizes)]), stream[8 * sum(sizes) :]
    else:
        payload, stream = elias.read(stream)
        data = lzma.decompress(octets(payload), format=lzma.FORMAT_RAW, filters=FILTERS)
    found, start = [], 0
    for tensor, size in zip(missing, sizes, strict=True):
        part, start = data[start : start + size], start + size
        if kind == "1":
            part = np.frombuffer(part, np.uint8).reshape(max(1, tensor.element_size()), -1).T.tobytes()
        found.append(part)
    return [k if k is not None else found.pop(0) for k in known], stream
