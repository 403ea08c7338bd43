"""Sessions for finishing transactions, apart from those in which they were begun."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2 import errors
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from shardpool.engines import Engines
from shardpool.errors import ExecutionError
from shardpool.topology.names import literal

#: What passes when a server or its pool is back: worth another try.
UNREACHABLE = (ExecutionError, psycopg2.Error)

_ATTEMPTS = 3


@contextmanager
def session(engines: Engines, shard: str) -> Iterator[Any]:
    """Open a connection in autocommit mode, beside the pool: its connections may all be waiting for what is to be
    finished here. Raise `ShardUnavailable`, `NoSuchShard`."""
    pool = engines.pool(shard)
    entry = pool.open_apart()
    try:
        yield entry.dbapi_connection
    finally:
        pool.close_apart(entry)


def run(connection: Any, statement: str, values: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
    """Run a statement and return its rows, if it has any."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return list(cursor.fetchall()) if cursor.description else []


@retry(
    retry=retry_if_exception_type(UNREACHABLE),
    stop=stop_after_attempt(_ATTEMPTS),
    wait=wait_exponential(multiplier=0.1, max=1.0),
    reraise=True,
)
def finish_prepared(engines: Engines, shard: str, gid: str, *, commit: bool) -> None:
    """Finish a prepared transaction; one that is finished already is fine.

    Raise `ExecutionError` or psycopg2's errors when repeated attempts fail.
    """
    with session(engines, shard) as connection:
        try:
            run(connection, f"{'COMMIT' if commit else 'ROLLBACK'} PREPARED {literal(gid)}")
        except errors.UndefinedObject:
            return
