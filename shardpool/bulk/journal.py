"""The jobs in the catalog: what they are, how they are cut, how far they are, what their user wants."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random

from shardpool.bulk.chunk import Chunk
from shardpool.catalog import Catalog
from shardpool.errors import JobBusy, JobRefused

#: So long, in seconds, until a server has noticed that a process which was killed is gone.
GRACE = 1.0

OPEN = ("running", "paused", "failed")

_JOB = (
    "SELECT id, name, kind, spec, digest, planned, state, wanted, progress, error, "
    "to_char(started_at, 'YYYY-MM-DD\"T\"HH24:MI:SSOF') AS started, "
    "extract(epoch FROM now() - updated_at)::float8 AS silent FROM shardpool_catalog.job WHERE keyspace = :keyspace "
)


@dataclass(frozen=True)
class JobRecord:
    """A job as the catalog has it. `silent` is seconds since its last sign of life; `alive`: a process runs it now."""

    id: uuid.UUID
    name: str
    kind: str
    spec: Mapping[str, Any]
    digest: str
    planned: bool
    state: str
    wanted: str
    progress: Mapping[str, Any]
    error: str
    started: str
    silent: float
    alive: bool = False

    @property
    def shown_state(self) -> str:
        """The state; 'interrupted' if it should be running but nobody runs it."""
        return "interrupted" if self.state == "running" and not self.alive else self.state


class JobJournal:
    """The jobs of one keyspace. Methods raise `CatalogUnavailable`."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Be the only one who runs the job *name*. Raise `JobBusy` if somebody else does."""
        busy = JobBusy(f"job {name!r} is being run by another process; see `shardpool job status`")
        retrying = Retrying(
            retry=retry_if_exception_type(JobBusy),
            stop=stop_after_delay(GRACE),
            wait=wait_random(0.02, 0.2),
            reraise=True,
        )
        with ExitStack() as stack:
            retrying(lambda: stack.enter_context(self._catalog.lock(_lock_name(name), lambda: busy)))
            yield

    def find(self, name: str) -> JobRecord | None:
        """Return the latest job of that name."""
        found = self._read("AND name = :name ORDER BY started_at DESC LIMIT 1", name=name)
        return found[0] if found else None

    def all(self) -> list[JobRecord]:
        """Return the latest job of each name, newest first."""
        newest = "AND started_at = (SELECT max(started_at) FROM shardpool_catalog.job o WHERE "
        newest += "(o.keyspace, o.name) = (job.keyspace, job.name)) ORDER BY started_at DESC"
        return self._read(newest)

    def begin(self, name: str, kind: str, spec: Mapping[str, Any], digest: str) -> JobRecord:
        """Enter a new job. Raise `JobRefused` if one of this name is not finished."""
        earlier = self.find(name)
        if earlier is not None and earlier.state in OPEN:
            raise JobRefused(f"job {name!r} is {earlier.shown_state}: resume it, or cancel it first")
        query = (
            "INSERT INTO shardpool_catalog.job (id, keyspace, name, kind, spec, digest, state) "
            "VALUES (:id, :keyspace, :name, :kind, CAST(:spec AS jsonb), :digest, 'running')"
        )
        values = {"id": uuid.uuid4(), "name": name, "kind": kind, "spec": json.dumps(spec), "digest": digest}
        self._do(query, **values)
        return self._read("AND id = :id", id=values["id"])[0]

    def plan(self, job: uuid.UUID, chunks: Sequence[Chunk]) -> None:
        """Fix how a job is cut. All at once: a job is planned or not."""
        insert = text(
            "INSERT INTO shardpool_catalog.job_chunk (job, number, definition) "
            "SELECT :job, number, definition FROM "
            "jsonb_to_recordset(CAST(:chunks AS jsonb)) AS chunk (number int, definition jsonb)"
        )
        rows = json.dumps([{"number": chunk.number, "definition": chunk.to_json()} for chunk in chunks])
        with self._catalog.begin() as connection:
            connection.execute(insert, {"job": job, "chunks": rows})
            connection.execute(text("UPDATE shardpool_catalog.job SET planned = true WHERE id = :job"), {"job": job})

    def chunks(self, job: uuid.UUID) -> list[Chunk]:
        query = text("SELECT definition FROM shardpool_catalog.job_chunk WHERE job = :job ORDER BY number")
        with self._catalog.begin() as connection:
            return [Chunk.from_json(row.definition) for row in connection.execute(query, {"job": job})]

    def update(self, job: uuid.UUID, state: str, progress: Mapping[str, Any], error: str = "") -> str:
        """Say how far the job is; return what its user wants: 'run', 'pause' or 'cancel'."""
        query = (
            "UPDATE shardpool_catalog.job SET state = :state, progress = CAST(:progress AS jsonb), error = :error, "
            "updated_at = now() WHERE id = :job AND keyspace = :keyspace RETURNING wanted"
        )
        return str(self._do(query, job=job, state=state, progress=json.dumps(progress), error=error))

    def want(self, name: str, wanted: str) -> JobRecord:
        """Ask for an open job to be paused, cancelled or run. Raise `JobRefused` if there is none."""
        found = self.find(name)
        if found is None or found.state not in OPEN:
            known = ", ".join(it.name for it in self.all() if it.state in OPEN) or "none"
            raise JobRefused(f"there is no unfinished job {name!r} (unfinished jobs: {known})")
        self._do("UPDATE shardpool_catalog.job SET wanted = :wanted WHERE id = :id", id=found.id, wanted=wanted)
        return found

    def close(self, job: uuid.UUID, state: str) -> None:
        """End a job for good, 'done' or 'cancelled'. Its chunks, which hold keys of its source, are forgotten."""
        end = text("UPDATE shardpool_catalog.job SET state = :state, error = '', updated_at = now() WHERE id = :job")
        with self._catalog.begin() as connection:
            connection.execute(text("DELETE FROM shardpool_catalog.job_chunk WHERE job = :job"), {"job": job})
            connection.execute(end, {"job": job, "state": state})

    def _do(self, query: str, **values: Any) -> Any:
        with self._catalog.begin() as connection:
            result = connection.execute(text(query), {"keyspace": self._catalog.keyspace, **values})
            return result.scalar_one_or_none() if result.returns_rows else None

    def _read(self, condition: str, **values: Any) -> list[JobRecord]:
        held = text(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            "AND (classid::bigint << 32) | objid::bigint = hashtextextended(:lock, 0))"
        )
        with self._catalog.begin() as connection:
            rows = connection.execute(text(_JOB + condition), {"keyspace": self._catalog.keyspace, **values}).all()
            locks = {row.name: f"shardpool {self._catalog.keyspace} {_lock_name(row.name)}" for row in rows}
            alive = {name: bool(connection.execute(held, {"lock": lock}).scalar_one()) for name, lock in locks.items()}
        return [JobRecord(**row._asdict(), alive=alive[row.name]) for row in rows]


def _lock_name(job: str) -> str:
    return f"job {job}"
