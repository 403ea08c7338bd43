"""Sizes of tables, as the shards' own statistics say: asked when a plan needs them, and not again for a while."""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2

from shardpool.engines import Engines
from shardpool.errors import ShardpoolError
from shardpool.executor.current import CurrentTopology
from shardpool.executor.scatter import leased, on_shards
from shardpool.planner.moment import MOMENT
from shardpool.planner.plan import union_all
from shardpool.planner.sizes import UNKNOWN_SIZE, Size, Statistics

#: How long sizes are believed, in seconds.
MAX_AGE = 60.0

# A table that was never analysed has reltuples -1: its pages are counted, and 100 bytes taken for a row.
_SIZES = """
SELECT c.relname,
       sum(CASE WHEN c.reltuples < 0 THEN pg_relation_size(c.oid) / 100 ELSE c.reltuples END)::float8,
       sum(pg_relation_size(c.oid))::float8
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname = ANY (%s)
GROUP BY c.relname
"""


class TableSizes:
    """Rows and bytes of the sharded tables over all partitions. Thread-safe."""

    def __init__(self, engines: Engines, current: CurrentTopology, threads: ThreadPoolExecutor) -> None:
        self._engines = engines
        self._current = current
        self._threads = threads
        self._lock = threading.Lock()
        self._known: Mapping[str, Size] = {}
        self._asked: float | None = None

    def known(self) -> Mapping[str, Size]:
        """Return the sizes by table, not older than `MAX_AGE`."""
        with self._lock:
            if self._asked is None or time.monotonic() - self._asked > MAX_AGE:
                with contextlib.suppress(ShardpoolError, psycopg2.Error):  # an estimate is not worth a failure
                    self._known = self._ask()
                self._asked = time.monotonic()
            return self._known

    def statistics(self, parameters: Mapping[str, Any]) -> Statistics:
        """Return the statistics for planning a statement with these parameters."""
        return _Statistics(self, parameters)

    def rows(self, select: str, parameters: Mapping[str, Any]) -> float | None:
        """Return how many rows PostgreSQL expects of a query with `SCHEMA_MARKER`, over all partitions.

        The first partition answers for all.
        """
        shard_map = self._current.value.shard_map
        placement = shard_map.placements[0]
        query = f"EXPLAIN (FORMAT JSON) {union_all(select, (placement.partition,))}"
        with contextlib.suppress(ShardpoolError, psycopg2.Error), leased(self._engines, [placement.shard]) as leases:
            cursor = leases.connection(placement.shard).cursor()
            cursor.execute(query, {MOMENT: datetime.datetime.now(datetime.UTC).isoformat(), **parameters})
            return float(cursor.fetchone()[0][0]["Plan"]["Plan Rows"]) * len(shard_map.partitions)
        return None

    def _ask(self) -> Mapping[str, Size]:
        by_shard = self._current.value.shard_map.by_shard()

        def ask(shard: str, connection: Any) -> list[tuple[str, float, float]]:
            with connection.cursor() as cursor:
                cursor.execute(_SIZES, ([partition.schema for partition in by_shard[shard]],))
                return list(cursor.fetchall())

        found: dict[str, Size] = {}
        with leased(self._engines, list(by_shard)) as leases:
            for rows in on_shards(self._threads, leases, dict.fromkeys(by_shard, ask)).values():
                for name, count, size in rows:
                    before = found.get(name, Size(0.0, 0.0))
                    found[name] = Size(before.rows + count, before.bytes + size)
        return found


class _Statistics(Statistics):
    def __init__(self, sizes: TableSizes, parameters: Mapping[str, Any]) -> None:
        self._sizes = sizes
        self._parameters = parameters
        self._rows: dict[str, float | None] = {}

    def size(self, table: str) -> Size:
        return self._sizes.known().get(table, UNKNOWN_SIZE)

    def rows(self, select: str) -> float | None:
        if select not in self._rows:
            self._rows[select] = self._sizes.rows(select, self._parameters)
        return self._rows[select]
