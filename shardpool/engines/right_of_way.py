"""The right of way: transactions over several shards do not wait for each other's connections for ever.

Two of them that each hold the last connection to the shard that the other needs next would wait until a timeout. So who
holds connections is served before who holds none; and of those who wait all the same, one at a time has the right of
way, until its end: it gets connections beyond the limits of the pools, one to a shard. Thus there is always one that
does not wait for a pool, and the others live on what it gives back.
"""

from __future__ import annotations

import os
import threading
import time
import weakref

#: How often who waits for a connection looks whether the right of way is free, in seconds.
LOOK = 0.05


class RightOfWay:
    """One for all pools of a router. Thread-safe."""

    def __init__(self) -> None:
        self.forget()
        _all.add(self)

    def forget(self) -> None:
        """Nobody has it: at first, and in a forked child."""
        self.free = threading.Lock()


class Passage:
    """A transaction's way through the pools; `end` it with the transaction."""

    def __init__(self, right: RightOfWay) -> None:
        self._right = right
        self.open = False

    def wait(self, woken: threading.Event, timeout: float) -> None:
        """Wait until *woken* is set, or the right of way is had, or for *timeout* seconds."""
        until = time.monotonic() + timeout
        while not self.open and not woken.wait(min(LOOK, max(until - time.monotonic(), 0))):
            self.open = self._right.free.acquire(blocking=False)
            if time.monotonic() >= until:
                return

    def end(self) -> None:
        """Leave the right of way to others."""
        if self.open:
            self.open = False
            self._right.free.release()


_all: weakref.WeakSet[RightOfWay] = weakref.WeakSet()


def _after_fork() -> None:
    for right in list(_all):
        right.forget()


os.register_at_fork(after_in_child=_after_fork)
