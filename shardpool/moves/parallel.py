"""Two servers working at once, while the process stays interruptible.

Each piece of work runs in a thread of its own with its connection. The calling thread waits, where Ctrl-C reaches it,
and keeps the other connections of the move from being taken for dead. When one piece fails, or the wait is interrupted,
the connections of the others are cancelled, and all have ended when the error is raised.

That is no crew (`bulk.crew`): the ends of a pipe, or the two sides of a comparison, wait for each other. So all begin
at once, and none of them is a task that could begin later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from shardpool.engines.interrupt import end_all

T = TypeVar("T")

#: Seconds between two calls of `meanwhile`.
INTERVAL = 0.5


@dataclass(frozen=True)
class Work:
    """A function and the connection that it uses."""

    connection: Any
    run: Callable[[], Any]


def together(works: Sequence[Work], meanwhile: Callable[[], object] = lambda: None) -> list[Any]:
    """Run all *works* at once and return their results; call *meanwhile* now and then. Raise the first failure."""
    with ThreadPoolExecutor(len(works), "shardpool-move") as executor:
        futures = [executor.submit(work.run) for work in works]
        pending: set[Future[Any]] = set(futures)
        try:
            while pending:
                ended, pending = wait(pending, timeout=INTERVAL, return_when=FIRST_EXCEPTION)
                for future in ended:
                    future.result()
                meanwhile()
        except BaseException:
            end_all({future: work.connection for work, future in zip(works, futures, strict=True)})
            raise
        return [future.result() for future in futures]


def keep_alive(connection: Any) -> None:
    """Say something on a connection that waits in its transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
