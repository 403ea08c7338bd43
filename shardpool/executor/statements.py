"""Statements on one partition: the hot path. One round trip in autocommit mode, and again if the partition moved."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg2

from shardpool.engines import Engines
from shardpool.engines.translate import is_stale, translate
from shardpool.errors import PoolTimeout
from shardpool.executor.current import CurrentTopology, check_plan
from shardpool.executor.results import RoutedResult
from shardpool.planner.keyed import KeyedStatement, types_of_key
from shardpool.planner.often import OftenUsed
from shardpool.topology.key import KeyValue
from shardpool.topology.shard_map import Placement, Topology

#: How often a statement follows a partition that moves again and again.
MAX_RETRIES = 20


class Statements:
    """Runs compiled statements on single shards."""

    def __init__(self, engines: Engines, current: CurrentTopology) -> None:
        self._engines = engines
        self._current = current
        self._lock = threading.Lock()
        self._rooms: dict[int, threading.Semaphore] = {}

    def on_partition(
        self, key: KeyValue, compiled: KeyedStatement, parameters: Mapping[str, Any], planned: Topology
    ) -> RoutedResult:
        """Run a statement that was compiled for *planned* on the partition of *key*, wherever that is by now. Raise
        `OutdatedPlan`."""
        retries = 0
        while True:
            topology = self._current.value
            check_plan(planned, topology)
            placement = topology.place(key, compiled.key_types or types_of_key(key, topology))
            partition = placement.partition
            if compiled.written:
                compiled.check_written(partition, parameters, topology)
            sql = topology.qualifiers[partition.id].join(compiled.template)
            often = compiled.prepared_for(parameters)
            path = topology.search_paths[partition.id] if compiled.needs_path else ""
            try:
                if placement.moving and compiled.writes:
                    with self._room_to_wait(placement):
                        return self.on_shard(placement.shard, sql, parameters, compiled.writes, path, often)
                return self.on_shard(placement.shard, sql, parameters, compiled.writes, path, often)
            except psycopg2.Error as error:
                retries += 1
                if retries > MAX_RETRIES or not self._current.moved(topology, [placement]):
                    raise translate(error, None, placement.shard, sql, compiled.writes) from error

    @contextmanager
    def _room_to_wait(self, placement: Placement) -> Iterator[None]:
        """Keep writers that wait for a cutover from taking all the shard's connections. Raise `PoolTimeout`."""
        limits = self._engines.pool(placement.shard).limits
        with self._lock:
            room = self._rooms.setdefault(placement.partition.id, threading.Semaphore(max(limits.max_size // 2, 1)))
        if not room.acquire(timeout=limits.timeout):
            raise PoolTimeout(
                f"partition {placement.partition.id} is being moved, and its writers wait for longer than "
                f"{limits.timeout:g} s"
            )
        try:
            yield
        finally:
            room.release()

    def on_shard(
        self,
        shard: str,
        sql: str,
        parameters: Mapping[str, Any],
        writes: bool = False,
        path: str = "",
        often: OftenUsed | None = None,
    ) -> RoutedResult:
        """Run a statement on a shard, after *path* was set; *often*: how it is prepared, once it was used often.

        A possibly stale placement comes out as the driver's error, the rest as ours.
        """
        pool = self._engines.pool(shard)
        entry = pool.lease()
        connection: Any = entry.dbapi_connection
        under_way = False
        try:
            words = sql
            if often is not None:
                session = entry.info["cursor"]
                session.path = path
                words = often.call(session.prepared(often.types, often.text)) or sql
            cursor = connection.cursor()
            under_way = writes
            cursor.execute(path + words, parameters)
            description = cursor.description
            result = RoutedResult(description, cursor.fetchall() if description is not None else [], cursor.rowcount)
        except psycopg2.Error as error:
            if often is not None and isinstance(error, psycopg2.errors.InvalidSqlStatementName):
                # A user's function has deallocated it, so that nothing was done.
                session.forget()
                pool.give_back(entry)
                return self.on_shard(shard, sql, parameters, writes, path)
            pool.give_back(entry)
            if is_stale(error):
                raise
            raise translate(error, connection, shard, sql, under_way) from error
        except BaseException:
            pool.discard(entry)
            raise
        pool.give_back(entry)
        return result
