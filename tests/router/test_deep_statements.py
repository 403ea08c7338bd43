"""Long chains of operators: in schema scripts, queries, writes, transactions and on one partition."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from shardpool import Router, Sharded

TEXTS = " || ".join(["note"] * 150)
NUMBERS = " + ".join(["total"] * 150)


@pytest.fixture(scope="module")
def deep(shop: Router) -> Router:
    shop.create_schema(
        f"CREATE VIEW deep AS SELECT customer_id, order_id, {NUMBERS} AS much, {TEXTS} AS words FROM orders;"
        f"CREATE FUNCTION sum_of(total int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT {NUMBERS}';"
        f"ALTER TABLE orders ADD CHECK ({NUMBERS} >= 0);"
        f"CREATE INDEX ON orders (({NUMBERS}));"
        "CREATE TABLE sums (customer_id bigint PRIMARY KEY, total numeric, "
        f"much numeric GENERATED ALWAYS AS ({NUMBERS}) STORED)",
        {"sums": Sharded("customer_id")},
    )
    shop.copy_into("customers", ((key, f"name {key}", None, None) for key in range(20)))
    shop.copy_into("orders", ((key, 1, key, "x") for key in range(20)))
    return shop


def test_queries(deep: Router) -> None:
    assert deep.query("SELECT sum(much), max(length(words)) FROM deep").one() == (190 * 150, 150)
    assert deep.query(f"SELECT sum({NUMBERS}) FROM orders WHERE {TEXTS} <> ''").scalar_one() == 190 * 150
    assert deep.execute(3, f"SELECT {NUMBERS} FROM orders WHERE customer_id = 3").scalar_one() == 450
    with deep.connect(3) as connection:
        assert connection.execute(text(f"SELECT {NUMBERS} FROM orders WHERE customer_id = 3")).scalar_one() == 450
    joined = f"SELECT count(*) FROM orders o JOIN customers c ON c.customer_id = {NUMBERS.replace('total', 'o.total')}"
    assert deep.query(joined).scalar_one() == 1


def test_writes(deep: Router) -> None:
    assert (
        deep.query(f"INSERT INTO sums (customer_id, total) SELECT customer_id + 1, {NUMBERS} FROM orders").rowcount  # type: ignore[attr-defined]
        == 20
    )  # type: ignore[attr-defined]
    assert deep.query("SELECT max(much) FROM sums").scalar_one() == 19 * 150 * 150
    with deep.transaction() as transaction:
        assert len(transaction.query(f"UPDATE sums SET total = {NUMBERS} WHERE {NUMBERS} > 0 RETURNING 1").all()) == 19
        assert transaction.query(f"SELECT max({NUMBERS}) FROM sums").scalar_one() == 19 * 150 * 150 * 150
    assert len(deep.query(f"DELETE FROM sums WHERE {NUMBERS} > 0 RETURNING customer_id").all()) == 19
