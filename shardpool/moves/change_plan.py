"""Plans that change partitions: split one in two, merge neighbours, give a hot key one of its own, and take it back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import text

from shardpool.errors import NoSuchShard, PreflightFailed
from shardpool.moves.journal import Journal
from shardpool.moves.plan import FIRST_RATE
from shardpool.moves.sizes import read_sizes
from shardpool.planner.keyed import types_of_key
from shardpool.router import Router
from shardpool.topology.key import HASH_SPACE, KeyValue, hash_key
from shardpool.topology.shard_map import Placement

ChangeKind = Literal["split", "merge", "pin", "unpin"]


@dataclass(frozen=True)
class Piece:
    """A partition that is to be: hashes from `low` up to, and without, `high`, on `shard`."""

    low: int
    high: int
    shard: str

    @property
    def share(self) -> float:
        """The part of all hashes that it has."""
        return (self.high - self.low) / HASH_SPACE


@dataclass(frozen=True)
class ChangePlan:
    """Partitions (number -> shard) and what they become. Nothing has happened yet. `str()` describes it.

    `bytes` on disk and `rows` (an estimate) are all copied, also where a piece stays on its shard; `seconds` is about
    how long that takes, while everybody goes on.
    """

    kind: ChangeKind
    sources: tuple[tuple[int, str], ...]
    pieces: tuple[Piece, ...]
    bytes: int
    rows: int
    rate: float = FIRST_RATE

    @property
    def seconds(self) -> float:
        return self.bytes / self.rate

    def __str__(self) -> str:
        names = ", ".join(f"{number} on {shard}" for number, shard in self.sources)
        lines = [
            f"{self.kind} {names}: {self.rows:,} rows, {self.bytes:,} bytes are copied, about {self.seconds:.0f} s"
        ]
        lines += [f"  hashes {it.low} .. {it.high} ({it.share:.2%}) on {it.shard}" for it in self.pieces]
        return "\n".join(lines)


def plan_split(router: Router, partition: int, at: int | None = None, to: str | None = None) -> ChangePlan:
    """Plan to split a partition in two at the hash *at* (the middle if None), which goes to the upper one.

    The upper one comes to the shard *to*, or stays. Raise `PreflightFailed` if it cannot be.
    """
    router.refresh()
    place = _placement(router, partition)
    low, high = place.partition.low, place.partition.high
    middle = (low + high) // 2 if at is None else at
    if not low < middle < high:
        raise PreflightFailed(
            [f"partition {partition} has the hashes {low} .. {high}, which cannot be split at {middle}"]
        )
    return _plan(router, "split", [place], [(low, middle, place.shard), (middle, high, to or place.shard)])


def plan_merge(router: Router, partitions: Sequence[int], to: str | None = None) -> ChangePlan:
    """Plan to merge neighbours into one, on the shard *to*, or else on the one that has most of them.

    Raise `PreflightFailed` if they are fewer than two, or no neighbours.
    """
    router.refresh()
    places = sorted((_placement(router, it) for it in partitions), key=lambda it: it.partition.low)
    return _merge(router, "merge", places, to)


def plan_pin(router: Router, key: KeyValue, to: str | None = None, *, table: str | None = None) -> ChangePlan:
    """Plan to give a key a partition of its own, on the shard *to* or where it is. What else has its hash comes along.

    *table* says whose key it is, where tables have keys of different types. Raise `PreflightFailed`, `KeyTypeMismatch`.
    """
    router.refresh()
    topology = router.topology
    types = types_of_key(key, topology) if table is None else topology.tables[table].key_types
    position = hash_key(key, types)
    place = topology.shard_map.at(position)
    low, high = place.partition.low, place.partition.high
    if high - low == 1:
        raise PreflightFailed([f"the key has partition {place.partition.id} for itself already"])
    ranges = [
        (low, position, place.shard),
        (position, position + 1, to or place.shard),
        (position + 1, high, place.shard),
    ]
    return _plan(router, "pin", [place], [it for it in ranges if it[0] < it[1]])


def plan_unpin(router: Router, partition: int, to: str | None = None) -> ChangePlan:
    """Plan to merge the partition of a pinned key with the neighbours from which it was taken.

    Raise `PreflightFailed` if it is not pinned, or if none of its neighbours was ever one with it.
    """
    router.refresh()
    place, shard_map = _placement(router, partition), router.topology.shard_map
    low, high = place.partition.low, place.partition.high
    if high - low != 1:
        raise PreflightFailed([f"partition {partition} has the hashes {low} .. {high}: it is no pinned key's"])
    neighbours = [shard_map.at(it) for it in (low - 1, high) if 0 <= it < HASH_SPACE]
    ancestors = _ancestors(router)
    family = [it for it in neighbours if ancestors.get(it.partition.id, set()) & ancestors.get(partition, set())]
    if not family:
        raise PreflightFailed([f"no neighbour of partition {partition} was ever one with it: merge it with one"])
    return _merge(router, "unpin", sorted([place, *family], key=lambda it: it.partition.low), to)


def _merge(router: Router, kind: ChangeKind, places: Sequence[Placement], to: str | None) -> ChangePlan:
    numbers = [it.partition.id for it in places]
    if len(set(numbers)) < 2 or len(set(numbers)) < len(numbers):
        raise PreflightFailed([f"got the partitions {numbers}: two or more different ones can be merged"])
    for left, right in itertools.pairwise(places):
        if left.partition.high != right.partition.low:
            raise PreflightFailed([f"partitions {left.partition.id} and {right.partition.id} are no neighbours"])
    if to is None:
        sizes = {it.partition: it.bytes for it in read_sizes(router)}
        held = {it.shard: 0 for it in places}
        for it in places:
            held[it.shard] += sizes[it.partition.id]
        to = max(held, key=lambda shard: held[shard])
    return _plan(router, kind, places, [(places[0].partition.low, places[-1].partition.high, to)])


def _plan(
    router: Router, kind: ChangeKind, places: Sequence[Placement], pieces: Sequence[tuple[int, int, str]]
) -> ChangePlan:
    known = router.shard_map.shards
    for _, _, shard in pieces:
        if shard not in known:
            raise PreflightFailed([f"there is no shard {shard!r} (known: {', '.join(sorted(known))})"])
    numbers = {it.partition.id for it in places}
    sizes = [it for it in read_sizes(router) if it.partition in numbers]
    return ChangePlan(
        kind=kind,
        sources=tuple((it.partition.id, it.shard) for it in places),
        pieces=tuple(Piece(*it) for it in pieces),
        bytes=sum(it.bytes for it in sizes),
        rows=sum(it.rows for it in sizes),
        rate=Journal(router.catalog).rate() or FIRST_RATE,
    )


def _placement(router: Router, partition: int) -> Placement:
    try:
        return router.shard_map.placement(partition)
    except NoSuchShard as error:
        raise PreflightFailed([str(error)]) from error


def _ancestors(router: Router) -> dict[int, set[int]]:
    """Return partition -> all that it was made of, over all generations."""
    query = "SELECT id, parents FROM shardpool_catalog.partition WHERE keyspace = :keyspace ORDER BY id"
    found: dict[int, set[int]] = {}
    with router.catalog.begin() as connection:
        for number, parents in connection.execute(text(query), {"keyspace": router.catalog.keyspace}):
            # Parents are older, and so have lower numbers.
            found[number] = {*parents, *(old for parent in parents for old in found[parent])}
    return found
