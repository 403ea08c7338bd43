"""Anonymising in place: the second pass, in which the finished copy comes back.

The first pass writes into another keyspace, where it is verified, and touches nothing. Only then are the tables
emptied, on each shard at once, and filled from there. So whoever reads the tables meanwhile sees rows as they were
before, or none, or anonymised ones; and whatever dies, all rows are in one of the two keyspaces.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from shardpool.bulk.chunk import Opened
from shardpool.bulk.digest import Digest, sum_of
from shardpool.bulk.executors import open_executor
from shardpool.bulk.journal import OPEN, JobJournal, JobRecord
from shardpool.bulk.keyspace_sink import KeyspaceSink
from shardpool.bulk.keyspace_source import KeyspaceSource
from shardpool.bulk.runner import PauseJob, Run
from shardpool.bulk.throttle import watching
from shardpool.config import Config
from shardpool.errors import JobRefused
from shardpool.faults import fault_point
from shardpool.jobs.digest import digests_of
from shardpool.jobs.empty import empty
from shardpool.jobs.spec import JobSpec
from shardpool.router import Router

#: In the spec of a job that has begun: what its tables had then.
ORIGINALS = "originals"


def with_originals(router: Router, spec: JobSpec) -> JobSpec:
    """Return the spec of a new run, with the digests of all tables if it is to be in place."""
    if not spec.document["to"].get("in_place", False):
        return spec
    return replace(spec, document={**spec.document, ORIGINALS: _digests(router, list(router.topology.tables))})


def check_unwritten(router: Router, spec: JobSpec, tables: list[str]) -> None:
    """Raise `JobRefused` if a table has been written since the job began: that would be lost."""
    before, now = spec.document[ORIGINALS], _digests(router, tables)
    written = [name for name in tables if before[name] != now[name]]
    if written:
        raise JobRefused(
            f"{', '.join(written)} were written since the job began, which would be lost: nothing was changed. "
            "Cancel it, empty the other keyspace, and run it again while nobody writes"
        )


@dataclass(frozen=True)
class BackWork:
    """What another process needs to bring rows back."""

    token: str
    copy: Config
    keyspace: Config
    stages: Mapping[str, int]
    uncut: frozenset[str]

    @contextmanager
    def open(self) -> Iterator[Opened]:
        with Router(self.copy, listen=False) as copy, Router(self.keyspace, listen=False) as keyspace:
            yield self.ends(copy, keyspace)

    def ends(self, copy: Router, keyspace: Router) -> Opened:
        def refresh() -> None:
            copy.refresh()
            keyspace.refresh()

        return Opened(KeyspaceSource(copy, self.stages, self.uncut), KeyspaceSink(keyspace), refresh=refresh)


def find_back(journal: JobJournal, job: JobRecord) -> JobRecord | None:
    """Return the second pass of *job*, if it has begun."""
    found = journal.find(_name(job.name))
    return found if found is not None and found.spec.get("of") == str(job.id) else None


def come_back(router: Router, copy: Router, spec: JobSpec, stages: Mapping[str, int], uncut: frozenset[str]) -> None:
    """Empty the tables and bring the copy's rows in, or go on with that; compare, and empty the copy.

    Raise `JobRefused` if the rows differ, `PauseJob` if its user wants it, and as a run does.
    """
    journal = JobJournal(router.catalog)
    job = journal.find(spec.name)
    assert job is not None
    work = BackWork(uuid.uuid4().hex, copy.config, router.config, stages, uncut)
    with journal.held(_name(spec.name)):
        record = find_back(journal, job)
        if record is None:
            stored = {**spec.to_json(), "of": str(job.id)}
            record = journal.begin(_name(spec.name), job.kind, stored, job.digest)
        if record.state in OPEN:
            _bring(router, journal, journal.want(record.name, "run"), work, work.ends(copy, router), spec)
    tables = list(stages)
    if _digests(copy, tables) != _digests(router, tables):
        raise JobRefused("the rows that came back differ from the copy, which is kept: look at both keyspaces")
    empty(copy, tables)


def _bring(
    router: Router, journal: JobJournal, record: JobRecord, work: BackWork, opened: Opened, spec: JobSpec
) -> None:
    opened.sink.prepare(record.id)
    if not opened.sink.done(record.id):
        empty(router, list(work.stages))
        fault_point("emptied")
    options = replace(spec.options(router), max_rejected=0)
    shards = sorted(router.topology.shard_map.shards)
    with (
        open_executor(spec.executor, options.workers) as executor,
        watching(router.engines, shards, options.limits, f"job {record.name}") as throttle,
    ):
        run = Run(journal, record, work, opened, executor, options, lambda progress: None, throttle=throttle)
        if run.run().state != "done":
            raise PauseJob


def _digests(router: Router, tables: list[str]) -> dict[str, list[Any]]:
    found = digests_of(router, {name: router.topology.tables[name] for name in tables})
    return {name: list(_one(router, name, digests)) for name, digests in found.items()}


def _one(router: Router, name: str, digests: list[Digest]) -> Digest:
    return sum_of(digests) if router.topology.tables[name].sharded else max(digests)


def _name(job: str) -> str:
    return f"{job}-back"
