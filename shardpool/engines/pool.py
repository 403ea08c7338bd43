"""The pool of one shard: a SQLAlchemy `Pool` that can also lease a connection without SQLAlchemy's proxy around it.

Connections wait in a stack, so that the surplus of a peak grows old at the bottom and is closed. Who finds neither an
idle connection nor room for a new one queues; a connection that comes back is handed to the first in the queue. A slot
whose connection was closed is handed on likewise: the waiter opens a connection itself.
"""

from __future__ import annotations

import os
import random
import select
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any

import psycopg2
from sqlalchemy import event
from sqlalchemy.pool import ConnectionPoolEntry, Pool
from sqlalchemy.pool.base import _ConnectionRecord

from shardpool.config import PoolConfig
from shardpool.engines.prepared import SessionCursor
from shardpool.engines.right_of_way import Passage
from shardpool.errors import PoolClosed, PoolTimeout, ShardUnavailable

#: max_age is stretched or shrunk by up to this share, so that connections opened together do not all end together.
AGE_JITTER = 0.1

DEFAULT_LIMITS = PoolConfig()
#: Marks an entry that is beyond the pool's limits.
_APART = "shardpool apart"


@dataclass(frozen=True)
class PoolStats:
    """Counters of one pool: connections now (size = in_use + idle), threads waiting, and totals since the start."""

    size: int
    in_use: int
    idle: int
    waiting: int
    opened: int
    closed: int
    timeouts: int


class _Waiter:
    """A queued thread. `granted` is set under the pool's lock; `record` stays None when a slot to fill was granted."""

    __slots__ = ("granted", "record", "woken")

    def __init__(self) -> None:
        self.woken = threading.Event()
        self.granted = False
        self.record: ConnectionPoolEntry | None = None


