"""The runner: brings the chunks of a job from its source to its sink, each exactly once.

A run reads: prepare -> plan -> what is not in the ledger yet, stage by stage -> finish. The plan is fixed in the
catalog before the first row is read; after that a process may die at any moment, and another run does what the ledger
lacks.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from shardpool.bulk.chunk import Chunk, Opened, Stream, Tally, Ticket, Work
from shardpool.bulk.crew import Crew, TaskFailed
from shardpool.bulk.journal import JobJournal, JobRecord
from shardpool.bulk.throttle import NO_LIMITS, Limits, Throttle
from shardpool.bulk.worker import PATIENCE, Patience, cut_stream, run_chunk, serving
from shardpool.errors import BadRows, CatalogUnavailable, JobFailed, ShardpoolError

log = logging.getLogger(__name__)

#: How often the catalog is told, and asked, in seconds.
REPORT_INTERVAL = 1.0


@dataclass(frozen=True)
class RunOptions:
    """Limits of a run. A worker has at most one connection per shard at a time."""

    workers: int = 4
    per_shard: int = 4
    chunk_rows: int = 20_000
    max_rejected: int = 0
    rejects: str | None = None
    patience: Patience = PATIENCE
    limits: Limits = NO_LIMITS


@dataclass(frozen=True)
class JobProgress:
    """How far a job is. Rows per second are those of this run. `chunks` is 0 while the job is being planned."""

    name: str
    state: str
    chunks: int = 0
    chunks_done: int = 0
    rows: int = 0
    bytes: int = 0
    rejected: int = 0
    seconds: float = 0.0
    rows_per_second: float = 0.0
    table: str = ""
    #: Of a job that replicates: rows told since its copy, those that wait, and for how many seconds the oldest does.
    changes: int = 0
    waiting: int = 0
    lag: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Following:
    """How far a job is that goes on after its last chunk; as in `JobProgress`."""

    changes: int = 0
    waiting: int = 0
    lag: float = 0.0


#: Called now and then by what follows the last chunk; false if the job's user wants it to stop.
Beat = Callable[[Following], bool]


class PauseJob(Exception):
    """Raised by what follows the last chunk: the rest is for a later run."""


class Run:
    """One run of a job, from its beginning or from where another run ended."""

    def __init__(
        self,
        journal: JobJournal,
        record: JobRecord,
        work: Work,
        opened: Opened,
        executor: Executor,
        options: RunOptions,
        report: Callable[[JobProgress], object],
        verify: Callable[[], object] = lambda: None,
        follow: Callable[[Beat], object] = lambda beat: None,
        throttle: Throttle | None = None,
    ) -> None:
        self._journal, self._record, self._work, self._opened = journal, record, work, opened
        self._executor, self._options, self._report, self._verify = executor, options, report, verify
        self._follow, self._following = follow, Following()
        self._throttle = throttle or Throttle(NO_LIMITS)
        self._began = self._told = time.monotonic()
        self._wanted = "run"
        self._done: dict[int, Tally] = {}
        self._before = Tally()
        self._chunks: Sequence[Chunk] = ()
        self._table = ""

    def run(self) -> JobProgress:
        """Work until the job is done, or its user wants it paused or cancelled. Raise `JobFailed`."""
        with serving(self._work, self._opened):
            try:
                self._tell("running")
                self._opened.sink.prepare(self._record.id)
                if not self._record.planned:
                    self._journal.plan(self._record.id, self._plan())
                self._work_off()
                if self._wanted == "run":
                    self._follow(self._beat)
                if self._wanted == "run":
                    self._verify()
            except PauseJob:
                self._wanted = "pause"
            except (TaskFailed, BadRows) as error:
                raise self._failed(error) from (error.__cause__ or error)
            except KeyboardInterrupt:
                self._tell("paused")
                raise
            except Exception as error:
                raise self._failed(error) from error
        return self._end()

    def _plan(self) -> list[Chunk]:
        """Cut all streams."""
        streams = self._opened.source.streams()
        bounds: dict[str, list[tuple[str, ...]]] = {}

        def shards_of(stream: Stream) -> tuple[str, ...]:
            return self._shards_of(Chunk(0, stream.name, stream.table, stream.stage, stream.partition))

        crew = Crew[Stream, list[tuple[str, ...]]](
            self._executor, self._options.workers, self._options.per_shard, shards_of, streams
        )
        crew.run(
            lambda executor, stream: executor.submit(
                cut_stream, self._work, stream, self._options.chunk_rows, self._options.patience
            ),
            lambda stream, found: bounds.update({stream.name: found}),
        )
        chunks: list[Chunk] = []
        for stream in streams:
            cuts = [None, *bounds[stream.name], None]
            for after, upto in itertools.pairwise(cuts):
                chunks.append(
                    Chunk(len(chunks), stream.name, stream.table, stream.stage, stream.partition, after, upto)
                )
        return chunks

    def _work_off(self) -> None:
        self._chunks = self._journal.chunks(self._record.id)
        self._done = self._opened.sink.done(self._record.id)
        self._before = sum(self._done.values(), Tally())
        for stage in sorted({chunk.stage for chunk in self._chunks}):
            left = [chunk for chunk in self._chunks if chunk.stage == stage and chunk.number not in self._done]
            Crew[Chunk, Tally](
                self._executor,
                self._options.workers,
                self._options.per_shard,
                self._shards_of,
                left,
                self._throttle.ready,
            ).run(self._submit, self._take, self._go_on)
            if self._wanted != "run":
                return

    def _shards_of(self, chunk: Chunk) -> tuple[str, ...]:
        return (self._opened.source.shard_of(chunk),)

    def _submit(self, executor: Executor, chunk: Chunk) -> Any:
        self._table = chunk.table
        left = max(0, self._options.max_rejected - self._sum().rejected)
        ticket = Ticket(self._record.id, chunk, left, self._options.rejects)
        return executor.submit(run_chunk, self._work, ticket, self._options.patience)

    def _take(self, chunk: Chunk, tally: Tally) -> None:
        self._done[chunk.number] = tally
        self._throttle.count(tally.bytes)
        rejected = self._sum().rejected
        if rejected > self._options.max_rejected:
            raise BadRows(str(chunk), f"{rejected} rows were left out by now", self._options.max_rejected)

    def _go_on(self) -> bool:
        if time.monotonic() - self._told >= REPORT_INTERVAL:
            # Chunks wait for the catalog themselves, each within its patience.
            with suppress(CatalogUnavailable):
                self._tell("running")
        return self._wanted == "run"

    def _beat(self, following: Following) -> bool:
        self._following = following
        return self._go_on()

    # -- telling ----------------------------------------------------------------------------------------------------

    def _sum(self) -> Tally:
        return sum(self._done.values(), Tally())

    def _progress(self, state: str) -> JobProgress:
        total, seconds = self._sum(), time.monotonic() - self._began
        return JobProgress(
            name=self._record.name,
            state=state,
            chunks=len(self._chunks),
            chunks_done=len(self._done),
            rows=total.rows,
            bytes=total.bytes,
            rejected=total.rejected,
            seconds=round(seconds, 3),
            rows_per_second=round((total.rows - self._before.rows) / seconds, 1) if seconds else 0.0,
            table=self._table,
            **dataclasses.asdict(self._following),
        )

    def _tell(self, state: str, error: str = "") -> JobProgress:
        self._told = time.monotonic()
        progress = self._progress(state)
        self._wanted = self._journal.update(self._record.id, state, progress.to_json(), error)
        self._report(progress)
        return progress

    def _failed(self, error: BaseException) -> JobFailed:
        failure = JobFailed(f"job {self._record.name!r} stopped: {error}; what is done stays done, so resume it")
        with suppress(CatalogUnavailable):
            self._tell("failed", str(error))
        return failure

    def _end(self) -> JobProgress:
        if self._wanted == "pause":
            return self._tell("paused")
        state = "cancelled" if self._wanted == "cancel" else "done"
        self._opened.sink.finish(self._record.id)
        progress = self._tell(state)
        self._journal.close(self._record.id, state)
        try:
            self._opened.sink.forget(self._record.id)
        except ShardpoolError as error:
            log.warning("job %s is %s, but its ledger is not cleared up: %s", self._record.name, state, error)
        return progress
