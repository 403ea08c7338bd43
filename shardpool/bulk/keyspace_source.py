"""Tables of a keyspace as a source: a stream per table and partition, one for a reference table."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import psycopg2

from shardpool.bulk.binary import copy_messages, copy_out, is_portable
from shardpool.bulk.chunk import Chunk, Record, Rows, Stream
from shardpool.bulk.fields import Fields
from shardpool.bulk.keyset import READING, Keyset
from shardpool.bulk.layout import COPY_TEXT, CSV_LINES
from shardpool.bulk.records import Block
from shardpool.bulk.route import RecordRouter
from shardpool.bulk.translate import refused
from shardpool.catalog import Catalog
from shardpool.errors import UnknownTable
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Column, Table

if TYPE_CHECKING:
    from shardpool.engines import Engines


#: As what rows are read: COPY's text format, or what the server makes for a sink that takes rows unseen.
Raw = Literal["text", "binary", "csv"]


class Keyspace(Protocol):
    """What the ends of a job need of a router."""

    engines: Engines
    catalog: Catalog

    @property
    def topology(self) -> Topology: ...

    def refresh(self) -> None: ...


class KeyspaceSource:
    """*tables* of a keyspace, a table's stage by its name; those of *whole* are not cut within a partition.

    Rows are read as *raw* where no look at them is needed: binary ones need types that mean the same on every server,
    and of a partition that was merged with another meanwhile it must be told whose a row was.
    """

    def __init__(
        self, keyspace: Keyspace, tables: Mapping[str, int], whole: Iterable[str] = (), raw: Raw = "text"
    ) -> None:
        self._keyspace, self._raw = keyspace, raw
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
        columns = [it for it in self.table(chunk.table).columns if not it.generated]
        raw = self._raw
        unseen = self._heirs(chunk.partition) == [chunk.partition] and (raw == "csv" or is_portable(columns))
        return self._read_raw(chunk, columns, raw) if raw != "text" and columns and unseen else self._read(chunk, "")

    def _read_raw(self, chunk: Chunk, columns: Sequence[Column], raw: Raw) -> Rows:
        names = tuple(it.name for it in columns)

        def copy(cursor: Any) -> list[Record]:
            query = self._query(cursor, chunk, chunk.partition, names)
            return copy_out(cursor, query) if raw == "binary" else copy_messages(cursor, query, CSV_LINES)

        records = self._on(chunk.partition, copy)
        return Rows(
            chunk.table, names, records, lambda _: str(chunk), types=columns, as_text=lambda: self._read(chunk, "")
        )

    def sample(self, stream: Stream, rows: int) -> Rows:
        """Return some rows of a stream."""
        return self._read(Chunk(0, stream.name, stream.table, stream.stage, stream.partition), f" LIMIT {rows:d}")

    def _read(self, chunk: Chunk, limit: str) -> Rows:
        table = self.table(chunk.table)
        columns = table.insertable

        def copy(cursor: Any, partition: int | None) -> list[bytes]:
            data = io.BytesIO()
            cursor.copy_expert(f"COPY ({self._query(cursor, chunk, partition, columns)}{limit}) TO STDOUT", data)
            return self.within(chunk, partition, data.getvalue().split(b"\n")[:-1])

        records = []
        for partition in self._heirs(chunk.partition):
            records += self._on(partition, partial(copy, partition=partition))
        key = table.primary_key or table.key or columns[:1]
        types = [it for it in table.columns if not it.generated]
        return Rows(chunk.table, columns, records, Describe(chunk, key, columns, records), types=types)

    def _query(self, cursor: Any, chunk: Chunk, partition: int | None, columns: Sequence[str]) -> str:
        condition = self._keyset(chunk.table).condition(cursor, chunk)
        relation = self.relation(chunk.table, partition)
        return f"SELECT {', '.join(map(quote, columns))} FROM {relation} WHERE {condition}"

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

    def _heirs(self, partition: int | None) -> list[int | None]:
        """Return the partitions that have the rows of one: it may have been split or merged since the chunk was cut."""
        if partition is None:
            return [None]
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