class ShardPool(Pool):
    """See the module. Raises `PoolTimeout`, `PoolClosed` and `ShardUnavailable`."""

    def __init__(self, creator: Any, shard: str = "", limits: PoolConfig = DEFAULT_LIMITS, **options: Any) -> None:
        super().__init__(creator, **options)
        self.shard = shard
        self.limits = limits
        self._forget()
        self._opened = self._closed_count = self._timeouts = 0
        event.listen(self, "connect", self._on_connect)
        event.listen(self, "checkout", _on_checkout)
        event.listen(self, "reset", _on_reset)
        event.listen(self, "checkin", _on_checkin)
        _pools.add(self)

    def _forget(self) -> None:
        """Start empty: at first, and in a forked child, which must not touch its parent's sockets."""
        self._lock = threading.Lock()
        self._idle: list[ConnectionPoolEntry] = []
        self._waiters: deque[_Waiter] = deque()
        self._size = 0
        self._shut = False

    # -- leasing ----------------------------------------------------------------------------------------------------

    def lease(self, passage: Passage | None = None) -> ConnectionPoolEntry:
        """Return an entry whose `dbapi_connection` is alive, in autocommit mode and clean; the caller gives it back.

        *passage*: of a caller that holds connections of other pools, or of this one, already.
        """
        waiter = entry = None
        with self._lock:
            if self._shut:
                raise PoolClosed(f"the pool of shard {self.shard!r} is closed")
            if self._idle:
                entry = self._idle.pop()
            elif self._size < self.limits.max_size:
                self._size += 1
            else:
                waiter = _Waiter()
                if passage is None:
                    self._waiters.append(waiter)
                else:
                    self._waiters.appendleft(waiter)
        if waiter is not None:
            entry = self._wait(waiter, passage)
        if entry is None:
            return self._open()
        info = entry.info
        if info["poll"](0) or info["expires"] < time.monotonic():
            self._close_entry(entry)
            return self._open()
        return entry

    def give_back(self, entry: ConnectionPoolEntry) -> None:
        """Return an entry whose connection is clean. A closed connection frees its slot."""
        connection: Any = entry.dbapi_connection
        if _APART in entry.info:
            self.close_apart(entry)
            return
        if connection is None or connection.closed or self._shut:
            self.discard(entry)
            return
        entry.info["returned"] = time.monotonic()
        with self._lock:
            if self._waiters:
                self._grant(entry)
            else:
                self._idle.append(entry)

    def discard(self, entry: ConnectionPoolEntry) -> None:
        """Close an entry's connection, if it is not yet closed, and free its slot."""
        if _APART in entry.info:
            self.close_apart(entry)
            return
        self._close_entry(entry)
        self._release_slot()

    def _open(self) -> ConnectionPoolEntry:
        """Fill the slot that the caller holds."""
        try:
            entry = self._create_connection()
        except psycopg2.OperationalError as error:
            self._release_slot()
            raise ShardUnavailable(self.shard, _first_line(error)) from error
        except BaseException:
            self._release_slot()
            raise
        self._opened += 1
        return entry

    def open_apart(self) -> ConnectionPoolEntry:
        """Return a connection beyond the pool's limits, to be closed by `close_apart`: for what must go on when all
        others wait, as they may for the locks of a transaction that is in doubt. Raise `ShardUnavailable`."""
        try:
            entry = self._create_connection()
        except psycopg2.OperationalError as error:
            raise ShardUnavailable(self.shard, _first_line(error)) from error
        entry.info[_APART] = True
        return entry

    def close_apart(self, entry: ConnectionPoolEntry) -> None:
        if entry.dbapi_connection is not None:
            entry.close()

    def _wait(self, waiter: _Waiter, passage: Passage | None) -> ConnectionPoolEntry | None:
        try:
            if passage is None:
                waiter.woken.wait(self.limits.timeout)
            else:
                passage.wait(waiter.woken, self.limits.timeout)
        except BaseException:
            self._leave_queue(waiter)
            raise
        with self._lock:
            if self._shut:
                raise PoolClosed(f"the pool of shard {self.shard!r} is closed")
            if waiter.granted:
                return waiter.record
            self._waiters.remove(waiter)
            passes = passage is not None and passage.open
            self._timeouts += not passes
            busy = self._size
        if passes:
            return self.open_apart()
        raise PoolTimeout(
            f"no connection to shard {self.shard!r} became free within {self.limits.timeout:g} s "
            f"({busy} of {self.limits.max_size} are in use)"
        )

    def _leave_queue(self, waiter: _Waiter) -> None:
        """A waiting thread was interrupted: what it may have been given goes to the next."""
        with self._lock:
            granted = waiter.granted
            if not granted:
                self._waiters.remove(waiter)
        if granted and waiter.record is not None:
            self.give_back(waiter.record)
        elif granted:
            self._release_slot()

    def _grant(self, entry: ConnectionPoolEntry | None) -> None:
        """Hand *entry*, or with None the right to open one, to the first in the queue. The lock is held."""
        waiter = self._waiters.popleft()
        waiter.granted = True
        waiter.record = entry
        waiter.woken.set()

    def _release_slot(self) -> None:
        with self._lock:
            if self._waiters and not self._shut:
                self._grant(None)
            else:
                self._size -= 1

    def _close_entry(self, entry: ConnectionPoolEntry) -> None:
        if entry.dbapi_connection is not None:
            entry.close()
        self._closed_count += 1

    # -- housekeeping -----------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Close connections that idled too long (beyond min_size) or are too old."""
        now = time.monotonic()
        surplus: list[ConnectionPoolEntry] = []
        with self._lock:
            spare = self._size - self.limits.min_size
            kept = []
            for entry in self._idle:
                too_old = entry.info["expires"] < now
                too_idle = entry.info["returned"] + self.limits.idle_timeout < now
                if spare > 0 and (too_old or too_idle):
                    surplus.append(entry)
                    spare -= 1
                else:
                    kept.append(entry)
            self._idle[:] = kept
        for entry in surplus:
            self.discard(entry)

    def shut(self) -> None:
        """Close for good: idle connections now, leased ones as they come back; waiting threads get `PoolClosed`."""
        with self._lock:
            self._shut = True
            idle, self._idle = self._idle, []
            for waiter in self._waiters:
                waiter.woken.set()
            self._waiters.clear()
        for entry in idle:
            self.discard(entry)

    def stats(self) -> PoolStats:
        with self._lock:
            idle = len(self._idle)
            return PoolStats(
                size=self._size,
                in_use=self._size - idle,
                idle=idle,
                waiting=len(self._waiters),
                opened=self._opened,
                closed=self._closed_count,
                timeouts=self._timeouts,
            )

    # -- SQLAlchemy's side ------------------------------------------------------------------------------------------

    def _do_get(self) -> ConnectionPoolEntry:
        return self.lease()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        self.give_back(record)

    def _on_connect(self, connection: Any, record: ConnectionPoolEntry) -> None:
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLIN)
        now = time.monotonic()
        record.info["poll"] = poller.poll
        record.info["returned"] = now
        record.info["expires"] = now + self.limits.max_age * random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)
        connection.rollback()
        connection.autocommit = True
        record.info["cursor"] = cursor = connection.cursor(cursor_factory=SessionCursor)
        cursor.limit = self.limits.prepared
        owners[connection] = self

    def recreate(self) -> ShardPool:
        """Part of `Engine.dispose`: an empty pool of the same kind."""
        return ShardPool(
            self._creator,
            shard=self.shard,
            limits=self.limits,
            echo=self.echo,
            reset_on_return=self._reset_on_return,
            dialect=self._dialect,
        )

    def dispose(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for entry in idle:
            self.discard(entry)

    def status(self) -> str:
        return str(self.stats())

    def _create_connection(self) -> _ConnectionRecord:
        return _ConnectionRecord(self)


def _on_checkout(connection: Any, record: ConnectionPoolEntry, proxy: object) -> None:
    connection.autocommit = False


def _on_reset(connection: Any, record: ConnectionPoolEntry, state: Any) -> None:
    if not state.terminate_only:
        clean(record)


def _on_checkin(connection: Any, record: ConnectionPoolEntry) -> None:
    # After the reset, SQLAlchemy may still have restored an isolation level, which ends autocommit mode.
    if connection is not None and not connection.closed:
        connection.autocommit = True


def clean(entry: ConnectionPoolEntry) -> None:
    """Bring a connection back to the state of its start-up, in autocommit mode: one round trip, or two."""
    connection: Any = entry.dbapi_connection
    connection.rollback()
    connection.set_session(isolation_level="DEFAULT", readonly="DEFAULT", deferrable="DEFAULT", autocommit=True)
    connection.cursor_factory = None
    with connection.cursor() as cursor:
        cursor.execute("DISCARD ALL")
    entry.info["cursor"].forget()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


_pools: weakref.WeakSet[ShardPool] = weakref.WeakSet()
#: The pool of each connection, also of those that were opened apart.
owners: weakref.WeakKeyDictionary[Any, ShardPool] = weakref.WeakKeyDictionary()


def _after_fork() -> None:
    for pool in list(_pools):
        pool._forget()


os.register_at_fork(after_in_child=_after_fork)
