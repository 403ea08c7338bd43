"""`copy_into`: open, split by partition, COPY in parallel, commit everywhere."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg2

from shardpool.bulk.commit import commit_load
from shardpool.bulk.decision import new_load
from shardpool.bulk.feed import Feed, Source, open_feed
from shardpool.bulk.lane import Lane
from shardpool.bulk.lanes import Lanes
from shardpool.bulk.layout import FileOptions, Format
from shardpool.bulk.progress import LoadProgress, Meter
from shardpool.bulk.reserve import reservations_of
from shardpool.bulk.split import Batch, Splitter
from shardpool.bulk.translate import refused_batch
from shardpool.catalog import Catalog
from shardpool.errors import LoadError, UnknownTable
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology
from shardpool.topology.tables import Table

if TYPE_CHECKING:
    from shardpool.engines import Engines


@dataclass(frozen=True)
class LoadResult:
    """What was loaded: rows, their bytes as COPY data, seconds; rows per partition id (none for a reference table)."""

    rows: int
    bytes: int
    seconds: float
    partitions: dict[int, int]


def copy_into(
    topology: Topology,
    engines: Engines,
    catalog: Catalog,
    table: str,
    source: Source,
    *,
    format: Format | None = None,
    delimiter: str | None = None,
    header: bool | None = None,
    null: str | None = None,
    columns: Sequence[str] | None = None,
    batch_bytes: int = 1 << 20,
    progress: Callable[[LoadProgress], None] | None = None,
) -> LoadResult:
    """Load all rows of *source* into *table*, or none: a sharded table by its key, a reference table on every shard.

    *source* is a path, an open file (binary or text), or an iterable of rows: sequences in the order of *columns*, or
    mappings by column name. *format*, *delimiter*, *header* and *null* are COPY's; by default the suffix tells them:
    ``.csv`` has a header, ``.tbl`` is CSV with ``|`` without one, ``.tsv``, ``.txt`` and ``.copy`` are COPY text;
    ``.gz`` may follow. *columns* names the source's columns; by default the header, or all that take a value.
    *batch_bytes* is the size of one COPY; *progress* is called about five times a second, in this thread.

    Raises:
        UnknownTable: the keyspace has no such table. MissingPartitionKey: the source lacks a key column.
        UnsupportedStatement: the table holds the reservations of another's unique columns, or a trigger or default
            decides what is in such a column.
        BadRow: a row that cannot be loaded, with its line in the source. LoadError: anything else about the source.
        StalePlacement: a partition moved meanwhile; load again with the new shard map.
        ShardUnavailable, PoolTimeout: a shard is not there. Nothing is loaded in all these cases.
        LoadInDoubt: the outcome is decided, or will be, but shards must still be told of it by `resolve_loads`.
        OutcomeUnknown: the connection broke during COMMIT of a load on a single shard.
        OSError: the path cannot be read.
    """
    definition = topology.tables.get(table)
    if definition is None:
        raise UnknownTable(table, topology.keyspace, list(topology.tables))
    if batch_bytes < 1:
        raise LoadError(f"batch_bytes is a positive number of bytes, got {batch_bytes}")
    options = FileOptions(format, delimiter, header, null)
    with open_feed(topology, definition, source, options, columns) as feed:
        return _Load(topology, engines, catalog, definition, feed).run(batch_bytes, progress)


class _Load:
    def __init__(self, topology: Topology, engines: Engines, catalog: Catalog, table: Table, feed: Feed) -> None:
        self._topology, self._engines, self._catalog = topology, engines, catalog
        self._table, self._feed = table, feed
        self._reservations = reservations_of(engines, topology, table, feed.columns, feed.layout, feed.source)

    def run(self, batch_bytes: int, progress: Callable[[LoadProgress], None] | None) -> LoadResult:
        placements = self._topology.shard_map.placements
        meter = Meter(progress, self._feed.position, self._feed.total)
        with Lanes(self._engines, new_load(self._topology.keyspace)) as lanes:
            splitter = self._splitter(lanes, self._table, self._feed.columns, batch_bytes)
            reserving = [(it, self._splitter(lanes, it.table, it.columns, batch_bytes)) for it in self._reservations]
            for block in self._feed.blocks:
                meter.add(len(block.records))
                for reservations, into in reserving:
                    if (entries := reservations.of(block)).records:
                        into.add(entries)
                splitter.add(block)
            for into in (splitter, *(it for _, it in reserving)):
                into.flush()
            lanes.drain()
            meter.report()
            commit_load(lanes, self._catalog, self._engines)
        partitions = {}
        if self._table.sharded:
            partitions = {placements[place].partition.id: rows for place, rows in enumerate(splitter.rows) if rows}
        return LoadResult(meter.rows, splitter.bytes, meter.seconds, partitions)

    def _splitter(self, lanes: Lanes, table: Table, columns: Sequence[str], batch_bytes: int) -> Splitter:
        names = ", ".join(map(quote, columns))
        copy = f"{quote(table.name)} ({names}) FROM STDIN WITH ({self._feed.layout.copy_options()})"
        places = len(self._topology.shard_map.placements) if table.sharded else 1
        return Splitter(places, batch_bytes, lambda batch: self._send(lanes, table, copy, batch))

    def _send(self, lanes: Lanes, table: Table, copy: str, batch: Batch) -> None:
        topology = self._topology
        if table.sharded:
            placement = topology.shard_map.placements[batch.place]
            schema, path = placement.partition.schema, topology.search_paths[placement.partition.id]
            shards = [placement.shard]
        else:
            schema, path = topology.keyspace, f"SET LOCAL search_path TO {quote(topology.keyspace)}, public;"
            shards = sorted(topology.shard_map.shards)
        words = f"{path} COPY {quote(schema)}.{copy}"
        for shard in shards:
            lanes.submit(shard, lambda lane: self._copy_batch(lane, table, words, batch))

    def _copy_batch(self, lane: Lane, table: Table, copy: str, batch: Batch) -> None:
        data = batch.data()
        try:
            with lane.connection.cursor() as cursor:
                # The path is for triggers and functions; the table itself is named in full. One message and one read:
                # each turn at the interpreter's lock may take 5 ms while the reader computes.
                cursor.copy_expert(copy, io.BytesIO(data), size=len(data))
        except psycopg2.Error as error:
            raise refused_batch(
                error,
                lane.shard,
                gone=bool(lane.connection.closed),
                batch=batch,
                table=table.name,
                layout=self._feed.layout,
                source=self._feed.source,
            ) from error
