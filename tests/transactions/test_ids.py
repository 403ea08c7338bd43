"""Ids: unique whatever clocks do, ordered by time, and enough to find the row."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from shardpool import Config, Router
from shardpool.errors import CrossShardTransaction
from shardpool.executor import ids
from shardpool.moves import move_partition
from shardpool.topology.ids import EPOCH, FIRST_TICK, NUMBERS, SLICE_SIZE, TICK, make_id, placements_of, time_of
from shardpool.topology.key import HASH_SPACE
from shardpool.topology.shard_map import Placement, Shard, ShardMap, even_ranges, new_partition

GET = "SELECT customer_id, order_id FROM orders WHERE order_id = :id"


@pytest.fixture(autouse=True)
def _rows(shop: Router) -> Iterator[None]:
    shop.query("TRUNCATE customers CASCADE")
    shop.copy_into("customers", ((key, "x", None, None) for key in range(100)))
    yield


def many_ids(config: Config, count: int) -> list[int]:
    with Router(config, listen=False) as router:
        return [router.next_id(number % 100) for number in range(count)]


def test_routers_in_threads_and_processes_give_no_id_twice(config: Config, shop: Router) -> None:
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(3, mp_context=context) as processes, ThreadPoolExecutor(4) as threads:
        elsewhere = [processes.submit(many_ids, config, 5000) for _ in range(3)]
        here = [threads.submit(lambda: [shop.next_id(key % 100) for key in range(5000)]) for _ in range(4)]
        found = [identity for batch in (*elsewhere, *here) for identity in batch.result()]
    assert len(found) == len(set(found)) == 35_000
    assert all(0 <= identity < 2**63 for identity in found)
    assert abs(time_of(max(found)) - time.time()) < 10


def test_ids_of_one_key_only_grow(shop: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the clock steps back, and when a tick's numbers are used up."""
    monkeypatch.setattr(ids, "LEASE", 0.0)
    found = [shop.next_id(7) for _ in range(20)]
    monkeypatch.setattr(ids.time, "time", lambda: EPOCH + 5.0)
    found += [shop.next_id(7) for _ in range(20)]
    monkeypatch.setattr(ids, "LEASE", 60.0)
    found += [shop.next_id(7) for _ in range(NUMBERS + 10)]
    assert found == sorted(set(found))


def test_a_row_is_found_by_its_id_alone(shop: Router) -> None:
    given = {}
    for key in range(0, 100, 3):
        identity = shop.next_id(key, "orders")
        given[identity] = key
        shop.execute(key, "INSERT INTO orders VALUES (:key, :id, 1)", {"key": key, "id": identity})
    first, partition = next(iter(given.items()))[0], shop.partition_of(next(iter(given.values())))
    home = shop.shard_map.owner(partition).name
    with Router(shop.config, listen=False) as stale:
        for target in sorted({"s0", "s1", "s2"} - {home}):
            move_partition(shop, partition.id, target)
            for router in (shop, stale):
                for identity, key in given.items():
                    assert router.execute_by_id(identity, GET, {"id": identity}).all() == [(key, identity)]
    changed = shop.execute_by_id(first, "UPDATE orders SET note = 'y' WHERE order_id = :id", {"id": first})
    assert changed.rowcount == 1  # type: ignore[attr-defined]
    stranger = next(key for key in range(100) if shop.partition_of(key) != partition)
    with pytest.raises(CrossShardTransaction):
        shop.execute_by_id(first, "INSERT INTO orders VALUES (:key, 1, 1)", {"key": stranger})
    for wrong in (-1, 12345, 2**31 - 1, 10**12, 2**63, True):
        with pytest.raises(ValueError, match="no id of next_id"):
            shop.execute_by_id(wrong, GET, {"id": 1})


@pytest.mark.parametrize("partitions", [1, 7, 64, 9999])
def test_the_row_is_among_the_partitions_of_its_id(partitions: int) -> None:
    """For every split of the hash space, also into partitions that are smaller than what the id tells."""
    placements = [Placement(new_partition("k", n, *both), "s0", 1) for n, both in enumerate(even_ranges(partitions))]
    shard_map = ShardMap("k", 1, {"s0": Shard("s0", "")}, placements)
    for position in (
        0,
        1,
        SLICE_SIZE - 1,
        SLICE_SIZE,
        HASH_SPACE // 3,
        HASH_SPACE - 1,
        *range(0, HASH_SPACE, 99_999_989),
    ):
        found = placements_of(make_id(FIRST_TICK, position, 77), shard_map)
        assert shard_map.at(position) in found
        assert len(found) <= 1 + SLICE_SIZE // (HASH_SPACE // partitions) + 1
    assert time_of(make_id(50, 1, 1)) == EPOCH + 50 * TICK


def test_an_id_of_several_partitions_is_looked_for_in_each(shop: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    every = tuple(shop.shard_map.placements)
    monkeypatch.setattr(ids, "placements_of", lambda identity, shard_map: every)
    identity = shop.next_id(8)
    shop.execute(8, "INSERT INTO orders VALUES (8, :id, 1)", {"id": identity})
    assert shop.execute_by_id(identity, GET, {"id": identity}).all() == [(8, identity)]
    deleted = shop.execute_by_id(identity, "DELETE FROM orders WHERE order_id = :id RETURNING note", {"id": identity})
    assert deleted.all() == [(None,)]
    assert shop.execute_by_id(identity, GET, {"id": identity}).all() == []
