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
from shardpool.bulk.python_rows import turn
from shardpool.bulk.values import NULL, to_field
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
    turned = turn(records, len(columns))
    arrays = [_array(pa, arrow_type(column), _decoded(fields)) for column, fields in zip(columns, turned, strict=True)]
    return pa.table(arrays, names=[column.name for column in columns])


def from_arrow(table: pyarrow.Table) -> list[Record] | None:
    """Return a table's rows as records; None if it has a column whose text in Arrow is not what PostgreSQL reads."""
    pa = load_arrow()
    columns = [_fields(pa, column) for column in table.columns]
    known = [column for column in columns if column is not None]
    return list(map(b"\t".join, zip(*known, strict=True))) if len(known) == len(columns) else None


def _fields(pa: Any, column: Any) -> list[bytes] | None:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _fields(pa, column.cast(kind.value_type))
    if pa.types.is_large_string(kind) or pa.types.is_string(kind):
        return [NULL if it is None else to_field(it) for it in column.to_pylist()]
    if (
        pa.types.is_integer(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_date32(kind)
        or pa.types.is_timestamp(kind)
    ):
        return [it or NULL for it in column.cast(pa.string()).cast(pa.binary()).to_pylist()]
    return None


def _decoded(fields: Sequence[bytes]) -> Sequence[bytes | None]:
    if b"\\" not in b"\t".join(fields):
        return fields
    decode = Fields(COPY_TEXT).decode
    return [decode(field) for field in fields]


def _array(pa: Any, type_: Any, values: Sequence[bytes | None]) -> Any:
    if pa.types.is_binary(type_):
        return pa.array([None if it is None else bytes.fromhex(it[2:].decode()) for it in values], type_)
    if pa.types.is_boolean(type_):
        return pa.array([None if it is None else it == b"t" for it in values], type_)
    texts = pa.array(values, pa.binary()).cast(pa.string())
    return texts if pa.types.is_string(type_) else texts.cast(type_)


def parquet_sink(directory: Path, catalog: Catalog, tables: Tables) -> FileSink:
    """Return a sink of Parquet files, for rows of *tables*. Raise `JobRefused` without pyarrow."""
    pa = load_arrow()

    def encode(table: str, columns: Sequence[str], records: Sequence[Record]) -> bytes:
        known = {column.name: column for column in tables[table].columns}
        try:
            rows = to_arrow([known[name] for name in columns], records)
        except pa.ArrowInvalid as error:
            # Its own message has the value, which may be what must not be told.
            raise JobRefused(
                f"table {table} has values that Parquet has not (infinite or very old dates, NaN as numeric): take "
                "csv, or a database"
            ) from error
        out = io.BytesIO()
        pa.parquet.write_table(rows, out)
        return out.getvalue()

    return FileSink(directory, catalog, "parquet", encode)
