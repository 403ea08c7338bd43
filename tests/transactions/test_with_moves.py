"""Transactions while partitions move: they see a partition whole, or are told to run again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shardpool import Config, Router
from shardpool.errors import StalePlacement
from shardpool.executor.transaction import Transaction
from shardpool.moves import move_partition
from shardpool.moves.shards import add_shard
from tests.support.backends import databases
from tests.support.waiting import eventually

COUNT = "SELECT count(*) FROM customers"


@pytest.fixture(autouse=True)
def _rows(shop: Router) -> Iterator[None]:
    shop.refresh()
    shop.query("TRUNCATE customers CASCADE")
    shop.copy_into("customers", ((key, f"c{key}", None, None) for key in range(200)))
    yield
    assert shop.query(COUNT).scalar_one() == 200
    # The resolver of a router that listens borrows a connection now and then.
    eventually(lambda: not any(stats.in_use for stats in shop.stats().pools.values()), "all connections come back")


@pytest.fixture
def other(config: Config) -> Iterator[Router]:
    """Moves partitions; `shop` hears of it by a notice, or when it stumbles."""
    with Router(config, listen=False) as router:
        yield router


def places(router: Router) -> tuple[int, int, str, str]:
    """Two partitions on one shard, that shard, and another one."""
    router.refresh()
    shard, (first, second, *_) = max(router.shard_map.by_shard().items(), key=lambda it: len(it[1]))
    target = next(name for name in sorted(router.shard_map.shards) if name != shard)
    return first.id, second.id, shard, target


def key_in(router: Router, partition: int) -> int:
    return next(key for key in range(200) if router.partition_of(key).id == partition)


def read(tx: Transaction, key: int) -> Any:
    return tx.execute(key, f"SELECT name FROM customers WHERE customer_id = {key}").scalar_one_or_none()


def test_a_transaction_that_has_done_nothing_follows(config: Config, other: Router) -> None:
    first, _, shard, target = places(other)
    key = key_in(other, first)
    with Router(config, listen=False) as stale:
        move_partition(other, first, target)
        assert stale.shard_map.owner(first).name == shard
        with stale.transaction() as tx:
            assert read(tx, key) == f"c{key}"
        move_partition(other, first, shard)
        with stale.transaction(isolation="REPEATABLE READ") as tx:
            assert tx.query(COUNT).scalar_one() == 200
        move_partition(other, first, target)
        assert stale.query("UPDATE customers SET name = name WHERE customer_id >= 0").rowcount == 200  # type: ignore[attr-defined]
        with pytest.raises(StalePlacement), stale.transaction(retries=0) as tx:
            move_partition(other, first, shard)
            read(tx, key)


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_partition_that_leaves_stops_the_transaction(shop: Router, other: Router, isolation: Any) -> None:
    first, second, _, target = places(other)
    one, two = key_in(other, first), key_in(other, second)
    attempts = []

    def work(tx: Transaction) -> None:
        attempts.append(1)
        assert tx.execute(one, "UPDATE customers SET name = 'x' WHERE customer_id = :k", {"k": one}).rowcount == 1  # type: ignore[attr-defined]
        if len(attempts) == 1:
            move_partition(other, second, target)
        assert read(tx, two) == f"c{two}"

    shop.run(work, isolation=isolation)
    assert len(attempts) == 2


@pytest.mark.parametrize("planted", [False, True])
@pytest.mark.parametrize("how", ["execute", "query", "write"])
def test_a_partition_that_left_and_came_back_is_younger_than_the_snapshot(
    shop: Router, other: Router, how: str, planted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: without the look into the catalog by the snapshot, rows that came later would be seen, or none."""
    first, second, shard, target = places(other)
    one, two = key_in(other, first), key_in(other, second)
    if planted:
        monkeypatch.setattr(Transaction, "check_in_place", lambda self, placements: None)

    def work(tx: Transaction) -> object:
        if how == "execute":
            return read(tx, two)
        if how == "query":
            return tx.query(COUNT + " WHERE name LIKE 'c%'").scalar_one()
        return tx.execute(two, f"DELETE FROM customers WHERE name = 'c{two}'").rowcount  # type: ignore[attr-defined]

    at_the_snapshot = {"execute": f"c{two}", "query": 200, "write": 1}[how]
    tx = shop.transaction(isolation="REPEATABLE READ")
    try:
        assert read(tx, one) == f"c{one}"
        other.execute(two, "UPDATE customers SET name = 'late' WHERE customer_id = :k", {"k": two})
        move_partition(other, second, target)
        move_partition(other, second, shard)
        if planted:
            assert work(tx) != at_the_snapshot
        else:
            with pytest.raises(StalePlacement, match="came to shard"):
                work(tx)
    finally:
        tx.rollback()


def test_a_snapshot_that_saw_the_partition_keeps_it(shop: Router, other: Router) -> None:
    """Its reader is waited for by a move, so that it reads on."""
    first, _, _, _ = places(other)
    key = key_in(other, first)
    with shop.transaction(isolation="REPEATABLE READ") as tx:
        assert read(tx, key) == f"c{key}"
        shop.execute(key, "UPDATE customers SET name = 'new' WHERE customer_id = :k", {"k": key})
        assert read(tx, key) == f"c{key}"


def test_a_new_shard_misses_no_write_of_a_reference_table(config: Config, shop: Router, server_urls: list[str]) -> None:
    with databases(server_urls[:1]) as (url,), Router(config, listen=False) as stale:
        add_shard(shop, "fresh", url)
        try:
            assert "fresh" not in stale.shard_map.shards
            stale.query("INSERT INTO country VALUES ('nl', 'Netherlands')")
            with shop.shard("fresh").engine.connect() as connection:
                assert connection.exec_driver_sql("SELECT code FROM shop.country").all() == [("nl",)]
        finally:
            shop.query("DELETE FROM country WHERE code = 'nl'")
            shop.catalog.remove_shard("fresh")
            shop.refresh()
