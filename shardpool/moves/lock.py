"""Making writers of the partition wait, without hurting them if they do not let go.

All are locked at once, parents before children, as most transactions write them; and a try ends before PostgreSQL looks
for a deadlock (see `ddl.locks`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import psycopg2
from psycopg2 import errors
from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from shardpool.ddl.locks import PATIENCE, lock_at_once
from shardpool.errors import CutoverTimeout
from shardpool.moves.holders import OLD, Ages, Holder, read_holders, wait_until_none, writers
from shardpool.moves.layout import read_layout
from shardpool.moves.move import Move
from shardpool.topology.names import quote

TRIES = 12
#: As `PATIENCE`, for a move whose cutover is tried again later: so long writers may queue for nothing.
BRIEF = (0.1, 0.2)
#: How long to wait for transactions that are old already, in seconds; nobody waits for the move meanwhile.
OLD_PATIENCE = 5.0

_IN_USE = (errors.LockNotAvailable, errors.QueryCanceled, errors.DeadlockDetected)


def lock(move: Move) -> None:
    """Lock all tables of the partition against writers, in a transaction on the source that stays open."""
    source, schema = move.servers.source, move.record.schema
    lock_tables(source, schema, lambda: [table.name for table in read_layout(source, schema)], str(move.record))
    move.pause.began = time.monotonic()


def lock_briefly(move: Move) -> None:
    """Lock all tables against writers, without making them queue behind a long transaction.

    Raise `CutoverTimeout` if one uses the partition and does not end: the move tries again later.
    """
    source, schema = move.servers.source, move.record.schema
    vacuumed = wait_for_old(source, schema, lambda holders: holders, str(move.record))
    names = [table.name for table in read_layout(source, schema)]
    patience = PATIENCE[-1:] if vacuumed else BRIEF
    began = lock_tables(source, schema, lambda: names, str(move.record), tries=len(patience), patience=patience)
    move.pause.began = move.pause.began or began  # of several sources the first


def once_writers_ended(move: Move, names: Sequence[str], statement: str = "") -> None:
    """Run *statement* at a moment when nobody has written the tables *names* and not ended. Readers go on.

    Raise `CutoverTimeout` if there is none in time.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(CutoverTimeout),
        stop=stop_after_delay(move.router.config.moves.patience),
        wait=wait_random_exponential(multiplier=0.1, max=2.0),
        reraise=True,
    )
    retrying(_once_writers_ended, move, names, statement)


def _once_writers_ended(move: Move, names: Sequence[str], statement: str) -> None:
    source, schema, what = move.servers.source, move.record.schema, str(move.record)
    vacuumed = wait_for_old(source, schema, writers, what)
    patience = PATIENCE[-1:] if vacuumed else BRIEF
    mode = "SHARE ROW EXCLUSIVE"
    lock_tables(source, schema, lambda: names, what, mode=mode, tries=len(patience), patience=patience)
    if statement:
        with source.cursor() as cursor:
            cursor.execute(statement)
    source.commit()


def wait_for_old(
    connection: Any, schema: str, which: Callable[[Collection[Holder]], Collection[Holder]], what: str
) -> bool:
    """Wait for transactions that have used the tables for long. Raise `CutoverTimeout` if they do not end.

    Return whether autovacuum is at work there: it leaves only for who waits longer than deadlock_timeout.
    """

    ages = Ages()

    def old() -> list[Holder]:
        found = ages.older(read_holders(connection, schema), OLD)
        connection.rollback()
        return [it for it in which(found) if not it.vacuums]

    wait_until_none(old, OLD_PATIENCE, f"{what}: long transactions use the partition; nothing was changed")
    vacuumed = any(it.vacuums for it in read_holders(connection, schema))
    connection.rollback()
    return vacuumed


def lock_tables(
    connection: Any,
    schema: str,
    names: Callable[[], Sequence[str]],
    what: str,
    *,
    mode: str = "EXCLUSIVE",
    tries: int | None = None,
    patience: Sequence[float] | None = None,
) -> float:
    """Lock the tables that *names* returns, in this order. Raise `CutoverTimeout`, beginning with *what*.

    EXCLUSIVE lets readers go on. It waits for whoever has written, or locked rows, also in a prepared transaction.
    Return when the try began that succeeded, by the monotonic clock: from then on writers wait.
    """
    tries, patience = tries or TRIES, patience or PATIENCE
    retrying = Retrying(
        retry=retry_if_exception_type(_IN_USE),
        stop=stop_after_attempt(tries),
        wait=wait_random_exponential(multiplier=0.1, max=2.0),
    )
    try:
        for attempt in retrying:
            with attempt:
                number = attempt.retry_state.attempt_number - 1
                began = time.monotonic()
                _try(connection, schema, names, mode, patience[number % len(patience)])
    except RetryError as error:
        holders = writers(read_holders(connection, schema))
        who = ", ".join(map(str, holders)) or "transactions that have ended by now"
        raise CutoverTimeout(
            f"{what}: the tables could not be locked in {tries} tries, in use by {who}; nothing was changed"
        ) from error.last_attempt.exception()
    return began


def _try(connection: Any, schema: str, names: Callable[[], Sequence[str]], mode: str, patience: float) -> None:
    try:
        tables = [f"{quote(schema)}.{quote(name)}" for name in names()]
        with connection.cursor() as cursor:
            lock_at_once(cursor, tables, mode, patience)
    except psycopg2.Error:
        connection.rollback()
        raise
