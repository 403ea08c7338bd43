"""The 22 TPC-H queries over three shards against one plain PostgreSQL with the same rows, taken in turn.

``python -m tests.bench.bench_tpch [scale] [query ...]``: scale 0.1 unless told. In two layouts: `references` shards
orders and lineitem by the order and keeps the other tables on every shard; `keys` shards every table by its own key,
nation and region aside. Both sides have the same servers, settings and indexes.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from sqlalchemy.engine import make_url

from shardpool import Reference, Router, Sharded, parse_config
from shardpool.config import schema_path
from shardpool.local import LocalCluster
from shardpool.topology.tables import TableKind
from tests.support.backends import plain_connection

ROUNDS = 5
#: How often a new plan is made, and a known one asked for at a time.
PLANNED, KNOWN = 10, 100
SETTINGS = {"shared_buffers": "256MB"}
NAMES = ("region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem")
KEYS = {"supplier": "s_suppkey", "customer": "c_custkey", "part": "p_partkey", "partsupp": "ps_partkey"}
ORDERS = {"orders": "o_orderkey", "lineitem": "l_orderkey"}
LAYOUTS = {"references": ORDERS, "keys": {**KEYS, **ORDERS}}
#: Reports as an application asks for them.
REPORTS = {
    "count(*)": "SELECT count(*) FROM lineitem",
    "top 10": "SELECT l_orderkey, l_extendedprice FROM lineitem ORDER BY l_extendedprice DESC, l_orderkey LIMIT 10",
    "groups": "SELECT l_shipmode, count(*), sum(l_quantity), avg(l_discount) FROM lineitem GROUP BY 1 ORDER BY 1",
}


def main(scale: str = "0.1", *only: str) -> None:
    queries = {path.stem: path.read_text(encoding="utf-8").strip().rstrip(";") for path in _paths()} | REPORTS
    chosen = {name: sql for name, sql in queries.items() if not only or name in only}
    with tempfile.TemporaryDirectory() as folder, LocalCluster(shards=3, settings=SETTINGS) as cluster:
        data = _generated(Path(folder), scale)
        plain = _plain(cluster, data)
        for layout, keys in LAYOUTS.items():
            with _router(cluster, layout, keys, data) as router:
                _show(f"TPC-H scale {scale}, layout {layout}", chosen, plain, router)
        plain.connection.close()


def _paths() -> list[Path]:
    return sorted((schema_path("tpch") / "queries").glob("q*.sql"))


def _generated(folder: Path, scale: str) -> Path:
    command = shutil.which("tpchgen-cli", path=str(Path(sys.executable).parent)) or "tpchgen-cli"
    subprocess.run([command, "csv", "-s", scale, "--output-dir", str(folder)], check=True, capture_output=True)
    return folder


def _plain(cluster: LocalCluster, data: Path) -> Any:
    """A cursor on one database of the first server, with all rows."""
    admin = plain_connection(cluster.url("s0"))
    admin.cursor().execute("CREATE DATABASE tpch_plain")
    admin.close()
    url = make_url(cluster.url("s0")).set(database="tpch_plain").render_as_string(hide_password=False)
    cursor = plain_connection(url).cursor()
    cursor.execute(schema_path("tpch.sql").read_text(encoding="utf-8"))
    for name in NAMES:
        with (data / f"{name}.csv").open("rb") as file:
            cursor.copy_expert(f"COPY {name} FROM STDIN (FORMAT csv, HEADER)", file)
    cursor.execute("VACUUM ANALYZE")
    return cursor


@contextmanager
def _router(cluster: LocalCluster, layout: str, keys: dict[str, str], data: Path) -> Iterator[Router]:
    shards = {name: {"url": cluster.url(name)} for name in cluster.names}
    config = parse_config(
        {"keyspace": f"tpch_{layout}", "partitions": 16, "catalog": cluster.url("s0"), "shards": shards}
    )
    Router.initialise(config)
    tables: dict[str, TableKind] = {name: Sharded(keys[name]) if name in keys else Reference() for name in NAMES}
    with Router(config) as router:
        router.create_schema(schema_path("tpch.sql").read_text(encoding="utf-8"), tables)
        for name in NAMES:
            router.copy_into(name, data / f"{name}.csv")
        for name in cluster.names:
            with ExitStack() as stack:
                connection = plain_connection(cluster.url(name))
                stack.callback(connection.close)
                connection.cursor().execute("VACUUM ANALYZE")
        yield router


def _show(title: str, queries: dict[str, str], plain: Any, router: Router) -> None:
    table = RichTable(title=f"{title}, median of {ROUNDS}")
    for heading in ("query", "rung", "new plan ms", "known plan µs", "one PostgreSQL ms", "3 shards ms", "ratio"):
        table.add_column(heading, justify="left" if heading in ("query", "rung") else "right")
    ratios = []
    for name, sql in queries.items():
        rung = router.explain(sql).rung
        new, known = _planning(sql, router)

        def ask(sql: str = sql) -> Any:
            plain.execute(sql)
            return plain.fetchall()

        def query(sql: str = sql) -> Any:
            return router.query(sql).all()

        single, sharded = _in_turn(ask, query)
        ratios.append(sharded / single)
        measured = (f"{new:.1f}", f"{known:.0f}", f"{single:.1f}", f"{sharded:.1f}", f"{sharded / single:.2f}")
        table.add_row(name, rung, *measured)
    table.add_section()
    table.add_row("geometric mean", "", "", "", "", "", f"{statistics.geometric_mean(ratios):.2f}")
    Console(width=100).print(table)


def _planning(sql: str, router: Router) -> tuple[float, float]:
    """Return the least milliseconds of this process's CPU for the plan of a new text, and microseconds for a known one.

    How long the servers take for their estimates is not in it.
    """

    def least(texts: Callable[[int], str], calls: int) -> float:
        found = []
        for number in range(PLANNED):
            started = time.thread_time()
            for _ in range(calls):
                router.explain(texts(number))
            found.append((time.thread_time() - started) / calls)
        return min(found)

    return least(lambda number: f"{sql}\n-- {number}", 1) * 1e3, least(lambda _: sql, KNOWN) * 1e6


def _in_turn(left: Callable[[], Any], right: Callable[[], Any]) -> tuple[float, float]:
    """Return the median milliseconds of both, run by turns after one run for warming up."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS + 1):
        for found, run in zip(times, (left, right), strict=True):
            started = time.perf_counter()
            run()
            if number:
                found.append((time.perf_counter() - started) * 1000)
    return statistics.median(times[0]), statistics.median(times[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
