"""Reference tables in a database that follows: whole, compared again when they may have been written.

They are small and on every shard, where no trigger can note who writes them for all. So their rows are compared with
those of one shard: when its server has counted writes, and every now and then, as it may forget to count.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg2

from shardpool.bulk.digest import Digest, digest_in
from shardpool.bulk.translate import refused
from shardpool.jobs.reference import all_rows
from shardpool.jobs.replicate.receivers import DatabaseReceiver
from shardpool.router import Router
from shardpool.topology.names import quote
from shardpool.topology.tables import Table

#: Seconds after which tables are compared also if no write was counted.
INTERVAL = 30.0

_WRITES = "SELECT n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables WHERE relid = %s::regclass"


@dataclass
class References:
    """Keeps *tables* of a database equal to the reference tables of a keyspace."""

    router: Router
    tables: Mapping[str, Table]
    receiver: DatabaseReceiver
    #: Compare each time, whatever the server has counted.
    always: bool
    _told: dict[str, Digest] = field(default_factory=dict, init=False)
    _counted: dict[str, tuple[str, int, float]] = field(default_factory=dict, init=False)

    def __call__(self) -> int:
        """Bring over what differs; return how many rows did. Raise `StalePlacement`, `ShardUnavailable`."""
        return sum(map(self._bring, self.tables.values()))

    def _bring(self, table: Table) -> int:
        shard = min(self.router.topology.shard_map.shards)
        relation = f"{quote(self.router.topology.keyspace)}.{quote(table.name)}"
        with self.router.engines.borrow(shard) as connection:
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    if not self._may_differ(cursor, shard, table.name, relation):
                        return 0
                    digest = digest_in(cursor, relation, table.columns)
                    if digest == self._told.get(table.name):
                        return 0
                    rows = all_rows(cursor, relation, table)
            except psycopg2.Error as error:
                raise refused(error, shard, gone=bool(connection.closed)) from error
        changed = self.receiver.take_whole(table, rows)
        self._told[table.name] = digest
        return changed

    def _may_differ(self, cursor: Any, shard: str, name: str, relation: str) -> bool:
        cursor.execute(_WRITES, (relation,))
        (writes,) = cursor.fetchone()
        before, now = self._counted.get(name), time.monotonic()
        if not self.always and before is not None and before[:2] == (shard, writes) and now - before[2] < INTERVAL:
            return False
        self._counted[name] = shard, writes, now
        return True
