"""The shard map: ranges, and what it refuses."""

from __future__ import annotations

import pytest

from shardpool.errors import InvalidShardMap, NoSuchShard
from shardpool.topology.key import HASH_SPACE, KeyType
from shardpool.topology.names import check_keyspace_name, literal, partition_schema, quote
from shardpool.topology.shard_map import Partition, Placement, Shard, ShardMap, even_ranges, new_partition

SHARDS = {"s0": Shard("s0", "postgresql://h/a"), "s1": Shard("s1", "postgresql://h/b")}


def placements(ranges: list[tuple[int, int]], shard: str = "s0") -> list[Placement]:
    return [Placement(new_partition("shop", number, *bounds), shard, 1) for number, bounds in enumerate(ranges)]


def build(ranges: list[tuple[int, int]], shard: str = "s0") -> ShardMap:
    return ShardMap("shop", 1, SHARDS, placements(ranges, shard))


@pytest.mark.parametrize("count", [1, 3, 16, 64, 1000])
def test_every_hash_has_one_partition(count: int) -> None:
    shard_map = build(even_ranges(count))
    for partition in shard_map.partitions:
        assert shard_map.at(partition.low).partition is partition
        assert shard_map.at(partition.high - 1).partition is partition


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([(0, 5), (6, HASH_SPACE)], "gap"),
        ([(0, 5), (4, HASH_SPACE)], "overlap"),
        ([(1, HASH_SPACE)], "gap"),
        ([(0, HASH_SPACE - 1)], "gap"),
        ([(0, 5), (5, 5), (5, HASH_SPACE)], "empty"),
        ([], "gap"),
    ],
)
def test_gaps_and_overlaps_are_refused(ranges: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(InvalidShardMap, match=message):
        build(ranges)


def test_unknown_owner_and_repeated_id_are_refused() -> None:
    with pytest.raises(InvalidShardMap, match="unknown shard"):
        build(even_ranges(2), "s9")
    same = [Placement(Partition(7, low, high, "shop_p0007"), "s0", 1) for low, high in even_ranges(2)]
    with pytest.raises(InvalidShardMap, match="twice"):
        ShardMap("shop", 1, SHARDS, same)


def test_owner_and_grouping() -> None:
    found = [*placements(even_ranges(2)[:1]), Placement(new_partition("shop", 1, *even_ranges(2)[1]), "s1", 1)]
    shard_map = ShardMap("shop", 1, SHARDS, found)
    assert shard_map.owner(1).name == "s1"
    assert {name: [p.id for p in ps] for name, ps in shard_map.by_shard().items()} == {"s0": [0], "s1": [1]}
    assert list(shard_map.by_shard([1])) == ["s1"]
    with pytest.raises(NoSuchShard):
        shard_map.owner(7)


def test_key_types_are_values() -> None:
    assert {KeyType("integer"), KeyType("text")} == {KeyType.INTEGER, KeyType.TEXT}


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 64, "é" * 32, "\ud800"])
def test_hostile_identifiers_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="identifier"):
        quote(name)


def test_quoting() -> None:
    assert quote('t"; drop table x; --') == '"t""; drop table x; --"'
    assert quote("x" * 63) == '"' + "x" * 63 + '"'
    assert literal("it's") == "'it''s'"
    assert literal("a\\b") == " E'a\\\\b'"


@pytest.mark.parametrize("name", ["Shop", "1shop", "shop-x", "pg_shop", "public", "shardpool_catalog", "x" * 41, ""])
def test_keyspace_names(name: str) -> None:
    with pytest.raises(ValueError, match="keyspace"):
        check_keyspace_name(name)


def test_schema_names() -> None:
    assert partition_schema("shop", 17) == "shop_p0017"
