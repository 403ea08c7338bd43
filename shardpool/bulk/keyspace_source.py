"""Tables of a keyspace as a source: a stream per table and partition, one for a reference table."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

import psycopg2

from shardpool.bulk.chunk import Chunk, Rows, Stream
from shardpool.bulk.fields import Fields
from shardpool.bulk.keyset import READING, Keyset
from shardpool.bulk.layout import COPY_TEXT
from shardpool.bulk.records import Block
from shardpool.bulk.route import RecordRouter
from shardpool.bulk.translate import refused
from shardpool.catalog import Catalog
from shardpool.errors import UnknownTable
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Table

if TYPE_CHECKING:
    from shardpool.engines import Engines


class Keyspace(Protocol):
    """What the ends of a job need of a router."""

    engines: Engines
    catalog: Catalog

    @property
    def topology(self) -> Topology: ...

    def refresh(self) -> None: ...


class KeyspaceSource:
    """*tables* of a keyspace, a table's stage by its name; those of *whole* are not cut within a partition."""

    def __init__(self, keyspace: Keyspace, tables: Mapping[str, int], whole: Iterable[str] = ()) -> None:
        self._keyspace = keyspace
        self._stages = dict(tables)
        self._whole = frozenset(whole)
        known = keyspace.topology.tables
        for name in tables:
            if name not in known:
                raise UnknownTable(name, keyspace.topology.keyspace, list(known))

    def streams(self) -> list[Stream]:
        found = []
        for table, stage in self._stages.items():
            if self.table(table).sharded:
                for partition in self._keyspace.topology.shard_map.partitions:
                    found.append(Stream(f"{table}/p{partition.id:04d}", table, stage, partition.id))
            else:
                found.append(Stream(table, table, stage))
        return found

    def bounds(self, stream: Stream, chunk_rows: int) -> list[tuple[str, ...]]:
        keyset = self._keyset(stream.table)
        if stream.table in self._whole or not keyset.columns:
            return []
        relation = self.relation(stream.table, stream.partition)
        found: list[tuple[str, ...]] = self._on(
            stream.partition, lambda cursor: keyset.bounds(cursor, relation, chunk_rows)
        )
        return found

    def read(self, chunk: Chunk) -> Rows:
        return self._read(chunk, "")

    def sample(self, stream: Stream, rows: int) -> Rows:
        """Return some rows of a stream."""
        return self._read(Chunk(0, stream.name, stream.table, stream.stage, stream.partition), f" LIMIT {rows:d}")

    def _read(self, chunk: Chunk, limit: str) -> Rows:
        table = self.table(chunk.table)
        columns = table.insertable
        keyset = self._keyset(chunk.table)

        def copy(cursor: Any, partition: int | None) -> list[bytes]:
            names = ", ".join(map(quote, columns))
            condition = keyset.condition(cursor, chunk)
            query = f"SELECT {names} FROM {self.relation(chunk.table, partition)} WHERE {condition}{limit}"
            data = io.BytesIO()
            cursor.copy_expert(f"COPY ({query}) TO STDOUT", data)
            return self.within(chunk, partition, data.getvalue().split(b"\n")[:-1])

        records = []
        for partition in self._heirs(chunk.partition):
            records += self._on(partition, partial(copy, partition=partition))
        key = table.primary_key or table.key or columns[:1]
        types = [it for it in table.columns if not it.generated]
        return Rows(chunk.table, columns, records, Describe(chunk, key, columns, records), types=types)

    def shard_of(self, chunk: Chunk) -> str:
        return self._shard(self._heirs(chunk.partition)[0])

    def within(self, chunk: Chunk, partition: int | None, records: list[bytes]) -> list[bytes]:
        """Return those *records* of a partition that belong to the chunk's: it may have become part of a larger one."""
        shard_map = self._keyspace.topology.shard_map
        if partition is None or chunk.partition is None or chunk.partition == partition:
            return records
        old, new = shard_map.retired[chunk.partition], shard_map.placement(partition).partition
        if old.low <= new.low and new.high <= old.high:
            return records
        table = self.table(chunk.table)
        block = Block(records, 1)
        bounds = [0, old.low, old.high]
        RecordRouter(table, bounds, COPY_TEXT, Fields(COPY_TEXT), table.insertable, chunk.stream).route(block)
        return [record for record, place in zip(records, block.places, strict=True) if place == 1]

    def _heirs(self, partition: int | None) -> Sequence[int | None]:
        """Return the partitions that have the rows of one: it may have been split or merged since the chunk was cut."""
        if partition is None:
            return (None,)
        return [it.partition.id for it in self._keyspace.topology.shard_map.heirs(partition)]

    def table(self, name: str) -> Table:
        """Return what is read under *name*."""
        return self._keyspace.topology.tables[name]

    def relation(self, name: str, partition: int | None) -> str:
        """Return what stands after FROM to read *name*, where the search path is the partition's."""
        return quote(name)

    def _keyset(self, table: str) -> Keyset:
        return Keyset(self.table(table), same_collation=self._same_collation)

    def _shard(self, partition: int | None) -> str:
        shard_map = self._keyspace.topology.shard_map
        return min(shard_map.shards) if partition is None else shard_map.placement(partition).shard

    @cached_property
    def _same_collation(self) -> bool:
        query = "SELECT d::text FROM (SELECT datcollate, datctype, datlocprovider, datcollversion, encoding "
        query += "FROM pg_database WHERE datname = current_database()) d"
        found = set()
        for shard in self._keyspace.topology.shard_map.shards:
            with self._keyspace.engines.borrow(shard) as connection, connection.cursor() as cursor:
                cursor.execute(query)
                found.add(cursor.fetchone())
        return len(found) == 1

    def _on(self, partition: int | None, work: Callable[[Any], Any]) -> Any:
        """Do *work* where the partition is. What is not there any more raises `StalePlacement`, by the fence."""
        topology = self._keyspace.topology
        shard = self._shard(partition)
        shared = f"SET LOCAL search_path TO {quote(topology.keyspace)}, public;"
        with self._keyspace.engines.borrow(shard) as connection:
            try:
                with connection.cursor() as cursor:
                    path = shared if partition is None else topology.search_paths[partition]
                    cursor.execute(READING + path)
                    return work(cursor)
            except psycopg2.Error as error:
                raise refused(error, shard, gone=bool(connection.closed)) from error


class Describe:
    """Names a row of a chunk by its key: ``orders/p0003 (o_orderkey)=(17)``."""

    def __init__(self, chunk: Chunk, key: Sequence[str], columns: Sequence[str], records: Sequence[bytes]) -> None:
        self._stream, self._key, self._records = chunk.stream, key, records
        self._indexes = [columns.index(name) for name in key]

    def __call__(self, index: int) -> str:
        raws = self._records[index].split(b"\t")
        decode = Fields(COPY_TEXT).decode
        values = [(decode(raws[at]) or b"").decode(errors="replace") for at in self._indexes]
        return f"{self._stream} ({', '.join(self._key)})=({', '.join(values)})"
