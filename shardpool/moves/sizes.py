"""How big partitions are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shardpool.router import Router
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Partition

_SIZES = """
SELECT n.nspname, c.relname, pg_total_relation_size(c.oid), c.reltuples::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%s) AND c.relkind = 'r'
"""


@dataclass(frozen=True)
class PartitionSize:
    """A partition: bytes on disk with indexes, and rows as the planner estimates them."""

    partition: int
    shard: str
    bytes: int
    rows: int


def read_sizes(router: Router) -> list[PartitionSize]:
    """Return the sizes of all partitions, by id. Raise `ShardUnavailable`."""
    found = []
    for shard, partitions in router.topology.shard_map.by_shard().items():
        with router.engines.borrow(shard) as connection:
            found += _read(connection, shard, partitions)
    return sorted(found, key=lambda size: size.partition)


def _read(connection: Any, shard: str, partitions: Sequence[Partition]) -> list[PartitionSize]:
    total = {partition.schema: 0 for partition in partitions}
    rows = dict(total)
    with connection.cursor() as cursor:
        cursor.execute(_SIZES, (list(total),))
        for schema, table, size, estimate in cursor.fetchall():
            if estimate < 0:  # never analysed
                cursor.execute(f"SELECT count(*) FROM ONLY {quote(schema)}.{quote(table)}")
                (estimate,) = cursor.fetchone()
            total[schema] += size
            rows[schema] += estimate
    return [
        PartitionSize(partition.id, shard, total[partition.schema], rows[partition.schema]) for partition in partitions
    ]
