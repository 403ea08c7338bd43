"""Writing rows over those of the same primary key: INSERT .. ON CONFLICT, of arrays, as COPY cannot do it.

Temporary tables would be the usual way, but a transaction that used one cannot be prepared.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from shardpool.bulk.chunk import Record
from shardpool.bulk.fields import Fields
from shardpool.bulk.isolate import Refused, keep_good_rows
from shardpool.bulk.layout import COPY_TEXT
from shardpool.errors import JobRefused
from shardpool.topology.names import quote
from shardpool.topology.tables import Table


class Upsert:
    """A writer for rows of *table*. Of rows with the same key in one chunk the last one stays.

    Rows that are there keep what they have in the columns *kept*.
    """

    def __init__(self, table: Table, kept: Collection[str] = ()) -> None:
        if not table.primary_key:
            raise JobRefused(f"load.mode = 'upsert' needs a primary key, and {table.name} has none")
        self._table, self._kept = table, {*kept, *table.primary_key}

    def __call__(
        self, connection: Any, before: str, relation: str, columns: Sequence[str], records: Sequence[Record], limit: int
    ) -> list[Refused]:
        decode = Fields(COPY_TEXT).decode
        places = [columns.index(name) for name in self._table.primary_key]

        def write(cursor: Any, some: Sequence[Record], begin: str) -> None:
            rows = {}
            for record in some:
                fields = record.split(b"\t")
                rows[tuple(fields[place] for place in places)] = fields
            turned = zip(*rows.values(), strict=True)
            values = [[_text(decode(field)) for field in column] for column in turned]
            arrays = [cursor.mogrify("%s::text[]", (its,)).decode() for its in values]
            cursor.execute(begin + self._statement(relation, columns, arrays))

        return keep_good_rows(connection, before, write, records, limit)

    def _statement(self, relation: str, columns: Sequence[str], arrays: Sequence[str]) -> str:
        missing = [name for name in self._table.primary_key if name not in columns]
        if missing:
            raise JobRefused(f"the rows for {self._table.name} lack {', '.join(missing)} of its primary key")
        names = ", ".join(map(quote, columns))
        values = ", ".join(f"v{at}::{self._type(name)}" for at, name in enumerate(columns))
        aliases = ", ".join(f"v{at}" for at in range(len(columns)))
        key = ", ".join(map(quote, self._table.primary_key))
        others = [quote(name) for name in columns if name not in self._kept]
        changes = ", ".join(f"{name} = excluded.{name}" for name in others)
        action = f"UPDATE SET {changes}" if changes else "NOTHING"
        return (
            f"INSERT INTO {relation} ({names}) OVERRIDING SYSTEM VALUE SELECT {values} "
            f"FROM unnest({', '.join(arrays)}) AS v ({aliases}) ON CONFLICT ({key}) DO {action}"
        )

    def _type(self, name: str) -> str:
        column = self._table.column(name)
        if column is None:
            raise JobRefused(f"table {self._table.name} has no column {name}")
        return column.type


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()
