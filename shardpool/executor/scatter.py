"""Scatter: the same work on several shards at once, as a whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg2

from shardpool.engines import Engines
from shardpool.engines.interrupt import cancel
from shardpool.engines.translate import is_lost, is_stale, translate
from shardpool.errors import PoolTimeout, ScatterFailed, ShardpoolError, ShardUnavailable

T = TypeVar("T")

#: The cost of a parallel worker per partition; PostgreSQL's default of `parallel_setup_cost`.
PARALLEL_SETUP_COST = 1000

#: Work on one shard: given its name and psycopg2 connection (in autocommit mode).
Work = Callable[[str, Any], T]


def frugal(sql: str, partitions: int) -> str:
    """Return *sql*, over so many partitions of a shard, with workers only where they pay; in one message.

    A parallel worker loads the catalog entries of all tables anew before it begins. PostgreSQL takes that for the same
    (`parallel_setup_cost`) whether they are two or two hundred, and sends workers for what one process does in less
    time. The setting ends with the transaction.
    """
    if partitions < 2:
        return sql
    cost = f"greatest(current_setting('parallel_setup_cost')::float8, {PARALLEL_SETUP_COST * partitions})"
    return f"SELECT pg_catalog.set_config('parallel_setup_cost', {cost}::text, true); {sql}"


class Leases:
    """The connections of one scatter, by shard. Those that were interrupted are closed, not given back."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._entries: dict[str, Any] = {}
        self._broken: set[str] = set()

    def take(self, shards: Sequence[str]) -> None:
        for shard in sorted(shards):
            self._entries[shard] = self._engines.pool(shard).lease()

    @property
    def shards(self) -> list[str]:
        return list(self._entries)

    def connection(self, shard: str) -> Any:
        return self._entries[shard].dbapi_connection

    def cancel(self, shards: Sequence[str]) -> None:
        """Interrupt what runs on these shards. A cancel may arrive late, so their connections are not used again."""
        for shard in shards:
            self._broken.add(shard)
            cancel(self.connection(shard))

    def abandon(self, shard: str) -> None:
        self._broken.add(shard)

    def release(self) -> None:
        for shard, entry in self._entries.items():
            pool = self._engines.pool(shard)
            if shard in self._broken:
                pool.discard(entry)
            else:
                pool.give_back(entry)
        self._entries.clear()


@contextmanager
def leased(engines: Engines, shards: Sequence[str]) -> Iterator[Leases]:
    """Take one connection of each shard, in the order of their names; give them back at the end."""
    leases = Leases(engines)
    try:
        leases.take(shards)
        yield leases
    finally:
        leases.release()


class Scatter:
    """Tasks on the leased connections of one query."""

    def __init__(self, threads: ThreadPoolExecutor, leases: Leases) -> None:
        self._threads = threads
        self._leases = leases
        self._futures: dict[str, Future[Any]] = {}

    def start(self, shard: str, work: Work[Any]) -> None:
        """Begin *work* on a shard in a thread of its own."""
        self._futures[shard] = self._threads.submit(work, shard, self._leases.connection(shard))

    def collect(self) -> dict[str, Any]:
        """Wait for all tasks; return their results by shard. On a failure cancel the rest and raise (see `failure`)."""
        wait(self._futures.values(), return_when=FIRST_EXCEPTION)
        errors = self.errors()
        if errors:
            self.stop()
            raise failure(errors, self._leases)
        return {shard: future.result() for shard, future in self._futures.items()}

    def errors(self) -> dict[str, BaseException]:
        found = {}
        for shard, future in self._futures.items():
            if future.done() and not future.cancelled():
                error = future.exception()
                if error is not None:
                    found[shard] = error
        return found

    def stop(self) -> None:
        """Cancel whatever still runs, and wait until no thread uses a connection."""
        running = [shard for shard, future in self._futures.items() if not future.cancel() and not future.done()]
        self._leases.cancel(running)
        wait(self._futures.values())


def on_shards(threads: ThreadPoolExecutor, leases: Leases, works: Mapping[str, Work[T]]) -> dict[str, T]:
    """Do work on several shards at once; return the results by shard, or fail as a whole."""
    scatter = Scatter(threads, leases)
    try:
        for shard, work in works.items():
            scatter.start(shard, work)
        return scatter.collect()
    except BaseException:
        scatter.stop()
        raise


def failure(errors: dict[str, BaseException], leases: Leases) -> BaseException:
    """Return the error of a scatter: `ScatterFailed` where a server is gone or several failed, else the statement's
    own.

    A partition that moved away is passed on as the driver's error, for the caller to refresh its map and retry.
    """
    for error in errors.values():
        if is_stale(error) or isinstance(error, PoolTimeout):
            return error
    lost = {}
    for shard, error in errors.items():
        if isinstance(error, psycopg2.Error) and is_lost(error, leases.connection(shard)):
            leases.abandon(shard)
            lost[shard] = translate(error, leases.connection(shard), shard, "", writes=False)
        elif isinstance(error, ShardUnavailable):
            lost[shard] = error
    if lost:
        return ScatterFailed(lost)
    shard, error = next(iter(errors.items()))
    if isinstance(error, psycopg2.Error) and not isinstance(error, ShardpoolError):
        return translate(error, leases.connection(shard), shard, "", writes=False)
    return error
