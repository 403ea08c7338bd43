"""Parameters that do not fit a statement are told in a sentence, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import column, insert, table, text

from shardpool import Router
from shardpool.errors import InvalidSQL, WrongParameters

ORDERS = table("orders", column("customer_id"), column("order_id"))
READ = "SELECT * FROM orders WHERE total = :total"
BY_KEY = "SELECT * FROM orders WHERE customer_id = :key"
WRITE = "UPDATE orders SET total = :total"


def in_transaction(router: Router, work: Callable[[Any], Any]) -> Any:
    with router.transaction() as tx:
        return work(tx)


WAYS: dict[str, Callable[[Router, Any], Any]] = {
    "execute": lambda r, p: r.execute(7, READ, p),
    "execute_by_id": lambda r, p: r.execute_by_id(r.next_id(7), READ, p),
    "query": lambda r, p: r.query(READ, p),
    "stream": lambda r, p: r.stream(READ, p).all(),
    "write": lambda r, p: r.query(WRITE, p),
    "transaction.execute": lambda r, p: in_transaction(r, lambda tx: tx.execute(7, READ, p)),
    "transaction.query": lambda r, p: in_transaction(r, lambda tx: tx.query(WRITE, p)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, r"has :total, which the parameters \(none\) do not"),
        ({"sum": 1, "x": 2}, r"has :total, which the parameters \(sum, x\) do not"),
        ([{"total": 1}, {"total": 2}], "one mapping.* got a list"),
        ((1,), "one mapping.* got a tuple"),
    ],
    ids=str,
)
def test_what_is_missing_is_named(shop: Router, way: str, given: Any, told: str) -> None:
    with pytest.raises(WrongParameters, match=told):
        WAYS[way](shop, given)


def test_a_list_for_a_construct_is_refused(shop: Router) -> None:
    with pytest.raises(WrongParameters, match="got a list"):
        shop.query(insert(ORDERS), [{"customer_id": 1, "order_id": 2}])  # type: ignore[arg-type]


def test_a_key_is_missing(shop: Router) -> None:
    with pytest.raises(WrongParameters, match="has :key"):
        shop.query(BY_KEY)


def test_other_errors_stay_what_they_are(shop: Router) -> None:
    with pytest.raises(TypeError, match="unexpected"):
        shop.query("SELECT 1", parameters={})  # type: ignore[call-arg]
    with pytest.raises(KeyError, match="orders"), shop.transaction() as tx:
        tx.query("SELECT 1")
        raise KeyError("orders")


@pytest.mark.parametrize("parameter", ["%s", "%(total)s"])
def test_parameters_in_the_spelling_of_psycopg2(shop: Router, parameter: str) -> None:
    for ask in (shop.query, lambda sql: shop.execute(7, sql)):
        with pytest.raises(InvalidSQL, match="written :name"):
            ask(READ.replace(":total", parameter))
    with pytest.raises(InvalidSQL, match="syntax error"):
        shop.query("SELECT FROM WHERE 7 % 3 = 1 -- %s")


def test_a_session_takes_a_list(shop: Router, filled: None) -> None:
    rows = [{"key": key, "id": 33} for key in (1, 2, 3)]
    with shop.session() as session:
        session.execute(text("INSERT INTO orders (customer_id, order_id) VALUES (:key, :id)"), rows)
        session.commit()
    with shop.session() as session:
        session.execute(text("UPDATE orders SET total = order_id WHERE customer_id = :key AND order_id = :id"), rows)
        session.commit()
    found = shop.query("SELECT customer_id, total FROM orders WHERE order_id = 33 ORDER BY 1").all()
    assert found == [(1, 33), (2, 33), (3, 33)]
