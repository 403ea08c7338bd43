"""Whether others work on servers: bulk work makes way for them by itself, and has idle servers for itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg2

from shardpool.engines.interrupt import cut
from shardpool.errors import ShardpoolError

if TYPE_CHECKING:
    from shardpool.engines import Engines

log = logging.getLogger(__name__)

#: The part of the time that is worked beside others.
BESIDE_OTHERS = 0.06
#: Seconds between two looks.
INTERVAL = 0.1

# Sessions of moves, and what they say to the catalog, are no others. What another role does is seen by pg_monitor only.
_OTHERS = f"""
SELECT EXISTS (SELECT FROM pg_stat_activity
WHERE backend_type = 'client backend' AND application_name !~ '^shardpool (move|catalog|watch)'
AND (state = 'active' OR state_change > clock_timestamp() - interval '{INTERVAL} s'))
"""


class Foreground:
    """What was seen of the others on some servers. One look at somebody proves little; two in a row are work."""

    def __init__(self) -> None:
        self._looks = 0

    def saw(self, others: bool) -> None:
        self._looks = self._looks + 1 if others else 0

    @property
    def share(self) -> float:
        """The part of the time that may be worked."""
        return BESIDE_OTHERS if self._looks > 1 else 1.0


@contextmanager
def foreground(engines: Engines, shards: Sequence[str], work: str) -> Iterator[Foreground]:
    """Look at the servers of *shards* while the block does *work* on them, over connections beyond the pools' limits.

    A server that cannot be looked at is taken for one that others use.
    """
    seen, ended = Foreground(), threading.Event()
    watchers = [_Watcher(engines, shard) for shard in dict.fromkeys(shards)]

    def watch() -> None:
        while not ended.is_set():
            try:
                seen.saw(any(watcher.look() for watcher in watchers))
            except (ShardpoolError, psycopg2.Error) as error:
                log.debug("%s: the servers cannot be looked at: %s", work, error)
                seen.saw(True)
            ended.wait(INTERVAL)
        for watcher in watchers:
            watcher.close()

    thread = threading.Thread(target=watch, name="shardpool-foreground", daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        while thread.is_alive():
            for watcher in watchers:
                watcher.interrupt()  # lest a server that hangs hold the thread
            thread.join(INTERVAL)


class _Watcher:
    """A connection to one shard, opened when it is needed."""

    def __init__(self, engines: Engines, shard: str) -> None:
        self._pool = engines.pool(shard)
        self._entry: Any = None

    def look(self) -> bool:
        """Whether others work there. Raise `ShardUnavailable` or the driver's errors."""
        try:
            if self._entry is None:
                self._entry = self._pool.open_apart()
                self._ask("SET application_name = 'shardpool watch'")
            return bool(self._ask(_OTHERS).fetchone()[0])
        except psycopg2.Error:
            self.close()
            raise

    def _ask(self, query: str) -> Any:
        cursor = self._entry.dbapi_connection.cursor()
        cursor.execute(query)
        return cursor

    def interrupt(self) -> None:
        entry = self._entry
        if entry is not None and (connection := entry.dbapi_connection) is not None:
            cut(connection)

    def close(self) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            with suppress(psycopg2.Error):
                self._pool.close_apart(entry)
