"""The 22 TPC-H queries over 3 shards x 16 partitions, against one plain PostgreSQL that holds the same rows.

In three layouts, in all of which orders and lineitem lie by order key, and nation and region are reference tables:
`keys` (the others by their own keys), `nations` (customer and supplier by nation: five keys, most partitions are empty
of them), `references` (the others whole on every shard). `SHARDPOOL_TPCH_SCALE` sets the scale (0.01).
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from shardpool import Reference, Router, Sharded, parse_config
from shardpool.config import schema_path
from tests.support.backends import databases, plain_connection

TABLES = ("region", "nation", "customer", "supplier", "part", "partsupp", "orders", "lineitem")
BY_ORDER = {"orders": "o_orderkey", "lineitem": "l_orderkey"}
BY_PART = {"part": "p_partkey", "partsupp": "ps_partkey"}
LAYOUTS = {
    "keys": {"customer": "c_custkey", "supplier": "s_suppkey", **BY_PART, **BY_ORDER},
    "nations": {"customer": "c_nationkey", "supplier": "s_nationkey", **BY_PART, **BY_ORDER},
    "references": BY_ORDER,
}
QUERIES = sorted((schema_path("tpch") / "queries").glob("q*.sql"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tpch")
    command = shutil.which("tpchgen-cli", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert command is not None, "tpchgen-cli comes with pip install -e '.[dev]'"
    scale = os.environ.get("SHARDPOOL_TPCH_SCALE", "0.01")
    subprocess.run([command, "csv", "-s", scale, "--output-dir", str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module", params=LAYOUTS)
def sharded(request: pytest.FixtureRequest, server_urls: list[str], data: Path) -> Iterator[Router]:
    keys = LAYOUTS[request.param]
    tables = {name: Sharded(keys[name]) if name in keys else Reference() for name in TABLES}
    with databases(server_urls) as urls:
        shards = {f"s{number}": {"url": url} for number, url in enumerate(urls)}
        config = parse_config({"keyspace": "tpch", "partitions": 16, "catalog": urls[0], "shards": shards})
        Router.initialise(config)
        with Router(config) as router:
            router.create_schema(_ddl(request.param), tables)
            for table in TABLES:
                router.copy_into(table, data / f"{table}.csv")
            yield router


def _ddl(layout: str) -> str:
    ddl = schema_path("tpch.sql").read_text(encoding="utf-8")
    if layout == "nations":  # a primary key contains the partition key: these two go without
        ddl = re.sub(r"([cs]_(?:cust|supp)key +bigint +)PRIMARY KEY", r"\1NOT NULL", ddl)
    return ddl


@pytest.fixture(scope="module")
def plain(server_urls: list[str], data: Path) -> Iterator[str]:
    with databases(server_urls[:1]) as (url,):
        connection = plain_connection(url)
        with connection.cursor() as cursor:
            cursor.execute(schema_path("tpch.sql").read_text(encoding="utf-8"))
            for table in TABLES:
                with (data / f"{table}.csv").open("rb") as file:
                    cursor.copy_expert(f"COPY {table} FROM STDIN (FORMAT csv, HEADER)", file)
            cursor.execute("ANALYZE")
        connection.close()
        yield url


def comparable(value: Any) -> Any:
    """Numbers by value and written scale; floats to nine digits."""
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else str(value)
    return str(value) if isinstance(value, Decimal) else value


def rows_of(result: Any) -> list[tuple[Any, ...]]:
    return [tuple(comparable(value) for value in row) for row in result]


def test_all_rows_are_there(sharded: Router, plain: str) -> None:
    engine = create_engine(make_url(plain))
    with engine.connect() as connection:
        for table in TABLES:
            count = text(f"SELECT count(*) FROM {table}")
            assert sharded.query(f"SELECT count(*) FROM {table}").scalar_one() == connection.execute(count).scalar_one()
    engine.dispose()


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_query(sharded: Router, plain: str, path: Path) -> None:
    sql = path.read_text(encoding="utf-8").strip().rstrip(";")
    engine = create_engine(make_url(plain))
    with engine.connect() as connection:
        expected = connection.execute(text(sql))
        names, rows = list(expected.keys()), rows_of(expected)
    engine.dispose()
    found = sharded.query(sql)
    assert list(found.keys()) == names
    assert rows_of(found) == rows


def test_there_are_22() -> None:
    assert len(QUERIES) == 22
