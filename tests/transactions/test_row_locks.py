"""Row locks over several partitions: of the rows that come, held on every shard until the transaction is over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy.exc
from psycopg2 import errors
from sqlalchemy import BigInteger, Column, MetaData, Table, select

from shardpool import Config, Router, faults
from shardpool.errors import CrossShardDeadlock, GatherTooLarge, UnsupportedStatement
from tests.support.waiting import eventually

KEYS = range(12)
MINE = [1, 4, 7]
ALL = "SELECT customer_id FROM customers WHERE customer_id <= 7 ORDER BY name, customer_id"
ORDERS = Table(
    "orders",
    MetaData(),
    Column("customer_id", BigInteger, primary_key=True),
    Column("order_id", BigInteger, primary_key=True),
)


@pytest.fixture(autouse=True)
def _rows(shop: Router) -> Iterator[None]:
    with shop.transaction() as tx:
        tx.query("INSERT INTO country VALUES ('it', 'Italy'), ('fr', 'France')")
        for key in KEYS:
            tx.execute(
                key, "INSERT INTO customers VALUES (:key, :name, NULL, NULL)", {"key": key, "name": f"c{key % 3}"}
            )
            tx.execute(key, "INSERT INTO orders VALUES (:key, 1, :key, NULL)", {"key": key})
    yield
    assert [name for name, stats in shop.stats().pools.items() if stats.in_use] == []
    shop.query("TRUNCATE customers, orders")
    shop.query("DELETE FROM country")


def free(router: Router, strength: str = "UPDATE") -> set[int]:
    """The customers whose rows somebody else could lock now."""
    with router.transaction() as other:
        return {key for (key,) in other.query(f"SELECT customer_id FROM customers FOR {strength} SKIP LOCKED")}


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[threading.Thread]:
    """Do *work* beside the block, which must let it end."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield thread
    thread.join(30)
    assert not thread.is_alive() and failures == []


