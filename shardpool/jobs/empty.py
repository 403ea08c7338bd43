"""Emptying tables of a keyspace."""

from __future__ import annotations

import psycopg2

from shardpool.bulk.translate import refused
from shardpool.engines import Engines
from shardpool.jobs.following import following_moves
from shardpool.router import Router
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Topology

#: Writers, and readers, hold the emptying of a shard up for so long at most.
LOCK_TIMEOUT = "30s"


def empty(router: Router, tables: list[str]) -> None:
    """Remove all rows, shard by shard. Raise `LoadError`, `ShardUnavailable`."""
    following_moves(router, lambda topology: _empty(router.engines, topology, tables))


def _empty(engines: Engines, topology: Topology, tables: list[str]) -> None:
    for shard, partitions in topology.shard_map.by_shard().items():
        names = [
            f"{quote(schema)}.{quote(name)}"
            for name in tables
            for schema in ([it.schema for it in partitions] if topology.tables[name].sharded else [topology.keyspace])
        ]
        with engines.borrow(shard) as connection:
            try:
                with connection.cursor() as cursor:
                    cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; TRUNCATE {', '.join(names)}")
                connection.commit()
            except psycopg2.Error as error:
                raise refused(error, shard, gone=bool(connection.closed)) from error
