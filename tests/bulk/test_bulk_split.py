"""Batches: bounded, in order, and traced back to their lines, without a server."""

from __future__ import annotations

import random

from shardpool.bulk.layout import COPY_TEXT
from shardpool.bulk.records import Block
from shardpool.bulk.split import OPEN_BATCHES, Batch, Splitter


def blocks(rng: random.Random, places: int) -> list[Block]:
    found, line = [], 1
    for _ in range(50):
        count = rng.randrange(1, 60)
        records = [b"r%d" % (line + number) for number in range(count)]
        found.append(Block(records, line, places=[rng.randrange(places) for _ in range(count)]))
        line += count
    return found


def test_every_row_goes_once_to_its_place_in_order() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        batches: list[Batch] = []
        splitter = Splitter(7, rng.choice([1, 20, 10_000]), batches.append)
        expected: dict[int, list[bytes]] = {}
        for block in blocks(rng, 7):
            for place, record in zip(block.places, block.records, strict=True):
                expected.setdefault(place, []).append(record)
            splitter.add(block)
        splitter.flush()
        got: dict[int, list[bytes]] = {}
        for batch in batches:
            records = batch.data().split(b"\n")
            assert records.pop() == b""
            got.setdefault(batch.place, []).extend(records)
            lines = [batch.source_line(number, COPY_TEXT) for number in range(1, batch.rows + 1)]
            assert [b"r%d" % line for line in lines] == records
            assert batch.lines() == (lines[0], lines[-1])
        assert got == expected
        assert splitter.rows == [len(expected.get(place, [])) for place in range(7)]


def test_open_batches_are_bounded_together() -> None:
    """Many partitions, each far from a full batch."""
    sent = 0

    def emit(batch: Batch) -> None:
        nonlocal sent
        sent += batch.size

    splitter = Splitter(300, 100, emit)
    for number in range(300):
        splitter.add(Block([b"x" * 49], number + 1, places=[number]))
        assert splitter.bytes - sent <= OPEN_BATCHES * 100
    splitter.flush()
    assert sent == splitter.bytes == 15_000


def test_a_reference_table_has_one_place() -> None:
    batches: list[Batch] = []
    splitter = Splitter(1, 1000, batches.append)
    splitter.add(Block([b"a", b"b"], 2))
    splitter.add(Block([b"c"], 9))
    splitter.flush()
    assert [batch.data() for batch in batches] == [b"a\nb\nc\n"]
    assert [batches[0].source_line(number, COPY_TEXT) for number in (1, 2, 3)] == [2, 3, 9]
