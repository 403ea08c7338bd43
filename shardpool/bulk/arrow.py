"""Between COPY's text format and Arrow: each column in the Arrow type that holds its SQL type, else as text."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardpool.bulk.chunk import Record, Rows
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

#: Bytes that Arrow takes at once, at most; a row must be shorter.
_BLOCK = (1 << 31) - 1
_NUMERIC = re.compile(r"numeric\((\d+),(-?\d+)\)")


def load_arrow() -> Any:
    """Return the module. Raise `JobRefused` if it is not installed."""
    try:
        import pyarrow.csv
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
    if match is not None and int(match[2]) >= 0 and (digits := max(map(int, match.groups()))) <= 38:
        # Of numeric(3,5) there are no more than five digits, all of them behind the point; Parquet counts them all.
        return pa.decimal128(digits, int(match[2]))
    return simple.get(column.base_type, pa.string())


def to_arrow(columns: Sequence[Column], records: Sequence[Record]) -> pyarrow.Table:
    """Return records as an Arrow table. Raise `pyarrow.ArrowInvalid` for what Arrow has not: infinite dates, NaN."""
    pa = load_arrow()
    turned = turn(records, len(columns))
    arrays = [_array(pa, arrow_type(column), _decoded(fields)) for column, fields in zip(columns, turned, strict=True)]
    return pa.table(arrays, names=[column.name for column in columns])


def csv_to_arrow(columns: Sequence[Column], lines: Sequence[bytes]) -> pyarrow.Table:
    """Return rows that a server has written as CSV, and raise, as `to_arrow` does; Python looks at no value."""
    pa = load_arrow()
    data = b"".join(lines)
    # Arrow reads bytes from their hexadecimal form in no way: they are text first.
    types = {it.name: pa.string() if pa.types.is_binary(kind := arrow_type(it)) else kind for it in columns}
    table = pa.csv.read_csv(
        io.BytesIO(data),
        pa.csv.ReadOptions(use_threads=False, column_names=list(types), block_size=min(len(data) + 1, _BLOCK)),
        pa.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        pa.csv.ConvertOptions(
            column_types=types,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t"],
            false_values=["f"],
        ),
    )
    for at, column in enumerate(columns):
        if pa.types.is_binary(arrow_type(column)):
            values = [it and it.encode() for it in table.column(at).to_pylist()]
            table = table.set_column(at, column.name, _array(pa, pa.binary(), values))
    return table


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

    def encode(rows: Rows) -> bytes:
        known = {column.name: column for column in tables[rows.table].columns}
        try:
            read = csv_to_arrow if rows.as_text else to_arrow
            found = read([known[name] for name in rows.columns], rows.records)
        except pa.ArrowInvalid as error:
            # Its own message has the value, which may be what must not be told.
            raise JobRefused(
                f"table {rows.table} has values that Parquet has not (infinite or very old dates, NaN as numeric): "
                "take csv, or a database"
            ) from error
        out = io.BytesIO()
        pa.parquet.write_table(found, out)
        return out.getvalue()

    return FileSink(directory, catalog, "parquet", encode)
