"""The shard map: which partition holds a hash, which shard holds a partition. Immutable; a newer one replaces it."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from shardpool.errors import InvalidShardMap, NoSuchShard
from shardpool.topology.key import HASH_SPACE, KeyType, KeyValue, hash_key
from shardpool.topology.names import partition_schema, quote
from shardpool.topology.tables import Tables, Views


@dataclass(frozen=True)
class Shard:
    """One PostgreSQL database. `url` never contains a password. A draining shard is to be emptied, a closed one
    keeps what it has: both take no new partitions. `capacity` is what it is to take in proportion to the others.
    """

    name: str
    url: str
    state: str = "active"
    capacity: float = 1.0


@dataclass(frozen=True)
class Partition:
    """The hash range ``low <= hash < high``, as the schema `schema`; the id is never given to another range."""

    id: int
    low: int
    high: int
    schema: str


@dataclass(frozen=True)
class Placement:
    """Where a partition lives. `moving` while a move is under way: a missing schema is then worth a short wait."""

    partition: Partition
    shard: str
    epoch: int
    moving: bool = False


@dataclass(frozen=True)
class ShardMap:
    """An immutable snapshot of all placements.

    Raises `InvalidShardMap` when built from placements with a gap, an overlap, a repeated id or an unknown shard.
    """

    keyspace: str
    epoch: int
    shards: Mapping[str, Shard]
    placements: Sequence[Placement]
    #: Partitions that were split, merged or pinned; their ids are never given to others.
    retired: Mapping[int, Partition] = field(default_factory=dict)
    _lows: list[int] = field(init=False, repr=False, compare=False)
    _by_id: dict[int, Placement] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.placements, key=lambda placement: placement.partition.low))
        object.__setattr__(self, "placements", ordered)
        object.__setattr__(self, "_lows", [placement.partition.low for placement in ordered])
        object.__setattr__(self, "_by_id", {placement.partition.id: placement for placement in ordered})
        self._check()

    def _check(self) -> None:
        position = 0
        for placement in self.placements:
            partition = placement.partition
            if partition.low != position:
                what = "gap" if partition.low > position else "overlap"
                raise InvalidShardMap(
                    f"keyspace {self.keyspace!r}: {what} in the hash space at {min(position, partition.low)}, before "
                    f"partition {partition.id} ({partition.low} .. {partition.high})"
                )
            if partition.high <= partition.low:
                raise InvalidShardMap(f"keyspace {self.keyspace!r}: partition {partition.id} is empty or reversed")
            if placement.shard not in self.shards:
                raise InvalidShardMap(f"partition {partition.id} is placed on the unknown shard {placement.shard!r}")
            position = partition.high
        if position != HASH_SPACE:
            raise InvalidShardMap(f"keyspace {self.keyspace!r}: gap in the hash space from {position} to {HASH_SPACE}")
        if len(self._by_id) != len(self.placements):
            raise InvalidShardMap(f"keyspace {self.keyspace!r}: a partition id is used twice")

    @cached_property
    def partitions(self) -> tuple[Partition, ...]:
        """All partitions, ordered by their hash ranges."""
        return tuple(placement.partition for placement in self.placements)

    def at(self, position: int) -> Placement:
        """Return the placement whose range holds the hash *position*."""
        return self.placements[bisect_right(self._lows, position) - 1]

    def placement(self, partition: Partition | int) -> Placement:
        """Return where *partition* (or the partition of that id) lives. Raise `NoSuchShard` for a retired or unknown
        id.
        """
        number = partition if isinstance(partition, int) else partition.id
        try:
            return self._by_id[number]
        except KeyError:
            raise NoSuchShard(
                f"keyspace {self.keyspace!r} has no partition {number}{self._what_became_of(number)}"
            ) from None

    def heirs(self, partition: int) -> tuple[Placement, ...]:
        """Return where the rows of a partition are: itself, or those that were made of it. Raise `NoSuchShard`."""
        if partition not in self.retired:
            return (self.placement(partition),)
        old = self.retired[partition]
        found = self.at(old.low)
        heirs = [found]
        while heirs[-1].partition.high < old.high:
            heirs.append(self.at(heirs[-1].partition.high))
        return tuple(heirs)

    def _what_became_of(self, partition: int) -> str:
        if partition not in self.retired:
            return ""
        heirs = ", ".join(str(it.partition.id) for it in self.heirs(partition))
        return f" any more: its rows are in {heirs}"

    def owner(self, partition: Partition | int) -> Shard:
        """Return the shard that holds *partition*."""
        return self.shards[self.placement(partition).shard]

    def by_shard(self, partitions: Iterable[int] | None = None) -> dict[str, tuple[Partition, ...]]:
        """Return shard name -> its partitions, of all or of the given ids; shards without any are left out."""
        wanted = None if partitions is None else set(partitions)
        found: dict[str, list[Partition]] = {}
        for placement in self.placements:
            if wanted is None or placement.partition.id in wanted:
                found.setdefault(placement.shard, []).append(placement.partition)
        return {shard: tuple(found[shard]) for shard in sorted(found)}


def even_ranges(count: int) -> list[tuple[int, int]]:
    """Split the hash space into *count* ranges ``(low, high)`` whose sizes differ by at most one."""
    bounds = [HASH_SPACE * index // count for index in range(count + 1)]
    return list(itertools.pairwise(bounds))


@dataclass(frozen=True)
class Topology:
    """All that routing and planning need to know, at one epoch: the shard map, the tables and the views."""

    keyspace: str
    shard_map: ShardMap
    tables: Tables
    #: Names of functions outside pg_catalog on the shards: what they read is unknown to the planner.
    user_functions: frozenset[str] = frozenset()
    views: Views = field(default_factory=dict)

    @cached_property
    def search_paths(self) -> dict[int, str]:
        """Partition id -> the statement prefix that makes its tables visible until the end of the transaction."""
        shared = f"{quote(self.keyspace)}, public"
        return {
            partition.id: f"SET LOCAL search_path TO {quote(partition.schema)}, {shared};"
            for partition in self.shard_map.partitions
        }

    @cached_property
    def qualifiers(self) -> dict[int, str]:
        """Partition id -> what stands before the name of a table in it: its quoted schema and a dot."""
        return {partition.id: quote(partition.schema) + "." for partition in self.shard_map.partitions}

    @cached_property
    def reservations(self) -> frozenset[str]:
        """The names of the tables of reservations: they are written along with others, and not by themselves."""
        return frozenset(name for table in self.tables.values() for _, name in table.unique)

    @cached_property
    def reserving(self) -> frozenset[object]:
        """Which columns' values writes reserve. A plan that was made for others does not fit: it could reserve none."""
        return frozenset((table.name, table.unique, table.building) for table in self.tables.values() if table.unique)

    @cached_property
    def sharded_names(self) -> tuple[str, ...]:
        """The names that mean something in partitions only: those of sharded tables and views."""
        tables = [table.name for table in self.tables.values() if table.sharded]
        return (*tables, *(view.name for view in self.views.values() if view.sharded))

    @cached_property
    def key_types(self) -> frozenset[tuple[KeyType, ...]]:
        """The key types in use, one entry per distinct type of key."""
        return frozenset(table.key_types for table in self.tables.values() if table.sharded)

    def place(self, key: KeyValue, key_types: Sequence[KeyType]) -> Placement:
        """Return the placement of a key. Raise `KeyTypeMismatch` if it is not of *key_types*."""
        return self.shard_map.at(hash_key(key, key_types))


def new_partition(keyspace: str, number: int, low: int, high: int) -> Partition:
    return Partition(number, low, high, partition_schema(keyspace, number))
