"""The stream of bits: what is written is read, the messages are prefix-free, and nothing else is accepted."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from itertools import pairwise, product
from math import lgamma, log, log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracles import elias

from nonvacuous.core.errors import InvalidInput
from nonvacuous.learning.coding import BitStream, DamagedStream, Decoder, Encoder, Frequencies

naturals = st.integers(0, 2**62)


def message(symbols: list[int], size: int) -> BitStream:
    encoder, model = Encoder(), Frequencies(size)
    encoder.natural(len(symbols))
    for symbol in symbols:
        encoder.symbol(symbol, model)
    return encoder.finish()


def read(data: bytes, size: int, most: int = 10_000) -> tuple[list[int], int]:
    decoder, model = Decoder(data), Frequencies(size)
    symbols = [decoder.symbol(model) for _ in range(decoder.natural(most))]
    return symbols, decoder.finish()


@given(st.integers(1, 9).flatmap(lambda k: st.tuples(st.just(k), st.lists(st.integers(0, k - 1), max_size=200))))
def test_symbols_come_back(case: tuple[int, list[int]]) -> None:
    size, symbols = case
    stream = message(symbols, size)
    assert read(stream.data, size) == (symbols, stream.length)


@given(st.lists(st.one_of(st.tuples(st.just("n"), naturals), st.tuples(st.just("z"), st.integers(-(2**61), 2**61)))))
def test_integers_come_back(numbers: list[tuple[str, int]]) -> None:
    encoder = Encoder()
    for kind, number in numbers:
        encoder.natural(number) if kind == "n" else encoder.integer(number)
    stream = encoder.finish()
    decoder = Decoder(stream.data)
    assert [decoder.natural() if kind == "n" else decoder.integer() for kind, _ in numbers] == [n for _, n in numbers]
    assert decoder.finish() == stream.length


@given(st.lists(st.integers(1, 2**24).flatmap(lambda size: st.tuples(st.integers(0, size - 1), st.just(size))), max_size=50))
def test_equally_likely_numbers_come_back_at_their_price(numbers: list[tuple[int, int]]) -> None:
    encoder = Encoder()
    for number, size in numbers:
        encoder.uniform(number, size)
    stream = encoder.finish()
    decoder = Decoder(stream.data)
    assert [decoder.uniform(size) for _, size in numbers] == [number for number, _ in numbers]
    assert decoder.finish() == stream.length <= sum(log2(size) for _, size in numbers) + 2.02 + 0.02 * len(numbers)


@pytest.mark.parametrize("number", [0, 1, 2, 7, 8, 100, 2**20, 2**40])
def test_a_natural_is_elias_delta(number: int) -> None:
    encoder = Encoder()
    encoder.natural(number)
    assert "".join(map(str, encoder.finish().bits())).startswith(elias.elias_delta(number + 1))


@pytest.mark.parametrize(("size", "longest"), [(1, 6), (2, 7), (3, 5), (4, 4)])
def test_all_messages_are_prefix_free_and_kraft_holds(size: int, longest: int) -> None:
    words = [
        "".join(map(str, message(list(symbols), size).bits()))
        for n in range(longest + 1)
        for symbols in product(range(size), repeat=n)
    ]
    assert len(set(words)) == len(words)
    ordered = sorted(words)
    assert not any(later.startswith(earlier) for earlier, later in pairwise(ordered))
    assert sum(Fraction(1, 2 ** len(word)) for word in words) <= 1


def test_the_adaptive_price_is_krichevsky_and_trofimovs() -> None:
    counts = [900, 80, 20]
    symbols = [s for s, count in enumerate(counts) for _ in range(count)]
    n, size = sum(counts), len(counts)
    nats = lgamma(n + size / 2) - lgamma(size / 2) - sum(lgamma(c + 0.5) - lgamma(0.5) for c in counts)
    price = message(symbols, size).length - len(elias.elias_delta(n + 1))
    assert nats / log(2) <= price <= nats / log(2) + 3


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_every_stream_is_a_message_or_refused(data: bytes) -> None:
    try:
        symbols, bits = read(data, 3)
    except DamagedStream:
        return
    again = message(symbols, 3)
    assert (again.data, again.length) == (data, bits)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=80), st.data())
def test_cut_lengthened_and_altered_streams_are_refused(symbols: list[int], data: st.DataObject) -> None:
    stream = message(symbols, 3)
    for extra in (b"\0", b"\xff", stream.data):
        with pytest.raises(DamagedStream, match="follow"):
            read(stream.data + extra, 3)
    with pytest.raises(DamagedStream):
        read(stream.data[:-1], 3)
    for place in range(stream.length, 8 * len(stream.data)):  # the padding carries nothing
        bits = [*stream.bits(), *[0] * (8 * len(stream.data) - stream.length)]
        bits[place] ^= 1
        with pytest.raises(DamagedStream):
            read(BitStream.of(bits).data, 3)
    place = data.draw(st.integers(0, stream.length - 1))
    flipped = stream.bits()
    flipped[place] ^= 1
    with suppress(DamagedStream):
        assert read(BitStream.of(flipped).data, 3)[0] != symbols


def test_a_hostile_length_is_refused_before_anything_is_allocated() -> None:
    encoder = Encoder()
    encoder.natural(2**60)
    data = encoder.finish().data
    with pytest.raises(DamagedStream, match="above 10000"):
        read(data + bytes(1000), 3)
    for stream in (b"", bytes(10**5), b"\xff" * 1000):
        with pytest.raises(DamagedStream):
            read(stream, 3)


def test_what_cannot_be_written_is_said() -> None:
    for attempt in (
        lambda: Encoder().symbol(3, Frequencies(3)),
        lambda: Encoder().uniform(5, 5),
        lambda: Encoder().natural(-1),
        lambda: Frequencies(0),
    ):
        with pytest.raises(InvalidInput):
            attempt()


def test_counts_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nonvacuous.learning.coding.MOST_TOTAL", 64)
    symbols = [0, 1, 2, 2, 2] * 100
    assert read(message(symbols, 3).data, 3)[0] == symbols


def test_the_format_is_the_one_committed_streams_were_written_in() -> None:
    assert message([0, 1, 2, 0, 0, 0, 1] * 5, 3).data.hex() == "31107dc18e3143c680"
