"""Carrying out a plan: several moves at a time, within limits, by a process that others can go on for.

A plan is written into the catalog before its first move. So whoever comes after a process that was killed,
`resume_rebalance`, goes on with the same plan: with the move that was interrupted first.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress

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

    def _round(self, moves: list[PlannedMove], reports: list[MoveReport], last: bool) -> list[PlannedMove]:
        """Do all moves; return those whose partitions were in use. If it is the *last* round, that is an error."""
        waiting, busy = list(moves), list[PlannedMove]()
        failures: list[BaseException] = []
        running: dict[Future[MoveReport | None], PlannedMove] = {}
        with ThreadPoolExecutor(self._parallel, "shardpool-rebalance") as executor, self._aborted(running):
            while running or (waiting and not failures):
                while not failures and (planned := self._next(waiting, running.values())) is not None:
                    waiting.remove(planned)
                    running[executor.submit(self._move, planned)] = planned
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    planned, error = running.pop(future), future.exception()
                    if isinstance(error, CutoverTimeout) and not last:
                        busy.append(planned)
                    elif error is not None:
                        failures.append(error)
                    elif (report := future.result()) is not None:
                        reports.append(report)
        if failures:
            raise failures[0]
        return busy

    @contextmanager
    def _aborted(self, running: Mapping[Future[MoveReport | None], PlannedMove]) -> Iterator[None]:
        """When the block is interrupted, undo the moves under way, as a single one is when it is interrupted."""
        try:
            yield
        except BaseException:
            for planned in list(running.values()):
                with suppress(ShardpoolError):
                    abort_move(self._router, planned.partition)
            raise

    def _next(self, waiting: Iterable[PlannedMove], running: Iterable[PlannedMove]) -> PlannedMove | None:
        """Return the first move whose shards have room."""
        under_way = list(running)
        if len(under_way) >= self._parallel:
            return None
        used = Counter(shard for planned in under_way for shard in (planned.source, planned.target))
        for planned in waiting:
            if all(used[shard] < self._per_shard for shard in (planned.source, planned.target)):
                return planned
        return None

    def _move(self, planned: PlannedMove) -> MoveReport | None:
        self._router.refresh()
        if _is_done(self._router, planned):
            return None
        report = move_one(self._router, planned.partition, planned.target, "auto", 0.0, self._tell())
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
