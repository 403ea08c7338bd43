"""Deadlocks that no server sees: found in bounded time, with one victim."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shardpool import Router
from shardpool.errors import CrossShardDeadlock
from shardpool.executor.deadlocks import victims
from shardpool.two_phase.names import SESSIONS
from tests.support.managed import managed_databases
from tests.transactions.bank import ACCOUNTS, AMOUNT, Bank, open_bank

UPDATE = "UPDATE accounts SET amount = amount + 0 WHERE id = :key"
#: One is found after a second of waiting; the rest is for slow machines.
BOUND = 10.0


@pytest.fixture(scope="module")
def bank(server_urls: list[str]) -> Iterator[Bank]:
    with open_bank(server_urls) as found:
        yield found
        assert found.total() == ACCOUNTS * AMOUNT
        assert all(stats.in_use == 0 for stats in found.router.stats().pools.values())


def in_ring(routers: list[Router], keys: tuple[int, ...]) -> list[object]:
    """Each of several transactions writes one key, and when all have, the next one's. Return what became of each."""
    barrier = threading.Barrier(len(keys))
    outcomes: list[object] = [None] * len(keys)

    def work(number: int) -> None:
        try:
            with routers[number % len(routers)].transaction() as tx:
                tx.execute(keys[number], UPDATE, {"key": keys[number]})
                barrier.wait(20)
                following = keys[(number + 1) % len(keys)]
                tx.execute(following, UPDATE, {"key": following})
            outcomes[number] = "committed"
        except CrossShardDeadlock as error:
            outcomes[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(keys))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + BOUND
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "a deadlock was not found in time"
    return outcomes


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("apart", [False, True])
def test_a_ring_has_one_victim(bank: Bank, count: int, apart: bool) -> None:
    """Within one router, and between routers that know nothing of each other."""
    with Router(bank.config, listen=False) as other:
        outcomes = in_ring([bank.router, other] if apart else [bank.router], bank.keys()[:count])
    assert outcomes.count("committed") == count - 1
    (victim,) = [it for it in outcomes if it != "committed"]
    assert isinstance(victim, CrossShardDeadlock) and victim.retryable


def test_roles_that_do_not_see_each_other(server_urls: list[str]) -> None:
    """One that acts as another role does not even see its own sessions in the statistics."""
    with open_bank(server_urls, managed_databases) as bank:
        outcomes = in_ring([bank.router], bank.keys()[:2])
    assert outcomes.count("committed") == 1


def test_who_only_waits_is_no_victim(bank: Bank) -> None:
    """A transaction that waits long for another that is at work."""
    a, b, c = bank.keys()
    waiting = threading.Event()

    def wait_for_it() -> None:
        with bank.router.transaction() as tx:
            tx.execute(c, UPDATE, {"key": c})
            waiting.set()
            tx.execute(a, UPDATE, {"key": a})

    with bank.router.transaction() as tx:
        tx.execute(a, UPDATE, {"key": a})
        tx.execute(b, UPDATE, {"key": b})
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        waiting.wait(10)
        tx.execute(b, "SELECT pg_sleep(2.5) FROM accounts WHERE id = :b", {"b": b})
    thread.join(10)
    assert not thread.is_alive()


def test_run_gets_through(bank: Bank) -> None:
    """Threads that take accounts in any order make progress, and no money is lost."""
    print("seed 3")

    def work(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(2):
            keys = choose.sample(bank.keys(), 2)

            def transfer(tx: Any, keys: list[int] = keys) -> None:
                for key, amount in zip(keys, (-1, 1), strict=True):
                    statement = "UPDATE accounts SET amount = amount + :n WHERE id = :key"
                    tx.execute(key, statement, {"n": amount, "key": key})

            bank.router.run(transfer, retries=30)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert bank.total() == ACCOUNTS * AMOUNT


def test_cycles() -> None:
    a, b, c, d = (SESSIONS + letter for letter in "abcd")
    assert victims([(a, b), (b, c), (c, d)]) == set()
    assert victims([(a, b), (b, a)]) == {b}
    assert victims([(a, b), (b, "s1/77"), ("s1/77", c), (c, a), (d, a)]) == {c}
    assert victims([(a, b), (b, a), (c, d), (d, c), (d, a)]) == {b, d}
    assert victims([("s1/7", "s1/8"), ("s1/8", "s1/7")]) == set()
