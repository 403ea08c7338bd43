"""Between COPY's text format and Arrow: each column in the Arrow type that holds its SQL type, else as text."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardpool.bulk.chunk import Record
from shardpool.bulk.fields import Fields
from shardpool.bulk.file_sink import FileSink
from shardpool.bulk.layout import COPY_TEXT
from shardpool.catalog import Catalog
from shardpool.errors import JobRefused
from shardpool.topology.tables import Column, Tables

if TYPE_CHECKING:
    import pyarrow

_NUMERIC = re.compile(r"numeric\((\d+),(-?\d+)\)")


def load_arrow() -> Any:
    """Return the module. Raise `JobRefused` if it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise JobRefused("this needs the extra: pip install 'shardpool[arrow]'") from error
    return pyarrow


def arrow_type(column: Column) -> Any:
    """Return the Arrow type of a column; text for types that have none of their own there."""
    pa = load_arrow()
    simple = {
        "smallint": pa.int16(),
        "integer": pa.int32(),
        "bigint": pa.int64(),
        "real": pa.float32(),
        "double precision": pa.float64(),
        "boolean": pa.bool_(),
        "date": pa.date32(),
        "bytea": pa.binary(),
        "timestamp without time zone": pa.timestamp("us"),
        "timestamp with time zone": pa.timestamp("us", tz="UTC"),
    }
    match = _NUMERIC.fullmatch(column.type)
    if match is not None and int(match[1]) <= 38 and int(match[2]) >= 0:
        return pa.decimal128(int(match[1]), int(match[2]))
    return simple.get(column.base_type, pa.string())


def to_arrow(columns: Sequence[Column], records: Sequence[Record]) -> pyarrow.Table:
    """Return records as an Arrow table. Raise `pyarrow.ArrowInvalid` for what Arrow has not: infinite dates, NaN."""
    pa = load_arrow()
    decode = Fields(COPY_TEXT).decode
    rows = [[decode(field) for field in record.split(b"\t")] for record in records]
    turned: Sequence[Sequence[bytes | None]] = list(zip(*rows, strict=True)) if rows else [[] for _ in columns]
    arrays = [_array(pa, arrow_type(column), values) for column, values in zip(columns, turned, strict=True)]
    return pa.table(arrays, names=[column.name for column in columns])


def _array(pa: Any, type_: Any, values: Sequence[bytes | None]) -> Any:
    if pa.types.is_binary(type_):
        return pa.array([None if it is None else bytes.fromhex(it[2:].decode()) for it in values], type_)
    if pa.types.is_boolean(type_):
        return pa.array([None if it is None else it == b"t" for it in values], type_)
    texts = pa.array([None if it is None else it.decode() for it in values], pa.string())
    return texts if pa.types.is_string(type_) else texts.cast(type_)


def parquet_sink(directory: Path, catalog: Catalog, tables: Tables) -> FileSink:
    """Return a sink of Parquet files, for rows of *tables*. Raise `JobRefused` without pyarrow."""
    pa = load_arrow()

    def encode(table: str, columns: Sequence[str], records: Sequence[Record]) -> bytes:
        known = {column.name: column for column in tables[table].columns}
        out = io.BytesIO()
        pa.parquet.write_table(to_arrow([known[name] for name in columns], records), out)
        return out.getvalue()

    return FileSink(directory, catalog, "parquet", encode)
