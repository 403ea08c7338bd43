"""Rows in COPY's binary format, which servers write and read quicker than text. On their way only the key is looked at.

COPY sends each row as a message of its own (the protocol promises it), so nothing is parsed to tell rows apart. The
columns of the key come first. What cannot be told from the bytes alone raises `NeedsText`: read as text, the same rows
are told one by one.
"""

from __future__ import annotations

import datetime
import io
import struct
import uuid
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from shardpool.bulk.chunk import Record
from shardpool.bulk.keys import KeyFault, remember, stored_key
from shardpool.engines.binary_copy import HEADER, TRAILER
from shardpool.errors import KeyTypeMismatch
from shardpool.topology.key import KEY_TYPES, KeyType, KeyValue, hash_key
from shardpool.topology.names import quote
from shardpool.topology.tables import Column, Table

#: Types whose binary form means the same on every server: it names no other types, and never changed.
PORTABLE = {"smallint", "integer", "bigint", "real", "double precision", "numeric", "boolean", "uuid", "bytea"}
PORTABLE |= {"text", "character varying", "character", "json", "jsonb", "date", "interval", "inet", "cidr", "macaddr"}
PORTABLE |= {f"{kind} {zone} time zone" for kind in ("time", "timestamp") for zone in ("with", "without")}

_OPTIONS = "(FORMAT binary, ENCODING 'UTF8')"

_length_at = struct.Struct(">i").unpack_from
_EPOCH = datetime.date(2000, 1, 1).toordinal()
#: Bytes of a value, for types that have always as many.
_SIZES = {"smallint": 2, "integer": 4, "bigint": 8, "uuid": 16, "date": 4}


class NeedsText(Exception):
    """These rows are to be read as text."""


def is_portable(columns: Sequence[Column]) -> bool:
    """Whether rows of *columns* may travel between servers in their binary form."""
    return all(column.base_type in PORTABLE for column in columns)


def copy_out(cursor: Any, query: str) -> list[Record]:
    """Return the rows of *query*. Raise `ValueError` for what is no such stream."""
    found = copy_messages(cursor, query, _OPTIONS)
    if not found or not found[0].startswith(HEADER) or not found[-1].endswith(TRAILER):
        raise ValueError("not a binary COPY stream")
    found[0] = found[0][len(HEADER) :]
    last = found.pop()
    if last not in (TRAILER, b"") or len(found) != cursor.rowcount:
        raise ValueError(f"a binary COPY stream of {cursor.rowcount} rows in {len(found)} messages")
    return found


def copy_messages(cursor: Any, query: str, options: str) -> list[bytes]:
    """Return what COPY of *query* with *options* sends, message by message."""
    messages = _Messages()
    cursor.copy_expert(f"COPY ({query}) TO STDOUT {options}", messages)
    return messages.found


def copy_in(cursor: Any, before: str, relation: str, columns: Sequence[str], records: Sequence[Record]) -> None:
    """Write rows of *columns*; the statements *before* go in the same message."""
    data = b"".join([HEADER, *records, TRAILER])
    copy = f"COPY {relation} ({', '.join(map(quote, columns))}) FROM STDIN {_OPTIONS}"
    cursor.copy_expert(f"{before} {copy}", io.BytesIO(data), size=len(data))


class _Messages:
    """A file that keeps what is written to it, message by message."""

    def __init__(self) -> None:
        self.found: list[bytes] = []
        self.write = self.found.append


class BinaryPlaces(dict[bytes, int]):
    """The fields of a key, as they stand in a row -> index of its partition, among *lows*. A bounded cache.

    *columns* are those of the rows, the key's first.
    """

    def __init__(self, table: Table, lows: Sequence[int], columns: Sequence[Column]) -> None:
        super().__init__()
        self._table, self._lows = table, lows
        own = [column for column in map(table.column, table.key) if column is not None]
        its = columns[: len(own)]
        if [it.name for it in its] != list(table.key) or [KEY_TYPES.get(it.base_type) for it in its] != list(
            table.key_types
        ):
            raise NeedsText
        self._parts = [
            (_SIZES.get(it.base_type), KEY_TYPES[it.base_type], mine) for it, mine in zip(its, own, strict=True)
        ]

    def of(self, records: Sequence[Record]) -> list[int]:
        """Return the index for each row. Raise `NeedsText` for a key that names no partition."""
        sizes = [size for size, _, _ in self._parts]
        if None not in sizes:
            end = 2 + sum(4 + (size or 0) for size in sizes)
            return [self[record[2:end]] for record in records]
        return [self[record[2 : self._end(record)]] for record in records]

    def _end(self, record: Record) -> int:
        end = 2
        for _ in self._parts:
            end += 4 + max(_length_at(record, end)[0], 0)
        return end

    def __missing__(self, raw: bytes) -> int:
        values, at = [], 0
        for size, key_type, column in self._parts:
            (length,) = _length_at(raw, at)
            if length < 0 or (size is not None and length != size):
                raise NeedsText
            try:
                value = _READERS[key_type](raw[at + 4 : at + 4 + length])
                values.append(stored_key(column, value) if isinstance(value, str) else value)
            except (KeyFault, ValueError, OverflowError):
                raise NeedsText from None
            at += 4 + length
        try:
            position = hash_key(values[0] if len(values) == 1 else tuple(values), self._table.key_types)
        except KeyTypeMismatch:
            raise NeedsText from None
        place = bisect_right(self._lows, position) - 1
        remember(self, raw, place)
        return place


def _integer(raw: bytes) -> int:
    return int.from_bytes(raw, "big", signed=True)


_READERS: dict[KeyType, Callable[[bytes], KeyValue]] = {
    KeyType.INTEGER: _integer,
    KeyType.TEXT: bytes.decode,
    KeyType.UUID: lambda raw: uuid.UUID(bytes=raw),
    KeyType.BYTEA: bytes,
    KeyType.DATE: lambda raw: datetime.date.fromordinal(_EPOCH + _integer(raw)),
}
