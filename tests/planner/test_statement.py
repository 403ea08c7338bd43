"""A statement's spellings: what goes in as ``:name`` or ``%(name)s`` comes out for psycopg2 as it was meant."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2

from shardpool.errors import InvalidSQL
from shardpool.executor import cache
from shardpool.planner.ast import UnfaithfulText, parse, same, to_sql
from shardpool.planner.statement import Statement, from_pyformat, from_text, to_pyformat
from shardpool.planner.writes.rows import without_constant_rows
from tests.planner.hand_made import TOPOLOGY

#: No parameters: psycopg2 must be given exactly these words, percent signs doubled.
PLAIN = [
    "select 1",
    "select 'a:b', ':x', 'it''s :y', E'\\':z', U&'\\003A:w', $$:v$$, $t$ :u $t$, B'01', X'1F'",
    'select ":x", "a""b:y", U&":z" from t',
    "select 1 -- :x\n, 2 /* :y /* :z */ :w */",
    "select '100%', 5 % 3, '%s', '%(x)s', '%%' from t where a like '%x%'",
    "select x::int, (x)::text, '{1}'::int[], x :: int",
    "select 'Grüße 日本 🐘 %', \"Größe\" from t -- ü%",
    "select a[1:2], a[1 : 2] from t",
    "select '\n:x\n'",
    "select 1;",
    "select E'a\\\\b', 'back\\slash'",
]

#: Text, its parameters, and what psycopg2 is given.
WITH_PARAMETERS = [
    ("select :x", ("x",), "select %(x)s"),
    ("select :x, :y, :x", ("x", "y"), "select %(x)s, %(y)s, %(x)s"),
    ("select ':x', :x, '%'", ("x",), "select ':x', %(x)s, '%%'"),
    ("select 'ü', :x, 'ß%' -- :y", ("x",), "select 'ü', %(x)s, 'ß%%' -- :y"),
    (
        "select a from t where a in :x and b in (:x, :y)",
        ("x", "y"),
        "select a from t where a in %(x)s and b in (%(x)s, %(y)s)",
    ),
    ("select a from t where a IN  :x", ("x",), "select a from t where a IN  %(x)s"),
    ("select a from t where a not in :x limit :n", ("x", "n"), "select a from t where a not in %(x)s limit %(n)s"),
    ("select (:x)::int, cast(:x as text)", ("x",), "select (%(x)s)::int, cast(%(x)s as text)"),
    ("select \\:x, :x", ("x",), None),
    ("select a + :x_1 - :_y", ("x_1", "_y"), "select a + %(x_1)s - %(_y)s"),
    ("select :x::int, -:long_1::text", ("x", "long_1"), "select (%(x)s)::int, -(%(long_1)s)::text"),
    ("select a[1:b], a[:n], :größe", ("n", "größe"), "select a[1:b], a[%(n)s], %(größe)s"),
    ("select :x:", None, None),
    ("select '%', :p % 5", ("p",), "select '%%', %(p)s %% 5"),
]


@pytest.mark.parametrize("sql", PLAIN)
def test_words_without_parameters_stay_as_they_are(sql: str) -> None:
    statement = from_text(sql)
    assert statement.names == ()
    assert statement.pyformat == sql.replace("%", "%%")
    assert statement.pyformat % {} == sql


@pytest.mark.parametrize(("sql", "names", "pyformat"), WITH_PARAMETERS)
def test_parameters_are_found_where_they_are(sql: str, names: tuple[str, ...] | None, pyformat: str | None) -> None:
    if names is None:
        assert from_text(sql).names in ((), ("x",))
        return
    statement = from_text(sql)
    assert statement.names == names
    if pyformat is not None:
        assert statement.pyformat == pyformat


@pytest.mark.parametrize("sql", [sql for sql in PLAIN if "\\" not in sql and ":" not in sql])
def test_what_sqlalchemy_compiles_is_read_back(sql: str) -> None:
    compiled = str(text(sql).compile(dialect=PGDialect_psycopg2()))
    statement = from_pyformat(compiled)
    assert statement.numbered == sql
    assert statement.pyformat == compiled


def test_sqlalchemy_s_parameters_are_read_back() -> None:
    compiled = "SELECT t.a, '100%%' FROM t WHERE t.a = %(a_1)s AND t.b IN (%(b_1)s, %(b_2)s) AND t.c %% 2 = %(a_1)s"
    statement = from_pyformat(compiled)
    assert statement.numbered == "SELECT t.a, '100%' FROM t WHERE t.a = $1 AND t.b IN ($2, $3) AND t.c % 2 = $1"
    assert statement.names == ("a_1", "b_1", "b_2")
    assert statement.pyformat == compiled


def test_edits_are_made_by_bytes_among_parameters() -> None:
    statement = from_text("select 'ü%', :x from orders where ö = :y")
    data = statement.numbered.encode()
    start = data.index(b"orders")
    edited = statement.render([(start, start, '"shop_p0001".'), (0, 6, "SELECT")])
    assert edited == "SELECT 'ü%%', %(x)s from \"shop_p0001\".orders where ö = %(y)s"


@pytest.mark.parametrize(
    ("sql", "generated", "expected"),
    [
        ("select :x", "SELECT $1::text", "SELECT (%(x)s)::text"),
        ("select a in :x", "SELECT a IN ($1), '$1', '%'", "SELECT a IN %(x)s, '$1', '%%'"),
        ("select :a, :b", "SELECT $2 - $1", "SELECT (%(b)s) - (%(a)s)"),
        ("select 'ü', :a", "SELECT 'ü', $1, \"$1\"", "SELECT 'ü', (%(a)s), \"$1\""),
    ],
)
def test_generated_text_has_its_parameters_in_parentheses(sql: str, generated: str, expected: str) -> None:
    assert to_pyformat(generated, from_text(sql)) == expected


@pytest.mark.parametrize(
    "sql", ["", ";", "select 1; select 2", "select from", "select $1", "select :a, $1", "select 'x"]
)
def test_what_is_not_one_statement_is_invalid(sql: str) -> None:
    with pytest.raises(InvalidSQL):
        assert from_text(sql).tree is None


@pytest.mark.parametrize(
    "sql",
    [
        "select count(distinct (a, b)), string_agg(distinct x, ',' order by x) filter (where y > 0) from t",
        "select a.b[1].c, (x).y, -2 ^ 2, not a is null, (a, b) = (1, 2), 'x' collate \"C\" from t",
        "select a from t tablesample bernoulli (10) repeatable (3)",
        "select a from t order by 1 using operator(pg_catalog.<) fetch first 3 rows with ties",
        "select * from (a left join b using (x)) cross join lateral (select 1) c",
        "select * from generate_series(1, 2) with ordinality d(e, f), rows from (f(1), g(2)) as h",
        "select case a when 1 then 2 else 3 end, coalesce(a, 1), greatest(1, 2), interval '1' day, date '2024-01-01'",
        "with recursive r(n) as materialized (select 1 union all select n + 1 from r) select n from r",
        "select a, b from t group by grouping sets ((a), rollup (a, b), ())",
    ],
)
def test_text_from_a_tree_is_that_tree(sql: str) -> None:
    tree = parse(sql).stmts[0].stmt.select_stmt
    again = parse(to_sql(tree)).stmts[0].stmt.select_stmt
    assert same(tree, again)


def test_text_that_is_not_the_tree_is_not_sent() -> None:
    tree = parse("select a from t").stmts[0].stmt.select_stmt
    tree.target_list[0].res_target.val.column_ref.fields[0].string.sval = ""
    with pytest.raises(UnfaithfulText):
        to_sql(tree)


def test_the_plan_cache_is_bounded_by_the_length_of_statements() -> None:
    found = cache.PlanCache[Statement](lambda statement, topology: statement)
    for number in range(100):
        found.text(f"SELECT {number} /* {'x' * (cache.CACHED_CHARACTERS // 20)} */", TOPOLOGY)
    assert 10 <= len(found) <= 21
    assert found.text("SELECT 1", TOPOLOGY) is found.text("SELECT 1", TOPOLOGY)


def test_rows_of_constants_are_looked_at_once() -> None:
    def rows(sql: str) -> int:
        light = without_constant_rows(from_text(sql))
        return len(light.node.insert_stmt.select_stmt.select_stmt.values_lists)

    assert rows("INSERT INTO t VALUES (1, 'a'), (2, :b), (NULL, 3.5)") == 1
    assert rows("INSERT INTO t VALUES (1, 'a'), (2, f(3))") == 2
    assert rows("INSERT INTO t VALUES (1, 'a'), (2, (SELECT 1))") == 2
    assert rows("INSERT INTO t VALUES (1, 'a'), (2, DEFAULT)") == 2
    assert rows("INSERT INTO t VALUES (1, 'a'), (2, 'tomorrow')") == 2
