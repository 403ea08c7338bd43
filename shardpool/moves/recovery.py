"""Recovery: any process can settle the moves that others left half way, and drop what they could not.

A move is left when nobody holds its lock, or when its process has given no sign of life for some time: a process that
is frozen holds the lock all the same. Taking over a move whose process does live after all is safe, and a waste.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import psycopg2
from sqlalchemy.exc import DBAPIError

from shardpool.errors import MoveInProgress, PreflightFailed, ShardpoolError
from shardpool.moves.create import drop_schema
from shardpool.moves.journal import Journal, Leftover
from shardpool.moves.keeping import keep_current
from shardpool.moves.locks import break_move_lock, move_locked
from shardpool.moves.record import MoveRecord
from shardpool.moves.settle import settle
from shardpool.moves.steps import is_cut_over
from shardpool.router import Router

log = logging.getLogger(__name__)

#: After so many seconds without a sign of life, a move's process counts as frozen.
FROZEN_AFTER = 30.0
#: So long, in seconds, an abort waits for the lock that it took from the move's process.
ABORT_PATIENCE = 10.0


@dataclass(frozen=True)
class Recovered:
    """What became of a move that was found unfinished. 'running': its process is at work, and was left alone;
    'unsettled': `reason` says what is in the way."""

    move: int
    partition: int
    source: str
    target: str
    outcome: Literal["completed", "undone", "running", "unsettled"]
    reason: str = ""
    what: str = ""

    def __str__(self) -> str:
        what = f"{self.what}: {self.outcome}"
        return f"{what}: {self.reason}" if self.reason else what


def recover_moves(
    router: Router, *, frozen_after: float = FROZEN_AFTER, leave: Collection[int] = ()
) -> list[Recovered]:
    """Settle all moves whose processes are gone, but those of partitions in *leave*; drop schemas that are not used.
    Ways back are left until their time has passed.

    Raise `CatalogUnavailable`. Anything else that stands in the way of one move is told in the result.
    """
    journal = Journal(router.catalog)
    left = frozenset(leave)
    running = [it for it in journal.running() if not left.intersection(it.partitions) and not journal.kept(it)]
    found = [_recover(router, record, frozen_after) for record in running]
    drop_leftovers(router)
    if found:
        router.refresh()
    return found


def care_for_moves(router: Router) -> None:
    """Settle what keeps a partition from being served, and moves that nobody has worked on for a while; keep ways back
    current.

    An online move whose process was killed earlier than that is left for half a minute, so that it can be gone on with.
    Raise `CatalogUnavailable`.
    """
    journal = Journal(router.catalog)
    for record in journal.running():
        if journal.kept(record):
            keep_current(router, record)
        elif is_cut_over(record.mode, record.step) or journal.seconds_silent(record) > FROZEN_AFTER:
            _recover(router, record, FROZEN_AFTER)
    drop_leftovers(router)


def settle_partition(router: Router, partition: int) -> None:
    """Settle what a process that is gone has left of a partition's move, if anything. The caller holds the move's lock.

    Raise as `settle` does.
    """
    for record in Journal(router.catalog).running(partition):
        settle(router, record)


def drop_leftovers(router: Router) -> list[Leftover]:
    """Drop the schemas that ended moves left behind; return those that are still there."""
    journal = Journal(router.catalog)
    remaining = []
    for leftover in journal.leftovers():
        try:
            with router.engines.borrow(leftover.shard) as connection:
                dropped = drop_schema(connection, leftover.schema)
        except (ShardpoolError, psycopg2.Error) as error:
            log.warning("%s cannot be dropped yet: %s", leftover, error)
            dropped = False
        if dropped:
            journal.forget_object(leftover.move, leftover.schema)
        else:
            remaining.append(leftover)
    return remaining


def abort_move(router: Router, partition: int) -> Recovered:
    """Undo the move of a partition, also while its process is at work: that one gets `MoveTakenOver`.

    The outcome is 'completed' if it was past its commit point. Raise `PreflightFailed` if the partition does not move,
    and as `settle` does.
    """
    journal = Journal(router.catalog)
    running = journal.running(partition)
    if not running:
        raise PreflightFailed([f"partition {partition} does not move"])
    (record,) = running
    for number in record.partitions:
        break_move_lock(router, number)
    with move_locked(router, record.partition, patience=ABORT_PATIENCE):
        # A router may have settled it since the lock was broken.
        found = [it for it in journal.running(partition) if it.id == record.id]
        outcome = settle(router, found[0])[0] if found else journal.outcome(record)
    drop_leftovers(router)
    router.refresh()
    return _recovered(record, outcome)


def _recover(router: Router, record: MoveRecord, frozen_after: float) -> Recovered:
    try:
        if Journal(router.catalog).seconds_silent(record) > frozen_after:
            log.warning("%s gives no sign of life: its lock is taken away", record)
            for number in record.partitions:
                break_move_lock(router, number)
        with move_locked(router, record.partition):
            outcome, _ = settle(router, record)
        return _recovered(record, outcome)
    except MoveInProgress as error:
        return _recovered(record, "running", str(error))
    except (ShardpoolError, psycopg2.Error, DBAPIError) as error:
        log.warning("%s cannot be settled yet: %s", record, error)
        return _recovered(record, "unsettled", str(error).strip())


def _recovered(
    record: MoveRecord, outcome: Literal["completed", "undone", "running", "unsettled"], reason: str = ""
) -> Recovered:
    return Recovered(record.id, record.partition, record.source, record.target, outcome, reason, str(record))
