"""Loading: copy_into against one COPY of the same file into one table of one server, taken in turn."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from shardpool import Router, Sharded
from shardpool.local import LocalCluster
from tests.support.backends import plain_connection

ROWS = 400_000
ROUNDS = 3
COLUMNS = "line_id bigint, number int, price numeric(15,2), comment text, PRIMARY KEY (line_id, number)"
DDL = f"CREATE TABLE lines ({COLUMNS})"


def write_file(path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number in range(ROWS):
            file.write(f"{number // 4},{number % 4},{number % 1000}.25,some words about line {number}\n")


def plain(url: str, path: Path) -> float:
    connection = plain_connection(url)
    with connection.cursor() as cursor, path.open("rb") as file:
        cursor.execute(f"DROP TABLE IF EXISTS plain_lines; {DDL.replace('TABLE lines', 'TABLE plain_lines')}")
        start = time.perf_counter()
        cursor.copy_expert("COPY plain_lines FROM STDIN (FORMAT csv)", file)
        seconds = time.perf_counter() - start
    connection.close()
    return seconds


def sharded(router: Router, path: Path) -> float:
    for placement in router.shard_map.placements:
        with router.engines.borrow(placement.shard) as connection:
            connection.cursor().execute(f"TRUNCATE {placement.partition.schema}.lines")
            connection.commit()
    return float(router.copy_into("lines", path, header=False).seconds)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, LocalCluster(shards=3, partitions=16, keyspace="bench") as cluster:
        path = Path(folder) / "lines.csv"
        write_file(path)
        with cluster.router() as router:
            router.create_schema(DDL, {"lines": Sharded("line_id")})
            times = [(sharded(router, path), plain(cluster.url("s0"), path)) for _ in range(ROUNDS)]
    table = RichTable(title=f"loading {ROWS:,} rows of CSV, {ROUNDS} rounds")
    for heading in ("", "rows/s, median", "x one COPY (median of rounds)"):
        table.add_column(heading, justify="right")
    for name, place in (("copy_into, 3 shards", 0), ("one COPY, one server", 1)):
        found = statistics.median(pair[place] for pair in times)
        ratio = statistics.median(pair[1] / pair[place] for pair in times)
        table.add_row(name, f"{ROWS / found:,.0f}", f"{ratio:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
