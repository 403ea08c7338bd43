"""Making writers of the partition wait, without hurting them if they do not let go.

A transaction that has written one table and waits for another that the move has locked already is in a deadlock with
the move. So each try is shorter than the server's deadlock_timeout: the move gives up before PostgreSQL looks for a
victim. Every third try is longer, because autovacuum leaves only when the deadlock check finds it in the way. Parents
are locked before children, as most transactions write them.
"""

from __future__ import annotations

import time

import psycopg2
from psycopg2 import errors
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from shardpool.errors import CutoverTimeout
from shardpool.moves.holders import read_holders, writers
from shardpool.moves.layout import qualified, read_layout
from shardpool.moves.move import Move

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
    """Lock all tables against writers, in a transaction on the source that stays open.

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
                _try(move, PATIENCE[attempt.retry_state.attempt_number % len(PATIENCE) - 1])
    except RetryError as error:
        holders = writers(read_holders(move.servers.source, move.record.schema))
        who = ", ".join(map(str, holders)) or "transactions that have ended by now"
        raise CutoverTimeout(
            f"{move.record}: its tables could not be locked in {TRIES} tries, in use by {who}; nothing was moved"
        ) from error.last_attempt.exception()


def _try(move: Move, patience: float) -> None:
    source = move.servers.source
    try:
        tables = read_layout(source, move.record.schema)
        with source.cursor() as cursor:
            cursor.execute(_SET_TIMEOUT, (patience,))
            if tables:
                cursor.execute(f"LOCK TABLE {qualified(move.record.schema, tables)} IN EXCLUSIVE MODE")
            cursor.execute("SET LOCAL statement_timeout = 0")
    except psycopg2.Error:
        source.rollback()
        raise
    move.locked_at = time.monotonic()
