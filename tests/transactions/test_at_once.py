"""Writes of several shards take them at the same time; what others have locked makes no deadlock of it."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from shardpool import Router, parse_config
from shardpool.errors import CrossShardDeadlock
from shardpool.executor import at_once, writes
from tests.support.backends import plain_connection
from tests.support.waiting import eventually
from tests.transactions.bank import ACCOUNTS, AMOUNT, Bank, open_bank

NEW = 1000
AT_THE_DOOR = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction' "
    "AND query LIKE '%pg_try_advisory_xact_lock_shared%'"
)
WAITING = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
    "AND query LIKE '%INSERT INTO%accounts%'"
)


@pytest.fixture(scope="module")
def bank(server_urls: list[str]) -> Iterator[Bank]:
    with open_bank(server_urls) as found:
        # Without the proxies: they are threads of this process, all of which stop while the driver cancels a statement.
        shards = {name: {"url": url} for name, url in found.urls.items()}
        document = {"keyspace": "bank", "partitions": 6, "catalog": found.urls["s0"], "shards": shards}
        with Router(parse_config(document, source="test"), listen=False) as router:
            found = replace(found, router=router)
            yield found
        assert found.total() == ACCOUNTS * AMOUNT
        assert all(stats.in_use == 0 for stats in found.router.stats().pools.values())


@pytest.fixture
def new(bank: Bank) -> Iterator[tuple[int, ...]]:
    """A free account on each shard."""
    first = {bank.router.shard_of(key).name: key for key in range(NEW, NEW + 100)}
    yield first["s0"], first["s1"], first["s2"]
    bank.router.query("DELETE FROM accounts WHERE id >= :new", {"new": NEW})


def insert(bank: Bank, *keys: int) -> None:
    values = ", ".join(f"({key}, 0)" for key in keys)
    bank.router.query(f"INSERT INTO accounts VALUES {values}")


def holding(stack: ExitStack, bank: Bank, key: int) -> Any:
    """A session that has inserted *key*, and not committed."""
    placement = bank.router.partition_of(key)
    connection = stack.enter_context(closing(plain_connection(bank.urls[bank.router.shard_of(key).name])))
    connection.autocommit = False
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {placement.schema}.accounts VALUES ({key}, 0)")
    return connection


def waiters(bank: Bank, shard: str) -> int:
    return len(bank.on(shard, WAITING))


def writers(bank: Bank, shard: str) -> list[Any]:
    """The sessions that have written, and wait for what comes next."""
    return bank.on(
        shard,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL "
        "AND state = 'idle in transaction'",
    )


def test_all_shards_are_taken_at_once(bank: Bank, new: tuple[int, ...]) -> None:
    with ThreadPoolExecutor(1) as threads, ExitStack() as stack:
        holders = [holding(stack, bank, key) for key in new]
        writing = threads.submit(insert, bank, *new)
        eventually(lambda: all(waiters(bank, shard) for shard in bank.direct), "a wait on each shard")
        for holder in holders:
            holder.rollback()
        writing.result(30)
    assert bank.router.query("SELECT count(*) FROM accounts WHERE id >= 1000").scalar() == 3


CHANGES = [
    "INSERT INTO accounts VALUES ({}, 0), ({}, 0), ({}, 0) ON CONFLICT (id) DO UPDATE SET amount = excluded.amount",
    "UPDATE accounts SET amount = amount WHERE id IN ({}, {}, {})",
    "DELETE FROM accounts WHERE id IN ({}, {}, {})",
]


def changing(stack: ExitStack, bank: Bank, key: int) -> Any:
    """A session that has changed the row of *key*, and not committed."""
    connection = stack.enter_context(closing(plain_connection(bank.urls[bank.router.shard_of(key).name])))
    connection.autocommit = False
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {bank.router.partition_of(key).schema}.accounts SET amount = amount WHERE id = {key}")
    return connection


def waits(words: str) -> str:
    return WAITING.replace("INSERT INTO", words.split()[0])


@pytest.mark.parametrize("words", CHANGES)
def test_rows_that_may_be_there_are_taken_at_once(bank: Bank, new: tuple[int, ...], words: str) -> None:
    insert(bank, *new)
    with ThreadPoolExecutor(1) as threads, ExitStack() as stack:
        holders = [changing(stack, bank, key) for key in new]
        writing = threads.submit(bank.router.query, words.format(*new))
        eventually(lambda: all(bank.on(shard, waits(words)) for shard in bank.direct), "a wait on each shard")
        for holder in holders:
            holder.rollback()
        assert writing.result(30).rowcount == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("words", CHANGES)
def test_of_such_writes_one_at_a_time_takes_the_shards_at_once(
    bank: Bank, new: tuple[int, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one waits on its first shard, and has nothing that others could wait for."""
    monkeypatch.setattr(at_once, "TURN", 60.0)
    insert(bank, *new)
    update = CHANGES[1].format(*new)
    with ThreadPoolExecutor(2) as threads, ExitStack() as stack:
        holder = changing(stack, bank, new[1])
        first = threads.submit(bank.router.query, update)
        eventually(lambda: bank.on("s1", waits(update)), "the first one waiting")
        second = threads.submit(bank.router.query, words.format(*new))
        eventually(lambda: bank.on("s0", AT_THE_DOOR), "the second one at the door")
        assert [len(bank.on(shard, waits(words))) for shard in bank.direct] == [0, int(words == CHANGES[1]), 0]
        holder.rollback()
        assert [it.result(30).rowcount for it in (first, second)] == [3, 3]  # type: ignore[attr-defined]


