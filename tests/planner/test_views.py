"""Statements with views become statements with their definitions, and nothing else of them is changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shardpool.errors import CrossShardTransaction, UnsupportedStatement
from shardpool.planner import views
from shardpool.planner.ast import same
from shardpool.planner.keyed import compile_for_key, compile_on_connection
from shardpool.planner.statement import from_pyformat, from_text
from shardpool.planner.views import expanded
from tests.planner.hand_made import TOPOLOGY

LARGE = "SELECT customer_id, id, total AS sum FROM {}orders WHERE total > 50::numeric"
BARE, QUALIFIED = LARGE.format(""), LARGE.format("shop.")


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select 1", "select 1"),
        ("select * from large", f'select * from ({BARE}) AS "large"'),
        ("select * from shop . large l", f"select * from ({BARE}) l"),
        (
            "select l.a, :x from /* large */ large as l(a) where a = :y -- large",
            f"select l.a, %(x)s from /* large */ ({BARE}) as l(a) where a = %(y)s -- large",
        ),
        ("select shop.large.id from shop.large", f'select large.id from ({BARE}) AS "large"'),
        ("with large as (select 1) select * from large", "with large as (select 1) select * from large"),
        (
            "with large as (select 1), b as (select 2 from large) select * from shop.large l, b",
            f"with large as (select 1), b as (select 2 from large) select * from ({BARE}) l, b",
        ),
        (
            "with b as (select * from large), large as (select 1) select * from large",
            f'with b as (select * from ({BARE}) AS "large"), large as (select 1) select * from large',
        ),
        (
            "with recursive b as (select * from large), large as (select 1) select * from b",
            "with recursive b as (select * from large), large as (select 1) select * from b",
        ),
        (
            "select * from (with large as (select 1) select * from large) x, large y",
            f"select * from (with large as (select 1) select * from large) x, ({BARE}) y",
        ),
        ("with orders as (select 1) select * from large l", f"with orders as (select 1) select * from ({QUALIFIED}) l"),
        (
            "with large as (select 1) select * from largest",
            "with large as (select 1) select * from "
            f'(SELECT id, sum FROM ({BARE}) AS "large" ORDER BY sum DESC LIMIT 3) AS "largest"',
        ),
        (
            'select a from "Odd View" where a = :a',
            "select a from (SELECT 'a%%b $1 :c'::text AS a FROM country) AS \"Odd View\" where a = %(a)s",
        ),
        (
            "delete from orders o using large where o.id = large.id",
            f'delete from orders o using ({BARE}) AS "large" where o.id = large.id',
        ),
        ("select * from orders large for update of large", "select * from orders large for update of large"),
        ("explain select * from large", f'explain select * from ({BARE}) AS "large"'),
    ],
)
def test_a_view_gives_way_to_its_definition(sql: str, expected: str) -> None:
    statement = expanded(from_text(sql), TOPOLOGY)
    assert statement.pyformat == expected
    assert [statement.names[int(number)] for number in range(len(statement.names))] == [
        it[2] for it in statement.places
    ]


@pytest.mark.parametrize(
    ("code", "sql"),
    [
        ("SP140", "insert into large (id) values (1)"),
        ("SP140", "update shop.large set id = 1"),
        ("SP140", "delete from large"),
        ("SP140", "merge into large using orders o on o.id = large.id when matched then delete"),
        ("SP140", "truncate orders, large"),
        ("SP140", "with large as (delete from large returning *) select * from large"),
        ("SP141", "select * from large tablesample system (1)"),
        ("SP142", "select * from endless"),
        ("SP143", "select large, pg_typeof(large) from large"),
        ("SP143", "select pg_typeof(coalesce(l, null)) from large l"),
        ("SP143", "select f(l) from large l"),
        ("SP143", "select l.f from large l where l = l"),
    ],
)
def test_what_has_no_proof_is_refused(code: str, sql: str) -> None:
    with pytest.raises(UnsupportedStatement) as caught:
        expanded(from_text(sql), replace(TOPOLOGY, user_functions=frozenset(["f"])))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("sql", "plainly"),
    [
        ("table large", "select * from large"),
        ("table /* ( */ only large order by 1", "select * from large order by 1"),
        ("table only (shop.large)", "select * from large"),
        ("select * from only large l, only (large)", "select * from large l, large"),
        ("select * from large * where id > 2", "select * from large where id > 2"),
        ("select id * 2 from large * l union (table large *)", "select id * 2 from large l union select * from large"),
        ("with l as (table large) select * from l", "with l as (select * from large) select * from l"),
        ("select (table places) from large", "select (select * from places) from large"),
    ],
)
def test_what_a_table_has_and_a_subquery_has_not_is_taken_away(sql: str, plainly: str) -> None:
    found, expected = (expanded(from_text(text), TOPOLOGY).node for text in (sql, plainly))
    assert same(found, expected)


def test_names_of_views_are_found_in_any_spelling() -> None:
    for name in ("LARGE", '"large"', 'u&"l\\0061rge"', "shop . Large"):
        assert "total > 50" in expanded(from_text(f"select id from {name}"), TOPOLOGY).numbered


def test_text_that_says_something_else_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof is checked: without the parentheses' alias, or with the name of a CTE in it, it fails."""
    original = views._definition
    calls = iter(range(100))

    def other(definition: str, ctes: frozenset[str], keyspace: str) -> str:
        return original(definition, ctes, keyspace) + (" LIMIT 1" if next(calls) == 0 else "")

    monkeypatch.setattr(views, "_definition", other)
    with pytest.raises(UnsupportedStatement, match="SP141"):
        expanded(from_text("select * from large"), TOPOLOGY)


@pytest.mark.parametrize("verb", ["insert into {} (id) values (1)", "update {} set id = 1", "delete from {}"])
@pytest.mark.parametrize("view", ["large", "shop.large", "places"])
def test_no_row_gets_into_a_partition_through_a_view(verb: str, view: str) -> None:
    """PostgreSQL would pass the write on to the table, past the check of its key."""
    for attempt in (
        lambda: compile_for_key(from_text(verb.format(view)), TOPOLOGY),
        lambda: compile_on_connection(from_pyformat(verb.format(view)), TOPOLOGY),
    ):
        with pytest.raises(UnsupportedStatement, match="SP140"):
            attempt()


def test_on_one_partition_the_tables_of_a_view_decide_on_the_key() -> None:
    assert compile_for_key(from_text("select * from large"), TOPOLOGY).key_types == TOPOLOGY.tables["orders"].key_types
    with pytest.raises(CrossShardTransaction):
        compile_for_key(from_text("select * from large, visits"), TOPOLOGY)
    connection = compile_on_connection(from_pyformat("select * from shop.large"), TOPOLOGY)
    assert connection is not None
    assert connection.template == ("select * from ", "large")
