"""From blocks of records to batches: the rows of one partition, collected until they are worth a COPY.

A block is grouped by partition with one pass over its records, and each group is joined at once, so that a row costs no
object once its block is done. A batch remembers of each block which of its rows it took, in 4 bytes per row: enough
to name the source line of a row that the server refuses.
"""

from __future__ import annotations

import io
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from shardpool.bulk.layout import Layout
from shardpool.bulk.records import Block, read_blocks

#: How many batches' worth of rows all open batches hold together.
OPEN_BATCHES = 32


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the rows of a block came from: source lines, and the place of each row (empty if all have the same)."""

    first: int
    starts: list[int] | None
    places: array[int]

    def line(self, place: int, nth: int) -> int:
        """Return the source line of the *nth* row (from 0) that went to *place*."""
        index = nth
        if self.places:
            index = -1
            for _ in range(nth + 1):
                index = self.places.index(place, index + 1)
        return self.first + index if self.starts is None else self.starts[index]


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of one block that belong to one partition, each with a newline after it."""

    data: bytes
    rows: int
    origin: Origin


@dataclass(slots=True)
class Batch:
    """Rows of one place (the index of a partition), for one COPY."""

    place: int
    segments: list[Segment] = field(default_factory=list)
    rows: int = 0
    size: int = 0

    def add(self, segment: Segment) -> None:
        self.segments.append(segment)
        self.rows += segment.rows
        self.size += len(segment.data)

    def data(self) -> bytes:
        return b"".join([segment.data for segment in self.segments])

    def source_line(self, server_line: int, layout: Layout) -> int:
        """Return the source line on which the record begins that the server calls line *server_line* of this batch."""
        nth = min(self._record(server_line, layout), self.rows - 1)
        for segment in self.segments:
            if nth < segment.rows:
                return segment.origin.line(self.place, nth)
            nth -= segment.rows
        raise AssertionError("a batch has as many rows as its segments")

    def lines(self) -> tuple[int, int]:
        """Return the source lines of the first and the last row."""
        first, last = self.segments[0], self.segments[-1]
        return first.origin.line(self.place, 0), last.origin.line(self.place, last.rows - 1)

    def _record(self, server_line: int, layout: Layout) -> int:
        """Return the index of the record that COPY reports as *server_line*: it counts newlines within quotes too.

        While it reads the first record, it does not know the line ends yet and counts carriage returns instead.
        """
        if layout.format == "text" or all(segment.origin.starts is None for segment in self.segments):
            return server_line - 1
        index = count = 0
        for block in read_blocks(io.BytesIO(self.data()).read, layout, ""):
            for record in block.records:
                count += 1 + record.count(b"\n" if index else b"\r")
                if count >= server_line:
                    return index
                index += 1
        return index


class Splitter:
    """Collects rows per place and hands complete batches to *emit*.

    A batch is complete with *batch_bytes*; when all open ones together pass `OPEN_BATCHES` times that, the largest go.
    """

    def __init__(self, places: int, batch_bytes: int, emit: Callable[[Batch], None]) -> None:
        self._emit = emit
        self._batch_bytes = batch_bytes
        self._open = [Batch(place) for place in range(places)]
        self._open_bytes = 0
        self.rows = [0] * places
        self.bytes = 0

    def add(self, block: Block) -> None:
        """Take the records of *block*, of place 0 if it names no places."""
        origin = Origin(block.first, block.starts, array("I", block.places))
        if not block.places:
            self._add(0, block.records, origin)
        else:
            groups: list[list[bytes]] = [[] for _ in self._open]
            take = [group.append for group in groups]
            for place, record in zip(block.places, block.records, strict=True):
                take[place](record)
            for place, group in enumerate(groups):
                if group:
                    self._add(place, group, origin)
        while self._open_bytes > OPEN_BATCHES * self._batch_bytes:
            self._send(max(self._open, key=_size).place)

    def flush(self) -> None:
        """Hand over what is left."""
        for batch in list(self._open):
            if batch.rows:
                self._send(batch.place)

    def _add(self, place: int, records: list[bytes], origin: Origin) -> None:
        rows = len(records)
        records.append(b"")
        segment = Segment(b"\n".join(records), rows, origin)
        batch = self._open[place]
        batch.add(segment)
        self.rows[place] += rows
        self.bytes += len(segment.data)
        self._open_bytes += len(segment.data)
        if batch.size >= self._batch_bytes:
            self._send(place)

    def _send(self, place: int) -> None:
        batch, self._open[place] = self._open[place], Batch(place)
        self._open_bytes -= batch.size
        self._emit(batch)


def _size(batch: Batch) -> int:
    return batch.size