def waiting(router: Router, count: int = 1) -> bool:
    """Whether so many sessions of this database wait for locks."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() "
        "AND query NOT LIKE '%pg_stat_activity%'"
    )
    total = 0
    for name in router.shard_map.shards:
        with router.shard(name).engine.connect() as connection:
            total += connection.exec_driver_sql(query.replace("%", "%%")).scalar_one()
    return total >= count


@pytest.mark.parametrize("ordered", ["", " ORDER BY name DESC, customer_id"])
def test_what_is_answered_is_locked_until_the_end(shop: Router, ordered: str) -> None:
    with shop.transaction() as tx:
        rows = tx.query(
            f"SELECT customer_id, name FROM customers WHERE customer_id = ANY(:ids){ordered} FOR UPDATE", {"ids": MINE}
        ).all()
        assert sorted(rows) == [(key, f"c{key % 3}") for key in MINE]
        assert not ordered or rows == sorted(rows, key=lambda row: (-int(row.name[1:]), row.customer_id))
        assert free(shop) == set(KEYS) - set(MINE)
        # As PostgreSQL's own locks: shared ones of foreign keys go beside FOR NO KEY UPDATE only.
        assert free(shop, "KEY SHARE") == set(KEYS) - set(MINE)
    assert free(shop) == set(KEYS)


@pytest.mark.parametrize("how", ["NOWAIT", "SKIP LOCKED"])
def test_nowait_and_skip_locked(shop: Router, how: str) -> None:
    with shop.transaction() as tx:
        tx.query("SELECT customer_id FROM customers WHERE customer_id IN (2, 3) ORDER BY customer_id FOR SHARE")
        with shop.transaction() as other:
            assert len(other.query(f"SELECT customer_id FROM customers FOR KEY SHARE {how}").all()) == len(KEYS)
        query = f"SELECT customer_id FROM customers ORDER BY customer_id LIMIT 4 FOR UPDATE {how}"
        if how == "SKIP LOCKED":
            assert [row.customer_id for row in shop.query(query)] == [0, 1, 4, 5]
            return
        with pytest.raises(sqlalchemy.exc.OperationalError) as caught, shop.transaction() as other:
            other.query(query)
        assert isinstance(caught.value.orig, errors.LockNotAvailable)


def test_rows_that_changed_meanwhile_are_looked_at_again(shop: Router) -> None:
    """READ COMMITTED: who waited for a row answers it as it is then, if it still fits."""
    found: list[Any] = []
    query = "SELECT customer_id, name FROM customers WHERE name <> 'gone' ORDER BY customer_id FOR UPDATE"
    with shop.transaction() as tx:
        tx.query("UPDATE customers SET name = 'gone' WHERE customer_id = 3")
        tx.query("UPDATE customers SET name = 'new' WHERE customer_id = 5")

        def look() -> None:
            with shop.transaction() as other:
                found.extend(other.query(query))

        with meanwhile(look):
            eventually(lambda: waiting(shop), "the other transaction waits")
            tx.commit()
    assert found == [(key, "new" if key == 5 else f"c{key % 3}") for key in KEYS if key != 3]


def test_joined_rows_and_their_own_writes(shop: Router) -> None:
    with shop.transaction() as tx:
        tx.execute(1, "INSERT INTO orders VALUES (1, 2, 50, NULL)")
        joined = (
            "SELECT o.order_id, o.customer_id FROM customers c JOIN orders o USING (customer_id) WHERE c.name = 'c1' "
            "ORDER BY o.customer_id, o.order_id DESC LIMIT 3 FOR UPDATE OF c"
        )
        assert tx.query(joined).all() == [(2, 1), (1, 1), (1, 4)]
        assert not free(shop) & {1, 4}
        with shop.transaction() as other:  # orders of other customers are free
            assert other.query("SELECT count(*) FROM (SELECT 1 FROM orders) AS o").scalar_one() == len(KEYS)
            assert len(other.query("SELECT order_id FROM orders FOR UPDATE SKIP LOCKED").all()) == len(KEYS)


def test_constructs(shop: Router) -> None:
    with shop.transaction() as tx:
        found = tx.query(select(ORDERS).where(ORDERS.c.customer_id.in_(MINE)).order_by("customer_id").with_for_update())
        assert [row.customer_id for row in found] == MINE
        with shop.transaction() as other:
            skipping = select(ORDERS.c.customer_id).with_for_update(skip_locked=True)
            assert {row.customer_id for row in other.query(skipping)} == set(KEYS) - set(MINE)


def test_a_statement_of_its_own_waits_and_lets_go(shop: Router) -> None:
    found: list[Any] = []
    with shop.transaction() as tx:
        tx.query("UPDATE customers SET name = 'x' WHERE customer_id = ANY(:ids)", {"ids": MINE})
        with meanwhile(lambda: found.extend(shop.query("SELECT name FROM customers WHERE customer_id < 8 FOR SHARE"))):
            eventually(lambda: waiting(shop), "the other statement waits")
            tx.commit()
    assert sorted(row.name for row in found).count("x") == len(MINE)
    assert free(shop) == set(KEYS)


def test_locks_are_let_go_after_everything_is_committed(shop: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gets the lock sees all that was written under it."""
    locked, *written = (next(key for key in KEYS if shop.shard_of(key).name == name) for name in ("s0", "s1", "s2"))
    given = {"key": locked, "other": -1}
    for lock in (
        lambda tx: tx.execute(locked, "SELECT 1 FROM customers WHERE customer_id = :key FOR UPDATE", given),
        lambda tx: tx.query("SELECT 1 FROM customers WHERE customer_id = :key FOR UPDATE", given),
        lambda tx: tx.query("SELECT 1 FROM customers WHERE customer_id IN (:key, :other) FOR UPDATE", given),
        lambda tx: tx.query("SELECT 1 FROM customers WHERE customer_id <= :key ORDER BY name FOR UPDATE", given),
    ):
        seen = []

        def look(name: str) -> None:
            monkeypatch.setattr(faults, "fault_point", lambda name: None)
            seen.append((name, locked in free(shop)))  # noqa: B023
            monkeypatch.setattr(faults, "fault_point", look)

        with shop.transaction() as tx:
            lock(tx)
            for key in written:
                tx.execute(key, "UPDATE customers SET name = 'w' WHERE customer_id = :key", {"key": key})
            monkeypatch.setattr(faults, "fault_point", look)
        monkeypatch.setattr(faults, "fault_point", lambda name: None)
        assert {name for name, _ in seen} >= {"tx:prepared", "tx:decided", "tx:committed"}
        assert not any(found for _, found in seen)
        assert locked in free(shop)


def test_rows_of_reference_tables_are_locked_once_for_all(shop: Router, config: Config) -> None:
    """Whichever shards two transactions use beside, they meet."""
    query = "SELECT name FROM country WHERE code = 'it' FOR UPDATE"
    by_shard = {shop.shard_of(key).name: key for key in KEYS}
    order: list[str] = []

    def wait(key: int) -> None:
        with Router(config) as router, router.transaction() as other:
            other.execute(key, "UPDATE customers SET name = 'o' WHERE customer_id = :key", {"key": key})
            assert other.query(query).scalar_one() == "Italia"
            order.append("got it")

    for key in by_shard.values():
        order.clear()
        with shop.transaction() as tx:
            tx.execute(by_shard["s1"], "UPDATE orders SET total = 0 WHERE customer_id = :key", {"key": by_shard["s1"]})
            assert tx.execute(key, query).scalar_one()
            with meanwhile(lambda key=key: wait(key)):  # type: ignore[misc]
                eventually(lambda: waiting(shop), "the other transaction waits")
                tx.query("UPDATE country SET name = 'Italia' WHERE code = 'it'")
                order.append("committed")
                tx.commit()
        assert order == ["committed", "got it"]


