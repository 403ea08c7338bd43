"""Whether the reservations are those of the rows, all of them and no others: at one cut over all shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import psycopg2

from shardpool.bulk.digest import Digest, digest_in, sum_of
from shardpool.executor.snapshot import Snapshot
from shardpool.moves.unique.plan import SHOWN, Duplicate
from shardpool.router import Router
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Partition
from shardpool.topology.tables import Table


def digests(router: Router, table: Table, column: str) -> tuple[Digest, Digest]:
    """Return the digests of the rows' values with their keys, and of the reservations. Raise as `Router.snapshot`."""
    columns = [found for name in (column, *table.key) if (found := table.column(name)) is not None]
    rows: list[Digest] = []
    reserved: list[Digest] = []
    with router.snapshot() as snapshot:
        for shard, partitions in snapshot.topology.shard_map.by_shard().items():
            try:
                with snapshot.enter(shard).cursor() as cursor:
                    for partition in partitions:
                        for name, into in ((table.name, rows), (dict(table.unique)[column], reserved)):
                            into.append(digest_in(cursor, _with_values(partition, name, column), columns))
            except psycopg2.Error as error:
                raise _failed(snapshot, error, shard, partitions) from error
    return sum_of(rows), sum_of(reserved)


def same_key_twice(router: Router, table: Table, column: str) -> Iterator[Duplicate]:
    """Yield values that rows of one key have, which their reservations do not tell apart."""
    keys = ", ".join(map(quote, table.key))
    for shard, partitions in router.shard_map.by_shard().items():
        with router.engines.borrow(shard) as connection, connection.cursor() as cursor:
            for partition in partitions:
                cursor.execute(
                    f"SELECT {quote(column)}::text, {', '.join(f'{quote(it)}::text' for it in table.key)} "
                    f"FROM {_with_values(partition, table.name, column)} "
                    f"GROUP BY {quote(partition.schema)}.{quote(table.name)}.{quote(column)}, {keys} "
                    f"HAVING count(*) > 1 LIMIT {SHOWN}"
                )
                for value, *key in cursor.fetchall():
                    yield Duplicate(value, (", ".join(key), ", ".join(key)))


def _with_values(partition: Partition, table: str, column: str) -> str:
    return f"{quote(partition.schema)}.{quote(table)} WHERE {quote(column)} IS NOT NULL"


def _failed(snapshot: Snapshot, error: psycopg2.Error, shard: str, partitions: Sequence[Partition]) -> Exception:
    placements = [snapshot.topology.shard_map.placement(it) for it in partitions]
    return snapshot.failed(error, snapshot.branch(shard).connection, shard, placements)
