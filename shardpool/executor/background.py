"""The resolver's thread: at intervals it finishes what other coordinators left behind, and forgets old decisions."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from shardpool.engines import Engines
from shardpool.executor.current import CurrentTopology
from shardpool.two_phase import Coordinator, Resolved, resolve
from shardpool.two_phase.resolve import ABANDONED, forget_old
from shardpool.two_phase.sessions import UNREACHABLE

log = logging.getLogger(__name__)

#: Seconds between two rounds, stretched or shrunk by up to a fifth, so that many routers do not ask together.
INTERVAL = 4.0
#: Seconds between two searches for old decisions.
FORGET_INTERVAL = 3600.0


class Resolver:
    """Resolves the transactions of one keyspace, in its own thread after `start`, or when asked."""

    def __init__(self, engines: Engines, current: CurrentTopology, coordinator: Coordinator) -> None:
        self._engines = engines
        self._current = current
        self._coordinator = coordinator
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._forget_at = time.monotonic() + FORGET_INTERVAL * random.random()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="shardpool-resolver", daemon=True)
        self._thread.start()

    def resolve(self, older_than: float = ABANDONED) -> list[Resolved]:
        """Finish what was prepared more than *older_than* seconds ago on any shard."""
        shard_map = self._current.value.shard_map
        return resolve(self._engines, shard_map.keyspace, sorted(shard_map.shards), older_than)

    def close(self) -> None:
        """End the thread; a round that is under way is waited for. Idempotent."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
            self._thread = None

    def _work(self) -> None:
        while not self._closing.wait(INTERVAL * random.uniform(0.8, 1.2)):
            self._quietly(self.resolve)
            self._quietly(self._coordinator.forget)
            if time.monotonic() > self._forget_at:
                self._forget_at = time.monotonic() + FORGET_INTERVAL
                shard_map = self._current.value.shard_map
                self._quietly(lambda: forget_old(self._engines, shard_map.keyspace, sorted(shard_map.shards)))  # noqa: B023

    def _quietly(self, step: Callable[[], object]) -> None:
        try:
            step()
        except UNREACHABLE as error:
            log.warning("transactions in doubt: %s", error)
