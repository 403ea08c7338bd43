"""The listener: a thread that hears of new epochs by LISTEN/NOTIFY, and by slow polling when a notice was lost.

It holds one connection, reconnects with growing pauses while the catalog is down, and ends at once on `close`.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable

import psycopg2
from sqlalchemy.exc import DBAPIError

from shardpool.catalog.catalog import CHANNEL, Catalog
from shardpool.errors import ShardpoolError

log = logging.getLogger(__name__)


class Listener:
    """Call *on_change* (from its own thread) whenever the keyspace may have a new epoch.

    `poll_interval` is in seconds: a change is noticed after that long even if its notice never came.
    """

    def __init__(self, catalog: Catalog, on_change: Callable[[], object], poll_interval: float = 5.0) -> None:
        self._catalog = catalog
        self._on_change = on_change
        self._poll_interval = poll_interval
        self._wake_read, self._wake_write = os.pipe()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="shardpool-listener", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and close its connection. Idempotent."""
        if self._closed:
            return
        self._closed = True
        os.write(self._wake_write, b"x")
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=30)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _run(self) -> None:
        pause = 0.1
        while not self._closed:
            try:
                self._listen()
                pause = 0.1
            except (DBAPIError, psycopg2.Error, ShardpoolError) as error:
                log.debug("catalog listener: %s", str(error).strip())
            if self._woken(pause):
                return
            pause = min(pause * 2, self._poll_interval)

    def _listen(self) -> None:
        with self._catalog.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            raw = connection.connection.dbapi_connection
            assert raw is not None
            try:
                connection.exec_driver_sql(f"LISTEN {CHANNEL}")
                self._on_change()
                while not self._woken(self._poll_interval, raw.fileno()):
                    raw.poll()
                    if self._concerns_us(raw.notifies):
                        self._on_change()
            finally:
                connection.invalidate()

    def _concerns_us(self, notices: list[psycopg2.extensions.Notify]) -> bool:
        """A notice of our keyspace, or none at all: the poll interval has passed."""
        mine = [notice for notice in notices if notice.payload.startswith(self._catalog.keyspace + ":")]
        concerned = bool(mine) or not notices
        notices.clear()
        return concerned

    def _woken(self, timeout: float, *sockets: int) -> bool:
        """Wait for one of *sockets* or the timeout; whether the listener is to end."""
        if not self._closed:
            ready, _, _ = select.select([self._wake_read, *sockets], [], [], timeout)
            return self._wake_read in ready
        return True
