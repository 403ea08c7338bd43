"""The same step on all shards at once: the first failure cancels the others, and all have ended when it is raised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from typing import TypeVar

from shardpool.ddl.session import ShardSession
from shardpool.engines.interrupt import end_all

_T = TypeVar("_T")


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
        end_all({future: session.connection for future, session in running.items()})
        raise
