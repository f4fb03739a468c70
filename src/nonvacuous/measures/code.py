"""Length of a network's numbers in a prefix-free code that was fixed before any data: what Occam's bounds pay for."""

from __future__ import annotations

import lzma
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from nonvacuous.bounds.code_length import delimited_bits
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.measures.state import check_registered


def code_bits(module: nn.Module, initial: nn.Module | None = None) -> Measured:
    """Bits of the shorter of two codes for every parameter and buffer, given the architecture; one bit says which.

    0: the numbers as they are (their count and types are the architecture's). 1: their bytes, compressed by LZMA and preceded by
    their length. Tensors equal, bit by bit, to those of ``initial`` (fixed before the data) take one bit each.
    Buffers count: batch-norm's running statistics are read off the data like any weight.

    Raises :class:`~nonvacuous.core.errors.UnsupportedModule` for a network that keeps numbers elsewhere.
    """
    check_registered(module)
    tensors = [(name, t.detach().cpu()) for name, t in chain(module.named_parameters(), module.named_buffers())]
    if not tensors:
        raise InvalidInput("the model has no parameters and no buffers: there is nothing to code")
    flags = 0
    if initial is not None:
        known = {name: t.detach().cpu() for name, t in chain(initial.named_parameters(), initial.named_buffers())}
        flags = len(tensors)
        tensors = [(name, t) for name, t in tensors if name not in known or not _same(t, known[name])]
    raw = b"".join(_bytes(t) for _, t in tensors)
    planes = b"".join(_planes(t) for _, t in tensors)
    packed = lzma.compress(planes, format=lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}])
    return Measured.exact(float(max(1, flags + 1 + min(8 * len(raw), delimited_bits(8 * len(packed))))))


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and _bytes(one) == _bytes(other)


def _bytes(tensor: Tensor) -> bytes:
    return bytes(tensor.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy().tobytes())


def _planes(tensor: Tensor) -> bytes:
    """The bytes with all first bytes of the numbers first, then all second ones: exponents lie together and compress."""
    rows = np.frombuffer(_bytes(tensor), dtype=np.uint8).reshape(-1, max(1, tensor.element_size()))
    return rows.T.tobytes()