@pytest.mark.parametrize("words", CHANGES)
def test_a_long_one_is_not_waited_for(bank: Bank, new: tuple[int, ...], words: str) -> None:
    """Others write other rows meanwhile."""
    insert(bank, *new)
    with ThreadPoolExecutor(1) as threads, ExitStack() as stack:
        holder = changing(stack, bank, new[1])
        long = threads.submit(bank.router.query, CHANGES[1].format(*new))
        eventually(lambda: bank.on("s1", waits("UPDATE")), "the long one waiting")
        free = [key for key in range(NEW, NEW + 100) if key not in new]
        others = [next(it for it in free if on(bank, it) == on(bank, key)) for key in new]
        bank.router.query(words.format(*others))
        assert not long.done()
        holder.rollback()
        assert long.result(30).rowcount == 3  # type: ignore[attr-defined]


def on(bank: Bank, key: int) -> str:
    return bank.router.shard_of(key).name


def test_writes_beside_one_another_take_the_shards_in_order(bank: Bank, new: tuple[int, ...]) -> None:
    """Two of them, for neither found itself alone."""
    insert(bank, *new)
    name = {"name": "shardpool bank.accounts"}
    with ThreadPoolExecutor(1) as threads, ExitStack() as stack:
        beside = stack.enter_context(closing(plain_connection(bank.urls["s0"])))
        beside.autocommit = False
        with beside.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock_shared(hashtextextended(%(name)s, 0))", name)
        holders = [changing(stack, bank, key) for key in new]
        update = CHANGES[1].format(*new)
        writing = threads.submit(bank.router.query, update)
        for place, holder in enumerate(holders):
            eventually(lambda place=place: bank.on(f"s{place}", waits(update)), f"a wait on s{place}")  # type: ignore[misc]
            assert not any(bank.on(shard, waits(update)) for shard in bank.direct if shard != f"s{place}")
            holder.rollback()
        assert writing.result(30).rowcount == 3  # type: ignore[attr-defined]


