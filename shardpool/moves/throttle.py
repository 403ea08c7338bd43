"""Holding a copy back for the sake of everybody else: at a rate, and while the servers are slow or replicas behind."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2

from shardpool.config import MoveConfig
from shardpool.errors import ShardpoolError
from shardpool.moves.pace import Pace
from shardpool.moves.record import MoveRecord
from shardpool.router import Router

log = logging.getLogger(__name__)

#: Seconds between two looks at the servers.
INTERVAL = 0.5
#: The longest single wait, in seconds: a copy that is held back for long still trickles, and can be interrupted.
LONGEST_WAIT = 2.0

# A commit that writes a record of its own, and waits for the disk. The lag of replicas is visible to pg_monitor.
_COMMIT = "SET LOCAL synchronous_commit = on; SELECT pg_current_xact_id()"
_LAG = "SELECT coalesce(extract(epoch FROM max(replay_lag)), 0)::float8 FROM pg_stat_replication"


class Throttle:
    """Made by `throttled`. `passed` is called for each piece of a copy, and waits as long as it should."""

    def __init__(self, limits: MoveConfig) -> None:
        self._limits = limits
        self._began = time.monotonic()
        self._bytes = 0
        self._free = threading.Event()
        self._free.set()
        self._pace = Pace(limits.share)

    def passed(self, size: int) -> None:
        """Wait, if *size* more bytes are too many now."""
        if not self._free.is_set():
            self._free.wait(LONGEST_WAIT)
            self._began, self._bytes = time.monotonic(), 0
        self._pace.rest()
        if self._limits.max_rate:
            self._bytes += size
            due = self._began + self._bytes / self._limits.max_rate
            time.sleep(min(max(due - time.monotonic(), 0.0), LONGEST_WAIT))

    def heard(self, latency: float, lag: float) -> None:
        """Take note of how the servers are: seconds of a commit, seconds that a replica is behind."""
        limits = self._limits
        if (limits.max_latency and latency > limits.max_latency) or (limits.max_lag and lag > limits.max_lag):
            self._free.clear()
        else:
            self._free.set()


@contextmanager
def throttled(router: Router, record: MoveRecord) -> Iterator[Throttle]:
    """Watch the two servers while the block copies between them, if the configuration sets limits."""
    limits = router.config.moves
    throttle, ended = Throttle(limits), threading.Event()

    def watch() -> None:
        while not ended.wait(INTERVAL):
            try:
                seen = [probe(router, shard) for shard in record.shards]
                throttle.heard(max(latency for latency, _ in seen), max(lag for _, lag in seen))
            except (ShardpoolError, psycopg2.Error) as error:
                log.debug("%s: the servers cannot be watched: %s", record, error)

    thread = threading.Thread(target=watch, name="shardpool-move-throttle", daemon=True)
    if limits.max_latency or limits.max_lag:
        thread.start()
    try:
        yield throttle
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()


def probe(router: Router, shard: str) -> tuple[float, float]:
    """Return how long a commit takes on a shard, and how far its replicas are behind, in seconds."""
    with router.engines.borrow(shard) as connection:
        cursor: Any = connection.cursor()
        cursor.execute(_LAG)
        (lag,) = cursor.fetchone()
        connection.rollback()
        cursor.execute(_COMMIT)
        began = time.monotonic()
        connection.commit()
        return time.monotonic() - began, float(lag)
