"""What writes of many rows cost, against the same in one plain PostgreSQL, taken in turn.

literals    INSERT of 1,000 rows of literals, another text each time (plain: psycopg2's execute_values)
singly      1,000 INSERTs of one row of literals (plain: the same texts)
parameters  INSERT of 1,000 rows of parameters, the same text each time
beside      INSERT .. SELECT of 20,000 rows that stay in their partitions
elsewhere   INSERT .. SELECT of 20,000 rows that belong to other partitions: through this process, as binary COPY
key         UPDATE of the partition key of 20,000 rows
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from psycopg2.extras import execute_values
from rich.console import Console
from rich.table import Table as RichTable

from shardpool import Router, Sharded
from shardpool.local import LocalCluster
from tests.support.backends import plain_connection

ROWS, MANY, ROUNDS = 1000, 20_000, 5
DDL = "CREATE TABLE {0} (k bigint, i int, v text, PRIMARY KEY (k, i)); "
FILL = "INSERT INTO source SELECT n, 1, 'value ' || n FROM generate_series(1, :many) n"
BESIDE = "INSERT INTO target SELECT k, i, v FROM source"
ELSEWHERE = "INSERT INTO target SELECT k + :far, i, v FROM source"
KEY = "UPDATE source SET k = k + :far"
_next = count()

Call = Callable[[], object]


def candidates(router: Router, plain: Any) -> dict[str, tuple[Call, Call, int]]:
    """What is measured: with the router, without it, and the rows of a call."""

    def rows() -> list[tuple[int, int, str]]:
        first = next(_next) * ROWS
        return [(first + n, 2, f"value {n}") for n in range(ROWS)]

    def literals() -> None:
        router.query("INSERT INTO target VALUES " + ", ".join(f"({k}, {i}, '{v}')" for k, i, v in rows()))

    def singly(run: Callable[[str], object]) -> Call:
        return lambda: [run(f"INSERT INTO target VALUES ({k}, {i}, '{v}')") for k, i, v in rows()]

    text = "INSERT INTO target VALUES " + ", ".join(f"(:k{n}, 2, :v{n})" for n in range(ROWS))

    def parameters() -> None:
        values: dict[str, Any] = {}
        for n, (k, _, v) in enumerate(rows()):
            values[f"k{n}"], values[f"v{n}"] = k, v
        router.query(text, values)

    def values() -> None:
        execute_values(plain, "INSERT INTO target VALUES %s", rows(), page_size=ROWS)

    def routed(sql: str) -> Call:
        return lambda: router.query(sql, {"far": 10_000_000 + next(_next) * MANY})

    def alone(sql: str) -> Call:
        words = sql.replace(":far", "%(far)s")
        return lambda: plain.execute(words, {"far": 10_000_000 + next(_next) * MANY})

    return {
        "literals": (literals, values, ROWS),
        "singly": (singly(router.query), singly(plain.execute), ROWS),
        "parameters": (parameters, values, ROWS),
        "elsewhere": (routed(ELSEWHERE), alone(ELSEWHERE), MANY),
        "key": (routed(KEY), alone(KEY), MANY),
        "beside": (routed(BESIDE), alone(BESIDE), MANY),
    }


def main() -> None:
    table = RichTable(title=f"rows per second, median of {ROUNDS}")
    for heading in ("", "routed", "plain", "x plain (median of rounds)"):
        table.add_column(heading, justify="right")
    with LocalCluster(3, 12, keyspace="bench") as cluster, cluster.router() as router:
        router.create_schema(
            DDL.format("source") + DDL.format("target"), dict.fromkeys(("source", "target"), Sharded("k"))
        )
        plain = plain_connection(cluster.url("s0")).cursor()
        plain.execute("CREATE SCHEMA plain; SET search_path TO plain; " + DDL.format("source") + DDL.format("target"))
        router.query(FILL, {"many": MANY})
        plain.execute(FILL.replace(":many", "%(many)s"), {"many": MANY})
        for name, (with_router, without, rows) in candidates(router, plain).items():
            times: list[tuple[float, float]] = []
            for _ in range(ROUNDS + 1):
                times.append((_timed(with_router), _timed(without)))
                router.query("DELETE FROM target")
                plain.execute("DELETE FROM target")
            ratio = statistics.median(theirs / mine for mine, theirs in times[1:])
            mine, theirs = (rows / statistics.median(found) for found in zip(*times[1:], strict=True))
            table.add_row(name, f"{mine:,.0f}", f"{theirs:,.0f}", f"{ratio:.2f}")
    Console(width=100).print(table)


def _timed(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
