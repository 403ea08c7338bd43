"""Which writes a session may prepare."""

from __future__ import annotations

import pytest

from shardpool.planner.keyed import compile_for_key
from shardpool.planner.statement import from_pyformat, from_text
from tests.planner.hand_made import TOPOLOGY


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE orders SET total = :t WHERE customer_id = :c AND id = :i",
        "UPDATE orders AS o SET total = o.total - :t, status = upper(status) WHERE o.id = :i AND o.customer_id = :c",
        "DELETE FROM orders WHERE id = :i AND customer_id = :c /* whole key */;",
        "INSERT INTO orders (customer_id, id, total) VALUES (:c, :i, DEFAULT)",
    ],
)
def test_rows_by_their_whole_key(sql: str) -> None:
    found = compile_for_key(from_text(sql), TOPOLOGY).often
    assert found is not None
    assert found.types == ", ".join(["integer"] * len(found.names))
    assert found.text.count("$") == sql.count(":")
    assert found.takes(dict.fromkeys(found.names, 2**31 - 1))
    for bad in (2**31, -(2**31) - 1, True, None, "1", 1.0):
        assert not found.takes({**dict.fromkeys(found.names, 1), found.names[-1]: bad})
    assert not found.takes({})


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE orders SET total = 1 WHERE customer_id = 1 AND id = 2",
        "UPDATE orders SET total = :t WHERE customer_id = :c",
        "UPDATE orders SET total = :t",
        "UPDATE orders SET total = :t WHERE customer_id = :c AND id = :i AND status IS NULL",
        "UPDATE orders SET total = :t WHERE customer_id = :c AND id > :i",
        "UPDATE orders SET total = :t WHERE customer_id = :c OR id = :i",
        "UPDATE orders SET total = :t WHERE customer_id = :c AND id IN (:i)",
        "UPDATE orders SET total = :t WHERE customer_id = :c AND id = :i + 1",
        "UPDATE orders SET total = total * :t WHERE customer_id = :c AND id = :i",
        "UPDATE orders SET total = :t::numeric WHERE customer_id = :c AND id = :i",
        "UPDATE orders SET total = abs(:t) WHERE customer_id = :c AND id = :i",
        "UPDATE orders SET (total, status) = (:t, :t) WHERE customer_id = :c AND id = :i",
        "UPDATE orders SET status = 'now', total = :t WHERE customer_id = :c AND id = :i",
        "UPDATE orders SET total = (SELECT 1) WHERE customer_id = :c AND id = :i",
        "UPDATE orders SET total = price_of(id) WHERE customer_id = :c AND id = :i",
        "UPDATE orders SET total = :t WHERE customer_id = :c AND id = :i RETURNING id",
        "UPDATE shop.orders SET total = :t WHERE customer_id = :c AND id = :i",
        "WITH w AS (SELECT 1) UPDATE orders SET total = :t WHERE customer_id = :c AND id = :i",
        "DELETE FROM orders USING country WHERE customer_id = :c AND id = :i",
        "INSERT INTO orders (customer_id, id) VALUES (:c, 1), (:c, 2)",
        "INSERT INTO orders (customer_id, id, status) VALUES (:c, :i, 'today')",
        "INSERT INTO orders (customer_id, id) VALUES (:c, :i) ON CONFLICT DO NOTHING",
        "INSERT INTO orders (customer_id, id) VALUES (:c, :i + 1)",
        "EXPLAIN UPDATE orders SET total = :t WHERE customer_id = :c AND id = :i",
        "SELECT total FROM orders WHERE customer_id = :c AND id = :i",
        "SELECT total FROM orders WHERE customer_id = :c AND id = :i FOR UPDATE",
    ],
)
def test_all_others_are_sent_as_they_are(sql: str) -> None:
    assert compile_for_key(from_text(sql), TOPOLOGY).often is None


def test_what_sqlalchemy_writes() -> None:
    sql = "UPDATE orders SET total=%(total)s WHERE orders.customer_id = %(c_1)s AND orders.id = %(id_1)s"
    found = compile_for_key(from_pyformat(sql), TOPOLOGY).often
    assert found is not None and found.values == "%(total)s, %(c_1)s, %(id_1)s"