def test_of_a_deadlock_the_statement_is_the_victim_though_it_is_older(
    bank: Bank, new: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told: it is repeated in order, and waits for the transaction."""
    tried = []
    original = writes.write
    monkeypatch.setattr(writes, "write", lambda *given: tried.append(given[-1]) or original(*given))
    insert(bank, *new)
    tried.clear()
    a, b, _ = new
    change = "UPDATE accounts SET amount = amount WHERE id = :key"
    with ThreadPoolExecutor(1) as threads:
        with bank.router.transaction() as tx:
            tx.execute(a, change, {"key": a})
            writing = threads.submit(bank.router.query, CHANGES[1].format(*new))
            eventually(lambda: bank.on("s0", waits("UPDATE")), "a wait for what the transaction has")
            eventually(lambda: writers(bank, "s1"), "the other row changed")
            tx.execute(b, change, {"key": b})
        assert writing.result(30).rowcount == 3  # type: ignore[attr-defined]
    assert tried == [True, False]


def test_a_deadlock_is_gone_around_in_order(bank: Bank, new: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The statement is the younger transaction, and thus the victim. In order, it just finds that the rows exist."""
    tried = []
    original = writes.write
    monkeypatch.setattr(writes, "write", lambda *given: tried.append(given[-1]) or original(*given))
    a, b, c = new
    row = "INSERT INTO accounts VALUES (:key, 0)"
    with ThreadPoolExecutor(1) as threads:
        with bank.router.transaction() as tx:
            tx.execute(c, row, {"key": c})
            tx.execute(a, row, {"key": a})
            writing = threads.submit(insert, bank, a, b)
            eventually(lambda: waiters(bank, "s0"), "a wait for what the transaction has")
            eventually(lambda: writers(bank, "s1"), "the other row inserted")
            tx.execute(b, row, {"key": b})
        with pytest.raises(IntegrityError, match="already exists"):
            writing.result(30)
    assert tried == [True, False]


def test_the_others_end_when_one_shard_fails(bank: Bank, new: tuple[int, ...]) -> None:
    a, b, c = new
    insert(bank, a)
    with ThreadPoolExecutor(1) as threads, ExitStack() as stack:
        holder = holding(stack, bank, b)
        writing = threads.submit(insert, bank, a, b, c)
        with pytest.raises(IntegrityError):
            writing.result(30)
        eventually(lambda: not waiters(bank, "s1"), "nobody waiting")
        holder.rollback()
    assert bank.router.query("SELECT id FROM accounts WHERE id >= 1000").all() == [(a,)]


def test_without_threads_the_shards_are_taken_in_order(bank: Bank, new: tuple[int, ...]) -> None:
    """Nobody queues for threads: those who have them may wait for the one who would queue."""
    hands = bank.router._around.hands
    with ThreadPoolExecutor(1) as threads, ExitStack() as stack, hands.taken(32) as all_of_them:
        assert all_of_them is not None
        first, second = holding(stack, bank, new[0]), holding(stack, bank, new[1])
        writing = threads.submit(insert, bank, *new)
        eventually(lambda: waiters(bank, "s0"), "a wait on the first shard")
        assert not waiters(bank, "s1")
        first.rollback()
        eventually(lambda: waiters(bank, "s1"), "a wait on the second shard")
        second.rollback()
        writing.result(30)


def test_in_a_transaction_a_deadlock_is_the_callers(bank: Bank, new: tuple[int, ...]) -> None:
    """There the shards are taken in order: the transaction may hold locks already."""
    a, b, c = new
    row = "INSERT INTO accounts VALUES (:key, 0)"

    def both() -> None:
        with bank.router.transaction() as tx:
            tx.query(f"INSERT INTO accounts VALUES ({a}, 0), ({b}, 0)")

    with ThreadPoolExecutor(1) as threads:
        with bank.router.transaction() as tx:
            tx.execute(c, row, {"key": c})
            tx.execute(b, row, {"key": b})
            writing = threads.submit(both)
            eventually(lambda: waiters(bank, "s1"), "a wait for what the transaction has")
            tx.execute(a, row, {"key": a})
        with pytest.raises(CrossShardDeadlock):
            writing.result(30)


def test_statements_and_transactions_on_the_same_rows(bank: Bank, new: tuple[int, ...]) -> None:
    """Whoever is told of success has added what it wanted, once; whoever came to a deadlock, nothing."""
    seed = int(os.environ.get("SHARDPOOL_SEED", "0")) or random.randrange(1, 10**6)
    print(f"SHARDPOOL_SEED={seed}")
    keys = range(NEW, NEW + 12)
    insert(bank, *keys)

    def work(number: int) -> Counter[int]:
        choose, found = random.Random(seed * 10 + number), Counter[int]()
        for _ in range(15):
            wanted = choose.sample(keys, 2 if number > 2 else 4)
            listed = ", ".join(map(str, wanted))
            rows = ", ".join(f"({key}, 0)" for key in wanted)
            with suppress(CrossShardDeadlock, OperationalError):
                if number > 2:
                    with bank.router.transaction() as tx:
                        for key in wanted:
                            tx.execute(key, "UPDATE accounts SET amount = amount + 1 WHERE id = :key", {"key": key})
                elif choose.random() < 0.6:
                    bank.router.query(f"UPDATE accounts SET amount = amount + 1 WHERE id IN ({listed})")
                else:
                    again = "ON CONFLICT (id) DO UPDATE SET amount = accounts.amount + 1"
                    bank.router.query(f"INSERT INTO accounts VALUES {rows} {again}")
                found.update(wanted)
        return found

    with ThreadPoolExecutor(5) as threads:
        expected = sum(threads.map(work, range(5)), Counter[int]())
    amounts = bank.router.query("SELECT id, amount FROM accounts WHERE id >= 1000")
    assert {key: amount for key, amount in amounts if amount} == dict(expected)
    assert sum(expected.values()) > 50
