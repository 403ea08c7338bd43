"""The write oracle: after each generated statement the cluster's tables equal those of one plain PostgreSQL."""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

import pytest

from shardpool import Reference
from shardpool.errors import SchemaDrift, TransactionAborted
from tests.oracle.writes import TABLES, Both, Generator, on_cluster, on_plain

SEED = int(os.environ.get("SHARDPOOL_SEED", "0")) or random.randrange(1, 10**6)
STATEMENTS = int(os.environ.get("SHARDPOOL_WRITES", "250"))


def check(both: Both, told: str) -> None:
    cluster, plain = both.rows()
    for table in TABLES:
        assert cluster[table] == plain[table], f"{told}: {table} differs"


def test_statements_by_themselves(both: Both) -> None:
    print(f"SHARDPOOL_SEED={SEED}")
    generator, seen = Generator(SEED, both.plain.server_version), Counter[str]()
    for number in range(STATEMENTS):
        sql, parameters = generator.statement()
        found = on_cluster(both.router.query, sql, parameters)
        told = f"statement {number} of seed {SEED}: {sql} {parameters}"
        seen[found.refused or found.state or "done"] += 1
        if not found.refused:
            expected = on_plain(both.plain, sql, parameters)
            assert found.agrees(expected), f"{told}: {found}, expected {expected}"
            check(both, told)
    print(dict(seen))
    assert seen["done"] > STATEMENTS / 3


def test_statements_in_transactions(both: Both) -> None:
    """Some of them take back a part, or all."""
    print(f"SHARDPOOL_SEED={SEED}")
    generator, choose, committed = Generator(SEED + 1, both.plain.server_version), random.Random(SEED), 0
    for number in range(STATEMENTS // 5):
        told = f"transaction {number} of seed {SEED}"
        both.plain.autocommit = False
        try:
            with both.router.transaction() as tx:
                for _ in range(choose.randrange(1, 6)):
                    _step(both, tx, generator, choose.random() < 0.3, told)
                cluster, plain = (
                    sorted(map(repr, tx.query("SELECT * FROM orders").all())),
                    sorted(map(repr, both._ask(both.plain, "SELECT * FROM orders"))),
                )
                assert cluster == plain, told
                if choose.random() < 0.3:
                    raise ZeroDivisionError
            both.plain.commit()
            committed += 1
        except ZeroDivisionError:
            pass
        finally:
            both.plain.rollback()
            both.plain.autocommit = True
        check(both, told)
    assert committed > STATEMENTS / 30


def _step(both: Both, tx: Any, generator: Generator, back: bool, told: str) -> None:
    """One statement within a savepoint on both sides; it is taken back if it failed, or if *back*."""
    sql, parameters = generator.statement()

    class Back(Exception):
        pass

    with both.plain.cursor() as cursor:
        cursor.execute("SAVEPOINT a")
    try:
        with tx.savepoint():
            found = on_cluster(tx.query, sql, parameters)
            if back or found.refused or found.state:
                raise Back
    except Back:
        pass
    if not found.refused:
        expected = on_plain(both.plain, sql, parameters)
        assert found.agrees(expected), f"{told}: {sql} {parameters}: {found}, expected {expected}"
    if back or found.refused or found.state:
        with both.plain.cursor() as cursor:
            cursor.execute("ROLLBACK TO SAVEPOINT a")


# -- the check is checked, and single cases -------------------------------------------------------------------------


def test_the_oracle_sees_a_lost_row_and_a_row_in_the_wrong_place(both: Both) -> None:
    both.router.query("INSERT INTO sums VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3)")
    with pytest.raises(AssertionError, match="sums differs"):
        check(both, "planted")
    on_plain(both.plain, "INSERT INTO sums VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3)", {})
    check(both, "equal")
    home = both.router.partition_of(1)
    away = next(it for it in both.router.shard_map.placements if it.partition != home)
    with both.router.shard(away.shard).engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO {away.partition.schema}.sums VALUES (1, 1, 1)")
    with pytest.raises(AssertionError):
        check(both, "planted")
    with both.router.shard(away.shard).engine.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM {away.partition.schema}.sums WHERE customer = 1")
    with both.router.shard("s1").engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO shop.country VALUES ('de', 'x')")
    with pytest.raises(AssertionError, match="copies of country differ"):
        check(both, "planted")


def test_returning_comes_in_the_order_of_the_rows(both: Both) -> None:
    keys = [7, 3, 11, 0, 5, 3, 9]
    rows = ", ".join(f"({key}, {place})" for place, key in enumerate(keys))
    found = both.router.query(f"INSERT INTO orders (customer, id) VALUES {rows} RETURNING customer, id, note")
    assert [tuple(row) for row in found] == [(key, place, "none") for place, key in enumerate(keys)]


def test_differing_copies_are_not_written(both: Both) -> None:
    both.router.query("INSERT INTO country VALUES ('de', 'x'), ('fr', 'y')")
    with both.router.shard("s2").engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM shop.country WHERE code = 'de'")
    with pytest.raises(SchemaDrift, match=r"s1: 2 rows.*s2: 1 rows"):
        both.router.query("UPDATE country SET size = 0")
    with pytest.raises(TransactionAborted), both.router.transaction() as tx:
        tx.execute(1, "INSERT INTO sums VALUES (1, 1, 1)")
        with pytest.raises(SchemaDrift):
            tx.query("DELETE FROM country")
    assert both.router.query("SELECT count(*) FROM sums").scalar_one() == 0


def test_a_default_that_differs_between_shards_is_caught(both: Both) -> None:
    both.router.create_schema(
        "CREATE TABLE seen (code text PRIMARY KEY, at timestamptz DEFAULT now())", {"seen": Reference()}
    )
    with pytest.raises(SchemaDrift, match="a default or a trigger"):
        both.router.query("INSERT INTO seen (code) VALUES ('de') RETURNING code")
    found = both.router.query("INSERT INTO seen AS s VALUES ('de', '2026-01-01') RETURNING s.code; -- well")
    assert found.all() == [("de",)]
    assert both.router.query("UPDATE seen SET code = 'fr' -- the end").rowcount == 1  # type: ignore[attr-defined]
    assert both.router.query("SELECT code FROM seen").all() == [("fr",)]


def test_reference_tables_are_not_written_under_old_snapshots(both: Both) -> None:
    with both.router.transaction(isolation="REPEATABLE READ") as tx:
        found = on_cluster(tx.query, "INSERT INTO country VALUES ('de', 'x')", {})
    assert found.refused == "SP134"
