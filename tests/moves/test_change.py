"""Split, merge, pin and unpin: the same rows in other partitions, whoever writes meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shardpool import Router, Sharded
from shardpool.ddl import find_drift
from shardpool.errors import MoveError, PreflightFailed, StalePlacement
from shardpool.moves import plan_merge, plan_pin, plan_split, plan_unpin, relay, rounds, spread
from shardpool.moves.modes import Wanted
from tests.moves.change_tools import all_rows, change, merge, partition_ids, split
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Background, Gates, Place
from tests.support.backends import databases


@pytest.fixture(scope="module")
def own(server_urls: list[str]) -> Iterator[Place]:
    """Two shards with four partitions at first; the tests change them."""
    with databases(server_urls[:2]) as urls:
        place = Place(shop_config(urls))
        try:
            place.fill()
            yield place
        finally:
            place.close()


@pytest.mark.parametrize(("elsewhere", "mode"), [(False, "trigger"), (True, "trigger"), (True, "logical")])
def test_split_and_merge(own: Place, elsewhere: bool, mode: Wanted) -> None:
    before, first = all_rows(own), partition_ids(own)[0]
    highest = own.catalog("SELECT max(id) FROM shardpool_catalog.partition")[0][0]
    report = split(own, first, to=own.other(first) if elsewhere else None, mode=mode)
    assert report.mode == mode
    assert report.kind == "split" and report.partitions == (highest + 1, highest + 2)
    assert partition_ids(own)[:2] == list(report.partitions)
    assert all_rows(own) == before
    own.assert_clean()
    assert (own.owner(report.partitions[0]) != own.owner(report.partitions[1])) == elsewhere

    to = own.other(report.partitions[0]) if elsewhere else None
    report = merge(own, *report.partitions, to=to, mode=mode)
    assert report.kind == "merge" and report.partitions == (highest + 3,)
    assert partition_ids(own)[0] == highest + 3
    assert all_rows(own) == before
    own.assert_clean()
    assert [it.partition.id for it in own.router.shard_map.heirs(first)] == [highest + 3]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_pin_and_unpin(own: Place, elsewhere: bool) -> None:
    before = all_rows(own)
    place = own.router.shard_map.placement(own.router.partition_of(17))
    report = change(own, plan_pin(own.router, 17, own.other(place.partition.id) if elsewhere else None))
    assert len(report.partitions) == 3
    pinned = own.router.partition_of(17)
    assert pinned.id == report.partitions[1] and pinned.high - pinned.low == 1
    assert (own.owner(pinned.id) == place.shard) != elsewhere
    assert {key for (key,) in own.sql(own.owner(pinned.id), f"SELECT customer_id FROM {pinned.schema}.plain")} == {17}
    assert all_rows(own) == before
    own.assert_clean()
    with pytest.raises(PreflightFailed, match="for itself already"):
        plan_pin(own.router, 17)

    report = change(own, plan_unpin(own.router, pinned.id))
    (merged,) = report.partitions
    found = own.router.shard_map.placement(merged).partition
    assert (found.low, found.high) == (place.partition.low, place.partition.high)
    assert all_rows(own) == before
    own.assert_clean()


def test_what_cannot_be_planned(own: Place) -> None:
    first, second, third, *_ = partition_ids(own)
    low = own.router.shard_map.placement(first).partition.low
    for at in (low, own.router.shard_map.placement(first).partition.high, -1):
        with pytest.raises(PreflightFailed, match="cannot be split at"):
            plan_split(own.router, first, at)
    with pytest.raises(PreflightFailed, match="no shard 'moon'"):
        plan_split(own.router, first, to="moon")
    with pytest.raises(PreflightFailed, match='no mode "block"'):
        split(own, first, mode="block")
    with pytest.raises(PreflightFailed, match="no neighbours"):
        plan_merge(own.router, [first, third])
    for wrong in ([first], [first, first]):
        with pytest.raises(PreflightFailed, match="two or more different"):
            plan_merge(own.router, wrong)
    with pytest.raises(PreflightFailed, match="no pinned key's"):
        plan_unpin(own.router, second)
    with pytest.raises(PreflightFailed, match="no partition 999"):
        plan_split(own.router, 999)
    plan = plan_split(own.router, first)
    merge(own, first, second)
    with pytest.raises(PreflightFailed, match=f"partition {first} was changed meanwhile"):
        change(own, plan)
    with pytest.raises(PreflightFailed, match=rf"no partition {first} any more: its rows are in \d+"):
        plan_split(own.router, first)


# -- whoever is there besides -----------------------------------------------------------------------------------------


def test_routers_with_old_maps_go_on(own: Place) -> None:
    """Statements with cached plans, transactions, ids of rows and snapshots, by a router that hears of nothing."""
    with Router(own.config, listen=False) as stale:
        entry = stale.next_id(17)
        values: dict[str, Any] = {"k": 17}
        one = "SELECT count(*) FROM plain WHERE customer_id = :k"
        every = "SELECT count(*), sum(total) FROM orders"
        expected = stale.query(every).one()
        last = stale.shard_map.partitions[-1]
        far = next(key for key in range(60) if stale.partition_of(key) == last)
        assert stale.execute(17, one, values).scalar_one() == 1
        for make in (
            lambda: plan_pin(own.router, 17, own.other(own.router.partition_of(17).id)),
            lambda: plan_unpin(own.router, own.router.partition_of(17).id),
            lambda: plan_split(own.router, own.router.partition_of(17).id),
            lambda: plan_merge(own.router, left_and(own, 17)),
        ):
            old = stale.transaction(retries=0)
            old.execute(far, one, {"k": far})  # its map is the old one
            change(own, make())
            with pytest.raises(StalePlacement):
                old.execute(17, one, values)
            old.rollback()
            assert stale.execute(17, one, values).scalar_one() == 1
            change(own, plan_split(own.router, own.router.partition_of(18).id))
            assert stale.query(every).one() == expected
            found = stale.execute_by_id(entry, "SELECT customer_id FROM customers WHERE customer_id = 17")
            assert found.scalars().all() == [17]
            with stale.snapshot() as snap:
                assert snap.query(every).one() == expected
            changed = stale.run(lambda tx: tx.execute(17, "UPDATE plain SET extra = 1 WHERE customer_id = :k", values))
            assert changed.rowcount == 1  # type: ignore[attr-defined]


def left_and(place: Place, key: int) -> list[int]:
    """The partition of a key, and its left neighbour."""
    numbers = partition_ids(place)
    at = numbers.index(place.router.partition_of(key).id)
    return numbers[max(at - 1, 0) : max(at - 1, 0) + 2]


def test_schemas_can_be_changed_afterwards_and_nothing_drifts(own: Place) -> None:
    split(own, partition_ids(own)[0])
    own.router.create_schema("ALTER TABLE customers ADD COLUMN IF NOT EXISTS born date")
    own.router.create_schema("CREATE TABLE visits (customer_id bigint PRIMARY KEY)", {"visits": Sharded("customer_id")})
    found = all_rows(own)
    merge(own, *partition_ids(own)[:2])
    assert all_rows(own) == found
    assert find_drift(own.router.catalog, own.router.engines, own.router.topology) == []
    own.router.create_schema("DROP TABLE visits")
    # A schema of a retired number is told.
    own.sql("s0", "CREATE SCHEMA shop_p0000")
    (drift,) = find_drift(own.router.catalog, own.router.engines, own.router.topology)
    assert (drift.schema, drift.shard) == ("shop_p0000", "s0")
    own.sql("s0", "DROP SCHEMA shop_p0000")


def test_what_others_write_is_taken_along(own: Place, gates: Gates) -> None:
    """At each stage of a split rows of both halves are written, deleted and moved within the partition."""
    first = partition_ids(own)[0]
    plan = plan_split(own.router, first, to=own.other(first))
    keys = [key for key in range(60) if own.router.partition_of(key).id == first]
    points = [f"move:{name}" for name in ("capture:after", "copy:after", "finish:after", "verify:after")]
    gates.close(*points)
    running = Background(lambda: change(own, plan))
    for number, point in enumerate(points):
        gates.wait_for(point)
        for key in keys:
            own.router.execute(key, f"UPDATE plain SET extra = {number} WHERE customer_id = {key}")
            own.router.execute(key, f"DELETE FROM orders WHERE customer_id = {key} AND id = {number}")
            own.router.execute(key, f"INSERT INTO audit VALUES ({key}, {number}, 'while splitting')")
        gates.open(point)
    before = all_rows(own) if not running.done else {}
    running.wait()
    after = all_rows(own)
    assert before in ({}, after)
    written = own.router.query("SELECT customer_id, count(*) FROM audit WHERE what = 'while splitting' GROUP BY 1")
    assert {key: count for key, count in written if key in keys} == dict.fromkeys(keys, len(points))
    own.assert_clean()


def test_a_row_in_the_wrong_partition_is_refused(own: Place) -> None:
    first, second, *_ = partition_ids(own)
    key = next(key for key in range(60) if own.router.partition_of(key).id == second)
    name = f"shop_p{first:04d}"
    own.sql(own.owner(first), f"INSERT INTO {name}.plain VALUES ({key}, 'past the router')")
    with pytest.raises(MoveError, match=r"does not belong to: '.*past the router"):
        split(own, first)
    own.sql(own.owner(first), f"DELETE FROM {name}.plain WHERE payload = 'past the router'")
    own.assert_clean()


def test_rows_in_the_wrong_part_are_noticed(own: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: parts change places on the way. Together they have all rows, so that sums of digests agree."""
    honest = spread.Spread.places
    monkeypatch.setattr(spread.Spread, "places", lambda self, records: [1 - it for it in honest(self, records)])
    before = all_rows(own)
    monkeypatch.setattr(rounds, "_check_places", lambda leg: None)
    report = split(own, partition_ids(own)[0])
    with pytest.raises(AssertionError, match="in the wrong place"):
        all_rows(own)
    monkeypatch.undo()
    merge(own, *report.partitions)
    assert all_rows(own) == before

    copied = relay.Relay.copy

    def swapped(self: relay.Relay, *arguments: Any) -> int:
        monkeypatch.setattr(spread.Spread, "places", lambda it, records: [1 - at for at in honest(it, records)])
        try:
            return copied(self, *arguments)
        finally:
            monkeypatch.setattr(spread.Spread, "places", honest)

    monkeypatch.setattr(relay.Relay, "copy", swapped)
    with pytest.raises(MoveError, match="a row is in a partition"):
        split(own, partition_ids(own)[0])
    assert all_rows(own) == before
    own.assert_clean()
