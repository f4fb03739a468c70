"""Bits and time of the adaptive arithmetic coder beside zlib, LZMA and bz2, on the same quantised weights, in one run.

``python benchmarks/bench_coding.py`` prints one line a case: bits a weight of the empirical entropy (which no code for independent
symbols can undercut but by luck, and which leaves out the cost of sending the frequencies), of each code with the length that makes it
self-delimiting, and microseconds a weight of the arithmetic coder's writing and reading.
"""

from __future__ import annotations

import bz2
import lzma
import time
import zlib

import numpy as np

from nonvacuous.bounds.code_length import delimited_bits
from nonvacuous.learning.coding import BitStream, Decoder, Encoder, Frequencies

CASES = [(2_000, 1, 0.1), (16_384, 1, 0.01), (16_384, 3, 0.5), (100_000, 7, 0.9)]
"""Weights, levels on each side of 0, share that is not 0."""


def weights(count: int, levels: int, active: float) -> list[int]:
    """Symbols 0 … 2 · levels, most of them the middle one unless ``active`` is large, with geometric sizes."""
    rng = np.random.default_rng(0)
    size = np.minimum(rng.geometric(0.6, count), levels) * rng.choice([-1, 1], count)
    return (np.where(rng.random(count) < active, size, 0) + levels).tolist()


def written(symbols: list[int], size: int) -> BitStream:
    """The number of symbols, and the symbols."""
    encoder, model = Encoder(), Frequencies(size)
    encoder.natural(len(symbols))
    for symbol in symbols:
        encoder.symbol(symbol, model)
    return encoder.finish()


def read(data: bytes, size: int) -> list[int]:
    """The symbols of a stream."""
    decoder, model = Decoder(data), Frequencies(size)
    symbols = [decoder.symbol(model) for _ in range(decoder.natural())]
    decoder.finish()
    return symbols


def main() -> None:
    """Print the table."""
    names = ("entropy", "arithmetic", "zlib", "lzma", "bz2")
    print(f"{'weights':>8} {'levels':>6} {'active':>6}  " + " ".join(f"{name:>10}" for name in names) + "   write    read µs")
    for count, levels, active in CASES:
        symbols, size = weights(count, levels, active), 2 * levels + 1
        start = time.perf_counter()
        stream = written(symbols, size)
        middle = time.perf_counter()
        assert read(stream.data, size) == symbols
        end = time.perf_counter()
        share = np.bincount(symbols, minlength=size) / count
        entropy = -sum(p * np.log2(p) for p in share if p) * count
        plain = bytes(symbols)
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 9}]
        others = (zlib.compress(plain, 9), lzma.compress(plain, lzma.FORMAT_RAW, filters=filters), bz2.compress(plain))
        bits = [entropy, stream.length, *(delimited_bits(8 * len(packed)) for packed in others)]
        numbers = " ".join(f"{b / count:10.4f}" for b in bits)
        micro = f"{1e6 * (middle - start) / count:7.2f} {1e6 * (end - middle) / count:7.2f}"
        print(f"{count:8} {levels:6} {active:6.2f}  {numbers} {micro}", flush=True)


if __name__ == "__main__":
    main()
