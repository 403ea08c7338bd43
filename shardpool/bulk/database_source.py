"""One PostgreSQL database as a source: a stream per table, cut by its primary key."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg2

from shardpool.bulk.binary import copy_out, is_portable
from shardpool.bulk.chunk import Chunk, Rows, Stream
from shardpool.bulk.keyset import READING, Keyset
from shardpool.bulk.keyspace_source import Describe
from shardpool.bulk.translate import refused
from shardpool.config import Config, Endpoint, PoolConfig
from shardpool.topology.names import quote
from shardpool.topology.tables import Table

if TYPE_CHECKING:
    from shardpool.engines import Engines

#: What the one "shard" of a database that is none is called.
DATABASE = "database"


def database_config(endpoint: Endpoint, schema: str, timezone: str, connections: int) -> Config:
    """Return a configuration whose only shard is a database, with *schema* first in its search path; it may be a
    standby to read from."""
    return Config(
        source=endpoint.url,
        keyspace=schema,
        partitions=1,
        catalog=endpoint,
        shards={DATABASE: replace(endpoint, primary=False)},
        timezone=timezone,
        pool=PoolConfig(min_size=0, max_size=connections),
    )


class DatabaseSource:
    """*tables* of a database, over engines of a `database_config`; *stages* by table.

    With *keys*, the partition keys of tables by their names, rows are read in the binary format, where they may be.
    """

    def __init__(
        self,
        engines: Engines,
        tables: Mapping[str, Table],
        stages: Mapping[str, int],
        keys: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._engines, self._tables, self._stages, self._keys = engines, tables, stages, keys

    def streams(self) -> list[Stream]:
        return [Stream(name, name, stage) for name, stage in self._stages.items()]

    def bounds(self, stream: Stream, chunk_rows: int) -> list[tuple[str, ...]]:
        keyset = self._keyset(stream.table)
        if not keyset.columns:
            return []
        relation = self.relation(stream.table)
        found: list[tuple[str, ...]] = self._do(lambda cursor: keyset.bounds(cursor, relation, chunk_rows))
        return found

    def read(self, chunk: Chunk) -> Rows:
        columns = [column for column in self._tables[chunk.table].columns if not column.generated]
        if self._keys is None or not columns or not is_portable(columns):
            return self._read(chunk, "")
        key = self._keys[chunk.table]
        columns.sort(key=lambda it: key.index(it.name) if it.name in key else len(key))
        names = tuple(column.name for column in columns)
        records = self._do(lambda cursor: copy_out(cursor, self._query(cursor, chunk, names)))
        return Rows(
            chunk.table, names, records, lambda _: str(chunk), types=columns, as_text=lambda: self._read(chunk, "")
        )

    def sample(self, stream: Stream, rows: int) -> Rows:
        return self._read(Chunk(0, stream.name, stream.table, stream.stage, None), f" LIMIT {rows:d}")

    def shard_of(self, chunk: Chunk) -> str:
        return DATABASE

    def relation(self, name: str) -> str:
        """Return what stands after FROM to read *name*."""
        return quote(name)

    def _keyset(self, table: str) -> Keyset:
        return Keyset(self._tables[table], same_collation=True)

    def _read(self, chunk: Chunk, limit: str) -> Rows:
        table = self._tables[chunk.table]
        columns = table.insertable

        def copy(cursor: Any) -> bytes:
            data = io.BytesIO()
            cursor.copy_expert(f"COPY ({self._query(cursor, chunk, columns)}{limit}) TO STDOUT", data)
            return data.getvalue()

        records = self._do(copy).split(b"\n")
        records.pop()
        key = table.primary_key or table.key or columns[:1]
        types = [it for it in table.columns if not it.generated]
        return Rows(chunk.table, columns, records, Describe(chunk, key, columns, records), types=types)

    def _query(self, cursor: Any, chunk: Chunk, columns: Sequence[str]) -> str:
        condition = self._keyset(chunk.table).condition(cursor, chunk)
        return f"SELECT {', '.join(map(quote, columns))} FROM {self.relation(chunk.table)} WHERE {condition}"

    def _do(self, work: Callable[[Any], Any]) -> Any:
        with self._engines.borrow(DATABASE) as connection:
            try:
                with connection.cursor() as cursor:
                    cursor.execute(READING)
                    return work(cursor)
            except psycopg2.Error as error:
                raise refused(error, DATABASE, gone=bool(connection.closed)) from error
