"""Writes whose rows are found first: what they keep exactly, what they refuse, and rows that change in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from postgast import pg_query_pb2 as pb
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shardpool import Router, Sharded
from shardpool.errors import TransactionAborted, UnsupportedStatement, WriteConflict
from shardpool.executor import writes
from shardpool.planner.rewrite import expression
from shardpool.planner.writes import changes, ctes, inserts_in_with, merges
from tests.oracle.test_writes import check
from tests.oracle.writes import Both, on_cluster, on_plain


def rows(router: Router, query: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(row) for row in router.query(query))


# -- planted faults: the oracle sees them ---------------------------------------------------------------------------


ROWS = (
    "INSERT INTO orders (customer, id, total) SELECT n, n % 3, n FROM generate_series(0, 11) n",
    "INSERT INTO items (customer, id, line) SELECT customer, id, 1 FROM orders",
    "INSERT INTO sums SELECT n, n % 4, n FROM generate_series(0, 11) n",
)
MERGE = "MERGE INTO sums s USING {} o ON s.customer = o.customer WHEN NOT MATCHED THEN INSERT (customer) VALUES ({})"
_places = changes.StagedChange._places


def _stay(*arguments: Any) -> Any:
    return (_places(*arguments)[0],) * 2


def _of_one_partition(part: Any, before: Any, topology: Any) -> Any:
    select = expression("(SELECT 1 FROM orders WHERE customer = 1)").sub_link.subselect.select_stmt
    return ctes.compile_source(select, part, topology)


#: fault -> where it is planted, and a write that it makes wrong
PLANTED: dict[str, tuple[object, str, Callable[..., Any], str]] = {
    "a row that leaves is not deleted": (
        changes,
        "_delete",
        lambda *arguments: "SELECT FROM shardpool_rows_item",
        "UPDATE sums SET customer = customer + 50",
    ),
    "a row arrives at its old partition": (
        changes.StagedChange,
        "_places",
        _stay,
        "UPDATE sums SET customer = customer + 50",
    ),
    "MERGE inserts under another key": (
        merges,
        "copies_own_key",
        lambda *arguments: True,
        MERGE.format("orders", "o.customer + 50").replace("s.customer =", "s.orders > 5 AND s.customer ="),
    ),
    "MERGE forgets rows without a match": (
        merges,
        "join_type",
        lambda merge: pb.JOIN_INNER,
        "MERGE INTO items i USING orders o ON i.customer = o.customer AND i.customer = 1 AND i.line = 7 "
        "WHEN NOT MATCHED THEN INSERT (customer, id, line) VALUES (o.customer, o.id, 7)",
    ),
    "WITH inserts under another key": (
        inserts_in_with,
        "are_key",
        lambda *arguments: True,
        "WITH w AS (DELETE FROM items RETURNING customer, id) INSERT INTO sums (orders, customer) "
        "SELECT id, customer + 50 FROM w",
    ),
    "WITH writes only where the statement reads": (
        ctes,
        "_part",
        _of_one_partition,
        "WITH w AS (DELETE FROM items) SELECT id FROM orders WHERE customer = 1",
    ),
    "an INSERT in WITH takes rows elsewhere": (
        inserts_in_with,
        "are_key",
        lambda *arguments: True,
        "WITH w AS (DELETE FROM items RETURNING customer), v AS (INSERT INTO sums SELECT customer + 50, 1, 1 FROM w) "
        "SELECT customer FROM w",
    ),
    "VALUES in WITH are inserted by all partitions": (
        ctes,
        "inserted_values",
        lambda *arguments: [],
        "WITH w AS (INSERT INTO sums VALUES (50, 1, 1)), v AS (DELETE FROM items RETURNING line) SELECT line FROM v",
    ),
    "VALUES in WITH read one partition": (
        inserts_in_with,
        "walk",
        lambda node: (),
        "WITH w AS (INSERT INTO sums VALUES (50, (SELECT count(*) FROM items), 1)), "
        "v AS (DELETE FROM items WHERE customer = 50) SELECT 1",
    ),
    "a row is sent to all partitions": (
        merges.StagedMerge,
        "_placed",
        lambda self, found, topology: {it: list(found.rows) for it in topology.shard_map.placements},
        MERGE.format("(VALUES (60), (61)) AS", "o.customer").replace("AS o", "AS o(customer)"),
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_faults_are_seen(both: Both, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    owner, name, instead, sql = PLANTED[fault]
    for statement in ROWS:
        both.router.query(statement)
        on_plain(both.plain, statement, {})
    check(both, "before")
    with pytest.raises(AssertionError), monkeypatch.context() as patch:
        patch.setattr(owner, name, instead)
        found = on_cluster(both.router.query, sql, {})
        assert not found.refused, found
        on_plain(both.plain, sql, {})
        check(both, sql)
    both.router._forget_plans()


# -- others write meanwhile -----------------------------------------------------------------------------------------

RAISE = "UPDATE sums SET total = total + 1 WHERE orders < (SELECT max(orders) FROM sums)"


def meanwhile(monkeypatch: pytest.MonkeyPatch, router: Router, sql: str, times: int) -> list[int]:
    """Run *sql* for key 1 between the finding and the writing of rows, the first few times."""
    left = [times]

    def carried_out(*given: Any, own: Any = writes._carried_out) -> Any:
        if left[0]:
            left[0] -= 1
            with router.shard(router.shard_of(1).name).engine.begin() as connection:
                schema = router.partition_of(1).schema
                connection.execute(text(sql.replace("sums", f"{schema}.sums")))
        return own(*given)

    monkeypatch.setattr(writes, "_carried_out", carried_out)
    return left


def test_a_row_that_changes_meanwhile_is_found_again(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    both.router.query("INSERT INTO sums VALUES (1, 1, 10), (2, 2, 20), (3, 9, 30)")
    left = meanwhile(monkeypatch, both.router, "UPDATE sums SET total = 500 WHERE customer = 1", 2)
    with both.router.transaction() as tx:
        assert tx.query(RAISE).rowcount == 2  # type: ignore[attr-defined]
    assert left == [0]
    assert rows(both.router, "SELECT customer, total FROM sums") == [(1, 501), (2, 21), (3, 30)]


def test_without_the_comparison_that_write_would_be_lost(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    both.router.query("INSERT INTO sums VALUES (1, 1, 10), (2, 2, 20), (3, 9, 30)")
    match = "sums.customer = shardpool_rows.shardpool_c0::bigint"
    monkeypatch.setattr(changes.StagedChange, "_match", lambda self: match)
    meanwhile(monkeypatch, both.router, "UPDATE sums SET total = 500 WHERE customer = 1", 1)
    both.router.query(RAISE)
    assert rows(both.router, "SELECT customer, total FROM sums")[0] == (1, 11)


def test_a_row_that_goes_meanwhile_is_not_brought_back(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    both.router.query("INSERT INTO sums VALUES (1, 1, 10), (2, 2, 20)")
    meanwhile(monkeypatch, both.router, "DELETE FROM sums WHERE customer = 1", 1)
    both.router.query("UPDATE sums SET customer = customer + 100")
    assert rows(both.router, "SELECT customer FROM sums") == [(102,)]


def test_one_that_fails_ends_its_transaction(both: Both) -> None:
    both.router.query("INSERT INTO sums VALUES (1, 1, 10), (2, 2, 20)")
    twice = "INSERT INTO sums (customer) SELECT orders FROM sums"
    with pytest.raises(TransactionAborted), both.router.transaction() as tx:
        tx.query("UPDATE sums SET total = 0")
        with pytest.raises(DBAPIError), tx.savepoint():
            tx.query(twice)
        tx.query("UPDATE sums SET total = 1")
        with pytest.raises(DBAPIError):
            tx.query(twice)
        tx.query("UPDATE sums SET total = 2")
    assert rows(both.router, "SELECT total FROM sums") == [(10,), (20,)]


def test_rows_that_never_rest_are_given_up(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    both.router.query("INSERT INTO sums VALUES (1, 1, 10), (2, 2, 20), (3, 9, 30)")
    meanwhile(monkeypatch, both.router, "UPDATE sums SET total = total + 100 WHERE customer = 1", 1000)
    with pytest.raises(WriteConflict, match="10 times") as caught:
        both.router.query(RAISE)
    assert caught.value.retryable
    assert rows(both.router, "SELECT customer, total FROM sums") == [(1, 1010), (2, 20), (3, 30)]


def test_under_a_snapshot_the_server_says_it(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    both.router.query("INSERT INTO sums VALUES (1, 1, 10), (2, 2, 20), (3, 9, 30)")
    meanwhile(monkeypatch, both.router, "UPDATE sums SET total = 500 WHERE customer = 1", 1)
    with pytest.raises(DBAPIError) as caught, both.router.transaction(isolation="REPEATABLE READ") as tx:
        tx.query(RAISE)
    assert getattr(caught.value.orig, "pgcode", None) == "40001"


# -- values, types, times -------------------------------------------------------------------------------------------

KINDS = {
    "a": ("interval", "'1 month 31 days 25:00:01.5'"),
    "b": ("json", """'{"b":  1, "a":[1.10] }'"""),
    "c": ("bytea", r"'\x00ff27'"),
    "d": ("text[]", """ARRAY['x', NULL, 'NULL', '{,"']"""),
    "e": ("character(5)", "'ab'"),
    "f": ("double precision", "0.1::float8 + 0.2"),
    "g": ("timestamptz", "'infinity'"),
    "h": ("numeric", "'NaN'"),
    "i": ("boolean", "true"),
    "j": ("date", "'0044-03-15 BC'"),
    "k": ("mood", "'so so'"),
    "l": ("mood[]", "ARRAY['so so', 'good']::mood[]"),
    "m": ("numeric(8,3)", "1.5"),
    "n": ("text", r"E'tab\t nl\n back\\ %s %% :x'"),
    "o": ("int4range", "'[2,5)'"),
    "p": ("bit(3)", "B'101'"),
    "q": ("int[]", "'[2:3]={7,8}'"),
    "r": ("character(3)[]", "'{ab,abc}'"),
    "s": ("varchar(4)[]", "'{ab,abcd}'"),
    "t": ("timestamp(0)", "'2026-01-02 03:04:05'"),
}


def test_values_of_every_kind_pass_as_they_are(both: Both) -> None:
    columns = ", ".join(f"{name} {kind}" for name, (kind, _) in KINDS.items())
    both.router.create_schema(
        f"CREATE TYPE mood AS ENUM ('so so', 'good'); CREATE TABLE kinds (key bigint PRIMARY KEY, {columns})",
        {"kinds": Sharded("key")},
    )
    one = ", ".join(value for _, value in KINDS.values())
    both.router.execute(1, f"INSERT INTO kinds VALUES (1, {one})")
    both.router.execute(2, "INSERT INTO kinds (key) VALUES (2)")
    names = ", ".join(KINDS)
    both.router.query(f"INSERT INTO kinds (key, {names}) SELECT key + 100, {names} FROM kinds")
    both.router.query("UPDATE kinds SET key = key + 1000 WHERE key > 100")
    both.router.query("UPDATE kinds SET m = (SELECT max(m) + 0.0005 FROM kinds) WHERE key > 1000")
    texts = ", ".join(f"{name}::text" for name in KINDS if name != "m")
    for row in (1, 2):
        found = rows(both.router, f"SELECT {texts} FROM kinds WHERE key IN ({row}, {row + 1100})")
        assert len(found) == 2 and found[0] == found[1]
    assert rows(both.router, "SELECT key, m::text FROM kinds WHERE key > 1000") == [(1101, "1.501"), (1102, "1.501")]
    both.router.query(
        "UPDATE kinds SET r = :r, s = :s, t = :t, p = :p WHERE key IN :keys AND m < (SELECT 9)",
        {"r": "{x}", "s": "{y}", "t": "2026-01-02 03:04:05.9", "p": "101", "keys": (1101, 5)},
    )
    found = rows(both.router, "SELECT r::text, s::text, t::text FROM kinds WHERE key = 1101")
    assert found == [('{"x  "}', "{y}", "2026-01-02 03:04:06")]
    with pytest.raises(DBAPIError, match="mood"):
        both.router.query("UPDATE kinds SET k = (SELECT max(n) FROM kinds)")
    with pytest.raises(UnsupportedStatement, match="SP132"):
        both.router.query("UPDATE kinds SET k = (SELECT max(k) FROM kinds)")


def test_a_text_is_not_cut(both: Both) -> None:
    both.router.create_schema(
        "CREATE TABLE short (key bigint PRIMARY KEY, v varchar(3), n smallint)", {"short": Sharded("key")}
    )
    for sql, state in (
        ("INSERT INTO short SELECT 3, 'long text' FROM sums UNION ALL SELECT 4, 'abcd'", "22001"),
        ("INSERT INTO short SELECT 40 + 2, 'abcd'", "22001"),
        ("INSERT INTO short SELECT 40 + 2, 'abc', 70000", "22003"),
        ("INSERT INTO short SELECT 40 + 2, 7, 'x'", "22P02"),
        ("INSERT INTO short SELECT 40 + 2, 7, now()", "42804"),
    ):
        assert on_cluster(both.router.query, sql, {}).state == state, sql
    assert both.router.query("INSERT INTO short SELECT 40 + 2, 'ab ', '7'").rowcount == 1  # type: ignore[attr-defined]
    assert rows(both.router, "SELECT * FROM short") == [(42, "ab ", 7)]


def test_now_is_one_moment_for_all_partitions(both: Both) -> None:
    both.router.create_schema("CREATE TABLE seen (key bigint PRIMARY KEY, at timestamptz)", {"seen": Sharded("key")})
    both.router.query("INSERT INTO seen SELECT n, now() FROM generate_series(1, 30) n")
    assert len(rows(both.router, "SELECT DISTINCT at FROM seen")) == 1
    found = both.router.query("UPDATE seen SET at = now() + interval '1 day' RETURNING now(), at").all()
    assert len(found) == 30 and len(set(found)) == 1
    assert both.router.query("DELETE FROM seen WHERE at > now()").rowcount == 30  # type: ignore[attr-defined]


def test_returning_of_selected_rows_comes_in_their_order(both: Both) -> None:
    found = both.router.query(
        "INSERT INTO sums (customer, orders) SELECT n * 7 % 23, n FROM generate_series(1, 20) n ORDER BY n DESC "
        "RETURNING orders"
    )
    assert [row[0] for row in found] == list(range(20, 0, -1))


# -- a changed key is no UPDATE for triggers and some foreign keys ----------------------------------------------------

PARENTS = """
CREATE TABLE parents (key bigint PRIMARY KEY, n int);
CREATE TABLE children (key bigint REFERENCES parents{}, id int, PRIMARY KEY (key, id));
"""


def test_a_foreign_key_that_only_checks_lets_rows_move(both: Both) -> None:
    both.router.create_schema(PARENTS.format(""), {"parents": Sharded("key"), "children": Sharded("key")})
    both.router.query("INSERT INTO parents VALUES (1, 1), (2, 2)")
    both.router.query("INSERT INTO children VALUES (2, 1)")
    assert both.router.query("UPDATE parents SET key = 301 WHERE n = 1").rowcount == 1  # type: ignore[attr-defined]
    assert on_cluster(both.router.query, "UPDATE parents SET key = key + 300", {}).state == "23503"
    assert on_cluster(both.router.query, "UPDATE children SET key = 302", {}).state == "23503"
    both.router.query("UPDATE children SET key = 301")
    assert rows(both.router, "SELECT * FROM children JOIN parents USING (key)") == [(301, 1, 1)]


@pytest.mark.parametrize("action", [" ON DELETE CASCADE", " ON UPDATE CASCADE"])
def test_a_foreign_key_that_does_more_is_refused(both: Both, action: str) -> None:
    name = action.replace(" ", "_").lower()
    ddl = PARENTS.format(action).replace("parents", f"p{name}").replace("children", f"c{name}")
    both.router.create_schema(ddl, {f"p{name}": Sharded("key"), f"c{name}": Sharded("key")})
    both.router.query(f"INSERT INTO p{name} VALUES (1, 1), (2, 2)")
    both.router.query(f"INSERT INTO c{name} VALUES (2, 1)")
    with pytest.raises(UnsupportedStatement, match=rf"SP138.*foreign key c{name}"):
        both.router.query(f"UPDATE p{name} SET key = key + 300")
    assert len(rows(both.router, f"SELECT * FROM p{name} JOIN c{name} USING (key)")) == 1


def test_a_trigger_keeps_rows_from_moving(both: Both) -> None:
    both.router.create_schema(
        "CREATE TABLE watched (key bigint PRIMARY KEY, n int); CREATE FUNCTION note_change() RETURNS trigger LANGUAGE "
        "plpgsql AS 'BEGIN NEW.n := NEW.n + 1; RETURN NEW; END'; CREATE TRIGGER counted BEFORE UPDATE ON watched "
        "FOR EACH ROW EXECUTE FUNCTION note_change()",
        {"watched": Sharded("key")},
    )
    both.router.query("INSERT INTO watched VALUES (1, 1), (2, 2)")
    with pytest.raises(UnsupportedStatement, match=r"SP138.*trigger counted"):
        both.router.query("UPDATE watched SET key = key + 300")
    both.router.query("UPDATE watched SET n = (SELECT max(n) FROM watched)")
    assert rows(both.router, "SELECT key, n FROM watched") == [(1, 3), (2, 3)]
