"""Memory of `Router.stream` over five million rows. ``python -m tests.bench.bench_stream``."""

from __future__ import annotations

import resource
import time

from rich.console import Console

from shardpool import Sharded
from shardpool.local import LocalCluster

ROWS = 5_000_000


def main() -> None:
    with LocalCluster(shards=3, partitions=6, keyspace="bench") as cluster, cluster.router() as router:
        router.create_schema("CREATE TABLE seeds (id bigint PRIMARY KEY)", {"seeds": Sharded("id")})
        router.copy_into("seeds", ((number,) for number in range(100)))
        sql = f"SELECT id, n, repeat('x', 50) AS words FROM seeds, generate_series(1, {ROWS // 100}) AS n"
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        with router.stream(sql) as rows:
            count = sum(1 for _ in rows)
        seconds = time.perf_counter() - started
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    Console().print(f"stream of {count:,} rows: {count / seconds:,.0f} rows/s, memory grew by {grown / 1024:.1f} MB")


if __name__ == "__main__":
    main()
