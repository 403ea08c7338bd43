"""The ledger of chunks beside the rows: which numbers are written. One transaction enters a chunk and decides it."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from shardpool.bulk.chunk import Tally, Ticket
from shardpool.bulk.decision import decision
from shardpool.catalog import Catalog
from shardpool.errors import CatalogUnavailable, ChunkDone, LoadInDoubt, LoadUndone
from shardpool.faults import fault_point

_ENTER = (
    "INSERT INTO shardpool_catalog.job_ledger (job, chunk, rows, bytes, rejected) "
    "VALUES (:job, :chunk, :rows, :bytes, :rejected)"
)
_DECIDE = "INSERT INTO shardpool_catalog.load_decision (gid, keyspace, committed) VALUES (:gid, :keyspace, true)"


def written(catalog: Catalog, job: uuid.UUID) -> dict[int, Tally]:
    """Return number -> tally of the chunks that are entered. Raise `CatalogUnavailable`."""
    query = text("SELECT chunk, rows, bytes, rejected FROM shardpool_catalog.job_ledger WHERE job = :job")
    with catalog.begin() as connection:
        return {row.chunk: Tally(row.rows, row.bytes, row.rejected) for row in connection.execute(query, {"job": job})}


def refuse_entered(catalog: Catalog, ticket: Ticket) -> None:
    """Raise `ChunkDone` if the chunk is entered: another attempt at it, perhaps one that was thought dead, has won."""
    query = text("SELECT EXISTS (SELECT FROM shardpool_catalog.job_ledger WHERE job = :job AND chunk = :chunk)")
    with catalog.begin() as connection:
        if connection.execute(query, {"job": ticket.job, "chunk": ticket.chunk.number}).scalar_one():
            raise ChunkDone(f"{ticket.chunk} was written before")


def enter(connection: Connection, ticket: Ticket, tally: Tally) -> None:
    """Enter a chunk in the caller's transaction; one that is there already violates the primary key."""
    connection.execute(text(_ENTER), _values(ticket, tally))


def enter_alone(catalog: Catalog, ticket: Ticket, tally: Tally) -> None:
    """Enter a chunk whose rows are not in a database. Raise `ChunkDone` if it is there already."""
    fault_point(f"chunk-{ticket.chunk.number}-written")
    try:
        with catalog.begin() as connection:
            enter(connection, ticket, tally)
    except IntegrityError as error:
        raise ChunkDone(f"{ticket.chunk} was written before") from error


def decide_chunk(catalog: Catalog, gid: str, ticket: Ticket, tally: Tally) -> None:
    """Decide that the prepared transactions *gid* are committed, and enter the chunk: both or neither.

    Raise `ChunkDone` if it is entered already, `LoadUndone` if a resolver decided otherwise before, `LoadInDoubt` if
    the catalog does not tell what it has.
    """
    try:
        with catalog.begin() as connection:
            connection.execute(text(_DECIDE), {"gid": gid, "keyspace": catalog.keyspace})
            enter(connection, ticket, tally)
        return
    except IntegrityError as error:
        cause: Exception = error
    except (CatalogUnavailable, DBAPIError) as error:
        cause = error
    try:
        if decision(catalog, gid):
            return
        if ticket.chunk.number in written(catalog, ticket.job):
            raise ChunkDone(f"{ticket.chunk} was written before") from cause
    except (CatalogUnavailable, DBAPIError) as error:
        raise LoadInDoubt(
            f"{ticket.chunk} is prepared on its shards, but the catalog did not tell whether it took the decision "
            f"({cause}); resume the job when the catalog answers"
        ) from error
    raise LoadUndone(f"{ticket.chunk} was rolled back, as a resolver decided against it") from cause


def forget_decisions(catalog: Catalog, prefix: str) -> None:
    """Remove the decisions of a finished job, none of whose transactions is prepared any more."""
    query = text("DELETE FROM shardpool_catalog.load_decision WHERE starts_with(gid, :prefix) AND keyspace = :keyspace")
    with catalog.begin() as connection:
        connection.execute(query, {"prefix": prefix, "keyspace": catalog.keyspace})


def _values(ticket: Ticket, tally: Tally) -> dict[str, Any]:
    return {
        "job": ticket.job,
        "chunk": ticket.chunk.number,
        "rows": tally.rows,
        "bytes": tally.bytes,
        "rejected": tally.rejected,
    }
