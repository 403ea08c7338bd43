"""Rows of binary COPY streams sorted by the partitions where they belong, in bounded memory.

A row comes with the texts of its key in front, which are cut off: the rest passes through undecoded (see `relay` for
the format). What does not stay in memory goes to one temporary file.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from threading import Lock
from types import TracebackType
from typing import Self

from shardpool.engines.binary_copy import HEADER, SIGNATURE, TRAILER
from shardpool.topology.shard_map import Placement

#: So many bytes of all rows together stay in memory.
MEMORY = 1 << 24
#: So many bytes of a stream are collected before they are handed on.
CHUNK = 1 << 21
#: Keys whose places a stream remembers.
MAX_KEYS = 100_000

_LENGTH = struct.Struct(">i")
_COUNT = struct.Struct(">h")

#: The texts of a key, as bytes; None for NULL.
Raw = tuple[bytes | None, ...]


class Sorted:
    """Rows by where they belong. A context manager, whose end removes the file. `add` is thread-safe."""

    def __init__(self) -> None:
        self._kept: dict[Placement, list[bytes | tuple[int, int]]] = {}
        self._held = self._written = 0
        self._file = -1
        self._lock = Lock()
        self._closing = ExitStack()

    def placements(self) -> list[Placement]:
        return list(self._kept)

    def add(self, placement: Placement, rows: bytes) -> None:
        """Take whole rows. Raise `OSError` if the file cannot be written."""
        with self._lock:
            self._kept.setdefault(placement, []).append(rows)
            self._held += len(rows)
            if self._held > MEMORY:
                self._spill()

    def _spill(self) -> None:
        if self._file < 0:
            file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by __exit__
            self._file = self._closing.enter_context(file).fileno()
        for parts in self._kept.values():
            for place, part in enumerate(parts):
                if isinstance(part, bytes):
                    _write(self._file, part)
                    parts[place] = (self._written, len(part))
                    self._written += len(part)
        self._held = 0

    def file(self, placement: Placement) -> Stream:
        """The rows of a partition, as the file of COPY FROM."""
        return Stream(self._pieces(self._kept[placement]))

    def _pieces(self, parts: Sequence[bytes | tuple[int, int]]) -> Iterator[bytes]:
        yield HEADER
        for part in parts:
            yield part if isinstance(part, bytes) else _read(self._file, *part)
        yield TRAILER

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()


class Stream:
    """The file of a COPY FROM, in pieces of any size."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self, size: int = -1) -> bytes:
        return next(self._pieces, b"")


class Sorter:
    """The file of one COPY TO, whose rows have *columns* columns behind the *keys* texts of their key.

    An error of *place* does not break the stream off, which would cost the connection: `close` raises it.
    """

    def __init__(self, keys: int, columns: int, place: Callable[[Raw], Placement], into: Sorted) -> None:
        self._keys = range(keys)
        self._head = _COUNT.pack(columns)
        self._place = place
        self._into = into
        self._open: dict[int, tuple[Placement, list[bytes]]] = {}
        self._known: dict[Raw, list[bytes]] = {}
        self._size = 0
        self._started = False
        self._error: Exception | None = None

    def write(self, message: bytes) -> int:
        """Take one message: a row."""
        if self._error is None:
            try:
                self._take(bytes(message))
            except Exception as error:
                self._error = error
        return len(message)

    def close(self) -> None:
        """The stream has ended. Raise what went wrong."""
        if self._error is not None:
            raise self._error
        self._hand_on()

    def _take(self, data: bytes) -> None:
        if not self._started:
            if not data.startswith(SIGNATURE):
                raise ValueError("not a binary COPY stream")
            data = data[len(HEADER) :]
            self._started = True
        if data in (b"", TRAILER):
            return
        end = 2
        key: list[bytes | None] = []
        for _ in self._keys:
            (length,) = _LENGTH.unpack_from(data, end)
            end += 4
            if length < 0:
                key.append(None)
            else:
                key.append(data[end : end + length])
                end += length
        raw = tuple(key)
        rows = self._known.get(raw)
        if rows is None:
            rows = self._find(raw)
        rows.append(self._head)
        rows.append(data[end:])
        self._size += len(data)
        if self._size > CHUNK:
            self._hand_on()

    def _find(self, raw: Raw) -> list[bytes]:
        placement = self._place(raw)
        _, rows = self._open.setdefault(placement.partition.id, (placement, []))
        if len(self._known) >= MAX_KEYS:
            self._known.clear()
        self._known[raw] = rows
        return rows

    def _hand_on(self) -> None:
        for placement, rows in self._open.values():
            if rows:
                self._into.add(placement, b"".join(rows))
                rows.clear()
        self._size = 0


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _read(file: int, offset: int, length: int) -> bytes:
    parts = []
    while length:
        part = os.pread(file, length, offset)
        if not part:
            raise OSError("the temporary file of sorted rows is shorter than what was written")
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return b"".join(parts)
