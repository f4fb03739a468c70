"""A self-delimiting stream of bits: adaptive arithmetic coding and Elias' code for integers, in integer arithmetic only.

What one machine writes every other reads. A decoder that knows the format needs nothing else: it stops by itself, knows to the bit
where the message ends, and refuses whatever an encoder would not have written (a cut or lengthened stream, another spelling of the
same message). So the messages of one format are a prefix-free set of bit strings, and 2^(−bits) summed over them is at most 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from nonvacuous.core.errors import InvalidInput

PRECISION = 32
_TOP, _HALF, _QUARTER = 1 << PRECISION, 1 << (PRECISION - 1), 1 << (PRECISION - 2)

MOST_TOTAL = 1 << 24
"""Largest sum of frequencies a model may have: far below a quarter of the coder's range, so that no symbol's interval is empty."""


class DamagedStream(InvalidInput):
    """A stream of bits that no encoder of this format writes: cut, lengthened, altered, or of another format."""


@dataclass
class Frequencies:
    """An adaptive model of symbols 0 … size − 1: Krichevsky and Trofimov's estimator, (count + ½)/(n + size/2).

    Encoder and decoder each keep one and update it alike; it costs at most about (size − 1)/2 · log2 n bits more than the best
    fixed frequencies chosen afterwards, and nothing needs to be sent. Source: Krichevsky and Trofimov 1981 (IEEE Trans. Inf. Theory 27).
    """

    size: int
    counts: list[int] = field(init=False, repr=False)
    total: int = field(init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 1 << 16:
            raise InvalidInput(f"a model of {self.size} symbols: it has at least 1 and at most {1 << 16}")
        self.counts, self.total = [1] * self.size, self.size

    def interval(self, symbol: int) -> tuple[int, int]:
        """Where the symbol's share of ``total`` starts, and its size."""
        return sum(self.counts[:symbol]), self.counts[symbol]

    def at(self, place: int) -> int:
        """The symbol whose share holds ``place``, 0 ≤ place < total."""
        symbol = 0
        while place >= self.counts[symbol]:
            place -= self.counts[symbol]
            symbol += 1
        return symbol

    def update(self, symbol: int) -> None:
        """Count one more occurrence; all counts are halved, rounded up, where their sum would grow too large."""
        self.counts[symbol] += 2
        self.total += 2
        if self.total > MOST_TOTAL:
            self.counts = [(count + 1) >> 1 for count in self.counts]
            self.total = sum(self.counts)


@dataclass(frozen=True)
class BitStream:
    """``length`` bits, the first of them the highest of the first byte; the last byte is filled up with zeros, which are no message.

    >>> BitStream.of([1, 0, 1])
    BitStream(data=b'\\xa0', length=3)
    """

    data: bytes
    length: int

    @classmethod
    def of(cls, bits: Iterable[int]) -> BitStream:
        """The stream of these bits (0 or 1)."""
        text = "".join("1" if bit else "0" for bit in bits)
        size = (len(text) + 7) // 8
        return cls(int(text.ljust(8 * size, "0") or "0", 2).to_bytes(size, "big"), len(text))

    def bits(self) -> list[int]:
        """The bits one by one."""
        text = f"{int.from_bytes(self.data, 'big'):0{8 * len(self.data)}b}" if self.data else ""
        return [int(bit) for bit in text[: self.length]]


class _Range:
    """The interval of Witten, Neal and Cleary's coder (1987, Communications of the ACM 30), and how far it has been narrowed."""

    def __init__(self) -> None:
        self.low, self.high, self.shifts = 0, _TOP - 1, 0

    def narrow(self, start: int, size: int, total: int) -> None:
        span = self.high - self.low + 1
        self.high = self.low + span * (start + size) // total - 1
        self.low = self.low + span * start // total

    def shift(self) -> int | None:
        """Double the interval once if it has become small: the bit that is settled, 2 for one that waits, None if nothing is due."""
        if self.high < _HALF:
            bit, base = 0, 0
        elif self.low >= _HALF:
            bit, base = 1, _HALF
        elif self.low >= _QUARTER and self.high < 3 * _QUARTER:
            bit, base = 2, _QUARTER
        else:
            return None
        self.low, self.high, self.shifts = 2 * (self.low - base), 2 * (self.high - base) + 1, self.shifts + 1
        return bit


