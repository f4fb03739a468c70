"""Independent streams of randomness from one seed, each named after what it serves."""

from __future__ import annotations

import hashlib


def stream_seed(seed: int, purpose: str) -> int:
    """An independent 63-bit seed for each purpose of one run."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()) >> 1
