"""How big partitions are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg2
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random

from shardpool.errors import StalePlacement
from shardpool.router import Router
from shardpool.topology.names import quote
from shardpool.topology.shard_map import Partition

#: So long, in seconds, partitions that are cut over meanwhile are waited for.
PATIENCE = 10.0

# A schema without tables has one row.
_SIZES = """
SELECT n.nspname, c.relname, pg_total_relation_size(c.oid), c.reltuples::bigint
FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind = 'r'
WHERE n.nspname = ANY(%s)
"""


@dataclass(frozen=True)
class PartitionSize:
    """A partition: bytes on disk with indexes, and rows as the planner estimates them."""

    partition: int
    shard: str
    bytes: int
    rows: int


def read_sizes(router: Router) -> list[PartitionSize]:
    """Return the sizes of all partitions, by id, where the shard map has them; it is read anew if one has moved.

    Raise `ShardUnavailable`, `CatalogUnavailable`, and `StalePlacement` if a partition is not found again.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(StalePlacement),
        stop=stop_after_delay(PATIENCE),
        wait=wait_random(0.02, 0.2),
        before_sleep=lambda _: router.refresh(),
        reraise=True,
    )
    return retrying(_read_all, router)


def _read_all(router: Router) -> list[PartitionSize]:
    found = []
    for shard, partitions in router.topology.shard_map.by_shard().items():
        with router.engines.borrow(shard) as connection:
            try:
                found += _read(connection, shard, partitions)
            except psycopg2.errors.UndefinedTable as error:
                raise StalePlacement(f"a partition on shard {shard} moved while its rows were counted") from error
    return sorted(found, key=lambda size: size.partition)


def _read(connection: Any, shard: str, partitions: Sequence[Partition]) -> list[PartitionSize]:
    total = {partition.schema: 0 for partition in partitions}
    rows = dict(total)
    with connection.cursor() as cursor:
        cursor.execute(_SIZES, (list(total),))
        found = cursor.fetchall()
        if missing := total.keys() - {schema for schema, *_ in found}:
            raise StalePlacement(f"shard {shard} has no schema {min(missing)}, which the shard map places there")
        for schema, table, size, estimate in found:
            if table is None:
                continue
            if estimate < 0:  # never analysed
                cursor.execute(f"SELECT count(*) FROM ONLY {quote(schema)}.{quote(table)}")
                (estimate,) = cursor.fetchone()
            total[schema] += size or 0  # a table that was just dropped has none
            rows[schema] += estimate
    return [
        PartitionSize(partition.id, shard, total[partition.schema], rows[partition.schema]) for partition in partitions
    ]
