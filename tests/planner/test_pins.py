"""Pins: which partitions a condition leaves, shown as the keys that they hold."""

from __future__ import annotations

import datetime
import uuid
from decimal import Decimal
from typing import Any

import pytest

from shardpool.planner.pins import partitions_of
from tests.planner.hand_made import compiled, topology

#: Many partitions, so that different keys are in different ones.
TOPOLOGY = topology(partitions=4096, shards=3)
ALL = None
NONE: list[Any] = []


def pinned(sql: str, params: dict[str, Any] | None = None) -> list[frozenset[int] | None]:
    """The partitions of each sharded table of a statement, in the order in which they stand."""
    query = compiled(sql, TOPOLOGY)
    return [
        partitions_of(query.pins, index, item, params or {}, TOPOLOGY)
        for index, item in enumerate(query.analysis.occurrences)
        if item.table is not None and item.table.sharded
    ]


def partitions(keys: Any, table: str) -> frozenset[int] | None:
    if keys is None:
        return None
    types = TOPOLOGY.tables[table].key_types
    return frozenset(TOPOLOGY.place(key, types).partition.id for key in keys)


CONDITIONS: list[tuple[str, str, Any]] = [
    ("orders", "customer_id = 42", [42]),
    ("orders", "42 = customer_id", [42]),
    ("orders", "orders.customer_id = 42 and total > 5", [42]),
    ("orders", "shop.orders.customer_id = 42", [42]),
    ("orders", "customer_id = '42'", [42]),
    ("orders", "customer_id = ' -42 '", [-42]),
    ("orders", "customer_id = -42", [-42]),
    ("orders", "customer_id = 42::smallint", [42]),
    ("orders", "customer_id = cast('42' as bigint)", [42]),
    ("orders", "customer_id = 42.0", ALL),
    ("orders", "customer_id = 42::numeric", ALL),
    ("orders", "customer_id = 42.4::bigint", ALL),
    ("orders", "customer_id = '42.0'", ALL),
    ("orders", "customer_id = '0x2a'", ALL),
    ("orders", "customer_id = 9223372036854775808", ALL),
    ("orders", "customer_id = 40 + 2", ALL),
    ("orders", "customer_id + 0 = 42", ALL),
    ("orders", "customer_id = true", ALL),
    ("orders", "customer_id = null", NONE),
    ("orders", "customer_id in (null)", NONE),
    ("orders", "customer_id = any (array[]::bigint[])", NONE),
    ("orders", "customer_id = 42 and customer_id = 43", NONE),
    ("orders", "customer_id in (42, 43) and customer_id in (43, 44)", [43]),
    ("orders", "customer_id in (42, 43) and customer_id in (43, 44.0)", [42, 43]),
    ("orders", "false", NONE),
    ("orders", "total > 5 and null", NONE),
    ("orders", "1 <> 1", NONE),
    ("orders", "1 = 1", ALL),
    ("orders", "not false", ALL),
    ("orders", "false or customer_id = 42", [42]),
    ("orders", "false or total > 5", ALL),
    ("ledger", "false", NONE),
    ("orders", "customer_id > 42", ALL),
    ("orders", "customer_id <> 42", ALL),
    ("orders", "customer_id is not distinct from 42", ALL),
    ("orders", "customer_id between 42 and 42", ALL),
    ("orders", "customer_id operator(shop.=) 42", ALL),
    ("orders", "not customer_id = 42", ALL),
    ("orders", "(customer_id = 42) is true", ALL),
    ("orders", "customer_id = 42 or total > 5", ALL),
    ("orders", "customer_id = 42 or customer_id = 43", [42, 43]),
    ("orders", "(customer_id = 42 and id = 1) or (total > 5 and customer_id in (43, 44))", [42, 43, 44]),
    ("orders", "customer_id = 42 and (customer_id = 43 or total > 5)", [42]),
    ("orders", "customer_id in (42, 43)", [42, 43]),
    ("orders", "customer_id in (42, null, 43)", [42, 43]),
    ("orders", "customer_id in (42, 43.0)", ALL),
    ("orders", "customer_id in (42, id)", ALL),
    ("orders", "customer_id not in (42, 43)", ALL),
    ("orders", "customer_id = any (array[42, null])", [42]),
    ("orders", "customer_id = any (array[42, 43]::int[])", [42, 43]),
    ("orders", "customer_id = any (array[42.4]::bigint[])", ALL),
    ("orders", "customer_id = any ('{42}')", ALL),
    ("orders", "customer_id <> any (array[42])", ALL),
    ("orders", "customer_id = all (array[42])", ALL),
    ("orders", "id = 42", ALL),
    ("orders", "exists (select from items where customer_id = 42)", ALL),
    ("orders", "customer_id = (select 42)", ALL),
    ("orders o(customer_id, key)", "o.customer_id = 42", ALL),
    ("orders o(a, b)", "b = 42", [42]),
    ("short", "customer_id = 42", [42]),
    (
        "visits",
        "visit_id = 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'",
        [uuid.UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")],
    ),
    ("visits", "visit_id = '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'", ALL),
    ("visits", "visit_id::text = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", ALL),
    ("visits", "customer_id = 42", ALL),
    ("people", "login = 'ann'", ["ann"]),
    ("people", "login = 'ann   '", ["ann   "]),
    ("people", "login = 'ann'::char(5)", ALL),
    ("people", "login = 'ann'::varchar(2)", ALL),
    ("people", "login = 'ann'::text", ["ann"]),
    ("people", "login = 'ann' collate \"C\"", ALL),
    ("people", "login = E'\\x61nn'", ["ann"]),
    ("people", "login in ('ann', '')", ["ann", ""]),
    ("people", "login like 'ann'", ALL),
    ("daily", "day = '2024-01-31'", [datetime.date(2024, 1, 31)]),
    ("daily", "day = date '2024-01-31'", [datetime.date(2024, 1, 31)]),
    ("daily", "day = timestamp '2024-01-31'", ALL),
    ("daily", "day = '2024-02-30'", ALL),
    ("daily", "day = '2024-1-31'", ALL),
    ("daily", "day = 'today'", ALL),
    ("ledger", "region = 'n' and account = 1", [("n", 1)]),
    ("ledger", "region = 'n' and account in (1)", [("n", 1)]),
    ("ledger", "region = 'n'", ALL),
    ("ledger", "account = 1", ALL),
    ("ledger", "region = 'n' and account in (1, 2)", [("n", 1), ("n", 2)]),
    ("ledger", "region in ('n', 's') and account in (1, 2)", [("n", 1), ("n", 2), ("s", 1), ("s", 2)]),
    ("ledger", "region = 'n' and account in (1, 2) and account = 3", NONE),
    ("ledger", "(region, account) = ('n', 1)", [("n", 1)]),
    ("ledger", "(account, region) in ((1, 'n'), (2, 'n'))", [("n", 1), ("n", 2)]),
    ("ledger", "(account, amount) in ((1, 5), (2, 5))", ALL),
    ("orders", "(id, customer_id) = (5, 42)", [42]),
    ("orders", "row(id, customer_id) in (row(5, 42), (6, 43), (7, null))", [42, 43]),
    ("orders", "((id, total), customer_id) = ((5, 9), 42)", [42]),
    ("orders", "(id, customer_id) = (5, 42) or (customer_id, id) = (43, 6)", [42, 43]),
    ("orders", "(id, customer_id) in ((5, 42), (6, 43.0))", ALL),
    ("orders", "(id, customer_id) in ((5, 42), (6, id))", ALL),
    ("orders", "(id, customer_id) >= (5, 42)", ALL),
    ("orders", "(id, customer_id) <> (5, 42)", ALL),
    ("orders", "(id, customer_id) not in ((5, 42), (6, 42))", ALL),
    ("orders", "not (id, customer_id) = (5, 42)", ALL),
    ("orders", "row(orders.*, customer_id, id) = row(1, 42, orders.*)", ALL),
    ("orders", "(customer_id, id) = (select 42, 1)", ALL),
    ("ledger", "region = 'n' or account = 1", ALL),
    ('"Order Line"', '"Customer Id" = 42', [42]),
]


@pytest.mark.parametrize(("table", "condition", "keys"), CONDITIONS)
def test_a_condition_pins(table: str, condition: str, keys: Any) -> None:
    name = table.partition(" o(")[0].strip('"')
    assert pinned(f"select 1 from {table} where {condition}")[0] == partitions(keys, name)


PARAMETERS: list[tuple[str, str, Any, Any]] = [
    ("orders", "customer_id = :x", 42, [42]),
    ("orders", "customer_id = :x", "42", [42]),
    ("orders", "customer_id = :x", 42.0, ALL),
    ("orders", "customer_id = :x", Decimal(42), ALL),
    ("orders", "customer_id = :x", True, ALL),
    ("orders", "customer_id = :x", None, NONE),
    ("orders", "customer_id = :x and customer_id = 42", 42, [42]),
    ("orders", "customer_id = :x and customer_id = 42", 43, NONE),
    ("orders", "customer_id = :x", 1 << 70, ALL),
    ("orders", "customer_id = :x", [42], ALL),
    ("orders", "customer_id = cast(:x as bigint)", 42, ALL),
    ("orders", "customer_id in :x", (42, None, 43), [42, 43]),
    ("orders", "customer_id in :x", (42, 43.0), ALL),
    ("orders", "customer_id in :x", (), NONE),
    ("orders", "customer_id in (:x, 43)", 42, [42, 43]),
    ("orders", "customer_id in (:x, 43)", (42,), ALL),
    ("orders", "customer_id not in :x", (42,), ALL),
    ("orders", "customer_id = any (:x)", [42, None, "43"], [42, 43]),
    ("orders", "customer_id = any (:x)", [], NONE),
    ("orders", "customer_id = any (:x)", "{42}", ALL),
    ("orders", "customer_id = any (:x)", [[42]], ALL),
    ("visits", "visit_id = :x", uuid.UUID(int=5), [uuid.UUID(int=5)]),
    ("visits", "visit_id = :x", str(uuid.UUID(int=5)), [uuid.UUID(int=5)]),
    ("people", "login = :x", "ann", ["ann"]),
    ("people", "login = :x", 42, ALL),
    ("people", "login = :x", "a\0b", ALL),
    ("daily", "day = :x", datetime.date(2024, 1, 31), [datetime.date(2024, 1, 31)]),
    ("daily", "day = :x", datetime.datetime(2024, 1, 31), ALL),
    ("blobs", "k = :x", b"\1\0", [b"\1\0"]),
    ("blobs", "k = '\\x0100'", None, ALL),
]


@pytest.mark.parametrize(("table", "condition", "value", "keys"), PARAMETERS)
def test_a_parameter_pins_by_its_python_type(table: str, condition: str, value: Any, keys: Any) -> None:
    assert pinned(f"select 1 from {table} where {condition}", {"x": value})[0] == partitions(keys, table)


FROM: list[tuple[str, list[Any]]] = [
    ("orders o join items i on i.customer_id = o.customer_id where o.customer_id = 42", [[42], [42]]),
    ("orders o join items i using (customer_id) where customer_id = 42", [[42], [42]]),
    ("orders o join items i on i.customer_id = o.customer_id and i.customer_id = 42", [[42], [42]]),
    ("orders o join items i on i.order_id = o.id where o.customer_id = 42", [[42], ALL]),
    ("orders o join items i on i.customer_id = o.id where o.customer_id = 42", [[42], ALL]),
    ("orders o join items i on i.customer_id = o.id where o.id = 42", [ALL, [42]]),
    (
        "orders o, items i, short s "
        "where o.customer_id = i.customer_id and s.customer_id = o.customer_id and i.customer_id = 42",
        [[42]] * 3,
    ),
    ("orders o left join items i on i.customer_id = o.customer_id where o.customer_id = 42", [[42], [42]]),
    ("orders o left join items i on i.customer_id = o.customer_id and o.customer_id = 42", [ALL, [42]]),
    ("orders o left join items i on i.customer_id = 42", [ALL, [42]]),
    ("orders o left join items i on i.customer_id = o.customer_id where i.customer_id = 42", [ALL, [42]]),
    ("items i right join orders o on i.customer_id = o.customer_id and i.customer_id = 42", [[42], ALL]),
    ("orders o full join items i on i.customer_id = o.customer_id and o.customer_id = 42", [ALL, ALL]),
    ("orders o full join items i on i.customer_id = o.customer_id where o.customer_id = 42", [[42], ALL]),
    ("orders o full join items i using (customer_id) where customer_id = 42", [ALL, ALL]),
    ("orders o natural join items i where customer_id = 42", [[42], [42]]),
    ("(orders o join items i on true) as j where j.customer_id = 42", [ALL, ALL]),
    ("orders tablesample system (10) where customer_id = 42", [ALL]),
    ("country c join orders o on c.customer_id = o.customer_id where c.customer_id = 42", [[42]]),
    ("country c join orders o on true where c.customer_id = 42", [ALL]),
    ("people p join logins l on l.login = p.login where p.login = 'ann'", [["ann"], ["ann"]]),
    ("people p join cpeople c on c.login = p.login where p.login = 'ann'", [["ann"], ALL]),
    ("people p join orders o on p.customer_id = o.customer_id where p.customer_id = 42", [ALL, [42]]),
    (
        "orders o where o.customer_id = 42 and exists (select from items i where i.customer_id = o.customer_id)",
        [[42], [42]],
    ),
    (
        "orders o where o.customer_id = 42 or exists (select from items i where i.customer_id = o.customer_id)",
        [ALL, ALL],
    ),
    (
        "orders o where exists (select from items i where i.customer_id = o.customer_id and o.customer_id = 42)",
        [ALL, ALL],
    ),
    (
        "orders o, lateral (select 1 from items i where i.customer_id = o.customer_id) x where o.customer_id = 42",
        [[42], [42]],
    ),
    ("(select * from orders where customer_id = 42) o join items i on i.customer_id = o.customer_id", [[42], [42]]),
    ("(select customer_id as k, total from orders) o where o.k = 42", [[42]]),
    ("(select * from (select customer_id from orders) p) o where o.customer_id = 42", [[42]]),
    (
        "(select customer_id from orders) o(k) join items i on i.customer_id = o.k where i.customer_id = 42",
        [[42], [42]],
    ),
    ("(select customer_id, sum(total) from orders group by 1) o where o.customer_id = 42", [[42]]),
    ("(select distinct customer_id from orders) o where o.customer_id = 42", [[42]]),
    ("(select distinct on (total) customer_id from orders order by total) o where o.customer_id = 42", [ALL]),
    ("(select customer_id from orders limit 5) o where o.customer_id = 42", [ALL]),
    ("(select customer_id from orders offset 5) o where o.customer_id = 42", [ALL]),
    ("(select customer_id, row_number() over () from orders) o where o.customer_id = 42", [ALL]),
    ("(select customer_id + 0 as customer_id from orders) o where o.customer_id = 42", [ALL]),
    ("(select customer_id, grouping(total) from orders group by cube (1, total)) o where o.customer_id = 42", [ALL]),
    ("country c left join (select customer_id from orders) o on true where o.customer_id = 42", [[42]]),
    ("country c left join (select customer_id from orders) o on o.customer_id = 42", [[42]]),
    ("(select customer_id from orders) o left join country c on o.customer_id = 42", [ALL]),
    ("(select customer_id from orders union all select 1) o where o.customer_id = 42", [ALL]),
    ("country c where 42 in (select o.customer_id from (select * from orders) o where o.customer_id = 43)", [[43]]),
]


@pytest.mark.parametrize(("clause", "keys"), FROM)
def test_joins_carry_pins_where_the_equality_holds(clause: str, keys: list[Any]) -> None:
    query = compiled(f"select 1 from {clause}", TOPOLOGY)
    tables = [item.table.name for item in query.analysis.occurrences if item.table is not None and item.table.sharded]
    expected = [partitions(found, table) for found, table in zip(keys, tables, strict=True)]
    assert pinned(f"select 1 from {clause}") == expected


def test_a_composite_key_follows_through_a_join() -> None:
    clause = "ledger l join balances b on b.region = l.region and b.account = l.account"
    sql = f"select 1 from {clause} where l.region = 'n' and b.account = 3"
    expected = partitions([("n", 3)], "ledger")
    assert pinned(sql) == [expected, expected]


@pytest.mark.parametrize(
    ("sql", "keys"),
    [
        ("with o as (select * from orders) select 1 from o where customer_id = 42", [42]),
        ("with o as materialized (select customer_id from orders) select 1 from o where customer_id = 42", [42]),
        ("with o as (select * from orders) select 1 from o, o as p where o.customer_id = 42", ALL),
        ("with o as (select * from orders) select (select count(*) from o) from o where o.customer_id = 42", ALL),
        ("with o as (select * from orders), p as (select * from o) select 1 from p where p.customer_id = 42", [42]),
    ],
)
def test_a_cte_that_is_used_once_is_pinned_by_its_use(sql: str, keys: Any) -> None:
    assert pinned(sql) == [partitions(keys, "orders")]


def test_no_more_than_ten_thousand_alternatives_are_counted() -> None:
    few, many = (", ".join(str(number) for number in range(count)) for count in (10_000, 10_001))
    assert pinned(f"select 1 from orders where customer_id in ({few})")[0] is not None
    assert pinned(f"select 1 from orders where customer_id in ({many})")[0] is None
