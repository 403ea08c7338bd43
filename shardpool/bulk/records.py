r"""From bytes to records: where COPY's rows begin and end.

A record is usually a line, and then a chunk of input is cut by one `bytes.split`. It is not, when a newline is data: in
CSV between quotes, in the text format after a backslash. Both are seen per line (an odd number of quotes; an odd number
of backslashes at the end), so that only a chunk in which it happens has its lines joined again.

Line ends are PostgreSQL's: the first one decides between ``\n`` and ``\r\n``, and the others must be the same. Records
are handed on without them. A line ``\.`` ends the data of the text format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from operator import xor

from shardpool.bulk.layout import QUOTE, Layout
from shardpool.errors import BadRow

CHUNK_BYTES = 1 << 20

#: PostgreSQL itself stops at 1 GB. The limit bounds the memory that a lost quote costs.
MAX_RECORD_BYTES = 1 << 28

END_OF_DATA = rb"\."

# A carriage return that is neither quoted nor escaped; or a backslash that escapes nothing.
_STRAY_CSV = re.compile(rb'[^"\r]*+(?:"[^"]*+"[^"\r]*+)*+\r')
_STRAY_TEXT = re.compile(rb"[^\\\r]*+(?:\\(?s:.)[^\\\r]*+)*+(?:\r|\\\Z)")
_MARKER_IN_TEXT = re.compile(rb"[^\\]*+(?:\\[^.][^\\]*+)*+\\\.")


@dataclass(slots=True)
class Block:
    """Consecutive records. `plain`: every delimiter byte in them is a delimiter. `places` is filled in by the router:
    per record the index of its partition, empty for a reference table.
    """

    records: list[bytes]
    first: int
    plain: bool = True
    starts: list[int] | None = None
    places: list[int] = field(default_factory=list)

    def line(self, index: int) -> int:
        """Return the source line (from 1) on which the record *index* begins."""
        return self.first + index if self.starts is None else self.starts[index]


def read_blocks(read: Callable[[int], bytes], layout: Layout, source: str) -> Iterator[Block]:
    """Yield the records of a source, a header among them. Raise `BadRow` for what COPY could not read."""
    return _Reader(layout, source).blocks(read)


class _Reader:
    def __init__(self, layout: Layout, source: str) -> None:
        self._csv = layout.format == "csv"
        self._awkward = QUOTE if self._csv else b"\\" + layout.delimiter
        self._source = source
        self._line = 1
        self._crlf: bool | None = None
        self._ended = False

    def blocks(self, read: Callable[[int], bytes]) -> Iterator[Block]:
        rest, data = b"", self._without_mark(read)
        while data and not self._ended:
            chunk = rest + data
            block, rest = self._cut(chunk)
            if block.records:
                yield block
            if len(rest) > MAX_RECORD_BYTES:
                raise self._bad(
                    self._line, f"a row of more than {MAX_RECORD_BYTES:,} bytes (is a quote or line end missing?)"
                )
            # Reading as much again as is left over keeps the work linear for a row of many chunks.
            data = read(max(CHUNK_BYTES, len(rest)))
        if rest and not self._ended and (last := self._last(rest)).records:
            yield last

    def _without_mark(self, read: Callable[[int], bytes]) -> bytes:
        """Read the first chunk and drop a byte order mark."""
        data = read(CHUNK_BYTES)
        while 0 < len(data) < 4 and (more := read(CHUNK_BYTES)):
            data += more
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise self._bad(1, "the source is in UTF-16; it must be in UTF-8")
        return data.removeprefix(b"\xef\xbb\xbf")

    def _cut(self, chunk: bytes) -> tuple[Block, bytes]:
        """Return the complete records of *chunk*, which begins with a record, and the bytes after them."""
        lines = chunk.split(b"\n")
        rest = lines.pop()
        block = Block(lines, self._line, plain=self._awkward not in chunk)
        self._line += len(lines)
        opened: list[int] = []
        if self._csv and not block.plain:
            opened = list(accumulate([line.count(QUOTE) & 1 for line in lines], xor))
        elif not self._csv and b"\\\n" in chunk:
            opened = [_escapes_next(line) for line in lines]
        if 1 in opened:
            rest = self._join(block, opened, rest)
        if block.records:
            self._check(block, chunk)
        return block, rest

    def _join(self, block: Block, opened: list[int], rest: bytes) -> bytes:
        """Join lines that belong to one record: after line i, ``opened[i]`` says whether the record goes on."""
        lines, first = block.records, block.first
        block.records, block.starts, block.plain = [], [], False
        begin = 0
        for index, goes_on in enumerate(opened):
            if not goes_on:
                block.records.append(lines[begin] if index == begin else b"\n".join(lines[begin : index + 1]))
                block.starts.append(first + begin)
                begin = index + 1
        self._line = first + begin
        return b"\n".join([*lines[begin:], rest])

    def _last(self, rest: bytes) -> Block:
        """The record that no line end follows."""
        block = Block([rest], self._line, plain=self._awkward not in rest)
        if self._csv and rest.count(QUOTE) & 1:
            raise self._bad(self._line, "unterminated CSV quoted field")
        if not self._csv and _escapes_next(rest):
            block.records = [rest[:-1]]  # as COPY does: at the end of the data it escapes nothing
        if not self._csv and block.records[0] == END_OF_DATA:
            raise self._bad(self._line, r"the end-of-data marker \. needs a newline after it")
        if self._crlf:
            block.records[0] += b"\r"
        else:
            self._crlf = False
        self._check(block, block.records[0])
        return block

    def _check(self, block: Block, chunk: bytes) -> None:
        """Find the end of the data; take off the line ends; raise `BadRow` for what COPY refuses."""
        if self._crlf is None:
            self._crlf = self._ends_with_return(block.records[0])
        if END_OF_DATA in chunk:
            self._find_end(block)
        returns = chunk.count(b"\r")
        if self._crlf:
            for index, record in enumerate(block.records):
                if not record.endswith(b"\r"):
                    raise self._bad(block.line(index), self._stray("newline", "n"))
            block.records = [record[:-1] for record in block.records]
            returns -= len(block.records)
        if returns or (not self._csv and b"\\\r" in chunk):
            stray = (_STRAY_CSV if self._csv else _STRAY_TEXT).match
            for index, record in enumerate(block.records):
                if stray(record):
                    raise self._bad(block.line(index), self._stray("carriage return", "r"))
        if b"\0" in chunk:
            for index, record in enumerate(block.records):
                if b"\0" in record:
                    raise self._bad(block.line(index), "invalid byte 0x00")

    def _ends_with_return(self, record: bytes) -> bool:
        return record.endswith(b"\r") and (self._csv or not _escapes_next(record[:-1]))

    def _find_end(self, block: Block) -> None:
        marker = END_OF_DATA + (b"\r" if self._crlf else b"")
        for index, record in enumerate(block.records):
            if record == marker and not self._csv:
                self._ended = True
                del block.records[index:]
                return
            if record == marker:
                # Data for PostgreSQL 18, the end of the data for older ones, which would then drop rows in silence.
                raise self._bad(block.line(index), r"the row \. is an end-of-data marker to some servers: quote it")
            if not self._csv and _MARKER_IN_TEXT.match(record):
                raise self._bad(block.line(index), r"the end-of-data marker \. is not alone on its line")

    def _stray(self, what: str, letter: str) -> str:
        hint = "quote it" if self._csv else rf"write it as \{letter}"
        return f"{what} found in data: {hint}, or use the same line ends everywhere"

    def _bad(self, line: int, reason: str) -> BadRow:
        return BadRow(self._source, line, reason)


def _escapes_next(line: bytes) -> bool:
    r"""Whether *line* ends with a backslash that is not itself escaped."""
    return line.endswith(b"\\") and (len(line) - len(line.rstrip(b"\\"))) % 2 == 1
