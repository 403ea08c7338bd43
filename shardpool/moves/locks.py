"""The locks in the catalog: one for the keyspace, held briefly, and one per partition, held while it moves.

They are advisory locks of sessions, so that they end with their processes. They save work and waiting; what is safe
does not depend on them, but on the attempt in the move's row (`journal`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from sqlalchemy import text
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random

from shardpool.errors import MoveInProgress
from shardpool.router import Router

#: So long, in seconds, a move that begins waits for a schema change, or for another that begins.
PATIENCE = 10.0


@contextmanager
def keyspace_locked(router: Router) -> Iterator[None]:
    """Keep schema changes, and other moves from beginning. Raise `MoveInProgress` if one of them takes too long."""
    busy = MoveInProgress("a schema change, or another move that begins, holds the keyspace's lock")
    retrying = Retrying(
        retry=retry_if_exception_type(MoveInProgress),
        stop=stop_after_delay(PATIENCE),
        wait=wait_random(0.02, 0.2),
        reraise=True,
    )
    with ExitStack() as stack:
        retrying(lambda: stack.enter_context(router.catalog.lock("topology", lambda: busy)))
        yield


def move_lock(router: Router, partition: int, busy: Exception) -> AbstractContextManager[None]:
    """Hold the lock of a partition's move while the block runs; raise *busy* if another process does."""
    return router.catalog.lock(_name(partition), lambda: busy)


def break_move_lock(router: Router, partition: int) -> None:
    """End the catalog session that holds the lock of a partition's move, and wait until it is gone."""
    query = text(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks "
        "WHERE locktype = 'advisory' AND objsubid = 1 AND granted "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
        "AND (classid::bigint << 32) | objid::bigint = hashtextextended(:name, 0)"
    )
    with router.catalog.begin() as connection:
        connection.execute(query, {"name": f"shardpool {router.catalog.keyspace} {_name(partition)}"})


def _name(partition: int) -> str:
    return f"move {partition}"
