"""Carrying out a plan: several moves at a time, within limits, by a process that others can go on for.

A plan is written into the catalog before its first move. So whoever comes after a process that was killed,
`resume_rebalance`, goes on with the same plan: with the move that was interrupted first. The moves run on any of the
executors that jobs run on (`carrying`); how far they are the catalog tells, wherever they run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import suppress

import psycopg2
from sqlalchemy.exc import DBAPIError

from shardpool.bulk.crew import Crew, TaskFailed
from shardpool.bulk.executors import check_sent, open_executor
from shardpool.bulk.worker import serving
from shardpool.errors import CatalogUnavailable, CutoverTimeout, MoveError, ShardpoolError
from shardpool.moves.carrying import MoveWork, Outcome, carry_out
from shardpool.moves.plan import PlannedMove, RebalancePlan
from shardpool.moves.progress import DONE, Callback, MoveProgress
from shardpool.moves.recovery import abort_move, recover_moves
from shardpool.moves.runner import MoveReport
from shardpool.moves.runs import Runs
from shardpool.moves.status import MoveStatus, move_status
from shardpool.router import Router

#: So often a plan comes back to partitions that were in use, or whose worker process has died.
ROUNDS = 3
#: Seconds between two looks at how far the moves are.
INTERVAL = 0.4


def apply_rebalance(
    router: Router,
    plan: RebalancePlan,
    *,
    parallel: int = 1,
    per_shard: int = 1,
    executor: str | Executor = "threads",
    progress: Callback | None = None,
) -> list[MoveReport]:
    """Carry out a plan; may be called again with the same plan after it was interrupted.

    At most *parallel* partitions move at a time, and *per_shard* to or from one shard: on *executor*, which is
    ``threads``, ``processes``, ``auto``, ``dask://host:port``, or any that was opened. Other processes open routers by
    the configuration of *router* (with its callable for passwords, which must be a function of a module). Partitions
    that are in use are tried again after the others; so is what a process was moving that died. *progress* is called in
    this thread, a few times a second. When a move fails, those under way are completed, and no other begins; when this
    thread is interrupted, they are undone.

    Raise as `move_partition` does, `PreflightFailed` for a partition that was moved elsewhere since the plan was made,
    `JobRefused` for an executor that is not there, and `MoveError` if processes die again and again.
    """
    runs = Runs(router.catalog)
    number = runs.begin(plan.moves)
    reports = _Application(router, parallel, per_shard, executor, progress).run(plan.moves)
    runs.end(number)
    return reports


def resume_rebalance(
    router: Router,
    *,
    parallel: int = 1,
    per_shard: int = 1,
    executor: str | Executor = "threads",
    progress: Callback | None = None,
) -> list[MoveReport] | None:
    """Go on with the plan whose process is gone; return None if there is none. As `apply_rebalance`."""
    runs = Runs(router.catalog)
    found = runs.unfinished()
    if found is None:
        return None
    number, moves = found
    reports = _Application(router, parallel, per_shard, executor, progress).run(moves)
    runs.end(number)
    return reports


class _Application:
    """One run over planned moves."""

    def __init__(
        self, router: Router, parallel: int, per_shard: int, executor: str | Executor, progress: Callback | None
    ) -> None:
        self._router, self._work = router, MoveWork(router.config)
        check_sent(executor, self._work)
        self._parallel, self._per_shard, self._executor = parallel, per_shard, executor
        self._progress: Callback = progress or (lambda state: None)
        self._reports: list[MoveReport] = []
        self._began: dict[int, float] = {}
        self._told = time.monotonic()

    def run(self, moves: Sequence[PlannedMove]) -> list[MoveReport]:
        recover_moves(self._router, leave={planned.partition for planned in moves})
        try:
            for last in (False,) * (ROUNDS - 1) + (True,):
                if moves:
                    moves = self._round(moves, last)
        finally:
            with suppress(CatalogUnavailable):  # then the router will hear of it later
                self._router.refresh()
        return self._reports

    def _round(self, moves: Sequence[PlannedMove], last: bool) -> list[PlannedMove]:
        """Do all moves; return those to be tried again. If it is the *last* round, there being any is an error."""
        left = list(moves)

        def take(planned: PlannedMove, outcome: Outcome) -> None:
            if not isinstance(outcome, CutoverTimeout):
                left.remove(planned)
            if isinstance(outcome, MoveReport):
                self._take(outcome)

        def submit(executor: Executor, planned: PlannedMove) -> Future[Outcome]:
            self._began[planned.partition] = time.monotonic()
            return executor.submit(carry_out, self._work, planned, last)

        with open_executor(self._executor, self._parallel) as workers, serving(self._work, self._router):
            crew = Crew[PlannedMove, Outcome](
                workers, self._parallel, self._per_shard, lambda it: (it.source, it.target), moves
            )
            try:
                crew.run(submit, take, lambda: self._look(crew), interrupted=self._abort)
            except (TaskFailed, BrokenExecutor) as failed:
                error = failed.error if isinstance(failed, TaskFailed) else failed
                if not isinstance(error, BrokenExecutor):
                    raise error from error.__cause__
                if last:
                    raise MoveError(
                        f"processes that moved partitions died ({error}): resume_rebalance (shardpool rebalance "
                        "--resume) goes on with what they have left"
                    ) from error
        return left

    def _take(self, report: MoveReport) -> None:
        self._reports.append(report)
        self._began.pop(report.partition, None)
        self._progress(MoveProgress(report.partition, DONE, report.rows, report.bytes, report.bytes, report.seconds))

    def _look(self, crew: Crew[PlannedMove, Outcome]) -> bool:
        """Read in the catalog how far the moves are, and tell."""
        if time.monotonic() - self._told < INTERVAL:
            return True
        self._told = time.monotonic()
        found: list[MoveStatus] = []
        with suppress(CatalogUnavailable):  # moves wait for it themselves
            found = [it for it in move_status(self._router) if it.partition in self._began]
        for state in found:
            if not state.frozen:
                crew.hear()
            seconds = time.monotonic() - self._began[state.partition]
            self._progress(
                MoveProgress(state.partition, state.step, state.rows, state.bytes, state.total_bytes, seconds)
            )
        return True

    def _abort(self, running: Sequence[PlannedMove]) -> None:
        """Undo the moves under way, as a single one is when it is interrupted."""
        for planned in running:
            with suppress(ShardpoolError, psycopg2.Error, DBAPIError):
                abort_move(self._router, planned.partition)