class Encoder:
    """Writes symbols, equally likely numbers and integers; `finish` gives the stream.

    >>> encoder = Encoder()
    >>> encoder.natural(17)
    >>> encoder.symbol(2, Frequencies(3))
    >>> stream = encoder.finish()
    >>> decoder = Decoder(stream.data)
    >>> decoder.natural(), decoder.symbol(Frequencies(3)), decoder.finish() == stream.length
    (17, 2, True)
    """

    def __init__(self) -> None:
        self._range, self._bits, self._waiting = _Range(), bytearray(), 0

    def symbol(self, symbol: int, model: Frequencies) -> None:
        """Write ``symbol`` of an adaptive model, and update the model."""
        if not 0 <= symbol < model.size:
            raise InvalidInput(f"symbol {symbol} of a model with the symbols 0 … {model.size - 1}: it cannot be written")
        self._write(*model.interval(symbol), model.total)
        model.update(symbol)

    def uniform(self, number: int, size: int) -> None:
        """Write one of ``size`` ≤ 2^24 equally likely numbers 0 … size − 1."""
        if not (0 <= number < size <= MOST_TOTAL):
            raise InvalidInput(f"{number} is not one of {size} equally likely numbers (at most {MOST_TOTAL})")
        self._write(number, 1, size)

    def natural(self, number: int) -> None:
        """Write a whole number ≥ 0 by Elias' δ code of ``number + 1``. Source: Elias 1975 (IEEE Trans. Inf. Theory 21)."""
        if number < 0:
            raise InvalidInput(f"{number} is negative: write it with `integer`")
        length = (number + 1).bit_length()
        digits = length.bit_length()
        for bit in [0] * (digits - 1) + _binary(length, digits) + _binary(number + 1, length)[1:]:
            self._write(bit, 1, 2)

    def integer(self, number: int) -> None:
        """Write a whole number of either sign: 0, −1, 1, −2, 2, … as the naturals 0, 1, 2, 3, 4, …"""
        self.natural(2 * number if number >= 0 else -2 * number - 1)

    def finish(self) -> BitStream:
        """The stream: two more bits settle the last interval whatever may follow."""
        self._emit(0 if self._range.low < _QUARTER else 1, extra=1)
        return BitStream.of(self._bits)

    def _write(self, start: int, size: int, total: int) -> None:
        self._range.narrow(start, size, total)
        while (bit := self._range.shift()) is not None:
            if bit == 2:
                self._waiting += 1
            else:
                self._emit(bit)

    def _emit(self, bit: int, extra: int = 0) -> None:
        self._bits.append(bit)
        self._bits.extend([1 - bit] * (self._waiting + extra))
        self._waiting = 0


class Decoder:
    """Reads what `Encoder` wrote, by the same calls; `finish` says how many bits the message had, and refuses any other stream.

    It reads at most ``data`` and raises `DamagedStream` as soon as a message needs more bits than there are.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._range, self._echo = data, _Range(), Encoder()
        self._value = 0
        for place in range(PRECISION):
            self._value = 2 * self._value + self._bit(place)

    def symbol(self, model: Frequencies) -> int:
        """The next symbol of an adaptive model, which is updated."""
        symbol = model.at(self._place(model.total))
        self._advance(*model.interval(symbol), model.total)
        self._echo.symbol(symbol, model)
        return symbol

    def uniform(self, size: int) -> int:
        """The next of ``size`` equally likely numbers."""
        number = self._place(size)
        self._advance(number, 1, size)
        self._echo.uniform(number, size)
        return number

    def natural(self, most: int = 2**63 - 1) -> int:
        """The next whole number ≥ 0; `DamagedStream` if it is above ``most``."""
        zeros = 0
        while not self.uniform(2):
            zeros += 1
            if zeros > most.bit_length().bit_length():
                raise DamagedStream(f"the stream holds a number far above {most}: it is damaged, or of another format")
        length = self._after(1, zeros)
        if length > (most + 1).bit_length() or (number := self._after(1, length - 1) - 1) > most:
            raise DamagedStream(f"the stream holds a number above {most}: it is damaged, or of another format")
        return number

    def integer(self, most: int = 2**62) -> int:
        """The next whole number of either sign; `DamagedStream` if its size is above ``most``."""
        number = self.natural(2 * most)
        return number // 2 if number % 2 == 0 else -(number + 1) // 2

    def finish(self) -> int:
        """Bits of the message. Raises `DamagedStream` unless the stream is, to the last bit, what the encoder wrote."""
        written = self._echo.finish()
        if len(written.data) < len(self._data):
            raise DamagedStream(
                f"the message ends after {written.length} bits, {len(self._data) - len(written.data)} bytes follow it: a stream is "
                "one message and nothing else. Cut off what was appended"
            )
        if written.data != self._data:
            raise DamagedStream(
                "the last bits are not those an encoder writes after this message: the stream was cut or altered. Get the original"
            )
        return written.length

    def _after(self, number: int, bits: int) -> int:
        for _ in range(bits):
            number = 2 * number + self.uniform(2)
        return number

    def _bit(self, place: int) -> int:
        byte = self._data[place >> 3] if place >> 3 < len(self._data) else 0
        return byte >> (7 - (place & 7)) & 1

    def _place(self, total: int) -> int:
        span = self._range.high - self._range.low + 1
        return ((self._value - self._range.low + 1) * total - 1) // span

    def _advance(self, start: int, size: int, total: int) -> None:
        self._range.narrow(start, size, total)
        while (bit := self._range.shift()) is not None:
            base = _QUARTER if bit == 2 else _HALF * bit
            self._value = 2 * (self._value - base) + self._bit(self._range.shifts + PRECISION - 1)
        if self._range.shifts + 2 > 8 * len(self._data):
            raise DamagedStream(
                f"the message needs more than the {8 * len(self._data)} bits there are: the stream was cut short, or is of another "
                "format. Get the original"
            )


def _binary(number: int, digits: int) -> list[int]:
    return [number >> place & 1 for place in reversed(range(digits))]
