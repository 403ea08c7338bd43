"""The right of way: transactions over several shards do not wait for each other's connections for ever.

Two of them that each hold the last connection to the shard that the other needs next would wait until a timeout. So who
holds connections is served before who holds none; and of those who wait all the same, one has the right of way, until
its end: it gets connections beyond the limits of the pools, one to a shard. Thus there is always one that does not wait
for a pool, and the others live on what it gives back.

The one that has it may yet wait for a row that one of the others has locked. So who has waited for `STUCK` seconds gets
it, too, up to as many as a pool has connections, but two at least.
"""

from __future__ import annotations

import os
import threading
import time
import weakref

#: How often who waits for a connection looks whether it has the right of way, in seconds.
LOOK = 0.05
#: What holds one up for so long may never end by itself, in seconds.
STUCK = 1.0


class RightOfWay:
    """One for all pools of a router, which have up to *max_size* connections each. Thread-safe."""

    def __init__(self, max_size: int) -> None:
        self._limit = max(max_size, 2)
        self.forget()
        _all.add(self)

    def forget(self) -> None:
        """Nobody has it: at first, and in a forked child."""
        self._lock = threading.Lock()
        self.holders = 0

    def take(self, waited: float) -> bool:
        """Whether one who has *waited* for so many seconds has it from now on."""
        with self._lock:
            free = self.holders < (self._limit if waited >= STUCK else 1)
            self.holders += free
        return free

    def leave(self) -> None:
        with self._lock:
            self.holders -= 1


class Passage:
    """A transaction's way through the pools; `end` it with the transaction."""

    def __init__(self, right: RightOfWay) -> None:
        self._right = right
        self.open = False

    def wait(self, woken: threading.Event, timeout: float) -> None:
        """Wait until *woken* is set, or the right of way is had, or for *timeout* seconds."""
        waited, began = 0.0, time.monotonic()
        while not self.open and waited < timeout and not woken.wait(min(LOOK, timeout - waited)):
            waited = time.monotonic() - began
            self.open = self._right.take(waited)

    def end(self) -> None:
        """Leave the right of way to others."""
        if self.open:
            self.open = False
            self._right.leave()


_all: weakref.WeakSet[RightOfWay] = weakref.WeakSet()


def _after_fork() -> None:
    for right in list(_all):
        right.forget()


os.register_at_fork(after_in_child=_after_fork)
