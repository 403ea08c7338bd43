"""Transactions on several shards for one chunk, in one thread: prepared, decided in the catalog, committed."""

from __future__ import annotations

import uuid
from types import TracebackType
from typing import TYPE_CHECKING, Self

import psycopg2

from shardpool.bulk.chunk import Tally, Ticket
from shardpool.bulk.commit import commit_prepared
from shardpool.bulk.decision import load_prefix, new_load
from shardpool.bulk.lane import Lane
from shardpool.bulk.ledger import decide_chunk, refuse_entered
from shardpool.bulk.rejects import write_rejects
from shardpool.bulk.translate import refused, without_prepared_transactions
from shardpool.catalog import Catalog
from shardpool.errors import LoadInDoubt
from shardpool.faults import fault_point

if TYPE_CHECKING:
    from shardpool.engines import Engines

#: A chunk waits so long for a lock on a shard. Shards do not see each other's deadlocks.
LOCK_TIMEOUT = "30s"


class Together:
    """The lanes of one chunk. Leaving the block rolls back what was not decided, and gives the connections back."""

    def __init__(self, engines: Engines, catalog: Catalog, ticket: Ticket) -> None:
        self._engines, self._catalog, self._ticket = engines, catalog, ticket
        self._load = new_load(catalog.keyspace, chunk_label(ticket))
        self._lanes: dict[str, Lane] = {}
        self._may_undo = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lane in self._lanes.values():
            if self._may_undo and not lane.finished:
                lane.undo()
            lane.release()

    def lane(self, shard: str) -> Lane:
        """Return the lane of a shard, in a transaction. Raise `ShardUnavailable`, `PoolTimeout`, `LoadError`; of these,
        `LoadInDoubt` if an earlier attempt at the chunk must be settled first.
        """
        if shard not in self._lanes:
            lane = self._lanes[shard] = Lane(self._engines, shard, self._load)
            if lane.begin() == 0:
                raise without_prepared_transactions(shard)
            if self._other_attempts(lane):
                # Its rows would be waited for. Settled, it is either the chunk or nothing.
                raise LoadInDoubt(f"{self._ticket.chunk}: another attempt is prepared on shard {shard!r}")
        return self._lanes[shard]

    def _other_attempts(self, lane: Lane) -> bool:
        """Whether somebody has prepared this chunk on the shard, and died perhaps."""
        query = (
            f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; SELECT EXISTS (SELECT FROM pg_prepared_xacts "
            "WHERE database = current_database() AND starts_with(gid, %s))"
        )
        try:
            with lane.connection.cursor() as cursor:
                cursor.execute(query, (load_prefix(self._catalog.keyspace, chunk_label(self._ticket)),))
                return bool(cursor.fetchone()[0])
        except psycopg2.Error as error:
            raise refused(error, lane.shard, gone=bool(lane.connection.closed)) from error

    def commit(self, tally: Tally) -> None:
        """Commit all lanes and enter the chunk. Raise as `decide_chunk` does, or `LoadInDoubt` if a shard is gone."""
        number = self._ticket.chunk.number
        if tally.rejects:
            # Rows that another attempt has just committed look like bad ones: they must not be told as such.
            refuse_entered(self._catalog, self._ticket)
        write_rejects(self._ticket, tally.rejects)
        fault_point(f"chunk-{number}-written")
        for lane in self._lanes.values():
            lane.prepare()
        fault_point(f"chunk-{number}-prepared")
        self._may_undo = False
        try:
            decide_chunk(self._catalog, self._load, self._ticket, tally)
        except LoadInDoubt:
            raise
        except Exception:
            self._may_undo = True
            raise
        fault_point(f"chunk-{number}-decided")
        commit_prepared(list(self._lanes.values()), self._engines, self._load)
        fault_point(f"chunk-{number}-committed")


def job_label(job: uuid.UUID) -> str:
    """Return how the labels of all loads of a job begin."""
    return f"{job.hex}-"


def chunk_label(ticket: Ticket) -> str:
    """Return how the loads of a chunk are labelled."""
    return f"{job_label(ticket.job)}{ticket.chunk.number}-"
