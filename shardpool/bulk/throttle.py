"""Holding bulk work back for the sake of everybody else: at a rate, and while servers are slow or replicas behind."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import psycopg2

from shardpool.bulk.foreground import Foreground, foreground
from shardpool.bulk.pace import Pace
from shardpool.bulk.watcher import Watcher, looking
from shardpool.engines.interrupt import AS_LOGGED_IN
from shardpool.errors import ConfigError, ShardpoolError

if TYPE_CHECKING:
    from shardpool.engines import Engines

log = logging.getLogger(__name__)

#: Seconds between two looks at the servers.
INTERVAL = 0.5
#: The longest single wait, in seconds: work that is held back for long still trickles, and can be interrupted.
LONGEST_WAIT = 2.0

# Its commit writes a record of its own, and waits for the disk. The lag of replicas is visible to pg_monitor.
_COMMIT = "SET LOCAL synchronous_commit = on; SELECT pg_current_xact_id()"
_LAG = "SELECT coalesce(extract(epoch FROM max(replay_lag)), 0)::float8 FROM pg_stat_replication"
_HIDDEN = "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state IS NULL)"


class Limits(Protocol):
    """Bytes per second, seconds that a commit may take, seconds that a replica may be behind; 0 is no limit. And the
    share of the time that may be worked, 0 < share <= 1; "auto" is a small one while others work on the servers."""

    @property
    def max_rate(self) -> int: ...
    @property
    def max_latency(self) -> float: ...
    @property
    def max_lag(self) -> float: ...
    @property
    def share(self) -> float | Literal["auto"]: ...


@dataclass(frozen=True)
class RateLimits:
    """Limits as plain values; by default there are none."""

    max_rate: int = 0
    max_latency: float = 0.0
    max_lag: float = 0.0
    share: float | Literal["auto"] = 1.0


NO_LIMITS = RateLimits()
NOBODY = Foreground()


class Throttle:
    """Made by `watching`. A copy calls `passed` for each piece; who hands out work asks `ready` before."""

    def __init__(self, limits: Limits, others: Foreground = NOBODY) -> None:
        self._limits, self._others = limits, others
        self._began = self._trickled = time.monotonic()
        self._bytes = 0
        self._free = threading.Event()
        self._free.set()
        self.pace = Pace(lambda: self.share)

    @property
    def share(self) -> float:
        """The part of the time that may be worked now."""
        return self._others.share if self._limits.share == "auto" else self._limits.share

    def passed(self, size: int) -> None:
        """Wait, if *size* more bytes are too many now."""
        if not self._free.is_set():
            self._free.wait(LONGEST_WAIT)
            self._began, self._bytes = time.monotonic(), 0
        self.pace.rest()
        self.count(size)
        if self._limits.max_rate:
            time.sleep(min(max(self._due - time.monotonic(), 0.0), LONGEST_WAIT))

    def count(self, size: int) -> None:
        """Take note of *size* bytes that have passed."""
        self._bytes += size

    def ready(self) -> bool:
        """Whether more may begin now; while it is held back, now and then something may."""
        now = time.monotonic()
        if self._free.is_set():
            if not self._limits.max_rate or now >= self._due:
                self._trickled = now
                return True
        elif now - self._trickled >= LONGEST_WAIT:
            self._trickled = self._began = now
            self._bytes = 0
            return True
        return False

    def heard(self, latency: float, lag: float) -> None:
        """Take note of how the servers are: seconds of a commit, seconds that a replica is behind."""
        limits = self._limits
        if (limits.max_latency and latency > limits.max_latency) or (limits.max_lag and lag > limits.max_lag):
            self._free.clear()
        else:
            self._free.set()

    @property
    def _due(self) -> float:
        """When so many bytes should have taken, by the rate."""
        return self._began + self._bytes / self._limits.max_rate


@contextmanager
def watching(engines: Engines, shards: Sequence[str], limits: Limits, work: str) -> Iterator[Throttle]:
    """Watch *shards* while the block does *work* on them, if there are limits to watch for. Raise `ConfigError` for one
    that cannot be watched, and `ShardUnavailable`."""
    if limits.max_lag:
        _check_replicas_are_seen(engines, shards, work)
    looking = foreground(engines, shards, work) if limits.share == "auto" else nullcontext(NOBODY)
    with looking as others:
        throttle = Throttle(limits, others)
        probed = limits.max_latency or limits.max_lag
        with _probing(engines, shards, throttle, work) if probed else nullcontext():
            yield throttle


def _check_replicas_are_seen(engines: Engines, shards: Sequence[str], work: str) -> None:
    for shard in dict.fromkeys(shards):
        with engines.borrow(shard) as connection, connection.cursor() as cursor:
            cursor.execute(f"{AS_LOGGED_IN}{_HIDDEN}")
            if cursor.fetchone()[0]:
                got = f"a limit, while the role may not see how far the replicas of shard {shard} are behind"
                raise ConfigError(work, "max_lag", got, "GRANT pg_read_all_stats to it, or 0 for no limit")


@contextmanager
def _probing(engines: Engines, shards: Sequence[str], throttle: Throttle, work: str) -> Iterator[None]:
    """Tell *throttle* how the servers are while the block runs."""
    watchers = [Watcher(engines, shard) for shard in dict.fromkeys(shards)]

    def look() -> None:
        try:
            seen = [probe(watcher) for watcher in watchers]
            throttle.heard(max(latency for latency, _ in seen), max(lag for _, lag in seen))
        except (ShardpoolError, psycopg2.Error) as error:
            log.debug("%s: the servers cannot be watched: %s", work, error)

    with looking(watchers, look, INTERVAL, "shardpool-throttle"):
        yield


def probe(watcher: Watcher) -> tuple[float, float]:
    """Return how long a commit takes on a shard, and how far its replicas are behind, in seconds."""
    (lag,) = watcher.ask(_LAG)
    began = time.monotonic()
    watcher.ask(_COMMIT)
    return time.monotonic() - began, float(lag)
