"""The same step on all shards at once: the first failure cancels the others, and all have ended when it is raised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, wait
from typing import TypeVar

from shardpool.ddl.session import ShardSession

_T = TypeVar("_T")


def on_all(
    executor: Executor, sessions: Sequence[ShardSession], step: Callable[[ShardSession], _T]
) -> dict[str, _T]:
    """Return shard name -> result of *step*. The executor must have a thread for each session."""
    running = {executor.submit(step, session): session for session in sessions}
    ended, others = wait(running, return_when=FIRST_EXCEPTION)
    failures = [future for future in ended if future.exception() is not None]
    if failures:
        for future in others:
            running[future].connection.cancel()
        wait(others)
        failures[0].result()
    return {session.shard: future.result() for future, session in running.items()}
