"""ON CONFLICT DO UPDATE, and lists of columns assign what they do in one plain PostgreSQL, the partition key too."""

from __future__ import annotations

import pytest

from shardpool.errors import UnsupportedStatement
from shardpool.planner.writes import rows
from tests.oracle.test_writes import check
from tests.oracle.writes import Both, on_cluster, on_plain

FILL = (
    "INSERT INTO country VALUES ('de', 'D', 3), ('fr', 'F', 4)",
    "INSERT INTO orders (customer, id, total, note) SELECT n, n % 3, n, 'n' || n % 4 FROM generate_series(0, 11) n",
    "INSERT INTO sums SELECT n, n, n FROM generate_series(0, 7) n",
    "INSERT INTO users VALUES (1, 'a', 1), (2, 'b', 2)",
)
THREE = "INSERT INTO sums VALUES (1, 50, 5), (2, 60, 6), (20, 70, 7) ON CONFLICT (customer) DO UPDATE SET"

SAME = [
    f"{THREE} customer = excluded.customer, orders = excluded.orders, total = sums.total + 1 "
    "RETURNING customer, orders, xmax = 0 AS new",
    f"{THREE} (customer, total) = (excluded.customer, DEFAULT) RETURNING *",
    f"{THREE} (orders, total) = ROW(excluded.orders, sums.customer) WHERE sums.customer = 2",
    "INSERT INTO orders AS o VALUES (1, 1, 3), (5, 2, 4) ON CONFLICT (customer, id) DO UPDATE SET "
    "(id, customer, total) = (excluded.id, excluded.customer, o.total + excluded.total) RETURNING *",
    "INSERT INTO sums SELECT customer, id, 1 FROM orders ON CONFLICT (customer) DO UPDATE SET "
    "customer = excluded.customer, orders = excluded.orders + 100",
    "INSERT INTO sums SELECT customer + 1, id, 1 FROM orders ON CONFLICT (customer) DO UPDATE SET "
    "(customer, orders) = (excluded.customer, excluded.orders) RETURNING *",
    "INSERT INTO country VALUES ('de', 'new', 1), ('it', 'I', 2) ON CONFLICT (code) DO UPDATE SET "
    "(code, name, size) = (excluded.code, excluded.name, country.size + 1) RETURNING *",
    "INSERT INTO sums VALUES (generate_series(30, 33), length('abc'), '1.5') RETURNING customer, orders, total",
    "UPDATE country SET (name, size) = (lower(name), DEFAULT) WHERE code = 'de'",
    "UPDATE sums SET (total, orders) = (orders, DEFAULT) WHERE customer IN (1, 3) RETURNING *",
]


@pytest.mark.parametrize("sql", SAME)
def test_answers_and_tables_are_the_same(both: Both, sql: str) -> None:
    found = on_cluster(both.router.query, sql, {})
    assert not found.refused, found
    assert found == on_plain(both.plain, sql, {})
    check(both, sql)


def test_one_partition_may_repeat_the_key_too(both: Both) -> None:
    sql = (
        "INSERT INTO sums VALUES (1, 9, 9) ON CONFLICT (customer) DO UPDATE SET customer = excluded.customer, total = 3"
    )
    both.router.execute(1, sql)
    on_plain(both.plain, sql, {})
    check(both, sql)


def test_with_a_unique_column(both: Both) -> None:
    if both.plain.server_version < 180000:
        pytest.skip("RETURNING has no old rows")
    sql = "INSERT INTO users VALUES (1, 'a', 5), (3, 'c', 6) ON CONFLICT (customer) DO UPDATE SET "
    sql += "customer = excluded.customer, visits = excluded.visits"
    found = on_cluster(both.router.query, sql, {})
    assert found == on_plain(both.plain, sql, {})
    check(both, sql)


REFUSED = {
    # One PostgreSQL refuses these, too; the query that finds the rows would take them.
    "UPDATE sums SET customer = 60 + generate_series(1, 2)": "SP1(14|32).*generate_series",
    "UPDATE sums SET total = row_number() OVER () WHERE orders = (SELECT max(id) FROM orders)": "SP132.*row_number",
    f"{THREE} customer = excluded.orders": "SP114",
    f"{THREE} customer = sums.customer + 1": "SP114",
    f"{THREE} (orders, customer) = (excluded.customer, excluded.orders)": "SP114",
    f"{THREE} orders = 1 RETURNING ctid": "SP105",
    "INSERT INTO sums VALUES (40, 1, 1), (41, 1, 1) RETURNING new.ctid": "SP105",
    "UPDATE country SET name = 'x' WHERE ctid = '(0,1)'": "SP105",
    "MERGE INTO sums s USING orders o ON s.customer = o.customer WHEN MATCHED THEN DELETE RETURNING s.xmin": "SP105",
}


@pytest.mark.parametrize("sql", REFUSED)
def test_what_is_not_proven_is_refused(both: Both, sql: str) -> None:
    with pytest.raises(UnsupportedStatement, match=REFUSED[sql]):
        both.router.query(sql)
    check(both, sql)


def test_a_key_that_is_let_through_is_seen(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "INSERT INTO sums VALUES (1, 50, 5) ON CONFLICT (customer) DO UPDATE SET customer = excluded.orders"
    monkeypatch.setattr(rows, "updated_keys", lambda insert, table, statement: ())
    monkeypatch.setattr("shardpool.planner.keyed.updated_keys", lambda insert, table, statement: ())
    assert both.router.partition_of(50) != both.router.partition_of(1)
    both.router.query(sql)
    on_plain(both.plain, sql, {})
    with pytest.raises(AssertionError):
        check(both, sql)
    both.router._forget_plans()


def test_rows_are_locked_by_their_alias(both: Both) -> None:
    with both.router.transaction() as tx:
        sql = "SELECT s.customer FROM sums s JOIN orders o USING (customer) WHERE s.customer = 1 FOR UPDATE OF s"
        assert tx.execute(1, sql).all() == tx.query(sql).all() == [(1,)]
