"""Statements for the demo: some with a key, and a report without."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shardpool.cli.demo.plain import PlainPostgres
from shardpool.router import Router

RUNS = 30

REPORT = """\
select o_orderpriority as priority,
       count(*) as orders,
       sum(o_totalprice) as revenue,
       max(o_orderdate) as latest
from orders
where o_orderdate >= date '1997-01-01'
group by o_orderpriority
order by revenue desc"""


@dataclass(frozen=True)
class Routed:
    """A statement on the partition of `key`."""

    table: str
    key: int
    sql: str


STATEMENTS = (
    Routed("orders", 7, "select * from orders where o_orderkey = :key"),
    Routed("customer", 42, "select * from customer where c_custkey = :key"),
    Routed("orders", 33, "select * from orders join lineitem on l_orderkey = o_orderkey where o_orderkey = :key"),
    Routed("orders", 39, "update orders set o_shippriority = 1 where o_orderkey = :key"),
)


def routed_statements(router: Router, plain: PlainPostgres) -> list[dict[str, Any]]:
    """Run each statement; say where it went, its median latency, and that of a bare cursor on the plain server."""
    return [_routed(router, plain, it) for it in STATEMENTS]


def _routed(router: Router, plain: PlainPostgres, it: Routed) -> dict[str, Any]:
    placement = router.shard_map.placement(router.partition_of(it.key, it.table))
    values = {"key": it.key}
    result: Any = router.execute(it.key, it.sql, values)
    bare = it.sql.replace(":key", "%(key)s")
    return {
        "sql": it.sql,
        "key": it.key,
        "partition": placement.partition.id,
        "shard": placement.shard,
        "rows": result.rowcount,
        "ms": _median_ms(lambda: router.execute(it.key, it.sql, values)),
        "plain_ms": _median_ms(lambda: plain.execute(bare, values)),
    }


def _median_ms(run: Callable[[], object]) -> float:
    found = []
    for _ in range(RUNS):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return round(statistics.median(found) * 1000, 3)
