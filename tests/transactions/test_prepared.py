"""Writes that a session has prepared: they do what the same words with literals do, wherever their partition is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy.exc

from shardpool import Config, Router, Sharded
from shardpool.engines import prepared
from shardpool.errors import ShardUnavailable
from shardpool.executor.transaction import Transaction
from shardpool.moves import move_partition

DDL = """
CREATE DOMAIN few AS int CHECK (VALUE < 100);
CREATE TABLE things (
    id bigint PRIMARY KEY, small smallint, whole int, big bigint, exact numeric(6,1), real float8, note text,
    short varchar(3), day date, doc jsonb, few few, made timestamptz DEFAULT now(), flag boolean
);
CREATE TABLE pairs (id bigint, n smallint, v int DEFAULT 7, PRIMARY KEY (id, n));
CREATE FUNCTION lose_path() RETURNS int LANGUAGE plpgsql AS
    'BEGIN PERFORM set_config(''search_path'', ''pg_catalog'', true); RETURN 1; END';
CREATE FUNCTION forget_all() RETURNS int LANGUAGE plpgsql AS 'BEGIN EXECUTE ''DEALLOCATE ALL''; RETURN 1; END';
"""
COLUMNS = ("small", "whole", "big", "exact", "real", "note", "short", "day", "doc", "few", "flag")
VALUES = (0, 7, -7, 32767, 32768, -32768, 2**31 - 1, -(2**31))
SETS = ["{} = :v", "{} = {} + :v", "{} = {} - :v"]
STATEMENTS = [
    *(f"UPDATE things SET {form.format(column, column)} WHERE id = :id" for column in COLUMNS for form in SETS),
    "UPDATE things AS t SET whole = :v, big = t.big + :v WHERE t.id = :id;",
    "UPDATE pairs SET v = :v WHERE n = :v AND id = :id",
    "DELETE FROM pairs WHERE id = :id AND n = :v -- of two columns",
    "INSERT INTO pairs VALUES (:id, :v, DEFAULT)",
    "INSERT INTO pairs (n, id, v) VALUES (:v, :id, :v)",
    "INSERT INTO things (id, small, note, made) VALUES (:id, :v, :v, now())",
]


@pytest.fixture(scope="module")
def literal(config: Config) -> Iterator[Router]:
    """A router that prepares nothing."""
    with Router(replace(config, pool=replace(config.pool, prepared=0)), listen=False) as router:
        router.create_schema(DDL, {"things": Sharded("id"), "pairs": Sharded("id")})
        yield router


@pytest.fixture
def eager(literal: Router, monkeypatch: pytest.MonkeyPatch) -> Iterator[Router]:
    """One that prepares all it may at once."""
    monkeypatch.setattr(prepared, "PREPARED_AT", 1)
    with Router(replace(literal.config, pool=replace(literal.config.pool, prepared=100)), listen=False) as router:
        yield router
        for table in ("things", "pairs"):
            router.query(f"TRUNCATE {table}")


def is_prepared(router: Router, key: int, text: str) -> bool:
    """Whether the session that was used last has such a statement."""
    with router.transaction() as tx:
        cursor = tx.branch(router.shard_of(key).name).cursor
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        return any(text in statement for (statement,) in cursor.fetchall())


def outcome(router: Router, statement: str, values: dict[str, object]) -> Any:
    """What a statement does, or its error; all is rolled back."""
    key = values["id"]
    tx = router.transaction()
    try:
        tx.execute(key, "INSERT INTO things VALUES (5, 1, 1, 1, 1, 1, 'a', 'a', '2020-02-02', '[1, 2]', 1)")
        tx.execute(key, "INSERT INTO pairs VALUES (5, 7, 1)")
        if statement.startswith("INSERT INTO things"):
            tx.execute(key, "DELETE FROM things WHERE id = 5")
        count = tx.execute(key, statement, values).rowcount  # type: ignore[attr-defined]
        rows = [tx.execute(key, f"SELECT * FROM {it} WHERE id = 5 ORDER BY 1, 2").all() for it in ("things", "pairs")]
        made = [row._mapping.get("made") is None for found in rows for row in found]
        return count, [tuple(row)[:11] for found in rows for row in found], made
    except sqlalchemy.exc.DBAPIError as error:
        return error.orig.pgcode  # type: ignore[union-attr]
    finally:
        tx.rollback()


@pytest.mark.parametrize("statement", STATEMENTS)
def test_it_does_what_literals_do(literal: Router, eager: Router, statement: str) -> None:
    fine = 0
    for value in VALUES:
        values = {"id": 5, "v": value}
        expected = outcome(literal, statement, values)
        assert outcome(eager, statement, values) == expected, value
        fine += type(expected) is tuple
    assert is_prepared(eager, 5, statement.partition(":")[0]) == (fine > 0)


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**70, True, None, "7", 1.5])
def test_other_values_stay_literals(literal: Router, eager: Router, value: object) -> None:
    statement = "UPDATE things SET big = :v WHERE id = :id"
    values = {"id": 5, "v": value}
    assert outcome(eager, statement, values) == outcome(literal, statement, values)
    assert not is_prepared(eager, 5, "UPDATE things")


def test_it_follows_its_partition_and_its_table(eager: Router) -> None:
    update = "UPDATE pairs SET v = v + :d WHERE id = :id AND n = 1"
    eager.execute(5, "INSERT INTO pairs VALUES (5, 1, 0)")

    def add(tx: Transaction) -> None:
        assert tx.execute(5, update, {"id": 5, "d": 1}).rowcount == 1  # type: ignore[attr-defined]

    home = eager.shard_of(5).name
    away = next(name for name in eager.shard_map.shards if name != home)
    with Router(eager.config, listen=False) as mover:
        eager.run(add)
        assert is_prepared(eager, 5, "UPDATE pairs")
        for number, shard in enumerate((away, home, away, home)):
            move_partition(mover, mover.partition_of(5).id, shard)
            eager.run(add)
            mover.create_schema(f"ALTER TABLE pairs ALTER COLUMN v TYPE {('bigint', 'numeric', 'int')[number % 3]}")
            eager.run(add)
        mover.create_schema("ALTER TABLE pairs ALTER COLUMN v TYPE int")
    assert eager.execute(5, "SELECT v FROM pairs WHERE id = 5").scalar_one() == 9


def test_statements_by_themselves_are_prepared_as_well(eager: Router) -> None:
    insert, update = "INSERT INTO pairs (id, n) VALUES (:id, :n)", "UPDATE pairs SET v = :n WHERE id = :id AND n = 1"
    for number in (1, 2, 3):
        eager.execute(5, insert, {"id": 5, "n": number})
    assert is_prepared(eager, 5, "INSERT INTO pairs")
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        eager.execute(5, insert, {"id": 5, "n": 3})
    eager.execute(5, "SELECT forget_all()")
    for number in (4, 5):
        eager.execute(5, insert, {"id": 5, "n": number})
    assert is_prepared(eager, 5, "INSERT INTO pairs")
    home = eager.shard_of(5).name
    with Router(eager.config, listen=False) as mover:
        for shard in (next(name for name in eager.shard_map.shards if name != home), home):
            for number in (7, 8):
                assert eager.execute(5, update, {"id": 5, "n": number}).rowcount == 1  # type: ignore[attr-defined]
            move_partition(mover, mover.partition_of(5).id, shard)
    found = eager.execute(5, "SELECT n, v FROM pairs WHERE id = 5 ORDER BY n").all()
    assert found == [(1, 8), (2, 7), (3, 7), (4, 7), (5, 7)]


def test_a_session_that_has_lost_it_is_given_up(eager: Router) -> None:
    insert = "INSERT INTO pairs (id, n) VALUES (:id, :n)"
    for number in range(3):
        eager.run(lambda tx, n=number: tx.execute(5, insert, {"id": 5, "n": n}))
    eager.execute(5, "SELECT forget_all()")
    with pytest.raises(ShardUnavailable, match="does not exist") as caught, eager.transaction() as tx:
        tx.execute(5, insert, {"id": 5, "n": 3})
    assert caught.value.retryable
    eager.run(lambda tx: tx.execute(5, insert, {"id": 5, "n": 4}))
    found = eager.execute(5, "SELECT n FROM pairs WHERE id = 5 ORDER BY n").scalars().all()
    assert found == [0, 1, 2, 4]


def test_a_failed_one_leaves_the_savepoint_before_it(eager: Router) -> None:
    insert = "INSERT INTO pairs (id, n) VALUES (:id, :n)"
    with eager.transaction() as tx:
        tx.execute(5, insert, {"id": 5, "n": 1})
        with pytest.raises(sqlalchemy.exc.IntegrityError), tx.savepoint():
            tx.execute(5, insert, {"id": 5, "n": 1})
        with tx.savepoint():
            tx.execute(5, insert, {"id": 5, "n": 2})
    assert eager.execute(5, "SELECT n FROM pairs WHERE id = 5 ORDER BY n").scalars().all() == [1, 2]


@pytest.mark.parametrize("which", ["literal", "eager"])
def test_a_path_is_set_again_only_when_it_is_another(which: str, request: pytest.FixtureRequest) -> None:
    """PostgreSQL 18 tells what it is. Whoever changed it: the statement finds its partition."""
    router: Router = request.getfixturevalue(which)
    near = next(
        k for k in range(6, 1000) if same_shard(router, k, 5) and router.partition_of(k) != router.partition_of(5)
    )
    insert = "INSERT INTO pairs (id, n) VALUES (:id, :n)"
    numbers = iter(range(100))
    with router.transaction() as tx:
        cursor = tx.branch(router.shard_of(5).name).cursor

        def sets_path(key: int) -> bool:
            tx.execute(key, insert, {"id": key, "n": next(numbers)})
            return b"search_path" in cursor.query

        told = cursor.connection.server_version >= 180000
        if which == "eager":  # what prepares a statement sets the path as well
            sets_path(5), sets_path(near)
        assert [sets_path(key) for key in (5, 5, near, near, 5)] == [True, not told, True, not told, True]
        with pytest.raises(ZeroDivisionError), tx.savepoint():
            assert sets_path(near)
            raise ZeroDivisionError
        assert sets_path(5) is not told
        tx.execute(5, "SELECT lose_path()")
        assert [sets_path(5), sets_path(5)] == [True, not told]
    counted = router.query("SELECT id, count(*) FROM pairs GROUP BY id ORDER BY id").all()
    assert counted == ([(5, 6), (near, 2)] if which == "literal" else [(5, 7), (near, 3)])
    router.query("TRUNCATE pairs")


def same_shard(router: Router, one: int, other: int) -> bool:
    return router.shard_of(one) == router.shard_of(other)
