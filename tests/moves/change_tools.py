"""What the tests of split, merge, pin and unpin see of a keyspace, whatever its partitions are."""

from __future__ import annotations

from shardpool import Sharded
from shardpool.moves import ChangePlan, MoveReport, change_partitions, plan_merge, plan_split
from shardpool.moves.modes import Wanted
from shardpool.topology.names import quote
from tests.moves.move_tools import TABLES, Place

SHARDED = sorted(name for name, kind in TABLES.items() if isinstance(kind, Sharded))


def all_rows(place: Place) -> dict[str, list[str]]:
    """Table -> its rows over all partitions, read behind the router's back; each must be where its key belongs."""
    place.router.refresh()
    found: dict[str, list[str]] = {name: [] for name in SHARDED}
    for placement in place.router.shard_map.placements:
        for name in SHARDED:
            query = f"SELECT customer_id, (t.*)::text FROM {placement.partition.schema}.{quote(name)} t"
            for key, row in place.sql(placement.shard, query):
                assert place.router.partition_of(key) == placement.partition, f"{name}: {row} is in the wrong place"
                found[name].append(row)
    return {name: sorted(rows) for name, rows in found.items()}


def split(
    place: Place, partition: int, at: int | None = None, to: str | None = None, mode: Wanted = "auto"
) -> MoveReport:
    return change_partitions(place.router, plan_split(place.router, partition, at, to), mode=mode)


def merge(place: Place, *partitions: int, to: str | None = None, mode: Wanted = "auto") -> MoveReport:
    return change_partitions(place.router, plan_merge(place.router, partitions, to), mode=mode)


def change(place: Place, plan: ChangePlan) -> MoveReport:
    return change_partitions(place.router, plan)


def partition_ids(place: Place) -> list[int]:
    """The partitions in the order of their hashes."""
    place.router.refresh()
    return [it.id for it in place.router.shard_map.partitions]
