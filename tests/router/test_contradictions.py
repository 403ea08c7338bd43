"""Contradictions: asked once for the columns, then answered with no shard at all."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from shardpool import Router
from shardpool.executor.statements import Statements
from shardpool.planner.plan import SinglePlan


@pytest.fixture
def asked(shop: Router, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What shards were asked."""
    found: list[str] = []
    original = Statements.on_shard

    def on_shard(self: Statements, shard: str, sql: str, *given: Any) -> Any:
        found.append(sql)
        return original(self, shard, sql, *given)

    monkeypatch.setattr(Statements, "on_shard", on_shard)
    return found


EMPTY = [
    ("select * from orders where customer_id = 1 and customer_id = 2", {}),
    ("select order_id from orders where customer_id = :a and customer_id = :b", {"a": 1, "b": 2}),
    ("select order_id, now() from orders where customer_id = any (:keys) order by 1 limit 3", {"keys": []}),
    ("select customer_id, count(*) from orders where customer_id = null group by customer_id", {}),
    (
        "select o.order_id, c.name from orders o join customers c on c.name = o.note where o.customer_id = 1 and false",
        {},
    ),
    (
        "select o.order_id, c.name from orders o left join customers c using (customer_id) where 1 = 0 and o.total > 3",
        {},
    ),
    (
        "with c as (select * from customers) select o.* from orders o, c where o.customer_id = 3 and o.customer_id = 4",
        {},
    ),
]


@pytest.mark.parametrize(("sql", "params"), EMPTY)
def test_a_contradiction_is_asked_once(shop: Router, asked: list[str], sql: str, params: dict[str, Any]) -> None:
    first = shop.query(sql, params)
    names = list(first.keys())
    assert (first.all(), len(asked)) == ([], 1)
    again = shop.query(sql, params)
    assert (list(again.keys()), again.all(), len(asked)) == (names, [], 1)
    with shop.stream(sql, params) as rows:
        assert (list(rows.keys()), rows.all(), len(asked)) == (names, [], 1)
    assert "no rows: the conditions contradict each other" in str(shop.explain(sql, params))


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) from orders where customer_id = 1 and customer_id = 2",
        "select 1 from orders where customer_id = 1 and customer_id = 2 having true",
        "select count(*) from orders where customer_id = 1 and customer_id = 2 group by grouping sets ((), (note))",
        "select (select count(o.total) from country limit 1) from orders o where customer_id = 1 and customer_id = 2",
        "select c.name from customers c left join orders o on o.customer_id = 1 and o.customer_id = 2",
        "select c.name from orders o right join customers c on o.customer_id = 1 and o.customer_id = 2",
        "select name from customers union all select note from orders where customer_id = 1 and customer_id = 2",
        "select (select max(total) from orders where customer_id = 1 and customer_id = 2) from customers",
    ],
)
def test_what_has_rows_all_the_same_is_no_contradiction(shop: Router, sql: str) -> None:
    shop.query("insert into customers values (90, 'somebody') on conflict do nothing")
    shop.query("insert into country values ('zz', 'nowhere') on conflict do nothing")
    plan = shop.explain(sql).plan
    assert not (isinstance(plan, SinglePlan) and plan.empty)
    assert shop.query(sql).all()
    assert shop.query(sql).all()


def test_other_parameters_are_asked_again(shop: Router, asked: list[str]) -> None:
    sql = "select :x as x from orders where customer_id = 1 and customer_id = 2"
    types = [shop.query(sql, {"x": value}).description[0].type_code for value in (1, "a", 2.5, 1)]  # type: ignore[attr-defined]
    assert len(asked) == 3
    assert types[0] == types[3] and len(set(types)) == 3


def test_a_mistake_is_found_each_time(shop: Router) -> None:
    for _ in range(2):
        with pytest.raises(DBAPIError, match="does not exist"):
            shop.query("select nonsense from orders where customer_id = 1 and customer_id = 2")


def test_other_columns_are_asked_for_again(shop: Router, asked: list[str]) -> None:
    sql = "select * from orders where customer_id = 1 and customer_id = 2"
    before = list(shop.query(sql).keys())
    shop.create_schema("alter table orders add column more integer")
    try:
        assert list(shop.query(sql).keys()) == [*before, "more"]
    finally:
        shop.create_schema("alter table orders drop column more")
