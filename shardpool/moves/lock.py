"""Making writers of the partition wait, without hurting them if they do not let go.

A transaction that has written one table and waits for another that the move has locked already is in a deadlock with
the move. So each try is shorter than the server's deadlock_timeout: the move gives up before PostgreSQL looks for a
victim. Every third try is longer, because autovacuum leaves only when the deadlock check finds it in the way. Parents
are locked before children, as most transactions write them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg2
from psycopg2 import errors
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from shardpool.errors import CutoverTimeout
from shardpool.moves.holders import read_holders, writers
from shardpool.moves.layout import read_layout
from shardpool.moves.move import Move
from shardpool.topology.names import quote

TRIES = 12
#: The length of a try, as a share of the server's deadlock_timeout: first, second, third, then again.
PATIENCE = (0.8, 0.8, 1.6)

# The whole statement is limited, not the wait for each table.
_SET_TIMEOUT = """
SELECT set_config('statement_timeout',
    (extract(epoch FROM current_setting('deadlock_timeout')::interval) * 1000 * %s)::int::text, true)
"""

_IN_USE = (errors.LockNotAvailable, errors.QueryCanceled, errors.DeadlockDetected)


def lock(move: Move) -> None:
    """Lock all tables of the partition against writers, in a transaction on the source that stays open."""
    source, schema = move.servers.source, move.record.schema
    lock_tables(source, schema, lambda: [table.name for table in read_layout(source, schema)], str(move.record))
    move.locked_at = time.monotonic()


def lock_tables(connection: Any, schema: str, names: Callable[[], Sequence[str]], what: str) -> None:
    """Lock the tables that *names* returns, in this order. Raise `CutoverTimeout`, beginning with *what*.

    EXCLUSIVE lets readers go on. It waits for whoever has written, or locked rows, also in a prepared transaction.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(_IN_USE),
        stop=stop_after_attempt(TRIES),
        wait=wait_random_exponential(multiplier=0.1, max=2.0),
    )
    try:
        for attempt in retrying:
            with attempt:
                _try(connection, schema, names, PATIENCE[attempt.retry_state.attempt_number % len(PATIENCE) - 1])
    except RetryError as error:
        holders = writers(read_holders(connection, schema))
        who = ", ".join(map(str, holders)) or "transactions that have ended by now"
        raise CutoverTimeout(
            f"{what}: the tables could not be locked in {TRIES} tries, in use by {who}; nothing was changed"
        ) from error.last_attempt.exception()


def _try(connection: Any, schema: str, names: Callable[[], Sequence[str]], patience: float) -> None:
    try:
        tables = ", ".join(f"{quote(schema)}.{quote(name)}" for name in names())
        with connection.cursor() as cursor:
            cursor.execute(_SET_TIMEOUT, (patience,))
            if tables:
                cursor.execute(f"LOCK TABLE {tables} IN EXCLUSIVE MODE")
            cursor.execute("SET LOCAL statement_timeout = 0")
    except psycopg2.Error:
        connection.rollback()
        raise
