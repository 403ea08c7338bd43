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


def _moment(text: str) -> datetime.datetime | str:
    """Infinity and other calendars stay text."""
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        return text


def _date(text: str) -> datetime.date | str:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        return text


#: SQL type without modifier -> how its text is read. All others stay text.
READERS: dict[str, Callable[[str], Any]] = {
    "smallint": int,
    "integer": int,
    "bigint": int,
    "real": float,
    "double precision": float,
    "numeric": Decimal,
    "boolean": lambda text: text == "t",
    "date": _date,
    "timestamp without time zone": _moment,
    "timestamp with time zone": _moment,
    "uuid": uuid.UUID,
    "json": json.loads,
    "jsonb": json.loads,
    "bytea": lambda text: bytes.fromhex(text[2:]),
}


def python_rows(columns: Sequence[Column], records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Yield each record as a mapping of column names to values."""
    names = [column.name for column in columns]
    turned = [
        _values(READERS.get(column.base_type), fields)
        for column, fields in zip(columns, turn(records, len(names)), strict=True)
    ]
    for values in zip(*turned, strict=True):
        yield dict(zip(names, values, strict=True))


def turn(records: Sequence[Record], width: int) -> list[list[bytes]]:
    """Return the fields of each of *width* columns."""
    # A tab in a value is escaped: so all records are cut at once, and every nth field is one column.
    fields = b"\t".join(records).split(b"\t") if records else []
    if len(fields) != width * len(records):
        raise ValueError(f"{len(records)} records of {width} columns have {len(fields)} fields")
    return [fields[place::width] for place in range(width)]


def _values(read: Callable[[str], Any] | None, fields: Sequence[bytes]) -> list[Any]:
    joined = b"\t".join(fields)
    if b"\\" not in joined:
        texts = joined.decode().split("\t") if fields else []
        return texts if read is None else list(map(read, texts))
    decode = Fields(COPY_TEXT).decode
    found = [None if (value := decode(field)) is None else value.decode() for field in fields]
    return found if read is None else [None if it is None else read(it) for it in found]
