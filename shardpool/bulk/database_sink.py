"""One PostgreSQL database as a sink: the ledger is a table beside the rows, and one transaction writes both.

A job that has not ended yet has an entry of its own in the ledger, and a chunk is entered only beside that one. So the
ledger can go when nobody needs it: a process that was thought dead, and wakes later, writes nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import psycopg2

from shardpool.bulk.binary import copy_in
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
#: Stands for the number of a chunk in a job's own entry.
OPEN = -1

#: Whoever changes which tables of jobs there are works alone.
ALONE = "SELECT pg_advisory_xact_lock(hashtext('shardpool jobs'))"
_CREATE = f"""
{ALONE};
CREATE SCHEMA IF NOT EXISTS shardpool_jobs;
CREATE TABLE IF NOT EXISTS {LEDGER} (
    job uuid, chunk int, rows bigint NOT NULL, bytes bigint NOT NULL, rejected bigint NOT NULL, PRIMARY KEY (job, chunk)
);
INSERT INTO {LEDGER} VALUES (%s, {OPEN}, 0, 0, 0) ON CONFLICT DO NOTHING
"""
_ENTER = f"""
INSERT INTO {LEDGER} SELECT job, %s, 0, 0, 0
FROM (SELECT job FROM {LEDGER} WHERE job = %s AND chunk = {OPEN} FOR KEY SHARE) unfinished ON CONFLICT DO NOTHING
"""
_TYPES = """
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
"""
_UNUSED = "SELECT NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = 'shardpool_jobs'::regnamespace)"


def is_there(cursor: Any, table: str) -> bool:
    """Whether there is such a table of jobs."""
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (table,))
    return bool(cursor.fetchone()[0])


def drop_if_empty(cursor: Any, table: str) -> None:
    """Drop a table of jobs that has no rows, and their schema after the last one. The transaction has begun with
    `ALONE`."""
    cursor.execute(f"SELECT EXISTS (SELECT FROM {table})")
    if cursor.fetchone()[0]:
        return
    cursor.execute(f"DROP TABLE {table}")
    cursor.execute(_UNUSED)
    if cursor.fetchone()[0]:
        cursor.execute("DROP SCHEMA shardpool_jobs")


class DatabaseSink:
    """Writes into the tables of *schema* of a database, over engines of a `database_config`."""

    def __init__(self, engines: Engines, schema: str, writer: Writer = insert) -> None:
        self._engines, self._schema, self._writer = engines, schema, writer

    def prepare(self, job: uuid.UUID) -> None:
        self._do(lambda cursor: cursor.execute(_CREATE, (str(job),)))

    def done(self, job: uuid.UUID) -> dict[int, Tally]:
        def read(cursor: Any) -> dict[int, Tally]:
            cursor.execute(
                f"SELECT chunk, rows, bytes, rejected FROM {LEDGER} WHERE job = %s AND chunk <> {OPEN}", (str(job),)
            )
            return {chunk: Tally(*rest) for chunk, *rest in cursor.fetchall()}

        found: dict[int, Tally] = self._do(read)
        return found

    def settle(self, ticket: Ticket) -> None:
        """Another attempt finds out: the ledger has the chunk, or nothing was written."""

    def finish(self, job: uuid.UUID) -> None:
        """The ledger is needed until the journal has the end, too."""

    def forget(self, job: uuid.UUID) -> None:
        """Remove the job from the ledger, and the ledger after the last one."""

        def remove(cursor: Any) -> None:
            cursor.execute(ALONE)
            if is_there(cursor, LEDGER):
                cursor.execute(f"DELETE FROM {LEDGER} WHERE job = %s", (str(job),))
                drop_if_empty(cursor, LEDGER)

        self._do(remove)

    def write(self, ticket: Ticket, batches: Sequence[Rows], rejects: Sequence[Rejected]) -> Tally:
        number = ticket.chunk.number

        def load(cursor: Any) -> Tally:
            # First of all, so that another attempt waits here, and then sees it.
            cursor.execute(_ENTER, (number, str(ticket.job)))
            if cursor.rowcount == 0:
                raise ChunkDone(f"{ticket.chunk} was written before")
            left_out = list(rejects)
            rows = size = 0
            for batch in batches:
                found: list[Rejected] = []
                if batch.as_text is None or not self._write_binary(cursor, batch):
                    batch = batch.as_text() if batch.as_text else batch
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

    def _write_binary(self, cursor: Any, batch: Rows) -> bool:
        """Write binary rows; return false if they must be written as text: other types, or a row that is refused."""
        relation = f"{quote(self._schema)}.{quote(batch.table)}"
        cursor.execute(_TYPES, (relation,))
        types = dict(cursor.fetchall())
        if any(types.get(column.name) != column.type for column in batch.types):
            return False
        try:
            copy_in(cursor, "SAVEPOINT shardpool_rows;", relation, batch.columns, batch.records)
        except psycopg2.Error as error:
            if cursor.connection.closed or not is_fault_of_data(error):
                raise
            cursor.execute("ROLLBACK TO SAVEPOINT shardpool_rows")
            return False
        cursor.execute("RELEASE SAVEPOINT shardpool_rows")
        return True

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
