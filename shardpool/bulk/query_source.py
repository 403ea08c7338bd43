"""The rows of a query as a source: cut by key columns that its author names, else one chunk per partition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardpool.bulk.chunk import Chunk, Stream
from shardpool.bulk.database_source import DatabaseSource
from shardpool.bulk.keyspace_source import Keyspace, KeyspaceSource
from shardpool.errors import JobRefused
from shardpool.planner.plan import SCHEMA_MARKER
from shardpool.topology.names import quote
from shardpool.topology.tables import Column, Table

if TYPE_CHECKING:
    from shardpool.engines import Engines


#: What the driver says of a numeric column without a precision is this or more.
UNLIMITED = 1001


@dataclass(frozen=True)
class Extract:
    """A query under a name. *sql* may have `SCHEMA_MARKER` for the partition's schema. *partitions*: where it runs;
    None for a query that needs no partition, and runs once. *whole*: only all partitions together can answer it.
    """

    table: Table
    sql: str
    partitions: tuple[int, ...] | None
    whole: bool = False

    def relation(self, schema: str | None) -> str:
        return f"({self.sql.replace(SCHEMA_MARKER, quote(schema)) if schema else self.sql}) AS extract"


class QuerySource(KeyspaceSource):
    """A query that is answered partition by partition."""

    def __init__(self, keyspace: Keyspace, extract: Extract) -> None:
        super().__init__(keyspace, {})
        self._extract = extract

    def streams(self) -> list[Stream]:
        name = self._extract.table.name
        if self._extract.partitions is None:
            return [Stream(name, name)]
        return [Stream(f"{name}/p{number:04d}", name, 0, number) for number in self._extract.partitions]

    def table(self, name: str) -> Table:
        return self._extract.table

    def within(self, chunk: Chunk, partition: int | None, records: list[bytes]) -> list[bytes]:
        """Refuse a partition that was merged: which rows of a query were its own cannot be told."""
        shard_map = self._keyspace.topology.shard_map
        if partition is not None and chunk.partition is not None and chunk.partition != partition:
            old, new = shard_map.retired[chunk.partition], shard_map.placement(partition).partition
            if new.low < old.low or old.high < new.high:
                raise JobRefused(
                    f"partition {old.id} became part of partition {new.id} while the job ran: cancel it and run it anew"
                )
        return records

    def relation(self, name: str, partition: int | None) -> str:
        placements = self._keyspace.topology.shard_map
        schema = None if partition is None else placements.placement(partition).partition.schema
        return self._extract.relation(schema)


class DatabaseQuerySource(DatabaseSource):
    """A query of a database."""

    def __init__(self, engines: Engines, extract: Extract) -> None:
        super().__init__(engines, {extract.table.name: extract.table}, {extract.table.name: 0})
        self._extract = extract

    def relation(self, name: str) -> str:
        return self._extract.relation(None)


def describe_query(cursor: Any, name: str, sql: str, key: Sequence[str]) -> Table:
    """Return the columns of a query, and *key* as its primary key. Raise `JobRefused` for a key it has not."""
    cursor.execute(f"SELECT * FROM ({sql}) AS extract LIMIT 0")
    columns = []
    for column in cursor.description:
        cursor.execute("SELECT format_type(%s, NULL)", (column.type_code,))
        (type_,) = cursor.fetchone()
        if type_ == "numeric" and column.precision and column.precision < UNLIMITED:
            type_ = f"numeric({column.precision},{column.scale})"
        columns.append(Column(column.name, type_))
    names = [column.name for column in columns]
    if len(set(names)) != len(names):
        raise JobRefused(f"extract.query has two columns of one name: {', '.join(names)}")
    missing = [column for column in key if column not in names]
    if missing:
        raise JobRefused(f"extract.key names {', '.join(missing)}, the query has {', '.join(names)}")
    return Table(name, tuple(columns), tuple(key))
