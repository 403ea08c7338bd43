"""Working for a part of the time, so that others get on beside: long work rests between its pieces."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Seconds of work before a rest. What takes less is done at once, lest its snapshot of the rows be open for long.
SLICE = 1.0
#: The longest single sleep, in seconds: within them interrupted work ends.
LONGEST_SLEEP = 2.0
#: The longest rest, in seconds: not all that takes long was work.
LONGEST_REST = 30.0
#: Seconds of work that are still to be rested for when it is heard that there are others.
UNHEARD = 0.3


class Pace:
    """Rests of the threads of one piece of work, which is to take *share* of the time, 0 < share <= 1.

    *share* is asked at each rest. All threads rest at the same time.
    """

    def __init__(self, share: Callable[[], float]) -> None:
        self._share = share
        self._lock = threading.Lock()
        self.begin()

    def begin(self) -> None:
        """What was until now was no work."""
        self._until = time.monotonic()

    def rest(self, least: float | None = None) -> bool:
        """Rest, if there were *least* seconds of work since the last rest, by default SLICE. Called after each piece.

        Return whether more rest is due than the longest sleep.
        """
        with self._lock:
            due = self._due(SLICE if least is None else least)
        if due > 0:
            time.sleep(min(due, LONGEST_SLEEP))
        return due > LONGEST_SLEEP

    def _due(self, least: float) -> float:
        """Return the seconds until work may go on. `_until` is when the last rest ends, or ended."""
        now, share = time.monotonic(), self._share()
        if share >= 1:
            self._until = max(min(self._until, now), now - UNHEARD)
        elif now - self._until >= least:
            self._until = now + min((now - self._until) * (1 / share - 1), LONGEST_REST)
        return self._until - now
