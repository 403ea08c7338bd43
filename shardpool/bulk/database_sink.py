"""One PostgreSQL database as a sink: the ledger is a table beside the rows, and one transaction writes both."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import psycopg2

from shardpool.bulk.chunk import Rejected, Rows, Tally, Ticket
from shardpool.bulk.database_source import DATABASE
from shardpool.bulk.isolate import is_fault_of_data, reason_of
from shardpool.bulk.keyspace_sink import Writer, insert
from shardpool.bulk.rejects import write_rejects
from shardpool.bulk.translate import refused
from shardpool.errors import BadRows, ChunkDone
from shardpool.faults import fault_point
from shardpool.topology.names import quote

if TYPE_CHECKING:
    from shardpool.engines import Engines

LEDGER = "shardpool_jobs.ledger"

_CREATE = f"""
SELECT pg_advisory_xact_lock(hashtext('shardpool jobs'));
CREATE SCHEMA IF NOT EXISTS shardpool_jobs;
CREATE TABLE IF NOT EXISTS {LEDGER} (
    job uuid, chunk int, rows bigint NOT NULL, bytes bigint NOT NULL, rejected bigint NOT NULL, PRIMARY KEY (job, chunk)
)
"""


class DatabaseSink:
    """Writes into the tables of *schema* of a database, over engines of a `database_config`."""

    def __init__(self, engines: Engines, schema: str, writer: Writer = insert) -> None:
        self._engines, self._schema, self._writer = engines, schema, writer

    def prepare(self, job: uuid.UUID) -> None:
        self._do(lambda cursor: cursor.execute(_CREATE))

    def done(self, job: uuid.UUID) -> dict[int, Tally]:
        def read(cursor: Any) -> dict[int, Tally]:
            cursor.execute(f"SELECT chunk, rows, bytes, rejected FROM {LEDGER} WHERE job = %s", (str(job),))
            return {chunk: Tally(*rest) for chunk, *rest in cursor.fetchall()}

        found: dict[int, Tally] = self._do(read)
        return found

    def settle(self, ticket: Ticket) -> None:
        """Another attempt finds out: the ledger has the chunk, or nothing was written."""

    def finish(self, job: uuid.UUID) -> None:
        """The ledger stays."""

    def write(self, ticket: Ticket, batches: Sequence[Rows], rejects: Sequence[Rejected]) -> Tally:
        number = ticket.chunk.number

        def load(cursor: Any) -> Tally:
            # First of all, so that another attempt waits here, and then sees it.
            cursor.execute(
                f"INSERT INTO {LEDGER} VALUES (%s, %s, 0, 0, 0) ON CONFLICT DO NOTHING", (str(ticket.job), number)
            )
            if cursor.rowcount == 0:
                raise ChunkDone(f"{ticket.chunk} was written before")
            left_out = list(rejects)
            rows = size = 0
            for batch in batches:
                found = self._write_batch(cursor.connection, batch, ticket.may_reject - len(left_out))
                left_out += found
                rows += len(batch.records) - len(found)
                size += sum(map(len, batch.records))
            cursor.execute(
                f"UPDATE {LEDGER} SET rows = %s, bytes = %s, rejected = %s WHERE job = %s AND chunk = %s",
                (rows, size, len(left_out), str(ticket.job), number),
            )
            write_rejects(ticket, left_out)
            fault_point(f"chunk-{number}-written")
            return Tally(rows, size, len(left_out), tuple(left_out))

        tally: Tally = self._do(load)
        fault_point(f"chunk-{number}-committed")
        return tally

    def _write_batch(self, connection: Any, batch: Rows, limit: int) -> list[Rejected]:
        relation = f"{quote(self._schema)}.{quote(batch.table)}"
        try:
            found = self._writer(connection, "", relation, batch.columns, batch.records, limit)
        except psycopg2.Error as error:
            if is_fault_of_data(error) and not connection.closed and hasattr(error, "row"):
                raise BadRows(batch.source_of(error.row), reason_of(error), limit) from error
            raise
        return [Rejected(batch.source_of(at), reason) for at, reason in found]

    def _do(self, work: Callable[[Any], Any]) -> Any:
        """Do *work* in a transaction. A connection that breaks, even during COMMIT, leaves it to another attempt."""
        with self._engines.borrow(DATABASE) as connection:
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SET LOCAL lock_timeout = '30s'")
                    result = work(cursor)
                connection.commit()
                return result
            except psycopg2.Error as error:
                raise refused(error, DATABASE, gone=bool(connection.closed)) from error
