"""The same step on all shards at once: the first failure cancels the others, and all have ended when it is raised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from contextlib import suppress
from typing import TypeVar

import psycopg2

from shardpool.ddl.session import ShardSession

_T = TypeVar("_T")


#: A cancel request that finds a session between two statements is lost: it is repeated at this interval, in seconds.
CANCEL_INTERVAL = 0.1


def on_all(executor: Executor, sessions: Sequence[ShardSession], step: Callable[[ShardSession], _T]) -> dict[str, _T]:
    """Return shard name -> result of *step*. The executor must have a thread for each session."""
    running: dict[Future[_T], ShardSession] = {executor.submit(step, it): it for it in sessions}
    try:
        ended, _ = wait(running, return_when=FIRST_EXCEPTION)
        for future in ended:
            if future.exception() is not None:
                future.result()
        return {session.shard: future.result() for future, session in running.items()}
    except BaseException:
        _cancel(running)
        raise


def _cancel(running: Mapping[Future[_T], ShardSession]) -> None:
    """Cancel what the sessions are doing, until none does anything."""
    left = set(running)
    while left:
        for future in left:
            if not future.done():
                with suppress(psycopg2.Error):
                    running[future].connection.cancel()
        _, left = wait(left, CANCEL_INTERVAL)
