"""Running jobs: find out what is wanted, hold the job's lock, and let the runner do it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shardpool.bulk.chunk import Stream
from shardpool.bulk.executors import check_sent, open_executor
from shardpool.bulk.journal import OPEN, JobJournal, JobRecord
from shardpool.bulk.runner import JobProgress, Run
from shardpool.bulk.throttle import watching
from shardpool.errors import JobRefused, SchemaError, ShardpoolError
from shardpool.jobs import anonymise, etl, export, migrate, replicate
from shardpool.jobs.kind import Prepared
from shardpool.jobs.spec import FIXED, JobSpec, read_spec
from shardpool.router import Router

log = logging.getLogger(__name__)

Spec = str | os.PathLike[str] | Mapping[str, Any]
#: Rows of each table that a dry run shows.
SAMPLE_ROWS = 3

Report = Callable[[JobProgress], object]

_PREPARE: Mapping[str, Callable[[Router, JobSpec, bool], AbstractContextManager[Prepared]]] = {
    "anonymise": anonymise.prepare,
    "etl": etl.prepare,
    "export": export.prepare,
    "import": migrate.prepare,
    "replicate": replicate.prepare,
}


@dataclass(frozen=True)
class JobResult:
    """How a run ended: its progress, and what was measured at the end. `state`: done, paused or cancelled."""

    progress: JobProgress
    checks: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> str:
        return self.progress.state


def run_job(
    router: Router, spec: Spec, *, executor: Executor | None = None, progress: Report | None = None
) -> JobResult:
    """Run a new job, described by a TOML file or a mapping, to its end.

    *executor* is any `concurrent.futures.Executor`; by default the spec's: threads, processes, both, or a Dask cluster.
    *progress* is called about once a second, in this thread.

    Raises:
        ConfigError: the spec is not valid. JobRefused: it does not fit the tables or the destination, or an earlier run
        of it is unfinished. JobBusy: another process runs it. JobFailed: it stopped; `resume_job` goes on.
    """
    router.refresh()
    journal = JobJournal(router.catalog)
    found = _begun(router, journal, read_spec(spec))
    with _PREPARE[found.kind](router, found, False) as prepared, journal.held(found.name):
        _check_unfinished(journal.find(found.name))
        check_sent(executor or found.executor, prepared.work)
        prepared.check_new()
        record = journal.begin(found.name, found.kind, found.to_json(), prepared.digest)
        return _run(journal, record, prepared, router, found, executor, progress)


def resume_job(
    router: Router, spec: Spec, *, executor: Executor | None = None, progress: Report | None = None
) -> JobResult:
    """Go on with a job that was interrupted, paused or failed. *spec* is its file, or its name.

    Raises as `run_job` does; `JobRefused` also if the spec, the tables or the secret are not those it began with.
    """
    journal = JobJournal(router.catalog)
    found = _find_spec(journal, spec)
    router.refresh()
    with journal.held(found.name):
        record = journal.want(found.name, "run")
        found = _as_begun(found, record)
        with _PREPARE[found.kind](router, found, False) as prepared:
            if prepared.digest != record.digest:
                raise JobRefused(
                    f"job {found.name!r} cannot be resumed: its spec, the tables or the secret have changed since it "
                    "began, and half of it would be done differently. Change them back, or cancel it and run it anew"
                )
            check_sent(executor or found.executor, prepared.work)
            return _run(journal, record, prepared, router, found, executor, progress)


def plan_job(router: Router, spec: Spec) -> Mapping[str, Any]:
    """Return what a job would do, without doing anything. Raise as `run_job` does."""
    found = _begun(router, JobJournal(router.catalog), read_spec(spec))
    with _PREPARE[found.kind](router, found, True) as prepared:
        streams = prepared.opened.source.streams()
        samples = [_sample(prepared, stream) for stream in {it.table: it for it in streams}.values()]
        return {"name": found.name, "job": found.kind, "streams": len(streams), "samples": samples, **prepared.plan}


def job_status(router: Router) -> list[JobRecord]:
    """Return the latest job of each name, newest first."""
    return JobJournal(router.catalog).all()


def pause_job(router: Router, name: str) -> None:
    """Ask a job to stop after the chunks that are under way; `resume_job` goes on. Raise `JobRefused`."""
    JobJournal(router.catalog).want(name, "pause")


def cancel_job(router: Router, name: str) -> None:
    """End an unfinished job for good. What it has written stays.

    Raise `JobRefused`, `JobBusy` if it is slow, or `SchemaError` if what it has put into the schema cannot be removed
    now: then it is not cancelled yet.
    """
    journal = JobJournal(router.catalog)
    record = journal.want(name, "cancel")
    if record.alive:
        return  # Its own process sees the wish within a second.
    with journal.held(name):
        spec = JobSpec.from_json(record.spec)
        try:
            with _PREPARE[spec.kind](router, spec, False) as prepared:
                prepared.opened.sink.prepare(record.id)
                prepared.abandon()
                journal.close(record.id, "cancelled")
                prepared.opened.sink.forget(record.id)
                return
        except SchemaError:
            raise  # what notes writes would stay, and nobody would know
        except ShardpoolError as error:
            # What a chunk has left prepared, its own resolver finishes later.
            log.warning("job %s is cancelled, but not all is cleared up: %s", name, error)
        journal.close(record.id, "cancelled")


def undo_job(router: Router, name: str) -> Mapping[str, Any]:
    """Go back to before a finished job, where its kind can: an import lets the old database be written again.

    Raise `JobRefused` if there is no way back: another kind, or rows that were written to the keyspace since and not
    noted (`run.way_back`).
    """
    with _finished(router, name, "to undo") as (spec, prepared):
        if prepared.undo is None:
            raise JobRefused(f"a job of the kind {spec.kind!r} has no way back: its source is as it was")
        return prepared.undo()


def close_job(router: Router, name: str) -> None:
    """Give up the way back of a finished job: nothing is noted for it any more. Raise `JobRefused` if there is none."""
    with _finished(router, name, "with a way back") as (_, prepared):
        if prepared.close is None:
            raise JobRefused(f"the job {name!r} keeps no way back (run.way_back of an import)")
        prepared.close()


@contextmanager
def _finished(router: Router, name: str, wanted: str) -> Iterator[tuple[JobSpec, Prepared]]:
    """Make a finished job ready once more. Raise `JobRefused` if there is none, as it was *wanted*."""
    journal = JobJournal(router.catalog)
    record = journal.find(name)
    if record is None or record.state != "done":
        raise JobRefused(f"there is no finished job {name!r} {wanted}")
    router.refresh()
    spec = JobSpec.from_json(record.spec)
    with journal.held(name), _PREPARE[spec.kind](router, spec, False) as prepared:
        yield spec, prepared


def _run(
    journal: JobJournal,
    record: JobRecord,
    prepared: Prepared,
    router: Router,
    spec: JobSpec,
    executor: Executor | None,
    progress: Report | None,
) -> JobResult:
    options = spec.options(router)
    checks: dict[str, Any] = {}
    shards = sorted(router.topology.shard_map.shards)
    with (
        open_executor(executor or spec.executor, options.workers) as workers,
        watching(router.engines, shards, options.limits, f"job {record.name}") as throttle,
    ):
        run = Run(
            journal,
            record,
            prepared.work,
            prepared.opened,
            workers,
            options,
            progress or (lambda _: None),
            lambda: checks.update(prepared.verify()),
            prepared.follow,
            throttle,
        )
        result = JobResult(run.run(), checks)
    if result.state == "cancelled":
        prepared.abandon()
    return result


def _sample(prepared: Prepared, stream: Stream) -> dict[str, Any]:
    """Return some rows as they would be written."""
    batches, rejects = prepared.opened.transform(prepared.opened.source.sample(stream, SAMPLE_ROWS))
    rows = [[it.decode() for it in record.split(b"\t")] for batch in batches for record in batch.records]
    columns = batches[0].columns if batches else ()
    return {"table": stream.table, "columns": columns, "rows": rows[:SAMPLE_ROWS], "rejected": len(rejects)}


def _begun(router: Router, journal: JobJournal, spec: JobSpec) -> JobSpec:
    """Return the spec of a new run, with what is fixed when it begins."""
    if spec.kind == "etl":
        return etl.with_window(router, spec, journal.find(spec.name))
    return anonymise.with_originals(router, spec) if spec.kind == "anonymise" else spec


def _as_begun(spec: JobSpec, record: JobRecord) -> JobSpec:
    """Return the spec with what was fixed when the job began."""
    fixed = {key: value for key, value in record.spec["document"].items() if key in FIXED}
    return replace(spec, document={**spec.document, **fixed})


def _find_spec(journal: JobJournal, spec: Spec) -> JobSpec:
    if not isinstance(spec, str) or spec.endswith(".toml") or Path(spec).is_file():
        return read_spec(spec)
    record = journal.find(spec)
    if record is None or record.state not in OPEN:
        journal.want(spec, "run")  # says which jobs are unfinished
    assert record is not None
    return JobSpec.from_json(record.spec)


def _check_unfinished(earlier: JobRecord | None) -> None:
    if earlier is not None and earlier.state in OPEN:
        state = "interrupted" if earlier.state == "running" else earlier.state
        raise JobRefused(f"job {earlier.name!r} is {state}: resume it, or cancel it first")
