"""Transactions over several shards do not wait for each other's connections, however few there are."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import text

from shardpool import Config, Router
from shardpool.engines.right_of_way import STUCK, Passage, RightOfWay
from shardpool.errors import PoolTimeout
from tests.support.waiting import eventually

#: Longer than anything here takes; who waits so long waits for ever.
PATIENCE = 60.0
ADD = text("UPDATE customers SET name = name || '.' WHERE customer_id = :key")


def limited(config: Config, size: int, timeout: float = PATIENCE) -> Router:
    return Router(replace(config, pool=replace(config.pool, min_size=0, max_size=size, timeout=timeout)))


@pytest.fixture(autouse=True)
def _rows(shop: Router) -> Iterator[None]:
    shop.query("INSERT INTO customers SELECT g, '' FROM generate_series(0, 39) g")
    yield
    shop.query("DELETE FROM customers")


def two_shards(router: Router) -> tuple[int, int]:
    return 0, next(key for key in range(1, 40) if router.shard_of(key) != router.shard_of(0))


def test_two_that_hold_what_the_other_needs_both_go_on(config: Config) -> None:
    with limited(config, 1) as router, ThreadPoolExecutor(2) as threads:
        here, there = two_shards(router)
        both_hold_one = threading.Barrier(2)

        def work(first: int, then: int) -> None:
            with router.transaction() as tx:
                tx.execute(first, "SELECT name FROM customers WHERE customer_id = :key", {"key": first})
                both_hold_one.wait(PATIENCE)
                tx.execute(then, ADD, {"key": then})

        for done in [threads.submit(work, here, there), threads.submit(work, there, here)]:
            done.result(2 * PATIENCE)
        assert router.query("SELECT count(*) FROM customers WHERE name = '.'").scalar_one() == 2
        # What was beyond the limit is closed, and the right of way is free again.
        assert all(pool.size <= 1 and not pool.in_use for pool in router.stats().pools.values())
        assert router.engines.right_of_way.holders == 0


def test_who_has_it_may_wait_for_a_row_of_one_who_has_not(config: Config) -> None:
    with limited(config, 1) as router, ThreadPoolExecutor(1) as threads, router.transaction() as owner:
        here, there = two_shards(router)
        owner.execute(there, ADD, {"key": there})
        holds_one = threading.Event()

        def work() -> None:
            with router.transaction() as tx:
                tx.execute(here, "SELECT name FROM customers WHERE customer_id = :key", {"key": here})
                holds_one.set()
                tx.execute(there, ADD, {"key": there})  # beyond the limit, behind the owner's lock

        done = threads.submit(work)
        assert holds_one.wait(PATIENCE)
        eventually(lambda: router.engines.right_of_way.holders == 1, "the right of way is taken")
        owner.execute(here, ADD, {"key": here})
        owner.commit()
        done.result(2 * PATIENCE)
        names = router.query("SELECT name FROM customers WHERE name <> '' ORDER BY name").scalars().all()
        assert names == [".", ".."]


def test_how_many_have_it() -> None:
    right = RightOfWay(3)
    assert [right.take(0), right.take(0), right.take(STUCK), right.take(STUCK), right.take(STUCK)] == [
        True,
        False,
        True,
        True,
        False,
    ]
    right.leave()
    assert not right.take(0) and right.take(STUCK)


def test_a_query_of_a_transaction_that_has_all_connections_is_answered(config: Config) -> None:
    with limited(config, 1) as router, router.session() as session:
        for key in two_shards(router):
            session.execute(ADD, {"key": key})
        found = session.execute(text("SELECT name, count(*) FROM customers GROUP BY name ORDER BY count(*), name"))
        assert [tuple(row) for row in found] == [(".", 2), ("", 38)]


def test_sessions_of_many_threads_over_few_connections(config: Config) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")

    def request(number: int) -> None:
        chance = random.Random(seed + number)
        for _ in range(3):
            with router.session() as session, session.begin():
                for key in sorted(chance.sample(range(40), 2)):  # no deadlocks of rows
                    session.execute(ADD, {"key": key})

    with limited(config, 2) as router, ThreadPoolExecutor(24) as threads:
        list(threads.map(request, range(24)))
        assert router.query("SELECT sum(length(name)) FROM customers").scalar_one() == 24 * 3 * 2
        assert all(pool.timeouts == 0 for pool in router.stats().pools.values())


def test_one_at_a_time_has_it_and_the_others_wait_no_longer_than_before(config: Config) -> None:
    with limited(config, 1, timeout=0.3) as router:
        pool = router.engines.pool("s0")
        held = pool.lease()
        one, other = (Passage(router.engines.right_of_way) for _ in range(2))
        beyond = pool.lease(one)
        with pytest.raises(PoolTimeout, match="1 of 1 are in use"):
            pool.lease(other)
        pool.give_back(beyond)
        assert beyond.dbapi_connection is None
        one.end()
        pool.discard(pool.lease(other))
        other.end()
        with pytest.raises(PoolTimeout):
            pool.lease()
        pool.give_back(held)
        pool.give_back(pool.lease())
