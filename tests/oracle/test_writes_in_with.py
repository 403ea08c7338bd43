"""Writes in WITH whose rows are computed with: answers and tables are those of one plain PostgreSQL, or a code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from shardpool.errors import GatherTooLarge, UnsupportedStatement
from shardpool.executor import writes
from shardpool.planner.writes import apart
from tests.oracle.test_writes import check
from tests.oracle.writes import Both, on_cluster, on_plain

FILL = (
    "INSERT INTO country VALUES ('de', 'D'), ('fr', 'F')",
    "INSERT INTO orders (customer, id, total, note) SELECT n, n % 3, n, 'n' || n % 4 FROM generate_series(0, 30) n",
    "INSERT INTO items (customer, id, line, quantity) SELECT customer, id, 1, customer % 5 FROM orders",
    "INSERT INTO sums SELECT n, n % 4, n FROM generate_series(0, 11) n",
)


SAME = [
    "WITH w AS (DELETE FROM items RETURNING *) SELECT count(*), sum(quantity) FROM w",
    "WITH w AS (DELETE FROM items RETURNING customer, quantity) SELECT quantity, array_agg(customer ORDER BY customer) "
    "FROM w GROUP BY 1 HAVING count(*) > 6 ORDER BY 1 LIMIT 2",
    "WITH w AS (INSERT INTO sums VALUES (41, 1, 2), (42, 2, 3), (43, 3, 4) RETURNING *) SELECT sum(total) FROM w",
    "WITH w AS (INSERT INTO orders (customer, id) SELECT customer + 7, 9 FROM sums RETURNING customer, note) "
    "SELECT DISTINCT note, max(customer) OVER () FROM w",
    "WITH w AS (INSERT INTO sums VALUES (1, 5, 5), (50, 1, 1) ON CONFLICT (customer) DO UPDATE SET orders = 9 "
    "RETURNING orders) SELECT sum(orders) FROM w",
    "WITH w AS (UPDATE orders SET total = total / 3 RETURNING total, note) SELECT note, avg(total) FROM w GROUP BY 1",
    "WITH w AS (UPDATE orders SET total = 1 RETURNING total), v AS (SELECT total * 2 AS t FROM w) "
    "SELECT sum(t), :x::text FROM v WHERE t > 1",
    "WITH w AS (UPDATE sums SET customer = customer + 50 RETURNING customer) SELECT sum(customer) FROM w",
    'WITH w ("100%", b) AS (UPDATE sums SET orders = 7 RETURNING customer, total) SELECT max("100%"), min(b) FROM w',
    "WITH w AS (MERGE INTO sums s USING orders o ON s.customer = o.customer AND o.id = 1 WHEN MATCHED THEN DELETE "
    "RETURNING s.customer) SELECT count(*) FROM w",
    "WITH w AS (INSERT INTO country VALUES ('xx', 'y') RETURNING *) SELECT upper(code), count(*) FROM w GROUP BY 1",
    "WITH w AS (INSERT INTO members (customer, id, email) VALUES (5, 1, 'x'), (6, 1, 'y') RETURNING customer, email) "
    "SELECT string_agg(email, ',' ORDER BY email) FROM w",
    "WITH w AS (DELETE FROM items WHERE line = 5 RETURNING *) SELECT count(*), max(line) FROM w",
    "WITH w AS (DELETE FROM orders) SELECT 7 AS seven",
    "WITH items AS (DELETE FROM items RETURNING customer) SELECT count(*) FROM items",
    "WITH w AS (DELETE FROM items RETURNING 1 / (customer - 3)) SELECT count(*) FROM w",
    "WITH w AS (DELETE FROM items RETURNING customer) SELECT 1 / (count(*) - count(*)) FROM w",
    "WITH w AS (INSERT INTO sums VALUES (1, 1, 1), (60, 1, 1) RETURNING *) SELECT count(*) FROM w",
]


@pytest.mark.parametrize("sql", SAME)
def test_answers_and_tables_are_the_same(both: Both, sql: str) -> None:
    parameters = {"x": "100% %s"} if ":x" in sql else {}
    found = on_cluster(both.router.query, sql, parameters)
    assert found.agrees(on_plain(both.plain, sql, parameters)), found
    assert not found.refused
    check(both, sql)


SEVERAL = [
    "WITH w AS (DELETE FROM items WHERE quantity > 2 RETURNING *), v AS (INSERT INTO items (customer, id, line, "
    "quantity) SELECT customer, id, line + 10, quantity FROM w RETURNING customer, line) SELECT * FROM v",
    "WITH w AS (DELETE FROM items RETURNING *), v AS (UPDATE sums SET orders = 0 FROM w WHERE w.customer = "
    "sums.customer RETURNING sums.*) SELECT customer, total FROM v",
    "WITH w AS (INSERT INTO orders (customer, id, total) VALUES (:x, 9, 2) RETURNING customer, id) "
    "INSERT INTO items (id, customer, line) SELECT id, customer, n FROM w, generate_series(1, 3) n RETURNING line",
    "WITH w AS (INSERT INTO orders (customer, id) VALUES (3, 9), (3, 8) RETURNING *), "
    "v AS (UPDATE sums SET orders = orders + 2 WHERE customer = 3 RETURNING orders) "
    "SELECT count(*), (SELECT orders FROM v), (SELECT max(total) FROM orders WHERE customer = 3) FROM w",
    "WITH w AS (INSERT INTO sums VALUES (3, 1, 1) ON CONFLICT (customer) DO UPDATE SET total = 77 RETURNING *), "
    "v AS (DELETE FROM items WHERE customer = 3 RETURNING quantity) SELECT sum(quantity), (SELECT total FROM w) FROM v",
    "WITH w AS (INSERT INTO sums VALUES (50, 1, 1)), v AS (INSERT INTO orders (customer, id) VALUES (50, 1)) "
    "SELECT code FROM country",
    "WITH w AS (DELETE FROM sums RETURNING *), v AS (INSERT INTO sums SELECT * FROM w RETURNING *) "
    "DELETE FROM items USING v WHERE v.customer = items.customer RETURNING items.customer, v.total",
    "WITH w AS (INSERT INTO orders AS o (id, customer) SELECT 9, customer FROM sums RETURNING o.customer AS c), "
    "v AS (UPDATE sums SET total = 5 FROM w WHERE c = customer) SELECT c FROM w",
]


@pytest.mark.parametrize("sql", SEVERAL)
def test_several_writes(both: Both, sql: str) -> None:
    found = on_cluster(both.router.query, sql, {"x": 4})
    assert not found.refused, found
    assert found.agrees(on_plain(both.plain, sql, {"x": 4})), found
    check(both, sql)


REFUSED = [
    "WITH w AS (DELETE FROM items RETURNING customer) SELECT count(*), (SELECT count(*) FROM items) FROM w",
    "WITH w AS (INSERT INTO country VALUES ('xx', 'y') RETURNING code) SELECT (SELECT count(*) FROM country) FROM w",
    "WITH w AS (DELETE FROM items RETURNING customer) SELECT count(*), now() FROM w",
    "WITH w AS (DELETE FROM items RETURNING customer) SELECT count(*), 'now'::timestamp FROM w",
    "WITH w AS (DELETE FROM items RETURNING 1), v AS (DELETE FROM sums RETURNING 1) SELECT count(*) FROM w, v",
    "WITH sums AS (SELECT 5 AS customer), w AS (DELETE FROM items USING sums WHERE items.customer = sums.customer "
    "RETURNING items.customer) SELECT count(*) FROM w",
    "WITH RECURSIVE w AS (DELETE FROM items RETURNING customer) SELECT count(*) FROM w",
    "WITH w AS (DELETE FROM items) SELECT count(*) FROM w",
    'WITH w AS (DELETE FROM items RETURNING note COLLATE "C" AS note) SELECT max(note) FROM w',
    "WITH w AS (DELETE FROM orders RETURNING orders) SELECT count(*) FROM w",
    "WITH w AS (DELETE FROM items RETURNING id) INSERT INTO sums SELECT id, count(*), 1 FROM w GROUP BY id",
    "WITH w AS (DELETE FROM items RETURNING id) SELECT * FROM (WITH sums AS (SELECT 1) SELECT * FROM sums) s, "
    "(SELECT count(*) FROM w) w",
    # Several writes: rows of several partitions, rows that go elsewhere, what is read besides, what may be read by
    # others.
    "WITH w AS (INSERT INTO sums VALUES (50, 1, 1), (51, 1, 1), (52, 1, 1), (53, 1, 1)), "
    "v AS (DELETE FROM items WHERE customer = 50) SELECT 1",
    "WITH w AS (INSERT INTO sums VALUES (50, 1, 1)), v AS (DELETE FROM items) SELECT 1",
    "WITH w AS (INSERT INTO sums VALUES (50, 1, 1)), v AS (DELETE FROM items WHERE customer = 50) "
    "SELECT count(*) FROM orders",
    "WITH w AS (INSERT INTO sums VALUES (50, (SELECT count(*) FROM items), 1)), v AS (DELETE FROM items WHERE "
    "customer = 50) SELECT 1",
    "WITH w AS (DELETE FROM sums RETURNING *), v AS (INSERT INTO sums SELECT customer + 50, 1, 1 FROM w) SELECT 1",
    "WITH w AS (DELETE FROM sums RETURNING *), v AS (INSERT INTO sums SELECT total, 1, 1 FROM w) SELECT * FROM w",
    "WITH w AS (DELETE FROM sums RETURNING *), v AS (INSERT INTO sums SELECT * FROM w RETURNING *) "
    "SELECT count(*) FROM v",
    "WITH w AS (DELETE FROM sums RETURNING *), v AS (INSERT INTO sums SELECT * FROM w ON CONFLICT DO NOTHING) "
    "SELECT * FROM w",
    "WITH w AS (DELETE FROM sums RETURNING *), v AS (INSERT INTO items (customer, id, line) SELECT customer, 1, 1 "
    "FROM w RETURNING quantity) SELECT quantity FROM v",
    "WITH w AS (INSERT INTO country VALUES ('xx', 'y')), v AS (INSERT INTO sums VALUES (50, 1, 1)) SELECT 1",
    "WITH w AS (INSERT INTO members (customer, id, email) VALUES (5, 1, 'x')), v AS (INSERT INTO sums VALUES "
    "(5, 1, 1)) SELECT 1",
]


@pytest.mark.parametrize("sql", REFUSED)
def test_what_is_not_proven_is_refused_and_does_nothing(both: Both, sql: str) -> None:
    found = on_cluster(both.router.query, sql, {})
    assert found.refused.startswith("SP1"), found
    check(both, sql)
    with both.router.transaction() as tx:
        tx.query("DELETE FROM sums WHERE customer = 1")
        with pytest.raises(UnsupportedStatement):
            tx.query(sql)
    on_plain(both.plain, "DELETE FROM sums WHERE customer = 1", {})
    check(both, sql)


def test_what_cannot_be_read_was_not_written(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "WITH w AS (DELETE FROM items RETURNING *) SELECT 1 / (count(*) - 31) FROM w"
    with pytest.raises(DBAPIError, match="division by zero"), both.router.transaction() as tx:
        tx.query("DELETE FROM sums")
        tx.query(sql)
    with both.router.transaction() as tx:
        tx.query("UPDATE sums SET orders = 1")
        with pytest.raises(DBAPIError, match="division by zero"), tx.savepoint():
            tx.query(sql)
    on_plain(both.plain, "UPDATE sums SET orders = 1", {})
    check(both, sql)
    monkeypatch.setattr(writes, "_check_size", lambda found, limit: writes_size(found))
    with pytest.raises(GatherTooLarge):
        both.router.query("WITH w AS (DELETE FROM items RETURNING *) SELECT count(*) FROM w")
    check(both, sql)


def writes_size(found: Any) -> None:
    raise GatherTooLarge(len(found.rows), 0)


#: fault -> what is planted for what, and a write that it makes wrong
PLANTED: dict[str, tuple[str, Callable[..., Any], str]] = {
    "what is read besides is read after the write": ("_check_reads", lambda *given: None, REFUSED[1]),
    "the write reads a table instead of what is called so": ("_check_plain", lambda *given: None, REFUSED[5]),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_faults_are_seen(both: Both, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    name, instead, sql = PLANTED[fault]
    monkeypatch.setattr(apart, name, instead)
    found = on_cluster(both.router.query, sql, {})
    assert not found.refused, found
    assert not found.agrees(on_plain(both.plain, sql, {}))


def test_it_is_explained(both: Both) -> None:
    told = both.router.explain("WITH w AS (DELETE FROM items RETURNING *) SELECT count(*) FROM w")
    assert told.rung == "partitions" and "not each partition's own" in str(told)
