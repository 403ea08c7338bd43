"""Carrying out a plan: several moves at a time, within limits, by a process that others can go on for.

A plan is written into the catalog before its first move. So whoever comes after a process that was killed,
`resume_rebalance`, goes on with the same plan: with the move that was interrupted first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from math import inf

from shardpool.bulk.crew import Crew, TaskFailed
from shardpool.errors import CutoverTimeout, PreflightFailed, ShardpoolError
from shardpool.moves.journal import Journal
from shardpool.moves.locks import GRACE, move_locked
from shardpool.moves.partition import move_one
from shardpool.moves.plan import PlannedMove, RebalancePlan
from shardpool.moves.progress import DONE, Callback, MoveProgress
from shardpool.moves.recovery import abort_move, recover_moves, settle_partition
from shardpool.moves.runner import MoveReport
from shardpool.moves.runs import Runs
from shardpool.moves.steps import is_committed
from shardpool.router import Router

#: So often a plan comes back to partitions that were in use.
ROUNDS = 3


def apply_rebalance(
    router: Router,
    plan: RebalancePlan,
    *,
    parallel: int = 1,
    per_shard: int = 1,
    progress: Callback | None = None,
) -> list[MoveReport]:
    """Carry out a plan; may be called again with the same plan after it was interrupted.

    At most *parallel* partitions move at a time, and *per_shard* to or from one shard. Partitions that are in use are
    tried again after the others. *progress* is called from several threads, one at a time. When a move fails, those
    under way are completed, and no other begins. Raise as `move_partition` does, and `PreflightFailed` for a partition
    that was moved elsewhere since the plan was made.
    """
    runs = Runs(router.catalog)
    number = runs.begin(plan.moves)
    reports = _Application(router, parallel, per_shard, progress).run(plan.moves)
    runs.end(number)
    return reports


def resume_rebalance(
    router: Router, *, parallel: int = 1, per_shard: int = 1, progress: Callback | None = None
) -> list[MoveReport] | None:
    """Go on with the plan whose process is gone; return None if there is none. As `apply_rebalance`."""
    runs = Runs(router.catalog)
    found = runs.unfinished()
    if found is None:
        return None
    number, moves = found
    reports = _Application(router, parallel, per_shard, progress).run(moves)
    runs.end(number)
    return reports


class _Application:
    """One run over planned moves."""

    def __init__(self, router: Router, parallel: int, per_shard: int, progress: Callback | None) -> None:
        self._router = router
        self._parallel, self._per_shard = parallel, per_shard
        self._lock = threading.Lock()
        self._progress = progress

    def run(self, moves: Iterable[PlannedMove]) -> list[MoveReport]:
        remaining = list(moves)
        recover_moves(self._router, leave={planned.partition for planned in remaining})
        reports: list[MoveReport] = []
        for last in (False,) * (ROUNDS - 1) + (True,):
            remaining = self._round(remaining, reports, last)
        return reports

    def _round(self, moves: Sequence[PlannedMove], reports: list[MoveReport], last: bool) -> list[PlannedMove]:
        """Do all moves; return those whose partitions were in use. If it is the *last* round, that is an error."""
        busy: list[PlannedMove] = []

        def take(planned: PlannedMove, outcome: MoveReport | CutoverTimeout | None) -> None:
            if isinstance(outcome, CutoverTimeout):
                busy.append(planned)
            elif outcome is not None:
                reports.append(outcome)

        with ThreadPoolExecutor(self._parallel, "shardpool-rebalance") as executor:
            crew = Crew[PlannedMove, MoveReport | CutoverTimeout | None](
                executor, self._parallel, self._per_shard, lambda it: (it.source, it.target), moves, silence=inf
            )
            try:
                crew.run(lambda it, planned: it.submit(self._move, planned, last), take, interrupted=self._abort)
            except TaskFailed as failed:
                raise failed.error from failed.error.__cause__
        return busy

    def _abort(self, running: Sequence[PlannedMove]) -> None:
        """Undo the moves under way, as a single one is when it is interrupted."""
        for planned in running:
            with suppress(ShardpoolError):
                abort_move(self._router, planned.partition)

    def _move(self, planned: PlannedMove, last: bool) -> MoveReport | CutoverTimeout | None:
        """Do a move that is not done yet. Return an error that another try may not meet, if it is not the last."""
        self._router.refresh()
        try:
            if _is_done(self._router, planned):
                return None
            report = move_one(self._router, planned.partition, planned.target, "auto", 0.0, self._tell())
        except CutoverTimeout as error:
            if last:
                raise
            return error
        if self._progress is not None:
            done = MoveProgress(report.partition, DONE, report.rows, report.bytes, report.bytes, report.seconds)
            with self._lock:
                self._progress(done)
        return report

    def _tell(self) -> Callback | None:
        """The caller's callback, for several threads."""
        progress = self._progress
        if progress is None:
            return None

        def tell(state: MoveProgress) -> None:
            with self._lock:
                progress(state)

        return tell


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
