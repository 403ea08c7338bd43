"""Following the writers: partitions whose logs have something are read, told and forgotten, again and again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import psycopg2

from shardpool.bulk.runner import Beat, Following, PauseJob
from shardpool.bulk.translate import refused
from shardpool.bulk.worker import Patience, is_passing, retrying
from shardpool.faults import fault_point
from shardpool.jobs.replicate.changes import forget, read_pages, waiting_query
from shardpool.jobs.replicate.receivers import Receiver
from shardpool.router import Router
from shardpool.topology.tables import Table

log = logging.getLogger(__name__)

#: Seconds between two looks when there was nothing to tell.
INTERVAL = 0.2
#: Seconds that a round waits for a lock of a partition, on which others wait meanwhile.
LOCK_TIMEOUT = "5s"


@dataclass
class Follower:
    """Tells *receiver* of what is written to *tables*; with *once*, until all is told that was written before."""

    router: Router
    job: str
    tables: Mapping[str, Table]
    receiver: Receiver
    workers: int
    patience: Patience
    once: bool
    #: Keeps reference tables equal, if there are some.
    references: Callable[[], int] = lambda: 0
    changes: int = field(default=0, init=False)

    def run(self, beat: Beat) -> None:
        """Follow until *beat* says no, also while servers are away. Raise `PauseJob` at the end of *once*, and what
        will not pass by itself.
        """
        following, heard = Following(), time.monotonic()
        with ThreadPoolExecutor(self.workers, thread_name_prefix="shardpool-feed") as threads:
            while True:
                try:
                    following, heard = self._round(threads), time.monotonic()
                except Exception as error:
                    if self.once or not is_passing(error):
                        raise
                    log.warning("job %s: %s; it goes on when that is over", self.job, error)
                    following = replace(following, waiting=0, lag=round(time.monotonic() - heard, 3))
                if not beat(following):
                    return
                if not following.waiting:
                    if self.once:
                        raise PauseJob
                    time.sleep(INTERVAL)

    def _round(self, threads: ThreadPoolExecutor) -> Following:
        """Tell all that waits."""
        waiting = retrying(self.patience, self._refresh, self._look)
        self.changes += sum(threads.map(self._tell_again, waiting))
        self.changes += retrying(self.patience, self._refresh, self.references)
        lag = max((seconds for _, seconds in waiting.values()), default=0.0)
        return Following(self.changes, sum(count for count, _ in waiting.values()), round(lag, 3))

    def _look(self) -> dict[int, tuple[int, float]]:
        """Return partition -> (notes that wait, seconds that the oldest does)."""
        found: dict[int, tuple[int, float]] = {}
        for shard, partitions in self.router.topology.shard_map.by_shard().items():
            query = waiting_query(self.job, self.tables, {it.id: it.schema for it in partitions})
            if query:
                for partition, count, seconds in self._on(shard, lambda cursor, query=query: _rows(cursor, query)):
                    known = found.get(partition, (0, 0.0))
                    found[partition] = known[0] + count, max(known[1], seconds)
        return found

    def _tell_again(self, partition: int) -> int:
        return retrying(self.patience, self._refresh, self._tell, partition)

    def _refresh(self, _: object) -> None:
        self.router.refresh()

    def _tell(self, partition: int) -> int:
        """Tell what is in the logs of a partition, and forget it."""
        topology = self.router.topology
        if partition in topology.shard_map.retired:
            return 0  # It was split or merged just now, and its logs went along: the next round sees them.
        placement = topology.shard_map.placement(partition)

        def tell(cursor: Any) -> int:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute(topology.search_paths[partition])
            cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            pages = read_pages(cursor.connection, self.job, self.tables)
            first = next(pages, None)
            if first is None:
                return 0
            count = self.receiver.take(partition, chain([first], pages))
            forget(cursor, self.job, self.tables)
            fault_point("batch-forgotten")
            cursor.connection.commit()
            return count

        return int(self._on(placement.shard, tell))

    def _on(self, shard: str, work: Any) -> Any:
        with self.router.engines.borrow(shard) as connection:
            try:
                with connection.cursor() as cursor:
                    return work(cursor)
            except psycopg2.Error as error:
                raise refused(error, shard, gone=bool(connection.closed)) from error


def _rows(cursor: Any, query: str) -> list[Any]:
    cursor.execute(query)
    return list(cursor.fetchall())
