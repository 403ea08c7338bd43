"""A planned move where it is carried out: in a thread of the plan's process, in another one, or on another machine.

There a router of its own is opened, for this one move. The catalog's lock and journal see to it that nobody else works
on the same move: neither a worker that was taken for dead nor one that gets its work again.
"""

from __future__ import annotations

import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from shardpool.bulk.worker import at_hand
from shardpool.config import Config
from shardpool.errors import CutoverTimeout, PreflightFailed
from shardpool.moves.journal import Journal
from shardpool.moves.locks import GRACE, move_locked
from shardpool.moves.partition import move_one
from shardpool.moves.plan import PlannedMove
from shardpool.moves.recovery import settle_partition
from shardpool.moves.runner import MoveReport
from shardpool.moves.steps import is_committed
from shardpool.router import Router

#: None: it was done before.
Outcome = MoveReport | CutoverTimeout | None


@dataclass(frozen=True)
class MoveWork:
    """What another process needs to move partitions of a keyspace."""

    config: Config
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def open(self) -> AbstractContextManager[Router]:
        return Router(self.config, listen=False)


def carry_out(work: MoveWork, planned: PlannedMove, last: bool) -> Outcome:
    """Do a move that is not done yet. Return an error that another try may not meet, if it is not the last."""
    with at_hand(work) as router:
        router.refresh()
        try:
            if _is_done(router, planned):
                return None
            return move_one(router, planned.partition, planned.target, "auto", 0.0, None)
        except CutoverTimeout as error:
            if last:
                raise
            return error


def _is_done(router: Router, planned: PlannedMove) -> bool:
    for record in Journal(router.catalog).running(planned.partition):
        if record.target == planned.target and record.online and not is_committed(record.mode, record.step):
            return False  # it is gone on with
        with move_locked(router, planned.partition, patience=GRACE):
            settle_partition(router, planned.partition)
        router.refresh()
    shard_map = router.topology.shard_map
    place = "nowhere" if planned.partition in shard_map.retired else shard_map.owner(planned.partition).name
    if place not in (planned.source, planned.target):
        planned_move = f"partition {planned.partition} was planned to move from {planned.source} to {planned.target}"
        raise PreflightFailed([f"{planned_move}, but is on {place} now: make a new plan"])
    return place == planned.target
