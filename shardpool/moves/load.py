"""How much is done on partitions: rows read and written, as PostgreSQL's statistics count them."""

from __future__ import annotations

import time
from typing import Any

from shardpool.router import Router

#: A row that is written counts as so many that are read.
WRITE = 4

_COUNTERS = """
SELECT schemaname, sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)
       + %s * (n_tup_ins + n_tup_upd + n_tup_del))::float8
FROM pg_stat_user_tables WHERE schemaname = ANY(%s) GROUP BY schemaname
"""


def read_loads(router: Router, seconds: float) -> dict[int, float]:
    """Watch for *seconds*; return partition -> rows per second, those written counting `WRITE` times.

    A partition that moves or whose statistics are reset meanwhile counts from then on. Raise `ShardUnavailable`.
    """
    before = _read(router)
    time.sleep(seconds)
    after = _read(router)
    return {
        number: max(count - before.get(number, 0.0) if count >= before.get(number, 0.0) else count, 0.0) / seconds
        for number, count in after.items()
    }


def _read(router: Router) -> dict[int, float]:
    found = {}
    for shard, partitions in router.topology.shard_map.by_shard().items():
        numbers = {partition.schema: partition.id for partition in partitions}
        with router.engines.borrow(shard) as connection:
            counts = _ask(connection, list(numbers))
        found.update({number: counts.get(schema, 0.0) for schema, number in numbers.items()})
    return found


def _ask(connection: Any, schemas: list[str]) -> dict[str, float]:
    with connection.cursor() as cursor:
        cursor.execute(_COUNTERS, (WRITE, schemas))
        return dict(cursor.fetchall())
