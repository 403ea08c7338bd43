"""The locks in the catalog: one for the keyspace, held briefly, and one per partition, held while it moves.

They are advisory locks of sessions, so that they end with their processes. They save work and waiting; what is safe
does not depend on them, but on the attempt in the move's row (`journal`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random

from shardpool.errors import MoveInProgress
from shardpool.router import Router

#: So long, in seconds, a move that begins waits for a schema change, or for another that begins.
PATIENCE = 10.0
#: So long for the lock of a process that was killed, until the server has noticed that it is gone.
GRACE = 1.0


@contextmanager
def keyspace_locked(router: Router) -> Iterator[None]:
    """Keep schema changes, and other moves from beginning. Raise `MoveInProgress` if one of them takes too long."""
    busy = MoveInProgress("a schema change, or another move that begins, holds the keyspace's lock")
    with _locked(router, "topology", busy, PATIENCE):
        yield


@contextmanager
def move_locked(router: Router, partition: int, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of a partition's move while the block runs. Raise `MoveInProgress` if another process does."""
    busy = MoveInProgress(f"partition {partition} is being moved by another process")
    with _locked(router, _name(partition), busy, patience):
        yield


@contextmanager
def unique_locked(router: Router) -> Iterator[None]:
    """Be the only one that makes a column unique, or drops that. Raise `MoveInProgress` if another process does."""
    busy = MoveInProgress("another process makes a column unique, or drops that")
    with _locked(router, "unique", busy, GRACE):
        yield


@contextmanager
def way_back_locked(router: Router, partition: int) -> Iterator[None]:
    """Be the only one that keeps a way back current. Raise `MoveInProgress` if another process does."""
    busy = MoveInProgress(f"the way back of partition {partition} is kept current by another process")
    with _locked(router, f"way back {partition}", busy, 0.0):
        yield


@contextmanager
def _locked(router: Router, name: str, busy: MoveInProgress, patience: float) -> Iterator[None]:
    retrying = Retrying(
        retry=retry_if_exception_type(MoveInProgress),
        stop=stop_after_delay(patience),
        wait=wait_random(0.02, 0.2),
        reraise=True,
    )
    with ExitStack() as stack:
        retrying(lambda: stack.enter_context(router.catalog.lock(name, lambda: busy)))
        yield


def break_move_lock(router: Router, partition: int) -> None:
    """End the catalog session that holds the lock of a partition's move, and wait until it is gone."""
    router.catalog.break_lock(_name(partition))


def _name(partition: int) -> str:
    return f"move {partition}"
