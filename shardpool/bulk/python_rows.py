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
    decode = Fields(COPY_TEXT).decode
    readers = [(column.name, READERS.get(column.base_type, str)) for column in columns]
    for record in records:
        row = {}
        for (name, read), field in zip(readers, record.split(b"\t"), strict=True):
            value = decode(field)
            row[name] = None if value is None else read(value.decode())
        yield row
