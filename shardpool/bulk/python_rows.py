"""From COPY's text format to Python values, for functions that want rows; `bulk.rows` is the way back."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

from shardpool.bulk.chunk import Record
from shardpool.bulk.fields import Fields
from shardpool.bulk.layout import COPY_TEXT
from shardpool.topology.tables import Column

#: SQL type without modifier -> how its text is read. All others stay text; so do infinity and other calendars.
READERS: dict[str, Callable[[str], Any]] = {
    "smallint": int,
    "integer": int,
    "bigint": int,
    "real": float,
    "double precision": float,
    "numeric": Decimal,
    "boolean": lambda text: text == "t",
    "date": datetime.date.fromisoformat,
    "timestamp without time zone": datetime.datetime.fromisoformat,
    "timestamp with time zone": datetime.datetime.fromisoformat,
    "uuid": uuid.UUID,
    "json": json.loads,
    "jsonb": json.loads,
    "bytea": lambda text: bytes.fromhex(text[2:]),
}


_CALENDARS = (datetime.date.fromisoformat, datetime.datetime.fromisoformat)


def python_rows(columns: Sequence[Column], records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Yield each record as a mapping of column names to values."""
    names = [column.name for column in columns]
    turned = [
        _values(READERS.get(column.base_type), fields)
        for column, fields in zip(columns, turn(records, len(names)), strict=True)
    ]
    for values in zip(*turned, strict=True):
        yield dict(zip(names, values))  # noqa: B905 - as long as each other


def turn(records: Sequence[Record], width: int) -> list[list[bytes]]:
    """Return the fields of each of *width* columns."""
    # A tab in a value is escaped: so all records are cut at once, and every nth field is one column.
    fields = b"\t".join(records).split(b"\t") if records else []
    if len(fields) != width * len(records):
        raise ValueError(f"{len(records)} records of {width} columns have {len(fields)} fields")
    return [fields[place::width] for place in range(width)]


def _values(read: Callable[[str], Any] | None, fields: Sequence[bytes]) -> list[Any]:
    joined = b"\t".join(fields)
    if b"\\" in joined:
        decode = Fields(COPY_TEXT).decode
        texts = [None if (value := decode(field)) is None else value.decode() for field in fields]
        return texts if read is None else [None if text is None else _one(read, text) for text in texts]
    plain = joined.decode().split("\t") if fields else []
    if read is None:
        return plain
    try:
        return list(map(read, plain))
    except ValueError:
        return [_one(read, text) for text in plain]


def _one(read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except ValueError:
        if read not in _CALENDARS:
            raise
        return text
