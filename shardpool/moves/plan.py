"""Plans that move several partitions: what would move, how long it would take, and what the balance would be."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from shardpool.errors import NoSuchShard, PreflightFailed
from shardpool.moves.balance import Item, choose_moves, imbalance, shares
from shardpool.moves.journal import Journal
from shardpool.moves.load import read_loads
from shardpool.moves.sizes import PartitionSize, read_sizes
from shardpool.router import Router

Measure = Literal["bytes", "rows", "count", "load"]

#: Bytes per second that a move is thought to make before any was seen.
FIRST_RATE = 50_000_000
#: Seconds that the load is watched for.
WATCH = 5.0


@dataclass(frozen=True)
class PlannedMove:
    """A move that a plan proposes, with what it carries: bytes on disk, and rows (an estimate)."""

    partition: int
    source: str
    target: str
    bytes: int
    rows: int


@dataclass(frozen=True)
class ProposedSplit:
    """A partition that has more than any shard should have: `times` as much. No move balances that; `parts` of it may
    be balanced, if its rows are spread over its keys (a single hot key is to be pinned instead)."""

    partition: int
    shard: str
    times: float
    parts: int


@dataclass(frozen=True)
class ShardTotals:
    """What a shard holds."""

    count: int
    bytes: int
    rows: int


@dataclass(frozen=True)
class RebalancePlan:
    """Moves, and what each shard holds before and after them. `str()` describes it.

    The imbalance is the largest difference of a shard from what it should have, as a share of the mean, in the plan's
    measure. `rate` is how many bytes on disk earlier moves made in a second, or what is assumed if there were none.
    `splits` are proposals, which are not carried out with the plan; `imbalance_split` is what moves could reach after
    them, if the parts are even.
    """

    measure: Measure
    moves: tuple[PlannedMove, ...]
    before: Mapping[str, ShardTotals]
    after: Mapping[str, ShardTotals]
    imbalance_before: float
    imbalance_after: float
    rate: float = FIRST_RATE
    splits: tuple[ProposedSplit, ...] = ()
    imbalance_split: float | None = None

    @property
    def bytes(self) -> int:
        """How many bytes on disk move."""
        return sum(move.bytes for move in self.moves)

    @property
    def seconds(self) -> float:
        """About how long the moves would take, one after another."""
        return self.bytes / self.rate

    def __str__(self) -> str:
        lines = [
            f"{len(self.moves)} moves, {self.bytes:,} bytes, about {self.seconds:.0f} s; imbalance by {self.measure} "
            f"{self.imbalance_before:.1%} -> {self.imbalance_after:.1%}"
        ]
        for move in self.moves:
            what = f"{move.bytes:,} bytes, {move.rows:,} rows"
            lines.append(f"  partition {move.partition}: {move.source} -> {move.target} ({what})")
        for shard, before in self.before.items():
            after = self.after[shard]
            lines.append(
                f"  {shard}: {before.count} -> {after.count} partitions, {before.bytes:,} -> {after.bytes:,} bytes"
            )
        for split in self.splits:
            lines.append(
                f"  partition {split.partition} on {split.shard} has {split.times:.1f} times what a shard should have: "
                f"split it in {split.parts} (imbalance {self.imbalance_split:.1%})"
            )
        return "\n".join(lines)


def plan_rebalance(
    router: Router,
    by: Measure = "bytes",
    drain: Collection[str] = (),
    *,
    tolerance: float = 0.1,
    watch: float = WATCH,
) -> RebalancePlan:
    """Propose the moves with the fewest bytes that bring every shard within *tolerance* of its share.

    The shares are in proportion to the shards' capacities. Shards in *drain*, and those that are marked as draining,
    are emptied; closed ones keep what they have and get nothing. By "load", rows that are read and written count, as
    seen in *watch* seconds. Nothing is changed. Raise `NoSuchShard`,
    `PreflightFailed` if no shard would be left, and as `read_sizes` does if one cannot be asked.
    """
    router.refresh()
    sizes = read_sizes(router)
    shards = router.topology.shard_map.shards
    for name in drain:
        if name not in shards:
            raise NoSuchShard(f"there is no shard {name!r} (known: {', '.join(sorted(shards))})")
    targets = [name for name, shard in sorted(shards.items()) if shard.state == "active" and name not in drain]
    if not targets:
        raise PreflightFailed(["no shard would be left to take the partitions"])
    weigh = _weights(router, sizes, by, watch)
    capacities = {name: shard.capacity for name, shard in shards.items()}
    closed = {name for name, shard in shards.items() if shard.state == "closed" and name not in drain}
    items = [
        Item(size.partition, size.shard, weigh[size.partition], size.bytes)
        for size in sizes
        if size.shard not in closed
    ]
    chosen = choose_moves(items, targets, tolerance, capacities)
    before = {size.partition: size.shard for size in sizes}
    after = {**before, **chosen}
    judged = sorted(set(shards) - closed)
    splits = _splits(router, items, targets, tolerance, capacities)
    return RebalancePlan(
        measure=by,
        moves=tuple(
            PlannedMove(size.partition, size.shard, chosen[size.partition], size.bytes, size.rows)
            for size in sizes
            if size.partition in chosen
        ),
        before=_totals(sizes, before, sorted(shards)),
        after=_totals(sizes, after, sorted(shards)),
        imbalance_before=imbalance(_loads(weigh, before, judged), targets, capacities),
        imbalance_after=imbalance(_loads(weigh, after, judged), targets, capacities),
        rate=Journal(router.catalog).rate() or FIRST_RATE,
        splits=splits,
        imbalance_split=_after_splits(items, splits, targets, tolerance, capacities) if splits else None,
    )


def _splits(
    router: Router, items: Sequence[Item], targets: Collection[str], tolerance: float, capacities: Mapping[str, float]
) -> tuple[ProposedSplit, ...]:
    fair = max(shares(sum(item.weight for item in items), targets, capacities).values())
    found = []
    for item in items:
        partition = router.shard_map.placement(item.partition).partition
        if item.weight > fair * (1 + tolerance) and partition.high - partition.low > 1:
            times = item.weight / fair
            found.append(ProposedSplit(item.partition, item.shard, times, 1 << math.ceil(math.log2(times))))
    return tuple(found)


def _after_splits(
    items: Sequence[Item],
    splits: Sequence[ProposedSplit],
    targets: Collection[str],
    tolerance: float,
    capacities: Mapping[str, float],
) -> float:
    """Return the imbalance that moves could reach if these were split in even parts."""
    parts = {split.partition: split.parts for split in splits}
    pieces = [
        Item(number, item.shard, item.weight / parts.get(item.partition, 1), item.cost // parts.get(item.partition, 1))
        for number, item in enumerate(it for it in items for _ in range(parts.get(it.partition, 1)))
    ]
    chosen = choose_moves(pieces, targets, tolerance, capacities)
    loads = dict.fromkeys(targets, 0.0)
    for piece in pieces:
        loads[chosen.get(piece.partition, piece.shard)] += piece.weight
    return imbalance(loads, targets, capacities)


def _weights(router: Router, sizes: Collection[PartitionSize], by: Measure, watch: float) -> dict[int, float]:
    match by:
        case "bytes":
            return {size.partition: float(size.bytes) for size in sizes}
        case "rows":
            return {size.partition: float(size.rows) for size in sizes}
        case "count":
            return {size.partition: 1.0 for size in sizes}
        case "load":
            loads = read_loads(router, watch)
            return {size.partition: loads.get(size.partition, 0.0) for size in sizes}


def _totals(
    sizes: Collection[PartitionSize], places: Mapping[int, str], shards: Collection[str]
) -> dict[str, ShardTotals]:
    found = {}
    for shard in shards:
        here = [size for size in sizes if places[size.partition] == shard]
        found[shard] = ShardTotals(len(here), sum(it.bytes for it in here), sum(it.rows for it in here))
    return found


def _loads(weigh: Mapping[int, float], places: Mapping[int, str], shards: Collection[str]) -> dict[str, float]:
    return {shard: sum(weigh[number] for number, place in places.items() if place == shard) for shard in shards}
