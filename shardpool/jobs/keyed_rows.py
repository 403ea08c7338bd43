"""Rows by their primary keys, which are given as text: read as COPY has them, and deleted."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from shardpool.bulk.keyset import READING
from shardpool.topology.names import quote
from shardpool.topology.tables import Table

#: The values of a primary key in text, in its order.
Key = tuple[str, ...]


def read_rows(cursor: Any, table: Table, keys: Sequence[Key], schema: str | None = None) -> list[bytes]:
    """Return the rows of *keys*, as records of COPY's text format."""
    columns = ", ".join(f"t.{quote(name)}" for name in table.insertable)
    relation = quote(table.name) if schema is None else f"{quote(schema)}.{quote(table.name)}"
    data = io.BytesIO()
    wanted, same = _keys(cursor, table, keys)
    query = f"SELECT {columns} FROM {relation} t JOIN {wanted} ON {same}"
    cursor.copy_expert(f"{READING} COPY ({query}) TO STDOUT", data)
    return data.getvalue().split(b"\n")[:-1]


def delete_rows(cursor: Any, schema: str, table: Table, keys: Sequence[Key]) -> None:
    wanted, same = _keys(cursor, table, keys)
    cursor.execute(f"DELETE FROM {quote(schema)}.{quote(table.name)} t USING {wanted} WHERE {same}")


def _keys(cursor: Any, table: Table, keys: Sequence[Key]) -> tuple[str, str]:
    """Return ``unnest(...) AS k (..)`` and ``t.a = k.k0::bigint``: the values in the columns' own types."""
    names = table.primary_key
    arrays = ", ".join(cursor.mogrify("%s::text[]", (list(values),)).decode() for values in zip(*keys, strict=True))
    aliases = ", ".join(f"k{number}" for number in range(len(names)))
    same = " AND ".join(f"t.{quote(name)} = k.k{at}::{_type(table, name)}" for at, name in enumerate(names))
    return f"unnest({arrays}) AS k ({aliases})", same


def _type(table: Table, name: str) -> str:
    column = table.column(name)
    assert column is not None
    return column.type
