"""From Python rows to records of COPY's text format."""

from __future__ import annotations

import datetime
import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import chain, islice
from operator import itemgetter
from typing import Any, cast

from shardpool.bulk.keys import KeyFault, KeyHash
from shardpool.bulk.records import Block
from shardpool.errors import BadRow, LoadError
from shardpool.topology.tables import Table

#: What errors call an iterable of rows; the line of an error is the row's number, from 1.
SOURCE = "<rows>"

#: A block is complete with this many rows or bytes, whichever comes first.
BLOCK_ROWS = 2048
BLOCK_BYTES = 1 << 19

_SPECIAL = re.compile(r"[\\\n\r\t]")
#: What needs a closer look, in a whole record: escapes, and what cannot be written.
_AWKWARD = re.compile("[\\\\\n\r\0\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPES = {"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
_IN_ARRAY = re.compile(r'["\\]')


class _Unwritable(Exception):
    """A row or value that COPY has no words for; the text says why."""


class RowWriter:
    """Writes rows of *columns*. A row is a sequence in their order, or a mapping by their names."""

    def __init__(self, table: Table, columns: Sequence[str], lows: Sequence[int]) -> None:
        self._columns = tuple(columns)
        self._names = frozenset(columns)
        # Values that are written alike in all columns; the others depend on the column, or may be of a subclass.
        self._plain = {kind: writer for kind, writer in _WRITERS.items() if kind not in (bool, dict, list)}
        self._writers = [_column_writer(table, name) for name in columns]
        self._hash = KeyHash(table, lows) if table.sharded else None
        self._indexes = [self._columns.index(name) for name in table.key]

    def blocks(self, rows: Iterable[object]) -> Iterator[Block]:
        """Yield the rows as records, with their places. Raise `BadRow` with a row's number."""
        block, size = Block([], 1), 0
        for number, row in enumerate(rows, 1):
            try:
                values = self._values(row)
                if self._hash is not None:
                    block.places.append(self._hash.place([values[index] for index in self._indexes]))
                record = self._record(values)
            except (KeyFault, _Unwritable) as fault:
                raise BadRow(SOURCE, number, str(fault)) from None
            block.records.append(record)
            size += len(record)
            if size >= BLOCK_BYTES or len(block.records) >= BLOCK_ROWS:
                yield block
                block, size = Block([], number + 1), 0
        if block.records:
            yield block

    def records(self, rows: Sequence[object]) -> list[bytes]:
        """Return all rows as records. Raise `BadRow` with a row's number."""
        turned = self._turned(rows)
        if turned is not None:
            text = "\n".join(map("\t".join, zip(*turned, strict=True)))
            if "\0" not in text and not _SURROGATE.search(text):
                return text.encode().split(b"\n")
        return [record for block in self.blocks(rows) for record in block.records]

    def _turned(self, rows: Sequence[object]) -> list[list[str]] | None:
        """Return the fields of each column; None if the rows are not alike, and to be looked at one by one."""
        if set(map(type, rows)) != {dict}:
            return None
        mappings = cast("Sequence[dict[str, Any]]", rows)
        if sum(map(len, mappings)) != len(rows) * len(self._columns):
            return None
        try:
            columns = [list(map(itemgetter(name), mappings)) for name in self._columns]
            return [self._fields(writer, values) for writer, values in zip(self._writers, columns, strict=True)]
        except (KeyError, _Unwritable):
            return None

    def _fields(self, writer: Callable[[Any], str], values: list[Any]) -> list[str]:
        """Return one column's fields, of one type mostly."""
        kinds = set(map(type, values))
        plain = self._plain.get(kinds.pop()) if len(kinds) == 1 else None
        if plain is not None:
            fields = list(map(plain, values))
            if not _SPECIAL.search("".join(fields)):
                return fields
        return [r"\N" if value is None else writer(value) for value in values]

    def record(self, row: object) -> bytes:
        """Return one row as a record. Raise `BadRow`."""
        try:
            return self._record(self._values(row))
        except _Unwritable as fault:
            raise BadRow(SOURCE, 0, str(fault)) from None

    def _values(self, row: object) -> Sequence[Any]:
        if isinstance(row, Mapping):
            if row.keys() != self._names:
                raise _Unwritable(_difference(row.keys(), self._names))
            return [row[name] for name in self._columns]
        if not isinstance(row, Sequence) or isinstance(row, str | bytes | bytearray | memoryview):
            raise _Unwritable(f"a row is a sequence or a mapping, not a {type(row).__name__}")
        if len(row) != len(self._columns):
            raise _Unwritable(f"{len(row)} values for the {len(self._columns)} columns {', '.join(self._columns)}")
        return row

    def _record(self, values: Sequence[Any]) -> bytes:
        plain = self._plain
        try:
            text = "\t".join([plain[type(value)](value) for value in values])
        except KeyError:
            return self._each(values)
        if text.count("\t") != len(values) - 1 or _AWKWARD.search(text):
            return self._each(values)
        return text.encode()

    def _each(self, values: Sequence[Any]) -> bytes:
        fields = [
            r"\N" if value is None else writer(value) for writer, value in zip(self._writers, values, strict=True)
        ]
        try:
            record = "\t".join(fields).encode()
        except UnicodeEncodeError:
            raise _Unwritable("text that is not valid Unicode") from None
        if b"\0" in record:
            raise _Unwritable("text with a NUL character")
        return record


def columns_of_rows(rows: Iterable[object], columns: Sequence[str]) -> tuple[Sequence[str], Iterable[object]]:
    """Return the columns that *rows* have: the keys of a first row that is a mapping, else *columns*; and all rows."""
    iterator = iter(rows)
    first = list(islice(iterator, 1))
    if first and isinstance(first[0], Mapping):
        names = list(first[0].keys())
        if not all(isinstance(name, str) for name in names):
            raise LoadError(f"{SOURCE}: column names must be str, got {names!r}")
        columns = names
    return columns, chain(first, iterator)


def _difference(got: Iterable[object], expected: frozenset[str]) -> str:
    unknown = [str(name) for name in got if name not in expected]
    if unknown:
        return f"unexpected column {unknown[0]} (the load has {', '.join(sorted(expected))})"
    return f"column {min(expected - set(map(str, got)))} is missing"


def _column_writer(table: Table, name: str) -> Callable[[Any], str]:
    column = table.column(name)
    is_json = column is not None and column.base_type in ("json", "jsonb")
    structured = (dict, list, bool) if is_json else ()

    def write(value: Any) -> str:
        kind = type(value)
        if kind is int:
            return str(value)
        plain = str.__str__ if kind is str else _plain
        text = _json(value) if isinstance(value, structured) else plain(value)
        return _SPECIAL.sub(_escape, text) if _SPECIAL.search(text) else text

    return write


def _escape(match: re.Match[str]) -> str:
    return _ESCAPES[match[0]]


def _plain(value: Any) -> str:
    """Return a value as PostgreSQL's input functions read it, without COPY's escapes."""
    writer = _WRITERS.get(type(value))
    if writer is None:
        base = next((base for base in _WRITERS if isinstance(value, base)), None)
        if base is None:
            raise _Unwritable(f"a value of type {type(value).__name__} cannot be written: {value!r:.60}")
        writer = _WRITERS[base]
    return writer(value)


def _bool(value: bool) -> str:
    return "t" if value else "f"


def _bytes(value: bytes | bytearray | memoryview) -> str:
    return r"\x" + bytes(value).hex()


def _interval(value: datetime.timedelta) -> str:
    return f"{value.days} days {value.seconds}.{value.microseconds:06d} seconds"


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _Unwritable(f"not JSON: {error}") from None


def _array(value: list[Any]) -> str:
    return "{" + ",".join(map(_element, value)) + "}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return _array(value)
    return '"' + _IN_ARRAY.sub(r"\\\g<0>", _plain(value)) + '"'


# In this order for subclasses: bool before int, datetime before date.
_WRITERS: dict[type, Callable[[Any], str]] = {
    str: str.__str__,
    bool: _bool,
    int: int.__repr__,
    float: float.__repr__,
    Decimal: Decimal.__str__,
    datetime.datetime: datetime.datetime.isoformat,
    datetime.date: datetime.date.isoformat,
    datetime.time: datetime.time.isoformat,
    datetime.timedelta: _interval,
    uuid.UUID: uuid.UUID.__str__,
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
    dict: _json,
    list: _array,
}