def test_shared_locks_of_reference_tables_keep_writers_out(shop: Router) -> None:
    with shop.transaction() as tx:
        tx.query("SELECT 1 FROM country FOR SHARE")
        with shop.transaction() as other:
            assert len(other.query("SELECT 1 FROM country FOR KEY SHARE NOWAIT").all()) == 2
        with pytest.raises(sqlalchemy.exc.OperationalError), shop.transaction() as other:
            other.query("SELECT 1 FROM country FOR UPDATE NOWAIT")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1 FROM customers c, country WHERE c.customer_id = 1 FOR UPDATE",
        "SELECT 1 FROM customers c, country WHERE c.customer_id = 1 FOR SHARE OF c FOR NO KEY UPDATE OF country",
        "SELECT 1 FROM country LIMIT 1 FOR UPDATE",
        "SELECT 1 FROM country FOR UPDATE SKIP LOCKED",
        "WITH x AS (SELECT * FROM country FOR UPDATE) SELECT 1 FROM x, customers WHERE customer_id = 1",
    ],
)
def test_one_copy_of_a_reference_table_is_not_locked_for_all(shop: Router, statement: str) -> None:
    for run in ("query", "execute"):
        with pytest.raises(UnsupportedStatement, match="SP144"), shop.transaction() as tx:
            tx.query(statement) if run == "query" else tx.execute(1, statement)
    with shop.transaction() as tx:
        of = "SELECT 1 FROM customers c, country WHERE c.customer_id = 1 FOR UPDATE OF c FOR SHARE OF country"
        assert len(tx.query(of).all()) == len(tx.execute(1, of).all()) == 2


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1 FROM customers c, orders o FOR UPDATE OF c",
        "SELECT count(*) FROM (SELECT customer_id FROM customers FOR UPDATE) AS c",
        "SELECT 1 FROM customers WHERE customer_id IN (SELECT customer_id FROM orders FOR UPDATE)",
    ],
)
def test_what_no_partition_can_lock_by_itself_is_refused(shop: Router, statement: str) -> None:
    with pytest.raises(UnsupportedStatement, match="SP104"), shop.transaction() as tx:
        tx.query(statement)


@pytest.mark.parametrize(
    "statement",
    ["SELECT DISTINCT name FROM customers FOR UPDATE", "SELECT count(*) FROM customers FOR UPDATE"],
)
def test_what_postgresql_does_not_lock_is_its_error(shop: Router, statement: str) -> None:
    with pytest.raises((sqlalchemy.exc.NotSupportedError, UnsupportedStatement)):
        shop.query(statement)


def test_streams_and_read_only_transactions_lock_nothing(shop: Router) -> None:
    with pytest.raises(UnsupportedStatement, match="SP104"):
        shop.stream("SELECT customer_id FROM customers FOR UPDATE")
    for reading in (shop.snapshot, lambda: shop.transaction(read_only=True)):
        with pytest.raises(sqlalchemy.exc.InternalError, match="read-only"), reading() as tx:  # type: ignore[attr-defined]
            tx.query("SELECT customer_id FROM customers FOR UPDATE")


def test_a_deadlock_of_row_locks_has_one_victim(shop: Router) -> None:
    first, second = (next(key for key in KEYS if shop.shard_of(key).name == name) for name in ("s0", "s1"))
    met = threading.Barrier(2)
    outcomes: list[str] = []

    def work(mine: int) -> None:
        try:
            with shop.transaction() as tx:
                tx.query("SELECT 1 FROM customers WHERE customer_id IN (:key, -1) FOR UPDATE", {"key": mine})
                met.wait(30)
                tx.query(ALL + " FOR UPDATE")
            outcomes.append("committed")
        except CrossShardDeadlock:
            outcomes.append("victim")

    with meanwhile(lambda: work(second)):
        work(first)
    assert sorted(outcomes) == ["committed", "victim"]


def test_memory_is_bounded(shop: Router, config: Config) -> None:
    with Router(replace(config, query=replace(config.query, max_gather_bytes=60))) as router:
        with pytest.raises(GatherTooLarge), router.transaction() as tx:
            tx.query(ALL + " FOR UPDATE")
        assert free(router) == set(KEYS)


def test_savepoints_let_locks_go(shop: Router) -> None:
    with shop.transaction() as tx:
        with pytest.raises(ZeroDivisionError), tx.savepoint():
            assert len(tx.query(ALL + " FOR UPDATE").all()) == 8
            assert free(shop) == {8, 9, 10, 11}
            raise ZeroDivisionError
        assert free(shop) == set(KEYS)
        assert tx.query("SELECT count(*) FROM customers").scalar_one() == len(KEYS)


def test_explained(shop: Router) -> None:
    told = str(shop.explain("SELECT customer_id FROM customers ORDER BY name LIMIT 2 FOR UPDATE"))
    assert "pushdown" in told and "FOR UPDATE" in told
