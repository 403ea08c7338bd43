"""From COPY's text format to JSON: numbers that JSON has, booleans and JSON values as such, all others as text.

Numeric values are text too: a reader that takes JSON numbers for floats would change them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from shardpool.bulk.chunk import Record
from shardpool.bulk.fields import Fields
from shardpool.bulk.layout import COPY_TEXT
from shardpool.topology.tables import Column


def _float(text: str) -> str:
    return text if text.lstrip("-")[:1].isdigit() else json.dumps(text)  # NaN and Infinity are no JSON


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


#: Within JSON, line ends are between values.
_ONE_LINE = str.maketrans("\n\r", "  ")

_WRITERS: dict[str, Callable[[str], str]] = {
    "smallint": str,
    "integer": str,
    "bigint": str,
    "real": _float,
    "double precision": _float,
    "boolean": lambda text: "true" if text == "t" else "false",
    "json": lambda text: text.translate(_ONE_LINE),
    "jsonb": str,
}


def json_rows(columns: Sequence[Column], records: Sequence[Record]) -> Iterator[str]:
    """Yield each record as a JSON object, on one line."""
    decode = Fields(COPY_TEXT).decode
    writers = [(f"{json.dumps(column.name)}: ", _WRITERS.get(column.base_type, _text)) for column in columns]
    for record in records:
        fields = []
        for (name, write), raw in zip(writers, record.split(b"\t"), strict=True):
            value = decode(raw)
            fields.append(name + ("null" if value is None else write(value.decode())))
        yield "{" + ", ".join(fields) + "}"
