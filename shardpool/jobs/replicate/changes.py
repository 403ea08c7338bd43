"""Reading changes: what the logs of a partition name, as the rows are, in pages; all at one snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shardpool.bulk.chunk import Record
from shardpool.bulk.values import to_field, to_text
from shardpool.jobs.keyed_rows import Key, read_rows
from shardpool.jobs.replicate.capture import log_of
from shardpool.topology.names import quote
from shardpool.topology.tables import Column, Table

#: Keys of a page.
PAGE = 5_000


@dataclass(frozen=True)
class Change:
    """A row that was written: as it is now, or, if it is gone, its key. Equal ids are equal changes."""

    id: str
    op: str
    columns: Sequence[Column]
    record: Record


@dataclass(frozen=True)
class Page:
    """Keys of rows of *table* that were written, the ids of their changes, and those rows that are still there."""

    table: Table
    keys: Sequence[Key]
    ids: Sequence[str]
    records: Sequence[Record]

    def changes(self) -> Iterator[Change]:
        """Yield a change for each key."""
        rows = self._rows()
        columns = [it for it in self.table.columns if not it.generated]
        of_key = [column for name in self.table.primary_key if (column := self.table.column(name)) is not None]
        for key, number in zip(self.keys, self.ids, strict=True):
            if key in rows:
                yield Change(number, "upsert", columns, rows[key])
            else:
                yield Change(number, "delete", of_key, b"\t".join(map(to_field, key)))

    def gone(self) -> list[Key]:
        """Return the keys whose rows are not there any more."""
        rows = self._rows()
        return [key for key in self.keys if key not in rows]

    def _rows(self) -> dict[Key, Record]:
        places = [self.table.insertable.index(name) for name in self.table.primary_key]
        rows = {}
        for record in self.records:
            fields = record.split(b"\t")
            rows[tuple(to_text(fields[place]) for place in places)] = record
        return rows


def read_pages(connection: Any, job: str, tables: Mapping[str, Table]) -> Iterator[Page]:
    """Yield what the logs name. The transaction is REPEATABLE READ, and its search path begins with the partition."""
    for number, (name, table) in enumerate(tables.items()):
        keys = ", ".join(quote(column) for column in table.primary_key)
        texts = ", ".join(f"{quote(column)}::text" for column in table.primary_key)
        # A change is told by all notes that it stands for: if more are added, it is another one.
        query = (
            f"SELECT {texts}, md5(string_agg(change::text, ',' ORDER BY change))::uuid::text "
            f"FROM {quote(log_of(job, name))} GROUP BY {keys}"
        )
        with connection.cursor(f"shardpool_changes_{number}") as found, connection.cursor() as cursor:
            found.execute(query)
            while rows := found.fetchmany(PAGE):
                noted = [tuple(row[:-1]) for row in rows]
                yield Page(table, noted, [row[-1] for row in rows], read_rows(cursor, table, noted))


def forget(cursor: Any, job: str, tables: Mapping[str, Table]) -> None:
    """Empty the logs of what the transaction's snapshot sees."""
    for name in tables:
        cursor.execute(f"DELETE FROM {quote(log_of(job, name))}")


def waiting_query(job: str, tables: Mapping[str, Table], schemas: Mapping[int, str]) -> str:
    """Return a query for (partition, notes that wait, seconds since the oldest), of partitions that have some."""
    parts = [
        f"SELECT {partition}, count(*), extract(epoch FROM clock_timestamp() - min(noted))::float8 "
        f"FROM {quote(schema)}.{quote(log_of(job, name))} HAVING count(*) > 0"
        for partition, schema in schemas.items()
        for name in tables
    ]
    return " UNION ALL ".join(parts)
