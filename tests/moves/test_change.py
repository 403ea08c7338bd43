"""Split, merge, pin and unpin: the same rows in other partitions, whoever writes meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardpool.errors import PreflightFailed
from shardpool.moves import plan_merge, plan_pin, plan_split, plan_unpin
from tests.moves.change_tools import all_rows, change, merge, partition_ids, split
from tests.moves.conftest import shop_config
from tests.moves.move_tools import Place
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


@pytest.mark.parametrize("elsewhere", [False, True])
def test_split_and_merge(own: Place, elsewhere: bool) -> None:
    before, first = all_rows(own), partition_ids(own)[0]
    highest = own.catalog("SELECT max(id) FROM shardpool_catalog.partition")[0][0]
    report = split(own, first, to=own.other(first) if elsewhere else None)
    assert report.kind == "split" and report.partitions == (highest + 1, highest + 2)
    assert partition_ids(own)[:2] == list(report.partitions)
    assert all_rows(own) == before
    own.assert_clean()
    assert (own.owner(report.partitions[0]) != own.owner(report.partitions[1])) == elsewhere

    report = merge(own, *report.partitions, to=own.other(report.partitions[0]) if elsewhere else None)
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
