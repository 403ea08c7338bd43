"""Asking what became of a transaction. Who asks settles it: without a record it is aborted from now on."""

from __future__ import annotations

from typing import Literal

from psycopg2 import errors

from shardpool.engines import Engines
from shardpool.two_phase.names import DURABLE, TransactionId, records_table
from shardpool.two_phase.sessions import run, session

Outcome = Literal["committed", "aborted", "undecided"]

#: So long, in milliseconds, the question waits for a transaction that is just committing.
LOCK_WAIT = 2000


def outcome(engines: Engines, transaction: TransactionId) -> Outcome:
    """Ask the decider. "undecided": its coordinator is committing at this moment; ask again.

    Right for every transaction whose coordinator was not told its outcome. Raise `ShardUnavailable`, `NoSuchShard`,
    `PoolTimeout` and psycopg2's errors if the decider does not answer.
    """
    table = records_table(transaction.keyspace)
    with session(engines, transaction.decider) as connection:
        try:
            run(
                connection,
                f"SET LOCAL lock_timeout = {LOCK_WAIT}; {DURABLE}; "
                f"INSERT INTO {table} (id, committed) VALUES (%s, false) ON CONFLICT (id) DO NOTHING",
                (str(transaction),),
            )
        except errors.LockNotAvailable:
            return "undecided"
        rows = run(connection, f"SELECT committed FROM {table} WHERE id = %s", (str(transaction),))
    return "committed" if rows[0][0] else "aborted"
