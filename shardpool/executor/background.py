"""The resolver's thread: at intervals it finishes what other coordinators left behind, and forgets old decisions."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

import psycopg2
from sqlalchemy.exc import DBAPIError

from shardpool.engines import Engines
from shardpool.errors import ShardpoolError
from shardpool.executor.current import CurrentTopology
from shardpool.two_phase import Coordinator, Resolved, resolve
from shardpool.two_phase.resolving import ABANDONED, forget_old

log = logging.getLogger(__name__)

#: Seconds between two rounds, while this router writes in transactions and otherwise; stretched or shrunk by up to a
#: fifth, so that many routers do not ask together.
INTERVAL = 4.0
IDLE_INTERVAL = 30.0
#: Seconds between two searches for old decisions.
FORGET_INTERVAL = 3600.0


#: Seconds between two searches for loads.
LOADS_INTERVAL = 60.0

Step = Callable[[], object]


class Resolver:
    """Resolves the transactions of one keyspace, in its own thread after `start`, or when asked. *resolve_loads* is
    called in that thread as well."""

    def __init__(
        self, engines: Engines, current: CurrentTopology, coordinator: Coordinator, resolve_loads: Step
    ) -> None:
        self._engines = engines
        self._current = current
        self._coordinator = coordinator
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        now = time.monotonic()
        self._due: dict[Step, tuple[float, float]] = {
            self.resolve: (now, 0.0),
            coordinator.forget: (now, 0.0),
            resolve_loads: (now, LOADS_INTERVAL),
            self._forget_old: (now + FORGET_INTERVAL * random.random(), FORGET_INTERVAL),
        }

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="shardpool-resolver", daemon=True)
        self._thread.start()

    def resolve(self, older_than: float = ABANDONED) -> list[Resolved]:
        """Finish what was prepared more than *older_than* seconds ago on any shard."""
        shard_map = self._current.value.shard_map
        return resolve(self._engines, shard_map.keyspace, sorted(shard_map.shards), older_than)

    def close(self) -> None:
        """End the thread; a round that is under way is waited for. Idempotent."""
        if not self._closing.is_set():
            self._closing.set()
            self._quietly(lambda: self._coordinator.forget(0.0))
        if self._thread is not None:
            self._thread.join(timeout=30)
            self._thread = None

    def _interval(self) -> float:
        return INTERVAL if self._coordinator.busy() else IDLE_INTERVAL

    def _forget_old(self) -> None:
        shard_map = self._current.value.shard_map
        forget_old(self._engines, shard_map.keyspace, sorted(shard_map.shards))

    def _work(self) -> None:
        while not self._closing.wait(self._interval() * random.uniform(0.8, 1.2)):
            for step, (at, interval) in list(self._due.items()):
                if time.monotonic() >= at:
                    self._due[step] = (time.monotonic() + interval, interval)
                    self._quietly(step)

    def _quietly(self, step: Step) -> None:
        try:
            step()
        except (ShardpoolError, psycopg2.Error, DBAPIError) as error:
            log.warning("transactions in doubt: %s", error)
