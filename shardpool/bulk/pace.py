"""Working for a part of the time, so that others get on beside: long work rests between its pieces."""

from __future__ import annotations

import time

#: Seconds of work before a rest.
SLICE = 0.05
#: The longest rest, in seconds: within them an interrupted move ends.
LONGEST_REST = 2.0


class Pace:
    """Rests of one thread's work, which is to take *share* of the time, 0 < share <= 1."""

    def __init__(self, share: float) -> None:
        self._rest = 1 / share - 1
        self._since = time.monotonic()

    def rest(self) -> None:
        """Rest, if there was work enough since the last rest. Called after each piece of work."""
        if self._rest:
            worked = time.monotonic() - self._since
            if worked >= SLICE:
                time.sleep(min(worked * self._rest, LONGEST_REST))
                self._since = time.monotonic()
