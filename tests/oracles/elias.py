"""Elias' δ code and self-delimiting messages, as strings of bits."""

from __future__ import annotations


def elias_delta(number: int) -> str:
    """The code word of a number ≥ 1: γ of its length, then its bits without the leading one."""
    bits = f"{number:b}"
    length = f"{len(bits):b}"
    return "0" * (len(length) - 1) + length + bits[1:]


def message(payload: str) -> str:
    """The payload, preceded by its length plus one."""
    return elias_delta(len(payload) + 1) + payload


def read(stream: str) -> tuple[str, str]:
    """The first payload of a stream, and the rest."""
    zeros = stream.index("1")
    length = int(stream[zeros : 2 * zeros + 1], 2)
    start = 2 * zeros + 1
    number = int("1" + stream[start : start + length - 1], 2)
    start += length - 1
    return stream[start : start + number - 1], stream[start + number - 1 :]
