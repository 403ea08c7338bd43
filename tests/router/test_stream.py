"""`Router.stream` and `explain(analyze=True)`: rows as they come, and what it took."""

from __future__ import annotations

import pytest
import sqlalchemy.exc
from sqlalchemy import text

from shardpool import Router
from shardpool.executor import merge

STATEMENTS = [
    "SELECT order_id, customer_id FROM orders",
    "SELECT order_id FROM orders ORDER BY order_id",
    "SELECT order_id FROM orders WHERE customer_id = 7 ORDER BY order_id",
    "SELECT order_id FROM orders LIMIT 7 OFFSET 3",
    "SELECT code FROM country ORDER BY code",
    "SELECT customer_id, count(*) FROM orders GROUP BY customer_id ORDER BY 1",
    "SELECT count(*) FROM orders WHERE order_id > (SELECT avg(order_id) FROM orders)",
    "WITH RECURSIVE r AS (SELECT order_id FROM orders UNION SELECT order_id FROM r) SELECT order_id FROM r ORDER BY 1",
    "SELECT count(*) FROM orders WHERE now() > '2020-01-01'::timestamptz",
]


pytestmark = pytest.mark.usefixtures("filled")


def in_use(router: Router) -> int:
    return sum(pool.in_use for pool in router.stats().pools.values())


@pytest.mark.parametrize("sql", STATEMENTS)
def test_a_stream_gives_what_query_gives(shop: Router, monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    monkeypatch.setattr(merge, "STREAM_ROWS", 5)
    expected = shop.query(sql)
    with shop.stream(sql) as rows:
        assert list(rows.keys()) == list(expected.keys())
        found = rows.fetchall()
    if "ORDER BY" in sql or "LIMIT" not in sql:
        assert sorted(map(tuple, found)) == sorted(map(tuple, expected.fetchall()))
    else:
        assert len(found) == len(expected.fetchall())
    assert in_use(shop) == 0


def test_connections_are_held_until_the_last_row_or_close(shop: Router) -> None:
    rows = shop.stream("SELECT order_id FROM orders")
    assert rows.fetchone() is not None
    assert in_use(shop) == len(shop.shard_map.shards)
    rows.close()
    assert in_use(shop) == 0
    rows = shop.stream("SELECT order_id FROM orders")
    assert len(list(rows)) == 60
    assert in_use(shop) == 0


def test_an_abandoned_stream_gives_its_connections_back(shop: Router) -> None:
    next(iter(shop.stream("SELECT order_id FROM orders ORDER BY order_id")))
    assert in_use(shop) == 0


def test_an_error_before_the_first_row(shop: Router) -> None:
    with pytest.raises(sqlalchemy.exc.DataError):
        shop.stream("SELECT 1 / (order_id - order_id) FROM orders")
    assert in_use(shop) == 0


def test_an_error_between_rows(shop: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "STREAM_ROWS", 1)
    rows = shop.stream("SELECT 1 / (30 - n) FROM orders, generate_series(1, 60) AS n")
    with pytest.raises(sqlalchemy.exc.DataError):
        rows.fetchall()
    assert in_use(shop) == 0


def test_no_temporary_table_outlives_a_stream(shop: Router) -> None:
    with shop.stream("SELECT order_id FROM orders ORDER BY order_id") as rows:
        rows.fetchone()
    for name in shop.shard_map.shards:
        with shop.shard(name).engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM pg_class WHERE relpersistence = 't'")).scalar() == 0


@pytest.mark.parametrize("sql", STATEMENTS)
def test_analyze_runs_it_and_tells_what_it_took(shop: Router, sql: str) -> None:
    expected = len(shop.query(sql).fetchall())
    found = shop.explain(sql, analyze=True)
    facts = found.to_json()["analyze"]
    assert facts["rows"] == expected
    assert facts["milliseconds"] >= sum(step["milliseconds"] for step in facts["steps"])
    assert f"{expected} rows" in str(found)
    if found.rung not in ("single", "reference"):
        assert facts["steps"][-1]["name"] == "result"
        assert facts["steps"][-1]["rows"] == expected
    assert "analyze" not in shop.explain(sql).to_json()


def test_analyze_tells_the_plan_that_was_run_at_last(shop: Router) -> None:
    """A record is no column of a table: the pushdown that was planned gives way."""
    sql = "SELECT (order_id, note) AS pair FROM orders ORDER BY order_id"
    assert shop.explain(sql).rung == "pushdown"
    assert shop.explain(sql, analyze=True).rung != "pushdown"
