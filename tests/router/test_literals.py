"""Statements that differ in literals share a plan, and the server gets their words as they were written."""

from __future__ import annotations

import os
import random
from decimal import Decimal

import postgast
import pytest

from shardpool import Router
from shardpool.errors import CrossShardTransaction, InvalidSQL, UnsupportedStatement
from shardpool.executor import cache
from shardpool.planner.literals import lift
from shardpool.planner.statement import from_text
from tests.support.backends import plain_connection

SEED = int(os.environ.get("SHARDPOOL_SEED", "1"))
STATEMENTS = 2000
NUMBERS = ("0", "7", "007", "42", "1.50", "0.00000001", "123456789012345678", "99999999999999999999", "5.", ".5")
TEXTS = (
    "",
    "a",
    "it''s",
    "= 5 and",
    "(1, ''a''), (2",
    "12:30",
    ":name",
    "50 %",
    "%(s)s",
    "ß",
    '"q"',
    ";",
    "\n",
    "{1,2}",
)
OTHERS = (
    "NULL",
    "now()",
    "default",
    "E'a'",
    "1e5",
    "5::int",
    "interval '1 day'",
    "f(1, 'x')",
    ":given",
    "1 + 1",
    "0x1F",
)


def _literal(choose: random.Random) -> str:
    number = choose.choice(["", "", "-", "- "]) + choose.choice(NUMBERS)
    text = f"'{choose.choice(TEXTS)}'"
    return choose.choice([number, text, text, choose.choice(OTHERS)])


def _statement(choose: random.Random) -> str:
    def compared() -> str:
        column, operator = choose.choice(["a", "t.b", '"c = 5"', '"it\'s"']), choose.choice(["=", "<=", "<>", "= -"])
        return f"{column} {operator}{choose.choice(['', ' '])}{_literal(choose)}"

    def row() -> str:
        return f"({', '.join(_literal(choose) for _ in range(choose.choice([1, 1, 3])))})"

    where = f"({choose.choice([' AND ', ' or ']).join(compared() for _ in range(choose.randint(1, 3)))})"
    match choose.randrange(4):
        case 0:
            rows = ", ".join(row() for _ in range(choose.choice([1, 1, 2])))
            end = choose.choice(["", ";", " RETURNING a", " ON CONFLICT (a) DO UPDATE SET b = 5"])
            columns = choose.choice(["", " (a)", '(a, "b")'])
            return f"insert into t{columns} VALUES {rows}{end}"
        case 1:
            return f"UPDATE t SET a = {_literal(choose)}, b = {_literal(choose)} WHERE {where}"
        case 2:
            return f"DELETE FROM t WHERE {where} AND a = {_literal(choose)} returning 'a = 5 '"
    return f"SELECT a, 'b = 5 ' FROM t WHERE {where} AND {compared()} ORDER BY 1 LIMIT 5"


def test_the_server_gets_the_same_words(server_urls: list[str]) -> None:
    print(f"SHARDPOOL_SEED={SEED}")
    choose = random.Random(SEED)
    given = {"given": 1, "name": 2}
    lifted = 0
    with plain_connection(server_urls[0]).cursor() as cursor:

        def sent(sql: str, values: dict[str, object]) -> str:
            return postgast.deparse(postgast.parse(cursor.mogrify(from_text(sql).pyformat, values).decode()))

        for _ in range(STATEMENTS):
            sql = _statement(choose)
            try:
                wanted = sent(sql, given)
            except (InvalidSQL, postgast.PgQueryError):
                continue
            words, values = lift(sql)
            lifted += bool(values)
            assert sent(words, {**given, **values}) == wanted, sql
    assert lifted > STATEMENTS / 3


def test_one_plan_for_all(shop: Router) -> None:
    def use(key: int) -> None:
        shop.query(f"INSERT INTO customers (customer_id, name) VALUES ({key}, 'it''s :{key} 100%')")
        shop.execute(key, f"INSERT INTO orders VALUES ({key}, 1, 19.99, 'x'), ({key}, 2, -{key}.50, NULL)")
        with shop.transaction() as tx:
            tx.execute(key, f"UPDATE orders SET note = 'n{key}' WHERE customer_id = {key} AND order_id = 1")
            tx.query(f"UPDATE customers SET name = name || '!', joined = '2020-01-01' WHERE customer_id = {key}")
        assert shop.query(f"SELECT name FROM customers WHERE customer_id = {key}").scalar_one() == f"it's :{key} 100%!"
        found = shop.query(f"SELECT total, note FROM orders WHERE customer_id = {key} ORDER BY 1 DESC").all()
        assert found == [(Decimal("19.99"), f"n{key}"), (Decimal(f"-{key}.50"), None)]
        shop.execute(key, f"DELETE FROM orders WHERE customer_id = '{key}'")
        shop.query(f"DELETE FROM customers WHERE customer_id = {key} AND name <= 'zz'")

    use(500)
    misses = shop._keyed.misses + shop._queries.misses
    for key in range(501, 520):
        use(key)
    assert shop._keyed.misses + shop._queries.misses == misses


def test_a_query_of_all_partitions_keeps_its_literals(shop: Router) -> None:
    sql = "SELECT count(*) FROM customers WHERE name = 'nobody'"
    assert shop.query(sql).scalar_one() == 0
    assert sql in shop._queries._entries


@pytest.mark.parametrize("key", ["42.5", "'x'", "''", "99999999999999999999"])
def test_refusals_are_the_same(shop: Router, key: str) -> None:
    with pytest.raises(UnsupportedStatement, match="SP113"):
        shop.execute(1, f"INSERT INTO customers (customer_id, name) VALUES ({key}, 'x')")


def test_rows_of_other_partitions_are_refused(shop: Router) -> None:
    other = next(key for key in range(2, 100) if shop.partition_of(key) != shop.partition_of(1))
    with pytest.raises(CrossShardTransaction, match=f"partition key {other}"):
        shop.execute(1, f"INSERT INTO customers (customer_id, name) VALUES ({other}, 'x')")


def test_what_was_no_literal_is_found_out(shop: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT 'customer_id = 1 ' FROM customers WHERE customer_id = 1 AND name = 'x'"
    wrong = sql.replace("= 1 '", "= :_v0'")
    monkeypatch.setattr(cache, "lift", lambda text: (wrong, {"_v0": 1}))
    assert shop.query(sql).all() == []
    assert wrong not in shop._queries._entries
