"""Plans that move several partitions, and carrying them out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from shardpool.errors import CutoverTimeout, NoSuchShard, PreflightFailed
from shardpool.moves.balance import Item, choose_moves, imbalance
from shardpool.moves.journal import Journal
from shardpool.moves.locks import GRACE, move_locked
from shardpool.moves.partition import move_partition
from shardpool.moves.progress import Callback
from shardpool.moves.recovery import recover_moves, settle_partition
from shardpool.moves.runner import MoveReport
from shardpool.moves.sizes import PartitionSize, read_sizes
from shardpool.moves.steps import is_committed
from shardpool.router import Router

Measure = Literal["bytes", "rows", "count"]

#: So often a plan comes back to partitions that were in use.
ROUNDS = 3


@dataclass(frozen=True)
class PlannedMove:
    """A move that a plan proposes, with what it carries: bytes on disk, and rows (an estimate)."""

    partition: int
    source: str
    target: str
    bytes: int
    rows: int


@dataclass(frozen=True)
class ShardTotals:
    """What a shard holds."""

    count: int
    bytes: int
    rows: int


@dataclass(frozen=True)
class RebalancePlan:
    """Moves, and what each shard holds before and after them. `str()` describes it.

    The imbalance is the largest difference of a shard from the mean, as a share of it, in the plan's measure.
    """

    measure: Measure
    moves: tuple[PlannedMove, ...]
    before: Mapping[str, ShardTotals]
    after: Mapping[str, ShardTotals]
    imbalance_before: float
    imbalance_after: float

    @property
    def bytes(self) -> int:
        """How many bytes on disk move."""
        return sum(move.bytes for move in self.moves)

    def __str__(self) -> str:
        lines = [
            f"{len(self.moves)} moves, {self.bytes:,} bytes; imbalance by {self.measure} "
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
        return "\n".join(lines)


def plan_rebalance(
    router: Router, by: Measure = "bytes", drain: Collection[str] = (), *, tolerance: float = 0.1
) -> RebalancePlan:
    """Propose the moves with the fewest bytes that bring every shard within *tolerance* of the mean.

    Shards in *drain*, and those that are marked as draining, are emptied. Nothing is changed. Raise `NoSuchShard`,
    `PreflightFailed` if no shard would be left, and `ShardUnavailable` if one cannot be asked.
    """
    router.refresh()
    shards = router.topology.shard_map.shards
    for name in drain:
        if name not in shards:
            raise NoSuchShard(f"there is no shard {name!r} (known: {', '.join(sorted(shards))})")
    targets = [name for name, shard in sorted(shards.items()) if shard.state == "active" and name not in drain]
    if not targets:
        raise PreflightFailed(["no shard would be left to take the partitions"])
    sizes = read_sizes(router)
    weigh = {size.partition: float(_weight(size, by)) for size in sizes}
    items = [Item(size.partition, size.shard, weigh[size.partition], size.bytes) for size in sizes]
    chosen = choose_moves(items, targets, tolerance)
    before = {size.partition: size.shard for size in sizes}
    after = {**before, **chosen}
    return RebalancePlan(
        measure=by,
        moves=tuple(
            PlannedMove(size.partition, size.shard, chosen[size.partition], size.bytes, size.rows)
            for size in sizes
            if size.partition in chosen
        ),
        before=_totals(sizes, before, sorted(shards)),
        after=_totals(sizes, after, sorted(shards)),
        imbalance_before=imbalance(_loads(weigh, before, sorted(shards)), targets),
        imbalance_after=imbalance(_loads(weigh, after, sorted(shards)), targets),
    )


def apply_rebalance(router: Router, plan: RebalancePlan, *, progress: Callback | None = None) -> list[MoveReport]:
    """Carry out a plan, one move after the other; may be called again with the same plan after it was interrupted.

    Partitions that are in use are tried again after the others. Raise as `move_partition` does, and `PreflightFailed`
    for a partition that was moved elsewhere since the plan was made.
    """
    recover_moves(router, leave={planned.partition for planned in plan.moves})
    reports: list[MoveReport] = []
    remaining = list(plan.moves)
    for last in (False,) * (ROUNDS - 1) + (True,):
        busy = []
        for planned in remaining:
            router.refresh()
            try:
                if not _is_done(router, planned):
                    reports.append(move_partition(router, planned.partition, planned.target, progress=progress))
            except CutoverTimeout:
                if last:
                    raise
                busy.append(planned)
        remaining = busy
    return reports


def _is_done(router: Router, planned: PlannedMove) -> bool:
    for record in Journal(router.catalog).running(planned.partition):
        if record.target == planned.target and record.online and not is_committed(record.mode, record.step):
            return False  # it is gone on with
        with move_locked(router, planned.partition, patience=GRACE):
            settle_partition(router, planned.partition)
        router.refresh()
    place = router.topology.shard_map.owner(planned.partition).name
    if place not in (planned.source, planned.target):
        planned_move = f"partition {planned.partition} was planned to move from {planned.source} to {planned.target}"
        raise PreflightFailed([f"{planned_move}, but is on {place} now: make a new plan"])
    return place == planned.target


def _weight(size: PartitionSize, by: Measure) -> int:
    match by:
        case "bytes":
            return size.bytes
        case "rows":
            return size.rows
        case "count":
            return 1


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
