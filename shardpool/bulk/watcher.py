"""Looking at servers while work goes on: on connections beyond the pools' limits, and none that hangs holds anybody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg2

from shardpool.engines.interrupt import AS_LOGGED_IN, cut

if TYPE_CHECKING:
    from shardpool.engines import Engines

#: Seconds between two attempts to end the thread, whose connections are cut.
_PATIENCE = 0.1


class Watcher:
    """A connection to one shard, opened when it is needed. `ask` is for one thread."""

    def __init__(self, engines: Engines, shard: str) -> None:
        self._pool = engines.pool(shard)
        self._entry: Any = None

    def ask(self, query: str) -> tuple[Any, ...]:
        """Return the first row that a query answers. Raise `ShardUnavailable` or the driver's errors."""
        try:
            if self._entry is None:
                self._entry = self._pool.open_apart()
                self._cursor(f"{AS_LOGGED_IN}SET application_name = 'shardpool watch'")
            row: tuple[Any, ...] = self._cursor(query).fetchone()
            return row
        except psycopg2.Error:
            self.close()
            raise

    def _cursor(self, query: str) -> Any:
        cursor = self._entry.dbapi_connection.cursor()
        cursor.execute(query)
        return cursor

    def interrupt(self) -> None:
        """Cut the connection, from another thread."""
        entry = self._entry
        if entry is not None and (connection := entry.dbapi_connection) is not None:
            cut(connection)

    def close(self) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            with suppress(psycopg2.Error):
                self._pool.close_apart(entry)


@contextmanager
def looking(watchers: Sequence[Watcher], look: Callable[[], None], interval: float, name: str) -> Iterator[None]:
    """Call *look*, which asks the *watchers*, again and again in a thread while the block runs; then close them."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            look()
            ended.wait(interval)
        for watcher in watchers:
            watcher.close()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        while thread.is_alive():
            for watcher in watchers:
                watcher.interrupt()  # lest a server that hangs hold the thread
            thread.join(_PATIENCE)
