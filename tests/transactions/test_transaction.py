"""Transactions over shards: what they write is seen by themselves at once, and by others as a whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy.exc
from sqlalchemy import BigInteger, Column, MetaData, Table, Text, insert, select

from shardpool import Config, Router
from shardpool.errors import (
    CannotPrepare,
    CrossShardTransaction,
    KeyTypeMismatch,
    TransactionAborted,
)
from shardpool.two_phase import commit
from shardpool.two_phase.sessions import run

ADD = "INSERT INTO customers VALUES (:key, :name)"
COUNT = "SELECT count(*) FROM customers"


@pytest.fixture(autouse=True)
def _rows(shop: Router) -> Iterator[None]:
    with shop.transaction() as tx:
        for key in range(12):
            tx.execute(key, ADD, {"key": key, "name": f"c{key}"})
            tx.execute(key, "INSERT INTO orders VALUES (:key, 1, :total)", {"key": key, "total": key})
    yield
    assert [name for name, stats in shop.stats().pools.items() if stats.in_use] == []
    assert everywhere(shop, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()") == []
    for placement in shop.shard_map.placements:
        with shop.shard(placement.shard).engine.begin() as connection:
            connection.exec_driver_sql(f"TRUNCATE {placement.partition.schema}.customers CASCADE")


def everywhere(router: Router, query: str) -> list[Any]:
    found: list[Any] = []
    for shard in router.shard_map.shards:
        with router.shard(shard).engine.connect() as connection:
            found += connection.exec_driver_sql(query).all()
    return found


def keys_on_different_shards(router: Router) -> tuple[int, int, int]:
    first = {router.shard_of(key).name: key for key in reversed(range(12))}
    assert len(first) == 3
    return first["s0"], first["s1"], first["s2"]


def records(router: Router) -> int:
    return sum(count for (count,) in everywhere(router, "SELECT count(*) FROM shop.shardpool_transaction"))


def test_several_shards_are_written_together(shop: Router) -> None:
    before = records(shop)
    with shop.transaction() as tx:
        for key in keys_on_different_shards(shop):
            tx.execute(key, "UPDATE customers SET name = 'new' WHERE customer_id = :key", {"key": key})
        assert shop.query(COUNT + " WHERE name = 'new'").scalar_one() == 0
    assert shop.query(COUNT + " WHERE name = 'new'").scalar_one() == 3
    assert records(shop) == before + 1


@pytest.mark.parametrize(("setting", "expected"), [("off", "on"), ("local", "on"), ("remote_apply", "remote_apply")])
def test_a_decision_is_never_lost_by_an_asynchronous_commit(
    shop: Router, config: Config, monkeypatch: pytest.MonkeyPatch, setting: str, expected: str
) -> None:
    """The others are told to commit as soon as the decider has answered: by then the decision must be on its disk, and
    on that of a synchronous standby."""
    seen = []

    def prepare(self: Any, own: Any = commit._Commit._prepare) -> None:
        own(self)
        seen.extend(run(self._connections[self.id.decider], "SHOW synchronous_commit"))

    monkeypatch.setattr(commit._Commit, "_prepare", prepare)
    with shop.engines.borrow("s0") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        database = cursor.fetchone()[0]
        cursor.execute(f"ALTER DATABASE {database} SET synchronous_commit = {setting}")
        connection.commit()
    try:
        with Router(config, listen=False) as router, router.transaction() as tx:
            for key in keys_on_different_shards(router):
                tx.execute(key, "UPDATE customers SET name = 'new' WHERE customer_id = :key", {"key": key})
        assert seen == [(expected,)]
    finally:
        with shop.engines.borrow("s0") as connection, connection.cursor() as cursor:
            cursor.execute(f"ALTER DATABASE {database} RESET synchronous_commit")
            connection.commit()


def test_an_exception_takes_all_back(shop: Router) -> None:
    with pytest.raises(ZeroDivisionError), shop.transaction() as tx:
        for key in keys_on_different_shards(shop):
            tx.execute(key, "DELETE FROM orders WHERE customer_id = :key", {"key": key})
        raise ZeroDivisionError
    assert shop.query("SELECT count(*) FROM orders").scalar_one() == 12


def test_one_written_shard_commits_plainly(shop: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[str] = []
    monkeypatch.setattr("shardpool.faults.fault_point", passed.append)
    a, b, c = keys_on_different_shards(shop)
    with shop.transaction() as tx:
        assert tx.execute(a, "SELECT name FROM customers WHERE customer_id = :a", {"a": a}).scalar_one() == f"c{a}"
        assert tx.execute(b, "SELECT name FROM customers WHERE customer_id = :b", {"b": b}).scalar_one() == f"c{b}"
        assert tx.execute(c, "UPDATE customers SET name = 'x' WHERE customer_id = :c", {"c": c}).rowcount == 1  # type: ignore[attr-defined]
    assert passed == ["tx:alone"]
    assert shop.execute(c, "SELECT name FROM customers WHERE customer_id = :c", {"c": c}).scalar_one() == "x"


QUERIES = {
    "single": "SELECT name FROM customers WHERE customer_id = 3",
    "some: pushdown": "SELECT name FROM customers WHERE customer_id IN (3, 4, 5)",
    "pushdown": "SELECT name, count(*) FROM customers GROUP BY name ORDER BY 1",
    "stages": "SELECT name FROM customers WHERE name <> (SELECT min(name) FROM customers) ORDER BY 1",
    "gather": "WITH RECURSIVE r AS (SELECT name FROM customers UNION SELECT name FROM r) SELECT name FROM r ORDER BY 1",
}


@pytest.mark.parametrize("rung", QUERIES)
def test_queries_see_the_transactions_own_writes(shop: Router, rung: str) -> None:
    sql = QUERIES[rung]
    assert shop.explain(sql).rung == rung
    outside = shop.query(sql).all()
    with shop.transaction() as tx:
        for key in range(12):
            tx.execute(key, "UPDATE customers SET name = 'n' || name WHERE customer_id = :key", {"key": key})
        inside = tx.query(sql).all()
        assert shop.query(sql).all() == outside
    assert inside == shop.query(sql).all() != outside


@pytest.mark.parametrize("rung", QUERIES)
def test_queries_of_tables_that_the_transaction_has_for_itself(shop: Router, rung: str) -> None:
    """The session apart, in which a merge runs, does not wait for the transaction beside it."""
    with pytest.raises(RuntimeError, match="undone"), shop.transaction() as tx:
        tx.query("TRUNCATE customers, orders")
        assert tx.query(QUERIES[rung]).all() == []
        tx.query("INSERT INTO customers (customer_id, name) VALUES (3, 'three'), (4, 'four'), (5, 'five')")
        expected = {"single": ["three"], "stages": ["four", "three"]}.get(rung, ["five", "four", "three"])
        assert sorted(row[0] for row in tx.query(QUERIES[rung])) == expected
        raise RuntimeError("undone")


@pytest.mark.parametrize("country", ["country c", "shop.country c", "shop . /* x */ country AS c"])
def test_a_gathered_reference_table_is_read_in_the_transaction(shop: Router, country: str) -> None:
    shop.copy_into("country", [("de", "Germany"), ("fr", "France")])
    sql = (
        "WITH RECURSIVE o AS (SELECT total FROM orders UNION SELECT total FROM o) SELECT c.name, o.total FROM o "
        f"JOIN {country} ON c.code = CASE WHEN o.total > 5 THEN 'de' ELSE 'fr' END ORDER BY o.total"
    )
    assert "gather" in shop.explain(sql).rung
    with shop.transaction(isolation="REPEATABLE READ") as tx:
        first = tx.query(sql).all()
        assert {name for name, _ in first} == {"Germany", "France"}
        for shard in shop.shard_map.shards:
            with shop.shard(shard).engine.begin() as connection:
                connection.exec_driver_sql("UPDATE country SET name = 'changed'")
        assert tx.query(sql).all() == first
    for shard in shop.shard_map.shards:
        with shop.shard(shard).engine.begin() as connection:
            connection.exec_driver_sql("TRUNCATE country CASCADE")


def test_what_the_merge_query_reads_is_read_in_the_transaction(shop: Router) -> None:
    sql = "SELECT count(*), (SELECT count(shop.country.name) FROM shop.country) FROM orders"
    assert shop.explain(sql).rung == "pushdown"
    before = shop.query(sql).one()
    with pytest.raises(RuntimeError, match="undone"), shop.transaction() as tx:
        tx.query("INSERT INTO country (code, name) VALUES ('it', 'Italy')")
        assert tx.query(sql).one() == (before[0], before[1] + 1)
        raise RuntimeError("undone")
    assert shop.query(sql).one() == before


def test_savepoints(shop: Router) -> None:
    a, b, c = keys_on_different_shards(shop)
    update = "UPDATE customers SET name = :name WHERE customer_id = :key"
    with shop.transaction() as tx:
        tx.execute(a, update, {"key": a, "name": "kept"})
        with pytest.raises(sqlalchemy.exc.IntegrityError), tx.savepoint():
            tx.execute(b, update, {"key": b, "name": "undone"})
            with tx.savepoint():
                tx.execute(a, update, {"key": a, "name": "undone"})
            tx.execute(c, ADD, {"key": c, "name": "again"})
        assert tx.query("SELECT name FROM customers WHERE name IN ('kept', 'undone')").all() == [("kept",)]
        with tx.savepoint():
            tx.execute(b, update, {"key": b, "name": "second"})
            with pytest.raises(ZeroDivisionError), tx.savepoint():
                tx.execute(b, update, {"key": b, "name": "third"})
                raise ZeroDivisionError
        tx.execute(c, update, {"key": c, "name": "last"})
    found = shop.query("SELECT customer_id, name FROM customers WHERE name NOT LIKE 'c%' ORDER BY 1").all()
    assert sorted(found) == sorted([(a, "kept"), (b, "second"), (c, "last")])


def test_after_an_error_nothing_is_committed(shop: Router) -> None:
    a, b, _ = keys_on_different_shards(shop)
    with pytest.raises(TransactionAborted, match=r"rolled back.*duplicate key"), shop.transaction() as tx:
        tx.execute(a, "DELETE FROM orders WHERE customer_id = :a", {"a": a})
        with pytest.raises(sqlalchemy.exc.IntegrityError):
            tx.execute(b, ADD, {"key": b, "name": "again"})
        with pytest.raises(TransactionAborted, match="ignored"):
            tx.execute(a, "SELECT 1 FROM orders")
        with pytest.raises(TransactionAborted), tx.savepoint():
            pass
    assert shop.query("SELECT count(*) FROM orders").scalar_one() == 12


def test_what_was_never_sent_leaves_the_transaction_alone(shop: Router) -> None:
    with shop.transaction() as tx:
        tx.execute(1, "DELETE FROM orders WHERE customer_id = 1")
        with pytest.raises(KeyTypeMismatch):
            tx.execute("1", "DELETE FROM orders WHERE customer_id = 1")
        with pytest.raises(CrossShardTransaction):
            stranger = next(key for key in range(99) if shop.partition_of(key) != shop.partition_of(1))
            tx.execute(1, ADD, {"key": stranger, "name": "x"})
    assert shop.query("SELECT count(*) FROM orders").scalar_one() == 11


def test_a_failed_query_over_shards_ends_the_transaction(shop: Router) -> None:
    with pytest.raises(TransactionAborted), shop.transaction() as tx:
        tx.execute(1, "DELETE FROM orders WHERE customer_id = 1")
        with pytest.raises(sqlalchemy.exc.DataError):
            tx.query("SELECT 1 / (total - total) FROM orders")
        with pytest.raises(TransactionAborted):
            tx.query(COUNT)
    assert shop.query("SELECT count(*) FROM orders").scalar_one() == 12


def test_an_ended_transaction_is_ended(shop: Router) -> None:
    tx = shop.transaction()
    tx.execute(1, "DELETE FROM orders WHERE customer_id = 1")
    tx.commit()
    tx.commit()
    tx.rollback()
    with pytest.raises(TransactionAborted, match="has ended"):
        tx.execute(1, "SELECT 1 FROM orders")
    assert shop.query("SELECT count(*) FROM orders").scalar_one() == 11


def test_read_only(shop: Router) -> None:
    with shop.transaction(isolation="REPEATABLE READ", read_only=True) as tx:
        assert tx.query(COUNT).scalar_one() == 12
        shop.execute(1, "DELETE FROM orders WHERE customer_id = 1")
        with pytest.raises(sqlalchemy.exc.InternalError, match="read-only"), tx.savepoint():
            tx.execute(1, "DELETE FROM orders WHERE customer_id = 1")
        assert tx.execute(1, "SELECT count(*) FROM orders WHERE customer_id = 1").scalar_one() == 1
    with pytest.raises(ValueError, match="expected one of READ COMMITTED"):
        shop.transaction(isolation="READ UNCOMMITTED")  # type: ignore[arg-type]


def test_a_repeatable_transaction_stays_at_its_snapshots(shop: Router) -> None:
    with shop.transaction(isolation="REPEATABLE READ") as tx:
        assert tx.query("SELECT sum(total) FROM orders").scalar_one() == 66
        shop.run(lambda other: [other.execute(k, f"DELETE FROM orders WHERE customer_id = {k}") for k in range(12)])
        assert tx.query("SELECT sum(total) FROM orders").scalar_one() == 66
        ranked = "SELECT customer_id, rank() OVER (ORDER BY total) FROM orders"
        assert len(tx.query(ranked).all()) == 12
        assert tx.execute(7, "SELECT total FROM orders WHERE customer_id = 7").scalar_one() == 7
    assert shop.query("SELECT sum(total) FROM orders").scalar_one() is None


def test_run_tries_again_after_a_serialisation_failure(shop: Router) -> None:
    a, b, _ = keys_on_different_shards(shop)
    attempts = []

    def work(tx: Any) -> str:
        attempts.append(1)
        total = tx.execute(a, "SELECT total FROM orders WHERE customer_id = :a", {"a": a}).scalar_one()
        if len(attempts) == 1:
            shop.execute(a, "UPDATE orders SET total = total + 100 WHERE customer_id = :a", {"a": a})
        values = {"a": a, "total": total + 1}
        tx.execute(a, "UPDATE orders SET total = :total WHERE customer_id = :a", values)
        tx.execute(b, "UPDATE orders SET note = 'done' WHERE customer_id = :b", {"b": b})
        return "result"

    assert shop.run(work, isolation="REPEATABLE READ") == "result"
    assert len(attempts) == 2
    found = shop.execute(a, "SELECT total FROM orders WHERE customer_id = :a", {"a": a}).scalar_one()
    assert found == a + 101
    attempts.clear()
    with pytest.raises(sqlalchemy.exc.OperationalError, match="could not serialize"):
        shop.run(work, isolation="SERIALIZABLE", retries=0)


def test_run_does_not_repeat_other_errors(shop: Router) -> None:
    attempts = []

    def work(tx: Any) -> None:
        attempts.append(1)
        tx.execute(1, ADD, {"key": 1, "name": "again"})

    with pytest.raises(sqlalchemy.exc.IntegrityError):
        shop.run(work)
    assert len(attempts) == 1


def test_constructs(shop: Router) -> None:
    customers = Table(
        "customers", MetaData(), Column("customer_id", BigInteger, primary_key=True), Column("name", Text)
    )
    with shop.transaction() as tx:
        tx.execute(100, insert(customers).values(customer_id=100, name="hundred"))
        query = select(customers.c.name).where(customers.c.customer_id > 10).order_by(customers.c.customer_id)
        assert tx.query(query).scalars().all() == ["c11", "hundred"]
        assert tx.execute(100, select(customers).where(customers.c.customer_id == 100)).one().name == "hundred"
        assert shop.query(query).scalars().all() == ["c11"]


UNPREPARABLE = {
    "LISTEN": "NOTIFY told",
    "temporary": "CREATE TEMPORARY TABLE mine () ON COMMIT DROP",
    "WITH HOLD": "DECLARE held CURSOR WITH HOLD FOR SELECT 1",
}


@pytest.mark.parametrize("word", UNPREPARABLE)
@pytest.mark.parametrize("where", [0, 1, 2])
def test_what_cannot_be_prepared_is_rolled_back_everywhere(shop: Router, word: str, where: int) -> None:
    """Wherever it was done: on the decider, which need not prepare, it is committed with the rest."""
    keys = keys_on_different_shards(shop)
    decider = min(shop.shard_of(key).name for key in keys)
    caught = None
    try:
        with shop.transaction() as tx:
            for key in keys:
                tx.execute(key, "DELETE FROM orders WHERE customer_id = :key", {"key": key})
            with tx.enter(shop.shard_of(keys[where]).name).cursor() as cursor:
                cursor.execute(UNPREPARABLE[word])
    except CannotPrepare as error:
        caught = error
    if shop.shard_of(keys[where]).name == decider:
        assert caught is None
        assert shop.query("SELECT count(*) FROM orders").scalar_one() == 9
    else:
        assert caught is not None and word in str(caught) and "max_prepared_transactions" in str(caught)
        assert caught.shard == shop.shard_of(keys[where]).name
        assert shop.query("SELECT count(*) FROM orders").scalar_one() == 12
    assert shop.query(COUNT).scalar_one() == 12  # all shards go on


def test_a_function_that_notifies_cannot_be_prepared(shop: Router) -> None:
    shop.create_schema(
        "CREATE FUNCTION tell() RETURNS int LANGUAGE plpgsql AS 'BEGIN PERFORM pg_notify(''x'', ''y''); RETURN 1; END'"
    )
    with pytest.raises(CannotPrepare, match="NOTIFY"), shop.transaction() as tx:
        for key in keys_on_different_shards(shop):
            tx.execute(key, "DELETE FROM orders WHERE customer_id = :key", {"key": key})
            tx.execute(key, "SELECT tell()")
    assert shop.query("SELECT count(*) FROM orders").scalar_one() == 12


def test_a_deferred_constraint_fails_the_whole_transaction(shop: Router) -> None:
    for placement in shop.shard_map.placements:
        with shop.shard(placement.shard).engine.begin() as connection:
            connection.exec_driver_sql(
                f"ALTER TABLE {placement.partition.schema}.orders ALTER CONSTRAINT orders_customer_id_fkey DEFERRABLE "
                "INITIALLY DEFERRED"
            )
    for bad in keys_on_different_shards(shop):
        with pytest.raises(sqlalchemy.exc.IntegrityError, match="foreign key"), shop.transaction() as tx:
            for key in keys_on_different_shards(shop):
                tx.execute(key, "DELETE FROM orders WHERE customer_id = :key", {"key": key})
            stranger = next(k for k in range(1000, 2000) if shop.partition_of(k) == shop.partition_of(bad))
            tx.execute(bad, "INSERT INTO orders VALUES (:key, 1, 1)", {"key": stranger})
        assert shop.query("SELECT count(*) FROM orders").scalar_one() == 12


def test_many_threads(shop: Router) -> None:
    """Money moves between all customers; whoever sums up inside a transaction finds all of it once it is over."""

    def transfer(seed: int) -> None:
        for step in range(20):
            source, target = (seed * 5 + step) % 12, (seed * 3 + step * 7 + 1) % 12

            def work(tx: Any, source: int = source, target: int = target) -> None:
                for key, amount in sorted([(source, -1), (target, 1)]):
                    tx.execute(
                        key, "UPDATE orders SET total = total + :n WHERE customer_id = :key", {"key": key, "n": amount}
                    )

            if source != target:
                shop.run(work, retries=50)

    threads = [threading.Thread(target=transfer, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shop.query("SELECT sum(total) FROM orders").scalar_one() == 66


def test_small_pools(config: Config) -> None:
    """A merge needs one connection more than the transaction has, on one shard."""
    from dataclasses import replace

    with Router(replace(config, pool=replace(config.pool, max_size=2, timeout=5.0)), listen=False) as router:
        for _ in range(5):
            with router.transaction() as tx:
                for key in range(12):
                    tx.execute(key, "UPDATE orders SET note = 'x' WHERE customer_id = :key", {"key": key})
                assert tx.query("SELECT count(*) FROM orders WHERE note = 'x'").scalar_one() == 12


def test_what_an_older_server_does_not_understand_leaves_the_savepoint(
    shop: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text that no server can parse stands for the grammar of a newer one: its whole message does nothing."""
    monkeypatch.setattr("shardpool.executor.branch.GRAMMAR", 990000)
    with shop.transaction() as tx:
        for key in keys_on_different_shards(shop):
            with pytest.raises(sqlalchemy.exc.ProgrammingError, match="syntax error"), tx.savepoint():
                tx.on_shard(shop.shard_of(key).name, "SELEC 1", {}, [], True)
            tx.execute(key, "UPDATE customers SET name = 'kept' WHERE customer_id = :key", {"key": key})
    assert shop.query(COUNT + " WHERE name = 'kept'").scalar_one() == 3


@pytest.mark.parametrize("shards", [1, 2])
def test_write_skew_is_caught_on_one_shard_and_not_over_several(shop: Router, shards: int) -> None:
    """As the README says: each of the two reads what the other one writes."""
    first = next(key for key in range(1, 12) if (shop.shard_of(key) == shop.shard_of(0)) is (shards == 1))
    read = "SELECT name FROM customers WHERE customer_id = :key"
    write = "UPDATE customers SET name = 'on leave' WHERE customer_id = :key"
    one, other = (shop.transaction(isolation="SERIALIZABLE") for _ in range(2))
    for tx, key in ((one, 0), (other, first)):
        tx.execute(key, read, {"key": key})
    one.execute(first, write, {"key": first})
    other.execute(0, write, {"key": 0})
    one.commit()
    if shards == 1:
        with pytest.raises(sqlalchemy.exc.OperationalError) as caught:
            other.commit()
        assert caught.value.orig is not None and caught.value.orig.pgcode == "40001"  # type: ignore[attr-defined]
    else:
        other.commit()
    left = shop.query("SELECT count(*) FROM customers WHERE name = 'on leave'").scalar()
    assert left == shards
