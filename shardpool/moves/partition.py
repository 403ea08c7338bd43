"""Moving one partition."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from shardpool import faults
from shardpool.errors import CatalogUnavailable, NoSuchShard, PreflightFailed
from shardpool.moves.checks import check_move
from shardpool.moves.journal import Journal
from shardpool.moves.locks import GRACE, keyspace_locked, move_locked
from shardpool.moves.modes import Wanted, choose_mode
from shardpool.moves.progress import Callback, Meter
from shardpool.moves.record import MoveRecord
from shardpool.moves.recovery import recover_moves, settle_partition
from shardpool.moves.resume import resume
from shardpool.moves.runner import MoveReport, run_move
from shardpool.moves.steps import first_of
from shardpool.router import Router


def move_partition(
    router: Router,
    partition: int,
    to: str,
    *,
    mode: Wanted = "auto",
    keep: float = 0.0,
    progress: Callback | None = None,
) -> MoveReport:
    """Move a partition to the shard *to* while everybody goes on.

    *mode* "trigger" and "logical" make its writers wait only for a moment at the end, "block" for the whole copy. What
    is written meanwhile is noted by triggers, or told by a replication slot of the source. "auto" takes "trigger",
    "logical" for a partition that is most of what its server writes, "block" where rights are missing; the report says
    why. For *keep* seconds the old side is kept, so that moving the
    partition back is a cutover and not a copy (not with "block"); meanwhile the schema cannot be changed.

    Moves that were left half way by other processes are settled first; an online one of this partition to this shard
    is gone on with. If this one fails, it is undone before the error is raised; after its commit point it is completed
    instead.

    Raises:
        PreflightFailed: it cannot be done; all reasons are named. Nothing was created.
        MoveInProgress: another process moves the partition (retryable).
        CutoverTimeout: transactions did not let go of the partition in time (retryable). Nothing moved.
        DigestMismatch, SchemaDrift: the copy is not like the source. Nothing moved.
        ShardUnavailable, CatalogUnavailable: a server broke down. Nothing moved, unless a note on the error says that
            the move could not be settled; then `recover_moves` will.
        OwnershipAmbiguous: the servers contradict the catalog; says what to look at.
    """
    recover_moves(router, leave={partition})
    router.resolve_transactions()
    return move_one(router, partition, to, mode, keep, progress)


def move_one(
    router: Router, partition: int, to: str, mode: Wanted, keep: float, progress: Callback | None
) -> MoveReport:
    """Move a partition, and settle only what was left of its own moves. See `move_partition`."""
    meter = Meter(partition, progress)
    with move_locked(router, partition, patience=GRACE):
        if (resumed := _resume(router, partition, to, meter)) is not None:
            return resumed
        router.refresh()
        meter.enter("preflight")
        source = _source(router, partition, to)
        check_move(router, partition, source, to)
        meter.enter("register")
        chosen, reason = choose_mode(router, partition, source, to, mode)
        detail: dict[str, Any] = {"mode": chosen, "reason": reason}
        if keep > 0 and chosen != "block":
            detail |= {"keep": keep, "back": Journal(router.catalog).reserve()}
        record = _register(router, partition, source, to, detail)
        try:
            return run_move(router, record, meter)
        finally:
            # If the catalog is down, the router will hear of it later.
            with suppress(CatalogUnavailable):
                router.refresh()


def _source(router: Router, partition: int, to: str) -> str:
    """Return where the partition is. Raise `PreflightFailed` if it cannot be moved from there to *to* at all."""
    shard_map = router.topology.shard_map
    try:
        source = shard_map.owner(partition).name
    except NoSuchShard as error:
        raise PreflightFailed([str(error)]) from error
    if to not in shard_map.shards:
        raise PreflightFailed([f"there is no shard {to!r} (known: {', '.join(sorted(shard_map.shards))})"])
    if to == source:
        raise PreflightFailed([f"partition {partition} is on shard {to} already"])
    return source


def _resume(router: Router, partition: int, to: str, meter: Meter) -> MoveReport | None:
    """Go on with a move that was left half way, or settle it."""
    for record in Journal(router.catalog).running(partition):
        if record.kind == "move" and record.target == to and (report := resume(router, record, meter)) is not None:
            router.refresh()
            return report
    settle_partition(router, partition)
    return None


def _register(router: Router, partition: int, source: str, target: str, detail: Mapping[str, Any]) -> MoveRecord:
    """Write the move into the catalog, while no schema change can begin."""
    with keyspace_locked(router):
        faults.fault_point("move:register:before")
        record = Journal(router.catalog).register(partition, source, target, first_of(detail["mode"]), detail)
        faults.fault_point("move:register:after")
        return record
